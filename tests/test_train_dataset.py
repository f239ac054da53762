"""Labels of the training windows: where the first grid lies, and which compression was the last."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from material import photo

from jscan.jpegtables import N_COEFS, Q1_MAX, standard_table
from train import compress, dataset
from train.comb import Comb, q1_bands
from train.dataset import Q1Task, QfTask, image_weights, make_batch

IMAGES = [np.ascontiguousarray(photo(name, 1.0)[..., ::-1]) for name in ("astronaut", "coffee", "chelsea")]
WEIGHTS = image_weights(IMAGES)
STRONG = Q1Task(qf1=(50, 55), qf2=(96, 98), single=0, odd1=0, odd2=0, photoshop1=0, photoshop2=0, aligned=0)


def without_resizing(task: Any) -> Any:
    """The task with every share of resized windows at zero, whatever such shares it has."""
    names = [name for name in ("resized", "restored", "brought_back") if hasattr(task, name)]
    return replace(task, **dict.fromkeys(names, 0.0))


def batch(task: Any, size: int = 60, seed: int = 0) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[np.int64]]]:
    return make_batch(task, IMAGES, WEIGHTS, random.Random(seed), size)


def sharpness(windows: npt.NDArray[np.uint8], steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(N, 64): how well the coefficients at each shift lie on multiples of the steps (N, 15)."""
    features, _ = Comb(q1_bands())(windows, np.float32)
    start = np.concatenate([[0], np.cumsum(Q1_MAX)])[:-1]
    picked = np.take_along_axis(features, (start + steps - 1)[:, None, :].repeat(64, axis=1), axis=2)
    out: npt.NDArray[np.float64] = picked[:, :, 1:].sum(axis=2)
    return out


