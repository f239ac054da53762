from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

from jscan.decode import from_array
from jscan.errors import OutputError
from jscan.heatmap import _describe, _history, _ramp, draw, write_maps, write_png
from jscan.records import DecodedImage, Maps, Region, ScanRecord

PHOTO = pictures.astronaut()
NAMES = ("suspicion", "qf", "flag", "q1", "double", "coverage", "shift", "shift_confidence")


def maps_for(image: DecodedImage, suspicion: float = 0.05, coverage: float = 1.0) -> Maps:
    shape = (-(-image.height // 8), -(-image.width // 8))

    def full(value: float) -> Any:
        return np.full(shape, value, np.float32)

    q1 = np.ones((15, *shape), np.float32)
    shift = np.zeros((2, *shape), np.float32)
    return Maps(full(suspicion), full(90), full(1), q1, full(1), full(coverage), shift, full(1))


def frozen(maps: Maps) -> Maps:
    for name in NAMES:
        getattr(maps, name).setflags(write=False)
    return maps


def region(y: int, x: int, height: int, width: int, **other: Any) -> Region:
    values: dict[str, Any] = {"score": 0.9, "qf1": None, "q1": None, "grid_shift": None, "kind": "other_q1", **other}
    return Region(y, x, height, width, height * width, **values)


def record(**other: Any) -> ScanRecord:
    return ScanRecord("folder/photo.jpg", b"folder/photo.jpg", **other)


def test_suspicion_shows_and_legend_lies_below() -> None:
    image = from_array(PHOTO, rgb=True)
    maps = maps_for(image)
    maps.suspicion[10:30, 20:40] = 0.95
    found = region(80, 160, 160, 160, qf1=70.0, grid_shift=(1, 2))
    drawn = draw(image, frozen(maps), record(score=0.9, regions=(found,), n_regions=1, qf_mean=90.0))
    assert drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.shape[1] == 640
    assert 512 + 80 < drawn.shape[0] < 512 + 400
    left = (640 - 512) // 2
    inside = drawn[100:220, left + 180 : left + 300].astype(int)
    outside = drawn[300:500, left + 50 : left + 250].astype(int)
    # Pale yellow inside, nearly grey outside.
    assert (inside[..., 0] - inside[..., 2]).mean() > 60 > 25 > abs(outside[..., 0] - outside[..., 2]).mean()
    # The outline is drawn in white along the region's border.
    assert (drawn[78:84, left + 200 : left + 280] == 255).all(axis=2).any(axis=0).all()
    assert np.array_equal(drawn, draw(image, maps, record(score=0.9, regions=(found,), n_regions=1, qf_mean=90.0)))


@pytest.mark.parametrize("how", ["nan", "coverage", "coverage nan", "rows"])
def test_no_information_looks_unlike_consistent(how: str) -> None:
    image = from_array(np.full((512, 640, 3), 128, np.uint8), rgb=True)
    maps = maps_for(image, suspicion=0.0)
    if how == "nan":
        maps.suspicion[32:] = np.nan
    elif how == "rows":
        image = DecodedImage(image.luma, image.rgb, "jpeg", 3, valid_rows=256)
    else:
        maps.coverage[32:] = np.nan if "nan" in how else 0.01
    drawn = draw(image, frozen(maps), record())
    known, unknown = drawn[:256].astype(int), drawn[256:512].astype(int)
    assert known.std() == 0
    assert unknown.std() > 10
    assert not np.isnan(drawn).any()


@pytest.mark.parametrize("shape", [(64, 64), (64, 3000), (3000, 64), (65, 71), (1700, 1300), (200, 333)])
@pytest.mark.parametrize("rgb", [True, False])
def test_any_size(shape: tuple[int, int], rgb: bool) -> None:
    tile = np.tile(PHOTO, (7, 7, 1))[: shape[0], : shape[1]]
    image = from_array(np.ascontiguousarray(tile), rgb=rgb)
    whole = region(0, 0, *shape)
    corner = region(shape[0] - 9, shape[1] - 9, 9, 9, kind="other_qf")
    drawn = draw(image, frozen(maps_for(image, 0.7)), record(regions=(whole, corner)), max_side=1000)
    assert 500 <= drawn.shape[1] <= 1000 and drawn.shape[0] <= 1000 + 400


def test_lengthy_and_odd_texts() -> None:
    image = from_array(PHOTO, rgb=False)
    many = tuple(region(8 * i, 8 * i, 32, 32, qf1=50.0 + i) for i in range(12))
    row = ScanRecord(
        "x/" + "ünï\n" * 90,
        b"x",
        regions=many,
        warnings=("truncated",) * 40,
        score=0.5,
        coverage=0.25,
        qf2=90.0,
        double_fraction=0.5,
        qf1_background=80.0,
        grid_shift=(3, 4),
    )
    drawn = draw(image, maps_for(image), row)
    assert drawn.shape[1] == 640 and drawn.shape[0] > 900


def test_the_lowest_first_quality_is_an_upper_bound() -> None:
    capped = region(8, 16, 24, 32, qf1=50.0, q1=(16,) * 15)
    assert _describe(capped).startswith("other first quantisation  |  QF1 at most 50  |  ")
    assert "QF1 about 51" in _describe(region(8, 16, 24, 32, qf1=51.0, q1=(15,) * 15))
    assert "QF1 about 50" in _describe(region(8, 16, 24, 32, qf1=50.0, kind="other_qf"))
    assert _history(record(qf1_background=50.0)) == "Background: compressed before, QF1 at most 50"
    assert _history(record(q1_background=(1,) * 15)) == "Background: compressed before with a table of its own"


def test_a_background_without_one_table_is_not_called_compressed_once() -> None:
    assert _history(record(double_fraction=0.4)) == "Background: compressed once, as far as can be told"
    said = _history(record(double_fraction=0.9))
    assert said == "Background: compressed before, with a table that cannot be told"


def test_colours_are_ordered_by_lightness() -> None:
    light = _ramp() @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    assert np.all(np.diff(light) > 0)


def test_large_image_is_reduced_like_a_mean() -> None:
    image = from_array(np.kron(np.eye(2, dtype=np.uint8) * 200, np.ones((2000, 2000), np.uint8)), rgb=False)
    drawn = draw(image, maps_for(image, 0.0), record(), max_side=800)
    assert abs(int(drawn[200, 200, 0]) - (200 * 0.8 + 18)) <= 2 and drawn[200, 600, 0] == 18


def test_write_png(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_png(path, PHOTO)
    assert np.array_equal(np.asarray(Image.open(path)), PHOTO)
    with pytest.raises(OutputError, match="absent"):
        write_png(tmp_path / "absent" / "x.png", PHOTO)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_write_maps(tmp_path: Path) -> None:
    image = from_array(PHOTO, rgb=False)
    maps = maps_for(image)
    maps.suspicion[3, 4] = np.nan
    write_maps(tmp_path / "a.npz", frozen(maps))
    write_maps(tmp_path / "b.npz", maps)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert set(stored) == set(NAMES)
        for name in stored:
            assert stored[name].dtype == np.float32
            assert np.array_equal(stored[name], getattr(maps, name), equal_nan=True)
    shapes = {name: np.load(tmp_path / "a.npz")[name].shape for name in ("q1", "shift", "shift_confidence")}
    assert shapes == {"q1": (15, 64, 64), "shift": (2, 64, 64), "shift_confidence": (64, 64)}
