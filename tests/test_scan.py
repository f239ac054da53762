"""One image from its bytes to its row and maps. What is asserted here holds for any weights."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import file_of, mixed, natural, photo, pixels_of, posteriors
from PIL import Image

from jscan import (
    Scanner,
    ScanResult,
    blockperiod,
    cellmaps,
    context,
    estimate,
    history,
    q1map,
    qfmap,
    regions,
    scan_image,
    weights,
)
from jscan.decode import from_array
from jscan.errors import ModelError, UsageError
from jscan.estimate import Estimator
from jscan.fastwindows import FastWindows
from jscan.jpegtables import N_COEFS, standard_table
from jscan.records import Agreement, ImageRef, LastCompression, Maps, Region
from jscan.regions import Consistency

FIELDS = ("suspicion", "qf", "flag", "q1", "double", "coverage", "shift", "shift_confidence")
PICTURE = photo()[100:300, 50:283]  # 200 x 233, neither a multiple of 8 nor of 16
Q2 = tuple(int(q) for q in standard_table(88))


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(device="cpu")


@pytest.fixture(scope="module")
def small_scanner() -> Scanner:
    """For damaged headers, which may state any size."""
    return Scanner(device="cpu", max_pixels=100_000)


def check(result: ScanResult, height: int, width: int) -> None:
    """What holds for the row and the maps of every image that was estimated."""
    row, maps = result.record, result.maps
    assert row.status == "ok" and row.error_code is None and row.error is None, row.error
    assert (row.height, row.width) == (height, width)
    assert result.image is not None and result.image.luma.shape == (height, width)
    assert maps is not None
    shape = (-(-height // 8), -(-width // 8))
    for name in FIELDS:
        values = getattr(maps, name)
        assert values.dtype == np.float32 and values.flags.c_contiguous, name
        assert values.shape == ({"q1": (15, *shape), "shift": (2, *shape)}.get(name, shape)), name
        known = values[np.isfinite(values)]
        assert known.size + np.isnan(values).sum() == values.size, name
        low, high = {"qf": (1, 100), "q1": (1, 255), "shift": (0, 7)}.get(name, (0, 1))
        assert known.size == 0 or (low <= known.min() and known.max() <= high), name
    assert not np.isnan(maps.coverage).any()
    assert (maps.coverage[np.isnan(maps.suspicion)] == 0).all()
    assert np.array_equal(np.isnan(maps.q1[0]), np.isnan(maps.double))
    # The shift is that of the compression that `double` speaks of, or else `flag`, and no likelier than that is.
    there = maps.flag if np.isnan(maps.double).all() else maps.double
    unknown = np.isnan(maps.shift_confidence)
    assert all(np.array_equal(np.isnan(part), unknown) for part in maps.shift) and unknown[np.isnan(there)].all()
    assert (maps.shift_confidence <= there)[~unknown].all() and (maps.shift[~np.isnan(maps.shift)] % 1 == 0).all()
    numbers = [row.score, row.coverage, row.double_fraction, row.qf_mean, row.compressed_fraction, row.qf1_background]
    assert all(n is None or math.isfinite(n) for n in numbers)
    assert row.score is not None and 0 <= row.score <= 1
    assert row.coverage is not None and 0 <= row.coverage <= 1
    assert row.regions is not None and row.n_regions == len(row.regions) and row.reasons
    for region in row.regions:
        assert region.y >= 0 and region.x >= 0 and region.height > 0 and region.width > 0
        assert region.y + region.height <= height and region.x + region.width <= width
        assert 0 < region.area <= region.height * region.width


def same(a: ScanResult, b: ScanResult, *but: str) -> None:
    """Raises unless rows (apart from these fields and times) and maps are equal."""
    changes: dict[str, Any] = dict.fromkeys(("decode_ms", "estimate_ms", *but))
    assert replace(a.record, **changes) == replace(b.record, **changes)
    assert (a.maps is None) == (b.maps is None)
    if a.maps is not None:
        for name in FIELDS:
            assert np.array_equal(getattr(a.maps, name), getattr(b.maps, name), equal_nan=True), name


# --- kinds of source ----------------------------------------------------------------------------------------


def test_a_jpeg(scanner: Scanner, tmp_path: Path) -> None:
    data = file_of(PICTURE, quality=88)
    path = tmp_path / "photo.png"  # the name says nothing
    path.write_bytes(data)
    by_path, by_bytes = scanner.scan(path), scanner.scan(data)
    check(by_bytes, 200, 233)
    same(by_path, by_bytes, "path", "path_bytes", "mtime", "warnings")
    row = by_path.record
    assert (row.warnings, by_bytes.record.warnings) == (("wrong_suffix",), ())
    assert (row.path, row.path_bytes) == (str(path), str(path).encode())
    assert row.mtime is not None and by_bytes.record.mtime is None
    assert row.size == len(data) and row.sha256 is not None and len(row.sha256) == 64
    assert (row.format, row.components, row.subsampling, row.progressive) == ("jpeg", 3, "4:2:0", False)
    assert (row.q2_luma, row.qf2, row.qf_mean) == (Q2, 88, 88)
    assert row.models == scanner.models and len(set(row.models)) == 7
    assert row.decode_ms is not None and row.decode_ms > 0 and row.estimate_ms is not None and row.estimate_ms > 0
    maps = by_path.maps
    assert maps is not None
    assert (maps.qf == 88).all() and (maps.flag == 1).all()
    assert row.double_fraction is not None
    assert not np.isnan(maps.q1).all()


def test_small_parts_are_judged_by_the_blocks_of_the_background(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a JPEG the regions are told in which cells the trace is missing; of decoded pixels there is no first table."""
    told: list[npt.NDArray[np.float32] | None] = []
    real = regions.find

    def telling(*arguments: Any) -> Any:
        likely = arguments[-1].likely
        told.append(None if likely is None else likely.around_cells(0))
        return real(*arguments)

    monkeypatch.setattr(regions, "find", telling)
    once = pixels_of(file_of(photo("coffee")[:280, :380], quality=75))[3:, 5:].copy()
    once[120:152, 200:232] = photo("coffee")[40:72, 100:132]
    result = scanner.scan(file_of(once, quality=95))
    assert result.maps is not None and result.record.grid_shift == (5, 3)
    missing = told[-1]  # where the fast way found something, all is looked at once more
    assert missing is not None and missing.shape == result.maps.suspicion.shape
    row, col = np.unravel_index(int(missing.argmax()), missing.shape)
    assert 120 <= 8 * row + 4 < 152 and 200 <= 8 * col + 4 < 232
    for nothing in (photo("coffee")[:100, :100], file_of(photo("coffee")[:100, :100], quality=90)):
        scanner.scan(nothing)
        assert told[-1] is None, "there is no first compression that could be missing"