def busy(windows: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return windows.reshape(len(windows), -1).std(axis=1) > 12


def test_the_first_grid_lies_at_the_labelled_shift() -> None:
    windows, labels = batch(without_resizing(STRONG))
    assert windows.dtype == np.uint8 and windows.shape[1:] == (64, 64)
    assert labels["double"].all() and len(set(labels["shift"])) > 8
    best = sharpness(windows, labels["q1"]).argmax(axis=1)
    right = (best == labels["shift"])[busy(windows)]
    assert right.size > 20 and right.mean() > 0.9


def test_the_last_grid_of_a_jpeg_is_the_windows_own() -> None:
    windows, labels = batch(Q1Task(qf2=(60, 75), single=1, odd2=0, photoshop2=0))
    assert not labels["double"].any()
    best = sharpness(windows, np.minimum(labels["q2"], Q1_MAX)).argmax(axis=1)
    assert (best == 0)[busy(windows)].mean() > 0.9


def test_labels_of_the_first_compression() -> None:
    task = without_resizing(Q1Task(qf1=(45, 49), odd1=0, odd2=0, photoshop1=0, photoshop2=0, single=0, aligned=1))
    _, labels = batch(task)
    assert (labels["shift"] == 0).all()
    assert (labels["q1"] <= np.array(Q1_MAX)).all() and (labels["q1"][:, 0] == Q1_MAX[0]).all()
    tables = {tuple(standard_table(qf)[:N_COEFS].tolist()) for qf in range(60, 101)}
    assert {tuple(row.tolist()) for row in labels["q2"]} <= tables


def test_the_same_table_on_the_same_grid_counts_as_once() -> None:
    task = without_resizing(
        Q1Task(qf1=(90, 90), qf2=(90, 90), odd1=0, odd2=0, photoshop1=0, photoshop2=0, single=0, aligned=1, common2=0)
    )
    assert not batch(task)[1]["double"].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_last_grid_of_pixels_lies_at_the_labelled_shift(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    standard = compress.standard

    def draw(rng: random.Random, low: int, high: int, **_: Any) -> compress.Compression:
        return standard(rng.randint(55, 65), "4:4:4")

    monkeypatch.setattr(compress, "draw", draw)
    monkeypatch.setattr(compress, "standard", lambda qf, subsampling: standard(55 + qf % 10, subsampling))
    windows, labels = batch(without_resizing(QfTask(never=0, double=0.5)), seed=seed)
    assert labels["flag"].all() and len(set(labels["shift"])) > 20
    assert ((labels["qf"] >= 55) & (labels["qf"] <= 65)).all()
    steps = np.stack([np.minimum(standard_table(int(q))[:N_COEFS], Q1_MAX) for q in labels["qf"]])
    best = sharpness(windows, steps).argmax(axis=1)
    assert (best == labels["shift"])[busy(windows)].mean() > 0.9


def test_the_quality_is_that_of_the_last_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every compression is written down; the last one of each draw must be the one that is labelled."""
    done: list[compress.Compression] = []
    real = compress.recompress

    def recompress(image: Any, how: compress.Compression, *, gray: bool = False) -> Any:
        done.append(how)
        return real(image, how, gray=gray)

    monkeypatch.setattr(compress, "recompress", recompress)
    rng = random.Random(5)
    task = QfTask()
    flags = []
    for _ in range(60):
        done.clear()
        sample = task.draw(IMAGES, WEIGHTS, rng)
        flags += sample["flag"]
        assert len(sample["windows"]) == len(sample["qf"]) == len(sample["shift"]) == dataset.WINDOWS_PER_CROP
        if sample["flag"][0]:
            assert done and sample["qf"][0] == round(done[-1].nearest_qf)
    assert 0.5 < np.mean(flags) < 0.95
    assert np.mean(flags) == pytest.approx(task.positive(), abs=0.15)


def test_windows_that_were_never_compressed() -> None:
    _, labels = batch(QfTask(never=1))
    assert not labels["flag"].any()


def test_tables_of_photoshop_come_first_and_last() -> None:
    _, labels = batch(without_resizing(Q1Task(photoshop1=1, photoshop2=1, single=0)))
    levels = compress.photoshop_tables().values()
    assert {tuple(q) for q in labels["q2"].tolist()} == {how.luma[:N_COEFS] for how in levels}
    assert {tuple(q) for q in labels["q1"].tolist()} == {tuple(np.minimum(h.luma[:N_COEFS], Q1_MAX)) for h in levels}


def test_the_share_of_positive_windows() -> None:
    """It is the prior that the export takes off."""
    _, labels = batch(Q1Task(), size=600)
    assert labels["double"].mean() == pytest.approx(Q1Task().positive(), abs=0.08)


def test_the_same_seed_gives_the_same_batch() -> None:
    for task in (Q1Task(), QfTask()):
        (a, said), (b, again) = (batch(task, 12, seed=3) for _ in range(2))
        assert np.array_equal(a, b) and all(np.array_equal(said[k], again[k]) for k in said)


@pytest.mark.parametrize("side", [64, 200, 300])
def test_crops(side: int) -> None:
    rng = random.Random(0)
    before = [i.copy() for i in IMAGES]
    for _ in range(40):
        piece = dataset.draw_crop(IMAGES, WEIGHTS, rng, side)
        assert piece.shape == (side, side, 3) and piece.dtype == np.uint8 and piece.flags.c_contiguous
    assert all(np.array_equal(a, b) for a, b in zip(before, IMAGES, strict=True))


def test_images_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no uncompressed image"):
        dataset.find_images(tmp_path)
    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "deep" / "b.PNG"), IMAGES[1])
    cv2.imwrite(str(tmp_path / "a.bmp"), IMAGES[0])
    cv2.imwrite(str(tmp_path / "small.png"), IMAGES[0][:150])
    cv2.imwrite(str(tmp_path / "c.jpg"), IMAGES[0])
    (tmp_path / "broken.tif").write_bytes(b"no image")
    assert [p.name for p in dataset.find_images(tmp_path)] == ["a.bmp", "broken.tif", "b.PNG", "small.png"]
    loaded = dataset.load_images(tmp_path)
    assert len(loaded) == 2 and np.array_equal(loaded[0], IMAGES[0]) and np.array_equal(loaded[1], IMAGES[1])
