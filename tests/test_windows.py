"""Running a model over an image: what is found for a window does not depend on tiles."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from material import photo, rng
from onnx import numpy_helper

from jscan import q1map, qfmap, tiling, weights
from jscan.jpegtables import standard_table
from jscan.records import WindowPosteriors
from jscan.tiling import STRIDE, WINDOW
from jscan.windows import LOWEST, MOST_ACROSS, STEP_ACROSS, WINDOW_BYTES, AllShifts, tile_side


class Probe:
    """In place of a model: every window answers with the mean of its pixels and the blocks that it may use."""

    def __init__(self, threads: int = 1) -> None:
        self.inputs: list[dict[str, Any]] = []
        self.threads = threads

    def given(self, **inputs: Any) -> Callable[..., dict[str, Any]]:
        return partial(self, **inputs)

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        self.inputs.append(inputs)
        luma, valid = inputs["luma"][0, 0], inputs["valid"]
        rows, cols = ((s - 7 - WINDOW) // STRIDE + 1 for s in luma.shape)
        logp, shift, present = [], [], []
        for r in range(rows):
            for c in range(cols):
                y, x = r * STRIDE, c * STRIDE
                logp.append([-1000.0, -luma[y : y + WINDOW, x : x + WINDOW].mean() / 16])
                shift.append([-float(k) for k in range(64)])
                usable = [min(WINDOW, max(0, int(v) - at)) for v, at in zip(valid, (y, x), strict=True)]
                present.append(usable[0] * usable[1] / WINDOW**2)
        return {"logp": np.array(logp), "shift": np.array(shift), "present": np.array(present, np.float32)}


@pytest.mark.parametrize("origin", [(0, 0), (3, 6)])
@pytest.mark.parametrize("side", [1, 2, 3, 50])
def test_windows_lie_where_the_geometry_says(origin: tuple[int, int], side: int) -> None:
    luma = rng().integers(0, 256, (150, 203)).astype(np.uint8)
    luma.setflags(write=False)
    found = AllShifts(Probe(), side)(luma, origin)  # type: ignore[arg-type]
    rows, cols = tiling.window_grid(150 - origin[0], 203 - origin[1])
    assert found.present.shape == (rows, cols) and found.origin == origin and found.size == (150, 203)
    assert found.logp.dtype == np.float16 and found.shift.shape == (rows, cols, 64)
    padded = np.zeros((400, 400))
    padded[:150, :203] = luma
    for r in range(rows):
        for c in range(cols):
            y, x = origin[0] + r * STRIDE, origin[1] + c * STRIDE
            assert found.logp[r, c, 1] == pytest.approx(-padded[y : y + 64, x : x + 64].mean() / 16, rel=1e-3)
            blocks = max(0, min(64, 150 - 7 - y)) * max(0, min(64, 203 - 7 - x))
            assert found.present[r, c] == pytest.approx(blocks / 64**2)


def test_log_posteriors_stay_within_half_precision() -> None:
    found = AllShifts(Probe())(np.zeros((64, 64), np.uint8))  # type: ignore[arg-type]
    assert found.logp.min() == LOWEST and found.shift.min() == LOWEST
    assert np.isfinite(found.logp).all()


def test_further_inputs_reach_the_model() -> None:
    probe = Probe()
    q1map.estimate(AllShifts(probe), np.zeros((64, 80), np.uint8), tuple(range(1, 65)))  # type: ignore[arg-type]
    (q2,) = (inputs["q2"] for inputs in probe.inputs)
    assert q2.dtype == np.float32 and q2.tolist() == [list(range(1, 16))]


def test_too_small_for_a_window() -> None:
    with pytest.raises(ValueError, match="no window"):
        AllShifts(Probe())(np.zeros((70, 70), np.uint8), (7, 0))  # type: ignore[arg-type]


def luma_of_photo() -> npt.NDArray[np.uint8]:
    file = cv2.imencode(".jpg", photo()[:151, :233], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    luma = np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE), np.uint8)
    luma.setflags(write=False)
    return luma


@pytest.mark.parametrize("name", [q1map.MODEL, qfmap.MODEL])
def test_tiled_equals_untiled(name: str) -> None:
    model, luma = weights.load(name), luma_of_photo()
    q2 = tuple(standard_table(85).tolist())

    def estimated(side: int) -> WindowPosteriors:
        look = AllShifts(model, side)
        return qfmap.estimate(look, luma) if name == qfmap.MODEL else q1map.estimate(look, luma, q2, (2, 5))

    whole = estimated(100)
    for side in (1, 4, 7):
        tiled = estimated(side)
        for part in ("logp", "shift"):
            a, b = (np.exp(getattr(x, part).astype(np.float32)) for x in (whole, tiled))
            assert np.abs(a - b).max() < 1e-3, (side, part)
        assert np.abs(whole.present - tiled.present).max() < 1e-3, side


@pytest.mark.parametrize("name", [q1map.MODEL, qfmap.MODEL])
def test_bound_runs_change_no_bit(name: str) -> None:
    """Tiles of four shapes after one another, and a second image with another table."""
    model, luma = weights.load(name), luma_of_photo()
    plain, bound = AllShifts(model, 4), AllShifts(replace(model, bound=True), 4)
    for quality in (85, 60):
        q2 = tuple(standard_table(quality).tolist())
        a, b = (
            qfmap.estimate(look, luma) if name == qfmap.MODEL else q1map.estimate(look, luma, q2, (2, 5))
            for look in (plain, bound)
        )
        for part in ("logp", "shift", "present"):
            assert np.array_equal(getattr(a, part), getattr(b, part)), part


@pytest.mark.parametrize("name", [q1map.MODEL, qfmap.MODEL])
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    luma, q2 = luma_of_photo(), tuple(standard_table(85).tolist())
    found = []
    for threads in (1, 2, 3):
        model = weights.load(name, threads=threads)
        assert model.threads == threads
        look = AllShifts(model, 4)
        found.append(qfmap.estimate(look, luma) if name == qfmap.MODEL else q1map.estimate(look, luma, q2))
    for other in found[1:]:
        for part in ("logp", "shift", "present"):
            assert np.array_equal(getattr(found[0], part), getattr(other, part)), part


def test_tiles_are_computed_by_the_threads_of_the_model() -> None:
    together = threading.Barrier(2, timeout=10)

    class Meeting(Probe):
        def __call__(self, **inputs: Any) -> dict[str, Any]:
            together.wait()  # breaks unless two tiles are computed at once
            return super().__call__(**inputs)

    luma = rng().integers(0, 256, (64 + 3 * STRIDE,) * 2).astype(np.uint8)
    alone, both = (AllShifts(model, 2)(luma) for model in (Probe(), Meeting(2)))  # type: ignore[arg-type]
    assert np.array_equal(alone.logp, both.logp) and np.array_equal(alone.present, both.present)


@pytest.mark.parametrize(("batch", "side"), [(1, 1), (3, 1), (4, 2), (399, 19), (400, 20), (4096, 64), (10**9, 64)])
def test_the_side_of_a_tile_of_so_many_windows(batch: int, side: int) -> None:
    assert tile_side(batch, None) == tile_side(batch, 0) == side


@pytest.mark.parametrize(
    ("gib", "sharing", "side"),
    [(0, 1, 8), (1, 1, 8), (2, 1, 24), (4, 1, 40), (8, 1, 64), (80, 1, 64), (8, 4, 24), (8, 16, 8), (80, 16, 48)],
)
def test_the_side_of_a_tile_is_chosen_from_the_free_memory(gib: int, sharing: int, side: int) -> None:
    assert tile_side(0, gib << 30, sharing) == side


def test_no_side_wants_more_memory_than_there_is() -> None:
    for mib in range(0, 20_000, 37):
        side = tile_side(0, mib << 20)
        assert side % STEP_ACROSS == 0 and STEP_ACROSS <= side <= MOST_ACROSS
        assert side == STEP_ACROSS or side**2 * WINDOW_BYTES < mib << 20
    assert tile_side(0, None) == tiling.TILE, "nobody knows how much there is"


@pytest.mark.parametrize("name", [q1map.MODEL, qfmap.MODEL])
def test_the_features_of_a_window_fit_into_its_bytes(name: str) -> None:
    stored = onnx.load_model_from_string((weights.folder() / name / "model.onnx").read_bytes()).graph.initializer
    # What the features are given their shape by, (windows, 64 shifts, features).
    shapes = [numpy_helper.to_array(c).tolist() for c in stored if c.dims == [3]]
    (features,) = (s[2] for s in shapes if s[:2] == [-1, 64])
    assert 2 * 64 * features * 4 < 0.8 * WINDOW_BYTES