def test_what_another_codec_or_a_palette_left_is_not_estimated(scanner: Scanner) -> None:
    for said, made in (
        ("other_codec", {"kind": "WEBP", "quality": 80}),
        ("few_colours", {"kind": "GIF"}),
    ):
        found = scanner.scan(file_of(PICTURE, **made))
        row = found.record
        assert row.status == "ok" and said in row.warnings and found.maps is None and found.image is not None
        assert (row.score, row.regions, row.coverage, row.qf_mean) == (None, None, None, None)
        assert len(row.reasons) == 1 and row.reasons[0].endswith("Nothing was estimated.")
    assert scanner.scan(file_of(PICTURE, kind="WEBP", lossless=True)).record.score is not None


def test_the_same_by_every_way_in(scanner: Scanner, tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(file_of(PICTURE, quality=90))
    first = scanner.scan(path)
    same(first, scanner.scan(str(path)))
    same(first, scanner.scan(ImageRef(str(path), bytes(path))))
    same(first, scan_image(path, device="cpu"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_colours_change_nothing(scanner: Scanner, kind: str) -> None:
    data = file_of(PICTURE, kind)
    plain, coloured = scanner.scan(data), scanner.scan(data, rgb=True)
    same(plain, coloured)
    assert plain.image is not None and plain.image.rgb is None
    assert coloured.image is not None and coloured.image.rgb is not None
    assert coloured.image.rgb.shape == (200, 233, 3)


def test_pixels(scanner: Scanner) -> None:
    array = PICTURE.copy()
    array.setflags(write=False)
    by_array, by_file = scanner.scan(array), scanner.scan(file_of(array, "PNG"))
    check(by_array, 200, 233)
    assert by_array.record.format == "array" and by_file.record.format == "png"
    same(by_array, by_file, "path", "path_bytes", "size", "sha256", "format")
    assert by_array.record.q2_luma is None and by_array.record.qf2 is None and by_array.record.subsampling is None
    assert np.array_equal(array, PICTURE)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_formats_without_a_table(scanner: Scanner, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    check(scanner.scan(file_of(PICTURE[:, :, 1], kind, **options)), 200, 233)


def test_pixels_and_their_jpeg_agree_on_the_luma(scanner: Scanner) -> None:
    """A grey JPEG and its decoded pixels are the same to the QF network, but only one of them has a table."""
    data = file_of(PICTURE[:, :, 1], quality=75)
    jpeg, png = scanner.scan(data), scanner.scan(pixels_of(data)[:, :, 0])
    assert jpeg.image is not None and png.image is not None
    assert np.array_equal(jpeg.image.luma, png.image.luma)
    assert jpeg.record.qf2 == 75 and png.record.qf2 is None


def test_inputs_are_not_written_to(scanner: Scanner) -> None:
    array = np.array(PICTURE[:, :, 0])
    before = array.copy()
    scanner.scan(array)
    assert np.array_equal(array, before) and array.flags.writeable


# --- unusual JPEGs ------------------------------------------------------------------------------------------


def test_a_grey_jpeg(scanner: Scanner) -> None:
    result = scanner.scan(file_of(PICTURE[:, :, 1], quality=88))
    check(result, 200, 233)
    assert (result.record.components, result.record.subsampling, result.record.q2_chroma) == (1, "gray", None)
    assert result.record.q2_luma == Q2


@pytest.mark.parametrize(("kind", "options", "note"), [("CMYK", {}, "cmyk"), ("JPEG", {"keep_rgb": True}, "rgb_jpeg")])
def test_a_jpeg_without_luma_counts_as_pixels(
    scanner: Scanner, kind: str, options: dict[str, Any], note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        scanner.estimator, "jpeg", lambda luma, q2, origin=(0, 0): pytest.fail("its table is not the luma's")
    )
    monkeypatch.setattr(estimate.lastjpeg, "estimate", lambda *_: None)
    result = scanner.scan(file_of(PICTURE, kind, quality=88, **options))
    check(result, 200, 233)
    assert result.record.warnings[0] == note and result.record.format == "jpeg"
    assert result.record.double_fraction is None and result.record.q1_background is None
    assert result.maps is not None and np.isnan(result.maps.q1).all() and np.isnan(result.maps.double).all()


def with_tables(table: npt.ArrayLike) -> bytes:
    return file_of(PICTURE, qtables=[natural(table)] * 2, subsampling="4:4:4")


def test_the_coarsest_quality(scanner: Scanner) -> None:
    result = scanner.scan(file_of(PICTURE, quality=1))
    check(result, 200, 233)
    assert result.record.qf2 == 1 and result.record.q2_luma is not None and max(result.record.q2_luma) == 255


@pytest.mark.parametrize("step", [1, 255, 300, 65535])
def test_one_step_for_all(scanner: Scanner, step: int) -> None:
    data = with_tables(np.full(64, min(step, 255)))
    if step > 255:  # the same file with its tables written in 16 bits
        for slot in (0, 1):
            old = b"\xff\xdb\x00\x43" + bytes([slot]) + bytes([255]) * 64
            assert old in data
            data = data.replace(old, b"\xff\xdb\x00\x83" + bytes([16 + slot]) + step.to_bytes(2, "big") * 64)
        # Such tables belong to an extended frame, not to a baseline one.
        data = data.replace(b"\xff\xc0\x00\x11", b"\xff\xc1\x00\x11")
    result = scanner.scan(data)
    check(result, 200, 233)
    assert result.record.q2_luma == (step,) * 64


def truncated(rows: float) -> bytes:
    data = file_of(PICTURE, quality=92, subsampling="4:4:4")
    header = data.index(b"\xff\xda") + 14
    return data[: header + int((len(data) - header) * rows)]


def test_a_truncated_jpeg(scanner: Scanner) -> None:
    result = scanner.scan(truncated(0.7))
    check(result, 200, 233)
    assert result.image is not None and result.maps is not None
    valid = result.image.valid_rows
    assert valid is not None and 64 < valid < 180
    assert result.record.warnings == ("truncated",)
    assert result.record.reasons[-1] == f"Only the first {valid} of 200 rows could be decoded."
    cells = -(-valid // 8)
    for name in ("suspicion", "qf", "flag", "q1", "double", "shift", "shift_confidence"):
        assert np.isnan(getattr(result.maps, name)[..., cells:, :]).all(), name
    assert np.isfinite(result.maps.shift[:, :cells]).any()
    assert (result.maps.coverage[cells:] == 0).all()
    assert (result.maps.qf[:cells] == 92).all()
    # What is there is estimated as if the rest had never been.
    part = scanner.estimator.jpeg(result.image.luma[:valid], result.record.q2_luma)  # type: ignore[arg-type]
    for name in FIELDS:
        a, b = getattr(result.maps, name)[..., :cells, :], getattr(part.maps, name)
        assert np.array_equal(a, b, equal_nan=True), name


@pytest.mark.parametrize("part", [0.005, 0.2])
def test_too_little_of_a_jpeg(scanner: Scanner, part: float) -> None:
    result = scanner.scan(truncated(part), rgb=True)
    assert result.image is not None and result.image.valid_rows is not None and result.image.valid_rows < 64
    assert (part < 0.1) == (result.image.valid_rows == 0)
    row = result.record
    assert row.status == "ok" and result.maps is None
    assert (row.score, row.regions, row.n_regions, row.coverage) == (None, None, None, None)
    assert row.warnings == ("truncated",) and row.reasons[0].startswith("Fewer than 64 rows")


# --- size ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (64, 1000), (1000, 65), (71, 72), (73, 80)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_small_and_thin_images(scanner: Scanner, size: tuple[int, int], kind: str) -> None:
    pixels = np.tile(photo("coffee"), (4, 3, 1))[: size[0], : size[1]]
    check(scanner.scan(file_of(pixels, kind)), *size)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("grey", [0, 90, 255])
def test_a_flat_image_says_nothing(scanner: Scanner, kind: str, grey: int) -> None:
    result = scanner.scan(file_of(np.full((100, 120, 3), grey, np.uint8), kind))
    check(result, 100, 120)
    assert result.maps is not None
    assert np.isnan(result.maps.suspicion).all() and np.isnan(result.maps.q1).all()
    assert np.isnan(result.maps.double).all() and not result.maps.coverage.any()
    assert np.isnan(result.maps.shift).all() and np.isnan(result.maps.shift_confidence).all()
    row = result.record
    assert (row.coverage, row.regions, row.q1_background, row.grid_shift) == (0, (), None, None)
    assert row.score is not None and row.score < 0.2
    assert "Only 0 % of the image" in row.reasons[-1]


def test_a_flat_part_is_unknown(scanner: Scanner) -> None:
    pixels = PICTURE.copy()
    pixels[:, :130] = 90
    result = scanner.scan(pixels)
    check(result, 200, 233)
    assert result.maps is not None
    for name in ("suspicion", "flag"):
        values = getattr(result.maps, name)
        assert np.isnan(values[:, :7]).all() and np.isfinite(values[:, -7:]).any(), name


# --- where the pixels were a JPEG ---------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [(0, 0), (3, 6)])
def test_a_png_with_a_past_gets_its_table(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch, crop: tuple[int, int]
) -> None:
    """The QF network's answer is put in place, so that this holds for any weights."""
    pixels = pixels_of(file_of(photo("coffee")[:280, :380], quality=90))[crop[0] :, crop[1] :]
    shift = (-crop[0] % 8) * 8 + (-crop[1] % 8)

    def sure(model: Any, luma: npt.NDArray[np.uint8]) -> Any:
        return posteriors((90,), shift, height=luma.shape[0], width=luma.shape[1])

    asked: list[tuple[tuple[int, ...], tuple[int, int]]] = []
    real = q1map.estimate

    def asking(model: Any, luma: Any, q2: tuple[int, ...], origin: tuple[int, int] = (0, 0)) -> Any:
        asked.append((q2[:N_COEFS], origin))
        return real(model, luma, q2, origin)

    monkeypatch.setattr(qfmap, "estimate", sure)
    monkeypatch.setattr(q1map, "estimate", asking)
    result = scanner.scan(pixels)
    check(result, *pixels.shape[:2])
    table = tuple(standard_table(90)[:N_COEFS].tolist())
    assert asked == [(table, (-crop[0] % 8, -crop[1] % 8))]
    assert result.maps is not None
    assert np.isfinite(result.maps.double).any() and np.isfinite(result.maps.q1).any()
    assert np.nanmedian(result.maps.qf) == 90
    assert any("quality about 90" in r for r in result.record.reasons)
    assert result.last is not None and result.last.qf == 90 and result.last.table[:N_COEFS] == table
    assert result.record.double_fraction is not None and result.record.qf2 is None


def test_the_qf_map_has_what_the_whole_image_tells(scanner: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where windows that show its grid tell another quality; not where the blocks speak against its table."""
    once, other = (pixels_of(file_of(photo("coffee")[:280, :380], quality=qf)) for qf in (60, 85))
    pixels = once.copy()
    pixels[96:224, 160:288] = other[96:224, 160:288]
    of_image, odd = (posteriors((qf,), 0, height=280, width=380) for qf in (60, 85))
    found = mixed(of_image, odd, slice(4, 13), slice(8, 17))
    monkeypatch.setattr(qfmap, "estimate", lambda look, luma: found)
    monkeypatch.setattr(qfmap, "again", lambda look, found, luma: found)
    monkeypatch.setattr(regions, "find", lambda *_, **more: Consistency(np.zeros((35, 48), np.float32), (), 0.1))
    plain, spliced = (scanner.scan(rgb).maps for rgb in (once, pixels))
    assert plain is not None and spliced is not None
    assert (plain.qf == 60).mean() > 0.99, "whatever some windows say"
    assert np.nanmedian(spliced.qf[15:25, 23:33]) == 85 and (spliced.qf[:8] == 60).mean() > 0.99


def test_where_windows_and_blocks_tell_another_quality_all_shifts_are_looked_at(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = [], qfmap.again

    def told(qf: int) -> None:
        monkeypatch.setattr(qfmap, "estimate", lambda look, luma: posteriors((qf,), 0, height=280, width=380))

    def again(look: Any, found: Any, luma: npt.NDArray[np.uint8]) -> Any:
        asked.append(found)
        return real(look, found, luma)

    monkeypatch.setattr(qfmap, "again", again)
    monkeypatch.setattr(regions, "find", lambda *_, **more: Consistency(np.zeros((35, 48), np.float32), (), 0.1))
    pixels = pixels_of(file_of(photo("coffee")[:280, :380], quality=40))
    for qf, wanted in ((45, 0), (75, 1)):
        told(qf)
        maps = scanner.scan(pixels).maps
        assert len(asked) == wanted and maps is not None and np.nanmedian(maps.qf) == 40


def test_a_png_without_a_past_has_none(scanner: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(model: Any, luma: npt.NDArray[np.uint8]) -> Any:
        return posteriors((90,), 0, height=luma.shape[0], width=luma.shape[1], present=0.02)

    monkeypatch.setattr(qfmap, "estimate", never)
    result = scanner.scan(PICTURE)
    check(result, 200, 233)
    row, maps = result.record, result.maps
    assert maps is not None and np.isnan(maps.q1).all() and np.isnan(maps.double).all() and np.isnan(maps.qf).all()
    assert (row.qf_mean, row.compressed_fraction, row.double_fraction) == (None, 0, None)


# --- what the fast way finds is looked at again ---------------------------------------------------------------


def test_windows_near_suspicious_cells_are_those_looked_at_again() -> None:
    found = posteriors(Q2[:N_COEFS], 0, height=256, width=400)
    suspicion = np.zeros((32, 50), np.float32)
    suspicion[10, 30] = 0.9  # pixels 80 to 88 down and 240 to 248 across
    suspicion[20, 2] = np.nan
    where = cellmaps.windows_in(suspicion > 0.5, found)
    assert where.shape == found.present.shape
    rows, cols = (np.nonzero(where.any(axis))[0] * 16 + 32 for axis in (1, 0))  # middles of these windows
    assert rows.min() == 48 and rows.max() == 112 and cols.min() == 208 and cols.max() == 272


@pytest.mark.parametrize(
    ("score", "thorough", "again"), [(0.39, False, False), (0.41, False, True), (0.41, True, False)]
)
def test_only_a_find_of_the_fast_way_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, score: float, thorough: bool, again: bool
) -> None:
    asked, find = [], regions.find

    def look_again(look: object, found: Any, where: npt.NDArray[np.bool_], *_: object) -> Any:
        asked.append(where)
        return replace(found, present=np.full_like(found.present, 0.25))

    monkeypatch.setattr(regions, "find", lambda *a: replace(find(*a), score=score))
    monkeypatch.setattr(q1map, "again", look_again)
    monkeypatch.setattr(context, "refine", lambda model, found, *_, everywhere: found)
    result = Scanner(device="cpu", thorough=thorough).scan(file_of(PICTURE, quality=88))
    assert result.maps is not None and bool(asked) == again
    double = result.maps.double[np.isfinite(result.maps.double)]
    assert bool((double == 0.25).all()) == again


@pytest.mark.parametrize(
    ("score", "strongest", "thorough", "again"),
    [(0.39, 0.39, False, False), (0.41, 0.41, False, True), (0.1, 0.41, False, True), (0.41, 0.41, True, False)],
)
def test_all_of_decoded_pixels_is_looked_at_again_where_the_fast_way_may_have_found_something(
    monkeypatch: pytest.MonkeyPatch, score: float, strongest: float, thorough: bool, again: bool
) -> None:
    """What was set aside among that: a part that cannot be named at a glance may have a name at a closer look."""
    asked, find, in_full = [], regions.find, FastWindows.again

    def look_again(look: FastWindows, found: Any, where: npt.NDArray[np.bool_], *rest: Any, **more: Any) -> Any:
        asked.append(bool(where.all()))
        return in_full(look, found, where, *rest, **more)

    monkeypatch.setattr(regions, "find", lambda *a: replace(find(*a), score=score, strongest=strongest))
    monkeypatch.setattr(FastWindows, "again", look_again)
    monkeypatch.setattr(blockperiod, "candidates", lambda luma: ())
    result = Scanner(device="cpu", thorough=thorough).scan(PICTURE)
    assert asked == [True] * again
    plain = Scanner(device="cpu", thorough=True).scan(PICTURE)
    assert result.maps is not None and plain.maps is not None
    if again:
        assert np.allclose(result.maps.flag, plain.maps.flag, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize(("fraction", "again"), [(0.5, True), (0.51, False)])
def test_restored_pixels_are_looked_at_closely_unless_most_of_them_show_a_compression(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch, fraction: float, again: bool
) -> None:
    asked, background, in_full = [], history.background, FastWindows.again

    def look_again(look: FastWindows, found: Any, where: npt.NDArray[np.bool_], *rest: Any, **more: Any) -> Any:
        asked.append(bool(where.all()))
        return in_full(look, found, where, *rest, **more)

    monkeypatch.setattr(history, "background", lambda *a: replace(background(*a), fraction=fraction))
    monkeypatch.setattr(FastWindows, "again", look_again)
    look = scanner.estimator._look_restored(from_array(PICTURE, rgb=False).luma)
    assert asked == [True] * again and look.base.fraction == fraction


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_part_that_nothing_can_be_compared_with_is_not_passed_over(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    both = pixels_of(file_of(photo("coffee")[:330, :430], quality=60))[3:, 5:].copy()
    both[100:228, 150:310] = photo("astronaut")[60:188, 40:200]
    data = file_of(both, kind, **({"quality": 95} if kind == "JPEG" else {}))
    found = scanner.scan(data).record
    assert found.regions and not any("looks unlike" in reason for reason in found.reasons)
    monkeypatch.setattr(regions, "_comparable", lambda here, labels, deviation: False)
    passed = scanner.scan(data).record
    assert passed.score is not None and passed.score < 0.5 and not passed.regions
    assert sum("% of the image looks unlike the rest" in reason for reason in passed.reasons) == 1


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_find_is_looked_at_again_near_it_or_everywhere(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch, everywhere: bool
) -> None:
    asked = []

    def look_again(look: object, found: Any, where: npt.NDArray[np.bool_], *_: object) -> Any:
        asked.append(where)
        return found

    def near(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        out = np.zeros(shape, bool)
        out[3, 4] = True
        return out

    monkeypatch.setattr(estimate, "CONFIRMED", 0.0)
    monkeypatch.setattr(estimate, "windows_in", lambda part, found: near(found.present.shape))
    monkeypatch.setattr(q1map, "again", look_again)
    scanner.estimator.jpeg(np.array(PICTURE[:, :, 1]), Q2, everywhere=everywhere)
    assert asked[0].all() if everywhere else np.array_equal(asked[0], near(asked[0].shape))


def test_the_jpeg_in_decoded_pixels_is_looked_at_again_everywhere(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table is an estimate, and judged by a second look in part some untouched pictures scored above 0.5.

    Parts are asked whether they still agree with it.
    """
    asked, of_jpeg = [], Estimator.jpeg

    def jpeg(self: Scanner, *given: Any, everywhere: bool = False, since: Agreement | None = None, **more: Any) -> Any:
        asked.append((everywhere, since is not None))
        return of_jpeg(self, *given, everywhere=everywhere, since=since, **more)

    def once(look: object, luma: npt.NDArray[np.uint8]) -> Any:
        return posteriors((90,), 0, height=luma.shape[0], width=luma.shape[1], present=0.98)

    monkeypatch.setattr(Estimator, "jpeg", jpeg)
    monkeypatch.setattr(qfmap, "estimate", once)
    scanner.scan(pixels_of(file_of(PICTURE, quality=90)))
    scanner.scan(file_of(PICTURE, quality=90))
    assert asked == [(True, True), (False, False)]


# --- where blocks begin -------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [(0, 0), (5, 6)])
def test_the_shift_map_is_seen_from_the_corner(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch, origin: tuple[int, int]
) -> None:
    """Invented posteriors: one shift on the left, another on the right, and nothing below."""
    luma = np.array(PICTURE[:, :, 1])
    luma[120:] = 90
    size = {"height": luma.shape[0], "width": luma.shape[1], "origin": origin}
    left = posteriors(Q2[:N_COEFS], 3 * 8 + 4, present=0.9, p=0.8, **size)
    right = posteriors(Q2[:N_COEFS], 7 * 8, present=0.2, p=0.5, **size)
    middle = left.present.shape[1] // 2
    monkeypatch.setattr(q1map, "estimate", lambda *_: mixed(left, right, slice(None), slice(middle, None)))
    monkeypatch.setattr(q1map, "again", lambda look, found, *_: found)
    monkeypatch.setattr(context, "refine", lambda model, found, *_, everywhere: found)
    maps = scanner.estimator.jpeg(luma, Q2, origin).maps
    for col, (dy, dx), p in ((0, (3, 4), 0.9 * 0.8), (-1, (7, 0), 0.2 * 0.5)):
        assert tuple(maps.shift[:, 0, col]) == ((dy + origin[0]) % 8, (dx + origin[1]) % 8)
        assert maps.shift_confidence[0, col] == pytest.approx(p, abs=1e-3)
    assert np.isnan(maps.shift[:, -1]).all() and np.isnan(maps.shift_confidence[-1]).all()


def test_of_decoded_pixels_the_shift_is_that_of_the_first_compression_known(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(present: float) -> Any:
        return lambda model, luma: posteriors((90,), 19, height=200, width=233, present=present, p=0.8)

    monkeypatch.setattr(qfmap, "estimate", once(0.9))
    monkeypatch.setattr(estimate.lastjpeg, "estimate", lambda *_: None)
    single = scanner.scan(PICTURE).maps
    assert single is not None and np.isnan(single.double).all()
    assert (single.shift.max(axis=(1, 2)) == (2, 3)).all() and (single.shift.min(axis=(1, 2)) == (2, 3)).all()
    assert np.allclose(single.shift_confidence, 0.9 * 0.8, atol=1e-3)
    # Where the last compression's table is known, what came before it is looked for.
    last = LastCompression((2, 3), Q2, 88, True)
    monkeypatch.setattr(estimate.lastjpeg, "estimate", lambda *_: last)
    assert scanner.scan(PICTURE).last == last
    double, before = (
        scanner.scan(PICTURE).maps,
        scanner.estimator.jpeg(from_array(PICTURE, rgb=False).luma, Q2, (2, 3)).maps,
    )
    assert double is not None
    for name in ("q1", "double", "shift", "shift_confidence"):
        assert np.array_equal(getattr(double, name), getattr(before, name), equal_nan=True), name
    # Blocks of a part that was resized lie on no grid of the image as it is.
    monkeypatch.setattr(qfmap, "estimate", once(0.3))
    monkeypatch.setattr(scanner.estimator, "_resized", lambda luma, found: found)
    never = scanner.scan(PICTURE).maps
    assert never is not None and np.allclose(never.shift_confidence, 0.3 * 0.8, atol=1e-3)


def test_what_the_first_compression_of_all_left_in_a_part_is_no_other_last_one() -> None:
    """Soft places hold so little after a coarse first compression that the last one hardly shows."""
    part = Region(0, 0, 80, 80, 6400, 0.99, 58.0, None, (5, 0), "other_qf")
    nothing = Maps(*[np.zeros((2, 2), np.float32)] * 8)
    before = estimate.Estimate(Consistency(nothing.suspicion, (), 0.1), nothing)
    table = tuple(standard_table(60)[:N_COEFS].tolist())
    first, untold, finer, elsewhere, never = (
        replace(before, q1=q1, grid_shift=place)
        for q1, place in ((table, (5, 0)), (None, (5, 0)), (Q2[:N_COEFS], (5, 0)), (table, (5, 1)), (None, None))
    )
    for is_ in (first, untold):
        assert estimate._is_first(part, is_)
    for is_not in (finer, elsewhere, never):
        assert not estimate._is_first(part, is_not)
    assert not estimate._is_first(replace(part, kind="uncompressed_in_jpeg"), first)
    assert not estimate._is_first(replace(part, grid_shift=None), never)


def test_a_flat_part_is_unknown_where_another_was_resized_too(scanner: Scanner) -> None:
    whole = photo()
    pixels = np.array(whole)
    compressed = Image.fromarray(pixels_of(file_of(whole[:240, :240], quality=60)))
    pixels[40:232, 200:392] = compressed.resize((192, 192), Image.Resampling.BICUBIC)
    pixels[:, :96] = 90
    result = scanner.scan(pixels)
    check(result, *whole.shape[:2])
    assert result.record.n_regions == 1 and "resized to 80 %" in result.record.reasons[-1]
    assert result.maps is not None and np.isnan(result.maps.suspicion[:, :8]).all()
    assert np.array_equal(np.isnan(result.maps.suspicion), np.isnan(result.maps.flag))
    assert (result.maps.suspicion[10:24, 30:44] > 0.5).mean() > 0.5


# --- what cannot be estimated -------------------------------------------------------------------------------


def bomb() -> bytes:
    return file_of(PICTURE[:64, :64]).replace(b"\x00\x40\x00\x40\x03", b"\xff\xff\xff\xff\x03")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", "error", "empty"),
        (b"\xff\xd8", "error", "bad_header"),
        (b"hello, this is text", "skipped", "unsupported_format"),
        (b"%PDF-1.7", "skipped", "unsupported_format"),
        (file_of(PICTURE[:63, :100]), "skipped", "too_small"),
        (file_of(PICTURE, "PNG")[:60], "error", None),
        (file_of(PICTURE, "PNG")[:2000], "error", "corrupt_data"),
        (bomb(), "error", "pixel_limit"),
    ],
)
def test_bad_bytes_give_a_row(scanner: Scanner, data: bytes, status: str, code: str | None) -> None:
    result = scanner.scan(data)
    row = result.record
    assert (row.status, result.maps, result.image) == (status, None, None)
    assert row.error_code == code or (code is None and row.error_code != "internal")
    assert row.error and row.sha256 and row.size == len(data) and row.score is None


def test_bad_paths_give_a_row(scanner: Scanner, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    codes = {}
    for name in ("nothing", "", "link", "nul\0byte"):
        row = scanner.scan(f"{tmp_path}/{name}").record
        assert row.status != "ok" and row.error
        codes[name] = row.error_code
    assert (
        codes["nothing"] == codes["nul\0byte"] == "not_found"
        and codes[""] == "not_regular"
        and codes["link"] == "symlink"
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_damaged_files_never_raise(small_scanner: Scanner, seed: int, bytes_hit: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(file_of(PICTURE[:70, :80], kind))
    for at in random.integers(0, len(data), bytes_hit):
        data[at] = random.integers(0, 256)
    data = data[: random.integers(len(data) // 2, len(data) + 1)] if seed % 3 == 0 else data
    row = small_scanner.scan(bytes(data)).record
    assert row.status in ("ok", "skipped", "error") and row.error_code != "internal", row.error


@pytest.mark.parametrize(
    "source", [None, 3, ["a"], np.zeros((80, 80), np.float32), np.zeros((80, 80, 2), np.uint8), np.zeros(80, np.uint8)]
)
def test_another_kind_of_source_raises(scanner: Scanner, source: Any) -> None:
    with pytest.raises(UsageError):
        scanner.scan(source)


def test_an_unforeseen_fault_becomes_a_row(scanner: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("something new")

    data = file_of(PICTURE)
    monkeypatch.setattr(history, "background", broken)
    row = scanner.scan(data).record
    assert (row.status, row.error_code) == ("error", "internal")
    assert row.error is not None and "ZeroDivisionError: something new" in row.error
    assert row.sha256 and row.width == 233


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("Insufficient memory")])
def test_memory_that_runs_out(scanner: Scanner, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: Any) -> Any:
        raise error

    data = file_of(PICTURE)
    monkeypatch.setattr(history, "background", broken)
    row = scanner.scan(data).record
    assert (row.status, row.error_code) == ("error", "memory")


def test_a_model_that_is_gone_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    scanner = Scanner(device="cpu")

    def gone(*_: Any, **__: Any) -> Any:
        raise ModelError("the model is gone")

    monkeypatch.setattr(weights, "load", gone)
    with pytest.raises(ModelError):
        scanner.scan(PICTURE)


def test_a_limit_of_pixels() -> None:
    row = scan_image(file_of(PICTURE), device="cpu", max_pixels=200 * 233 - 1).record
    assert (row.status, row.error_code) == ("error", "pixel_limit")


# --- many images --------------------------------------------------------------------------------------------


def test_one_scanner_many_images(scanner: Scanner) -> None:
    """What was scanned before leaves no trace."""
    files = [file_of(PICTURE, quality=80), file_of(PICTURE, "PNG"), file_of(photo("coffee")[:100, :90])]
    alone = [Scanner(device="cpu").scan(f) for f in files]
    for k in (2, 0, 1, 1):
        same(scanner.scan(files[k]), alone[k])


def test_a_frame_of_many(scanner: Scanner) -> None:
    frames = [Image.fromarray(PICTURE[:, :, k]) for k in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "TIFF", save_all=True, append_images=frames[1:])
    result = scanner.scan(out.getvalue())
    check(result, 200, 233)
    assert result.record.frames == 3
    same(result, scanner.scan(file_of(PICTURE[:, :, 0], "TIFF")), "frames", "size", "sha256")


def test_the_number_of_threads_changes_no_bit_of_a_row(scanner: Scanner) -> None:
    data = file_of(np.tile(photo(), (2, 2, 1))[:400, :390])  # several tiles
    alone, many = scanner.scan(data), Scanner(device="cpu", threads=3).scan(data)
    rows = [replace(result.record, decode_ms=None, estimate_ms=None) for result in (alone, many)]
    assert rows[0] == rows[1]
    assert alone.maps is not None and many.maps is not None
    for name in FIELDS:
        assert np.array_equal(getattr(alone.maps, name), getattr(many.maps, name), equal_nan=True), name
