from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import exif_with_thumbnail
from PIL import Image
from skimage import data as pictures

from jscan.decode import decode, from_array
from jscan.errors import InputError, UsageError
from jscan.filetypes import sniff
from jscan.records import DecodedImage

RGB = pictures.astronaut()[40:240, 100:340]  # (200, 240, 3)
PHOTO = Image.fromarray(RGB)
LIMIT = 10_000_000
HOSTILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "hostile.zip"


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def luma_of(rgb: np.ndarray) -> np.ndarray:
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    return np.floor(0.299 * r + 0.587 * g + 0.114 * b + 0.5).astype(np.uint8)


def near(a: np.ndarray, b: np.ndarray, by: int = 0) -> bool:
    return a.shape == b.shape and int(np.abs(a.astype(int) - b.astype(int)).max()) <= by


def open_(data: bytes, *, rgb: bool = False) -> DecodedImage:
    return decode(data, max_pixels=LIMIT, rgb=rgb)


def error_of(data: bytes, max_pixels: int = LIMIT) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        decode(data, max_pixels=max_pixels, rgb=False)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and "0x7f" not in message
    return caught.value.code.value, message


# --- JPEG ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_jpeg_luma_is_the_y_component(options: dict[str, Any]) -> None:
    data = saved(PHOTO, "JPEG", quality=88, **options)
    image = open_(data, rgb=True)
    oracle = Image.open(io.BytesIO(data))
    oracle.draft("YCbCr", oracle.size)
    assert near(image.luma, np.asarray(oracle)[:, :, 0])
    assert image.rgb is not None and near(image.rgb, np.asarray(Image.open(io.BytesIO(data))))
    assert not image.luma.flags.writeable and not image.rgb.flags.writeable
    assert (image.format, image.components, image.frames) == ("jpeg", 3, 1)
    assert image.warnings == () and image.valid_rows is None
    assert image.jpeg is not None and image.jpeg.encoder == "ijg"
    assert image.jpeg.progressive == bool(options.get("progressive"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
    ],
)
def test_nothing_is_rotated(kind: str, options: dict[str, Any], orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    turned = open_(saved(PHOTO, kind, exif=exif, **options), rgb=True)
    plain = open_(saved(PHOTO, kind, **options), rgb=True)
    assert (turned.width, turned.height) == (240, 200)
    assert turned.rgb is not None and plain.rgb is not None
    assert near(turned.luma, plain.luma) and near(turned.rgb, plain.rgb)


def test_a_tiff_is_not_rotated_by_its_xmp() -> None:
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    image = open_(saved(PHOTO, "TIFF", tiffinfo={700: xmp}), rgb=True)
    assert image.rgb is not None and near(image.rgb, RGB)


def test_grey_jpeg() -> None:
    image = open_(saved(PHOTO.convert("L"), "JPEG"), rgb=True)
    assert image.components == 1 and image.jpeg is not None and image.jpeg.subsampling == "gray"
    assert image.jpeg.q2_chroma is None
    assert image.rgb is not None and near(image.rgb[:, :, 1], image.luma)


def test_rgb_jpeg() -> None:
    data = saved(PHOTO, "JPEG", quality=95, keep_rgb=True)
    image = open_(data, rgb=True)
    assert image.warnings == ("rgb_jpeg",)
    assert near(image.luma, np.asarray(Image.open(io.BytesIO(data)).convert("L")))


@pytest.mark.parametrize("transform", [0, 1, 2, 3, 255])
def test_cmyk_jpeg(transform: int) -> None:
    # Other numbers than 0 and 2 mean nothing; libjpeg says so and takes them for 2.
    data = bytearray(saved(PHOTO.convert("CMYK"), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = transform
    image = open_(bytes(data), rgb=True)
    oracle = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    complaint = () if transform in (0, 2) else ("corrupt_data",)
    assert image.warnings == (*complaint, "cmyk", f"adobe_transform_{transform}") and image.components == 4
    assert image.rgb is not None and near(image.rgb, oracle, 1)
    assert near(image.luma, luma_of(image.rgb), 1)


@pytest.mark.parametrize("luma", [0x22, 0x31])
def test_sampling_unknown_to_turbojpeg(luma: int) -> None:
    data = bytearray(saved(PHOTO, "JPEG", subsampling=0))
    at = data.index(b"\xff\xc0")
    data[at + 11], data[at + 14], data[at + 17] = luma, 0x12 if luma == 0x22 else 0x11, 0x11
    image = open_(bytes(data))
    oracle = Image.open(io.BytesIO(data))
    oracle.draft("L", oracle.size)
    assert near(image.luma, np.asarray(oracle))
    data[at + 11], data[at + 14] = 0x11, 0x22
    assert error_of(bytes(data))[0] == "unsupported_sof"


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 3}, {"subsampling": 0}, {"subsampling": 2}])
@pytest.mark.parametrize("part", [0.15, 0.5, 0.83])
def test_truncated_jpeg(options: dict[str, Any], part: float) -> None:
    data = saved(PHOTO, "JPEG", quality=90, **options)
    whole = open_(data).luma
    header = data.index(b"\xff\xda") + 14
    cut = data[: header + round((len(data) - header) * part)]
    image = open_(cut, rgb=True)
    assert image.warnings == ("truncated",) and image.valid_rows is not None
    assert near(image.luma[: image.valid_rows], whole[: image.valid_rows])
    # Not too careful either: the next two rows of MCUs are not all there.
    assert not near(image.luma[: image.valid_rows + 32], whole[: image.valid_rows + 32])
    assert image.valid_rows % 8 == 0 and 0 < image.valid_rows < 200
    # The same with an EOI put at the end, as tools that mend files do.
    mended = open_(cut.rstrip(b"\xff") + b"\xff\xd9")
    assert mended.warnings == ("corrupt_data",) and mended.valid_rows == image.valid_rows


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"], ids=["zeros", "zeros and EOI"])
def test_zeros_in_place_of_the_rest_are_not_the_files_own(end: bytes) -> None:
    """As interrupted downloads and recovered files have them; to a decoder they are codes like others."""
    data = saved(PHOTO, "JPEG", quality=90)
    for part in (0.4, 0.7):
        cut = data[: round(len(data) * part)]
        wanted = open_(cut).valid_rows
        image = open_(cut + bytes(len(data) - len(cut)) + end)
        assert image.warnings == ("corrupt_data" if end else "truncated",)
        assert image.valid_rows is not None and wanted is not None
        assert wanted - 16 <= image.valid_rows <= wanted


def test_a_lost_sector_ends_what_can_be_relied_on() -> None:
    data = saved(PHOTO, "JPEG", quality=95)
    whole, at = open_(data).luma, len(data) // 2 & -512
    image = open_(data[:at] + bytes(512) + data[at + 512 :])
    assert image.warnings == ("corrupt_data",)
    assert image.valid_rows is not None and 64 <= image.valid_rows < 160
    assert np.array_equal(image.luma[: image.valid_rows], whole[: image.valid_rows])


def test_a_jpeg_cut_in_the_middle_of_a_marker_is_not_complete() -> None:
    data = saved(PHOTO, "JPEG", quality=90)
    whole = open_(data).luma
    header = data.index(b"\xff\xda") + 14
    cuts = [at + 1 for at in range(header, len(data) - 2) if data[at] == 0xFF]
    assert len(cuts) > 20
    for cut in cuts[::8]:
        assert data[cut - 1 : cut + 1] == b"\xff\0"
        image = open_(data[:cut])
        assert image.warnings == ("truncated",) and image.valid_rows == open_(data[: cut - 1]).valid_rows
        assert image.valid_rows is not None and image.valid_rows < 200
        assert np.array_equal(image.luma[: image.valid_rows], whole[: image.valid_rows])


def test_only_the_end_marker_is_missing() -> None:
    data = saved(PHOTO, "JPEG")
    image = open_(data[:-2])
    assert image.warnings == ("truncated",) and image.valid_rows == 200
    assert near(image.luma, open_(data).luma)


def test_truncated_progressive_jpeg() -> None:
    data = saved(PHOTO, "JPEG", progressive=True, quality=90)
    last = data.rindex(b"\xff\xda")  # the last bit of the luma
    assert open_(data[: len(data) // 2]).valid_rows == 0
    assert open_(data[:last]).valid_rows == 0
    image = open_(data[: (last + len(data)) // 2])
    assert image.valid_rows is not None and 0 < image.valid_rows < 200
    assert near(image.luma[: image.valid_rows], open_(data).luma[: image.valid_rows])


def test_scans_left_out_before_the_end_marker() -> None:
    """libjpeg says nothing of them."""
    data = saved(PHOTO, "JPEG", progressive=True, quality=90)
    image = open_(data[: data.rindex(b"\xff\xda")] + b"\xff\xd9")
    assert image.warnings == ("corrupt_data",) and image.valid_rows == 0


def test_corrupt_jpeg_is_decoded_all_the_same() -> None:
    data = bytearray(saved(PHOTO, "JPEG", restart_marker_rows=1))
    at = data.index(b"\xff\xd3")
    data[at + 1] = 0xD5
    image = open_(bytes(data))
    assert image.warnings == ("corrupt_data",)
    assert near(image.luma[:32], open_(saved(PHOTO, "JPEG")).luma[:32])


def test_bytes_between_segments() -> None:
    data = saved(PHOTO, "JPEG")
    at = data.index(b"\xff\xdb")
    image = open_(data[:at] + b"\0\0" + data[at:], rgb=True)
    assert image.warnings == ("corrupt_data",) and near(image.luma, open_(data).luma)


def test_trailing_bytes() -> None:
    assert open_(saved(PHOTO, "JPEG") + bytes(10)).warnings == ("trailing_bytes",)
    assert open_(saved(PHOTO, "PNG") + bytes(10)).warnings == ("trailing_bytes",)
    assert open_(saved(PHOTO.convert("P"), "GIF") + b"x").warnings == ("trailing_bytes", "few_colours")
    assert open_(saved(PHOTO, "WEBP", lossless=True) + bytes(10)).warnings == ("trailing_bytes",)


def test_multi_picture_file() -> None:
    image = open_(saved(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(180)]))
    assert image.frames == 2 and image.warnings == () and image.format == "jpeg"


def test_jpeg_limits() -> None:
    data = bytearray(saved(PHOTO, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    assert error_of(bytes(data))[0] == "pixel_limit"
    assert error_of(saved(PHOTO, "JPEG"), max_pixels=47_999)[0] == "pixel_limit"
    assert decode(saved(PHOTO, "JPEG"), max_pixels=48_000, rgb=False).width == 240
    assert error_of(saved(PHOTO.crop((0, 0, 63, 200)), "JPEG"))[0] == "too_small"
    assert open_(saved(PHOTO.crop((0, 0, 64, 64)), "JPEG")).luma.shape == (64, 64)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("side", [65_500, 65_501, 65_535])
def test_a_jpeg_with_a_longer_side_than_libjpeg_reads(side: int, progressive: bool, capfd: Any) -> None:
    """It is not called damaged: the format allows for 65,535, and what wrote it may have been no libjpeg."""
    data = saved(PHOTO.crop((0, 0, 64, 64)), "JPEG", progressive=progressive)
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    for height, width in ((64, side), (side, 64)):
        patched = data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
        if side <= 65_500:
            assert open_(patched).luma.shape == (height, width)
            continue
        code, message = error_of(patched)
        assert code == "pixel_limit" and f"{width} x {height}" in message and "65,500 a side" in message
        assert "It is damaged" not in message and "PNG or TIFF" in message
        assert error_of(patched, max_pixels=1000)[1] == message, "--max-pixels would not help"
        assert capfd.readouterr().err == "", "libjpeg was not asked"
    slim = data[:at] + struct.pack(">HH", 40, side) + data[at + 4 :]
    assert error_of(slim)[0] == "too_small"


# --- Exif ---------------------------------------------------------------------------------------------------


def test_exif_facts() -> None:
    exif = Image.Exif()
    exif[271], exif[272], exif[305] = "Acme\0junk", " Model\t7 ", "Firmware"
    exif.get_ifd(0x8769)[36867] = "2024:02:03 04:05:06"
    for kind in ("JPEG", "PNG", "WEBP"):
        facts = open_(saved(PHOTO, kind, exif=exif)).metadata
        assert (facts.camera_make, facts.camera_model, facts.software) == ("Acme", "Model 7", "Firmware"), kind
        assert facts.capture_time == "2024:02:03 04:05:06" and facts.has_thumbnail is False
        assert facts.thumbnail_differs is None
    bare = open_(saved(PHOTO, "JPEG")).metadata
    assert bare.camera_make is None and bare.has_thumbnail is None


def test_orientation_is_told_and_nothing_is_turned() -> None:
    exif = Image.Exif()
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        for stated in (1, 6, 9):
            exif[274] = stated
            image = open_(saved(PHOTO, kind, exif=exif))
            assert image.luma.shape == PHOTO.size[::-1], kind
            told = [warning for warning in image.warnings if warning.startswith("orientation")]
            assert told == (["orientation_6"] if stated == 6 else []), (kind, stated)


def test_thumbnail() -> None:
    other = Image.fromarray(pictures.chelsea())
    small = PHOTO.resize((160, 133))
    barred = Image.new("RGB", (160, 120))
    barred.paste(PHOTO.resize((144, 120)), (8, 0))
    same = [small, barred, small.rotate(90, expand=True), PHOTO.crop((0, 10, 240, 190)).resize((160, 120))]
    for picture, differs in [(p, False) for p in same] + [(other.resize((160, 120)), True)]:
        exif = exif_with_thumbnail(saved(picture, "JPEG"))
        facts = open_(saved(PHOTO, "JPEG", exif=exif)).metadata
        assert (facts.camera_make, facts.software) == ("Acme", "Editor 1")
        assert facts.has_thumbnail is True and facts.thumbnail_differs is differs
    for broken in (b"\xff\xd8broken", saved(small, "PNG"), saved(Image.new("L", (160, 133)), "JPEG")):
        facts = open_(saved(PHOTO, "JPEG", exif=exif_with_thumbnail(broken))).metadata
        assert facts.has_thumbnail is True and facts.thumbnail_differs is None
    assert open_(saved(PHOTO, "JPEG", exif=exif_with_thumbnail(None))).metadata.has_thumbnail is False


def test_damaged_exif_never_hurts() -> None:
    good = exif_with_thumbnail(saved(PHOTO.resize((160, 133)), "JPEG"))
    rng = np.random.default_rng(0)
    for _ in range(150):
        bad = bytearray(good)
        for at in rng.integers(6, 130, 4):
            bad[at] = rng.integers(0, 256)
        assert near(open_(saved(PHOTO, "JPEG", exif=bytes(bad))).luma, open_(saved(PHOTO, "JPEG")).luma)


# --- other formats ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("PNG", {}, "png"),
        ("TIFF", {}, "tiff"),
        ("TIFF", {"compression": "tiff_lzw"}, "tiff"),
        ("TIFF", {"big_tiff": True}, "tiff"),
        ("BMP", {}, "bmp"),
        ("WEBP", {"lossless": True}, "webp"),
    ],
)
def test_lossless_formats(kind: str, options: dict[str, Any], name: str) -> None:
    image = open_(saved(PHOTO, kind, **options), rgb=True)
    assert (image.format, image.components, image.frames, image.warnings) == (name, 3, 1, ())
    assert image.jpeg is None and image.rgb is not None
    assert near(image.rgb, RGB) and near(image.luma, luma_of(RGB), 1)
    assert not image.luma.flags.writeable and not image.rgb.flags.writeable


def test_luma_is_rounded_as_libjpeg_rounds() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    exact = (rgb.astype(np.int64) @ np.array([19595, 38470, 7471]) + 32768) >> 16
    assert near(from_array(rgb, rgb=False).luma, exact)
    assert near(open_(saved(Image.fromarray(rgb), "PNG")).luma, exact)
    assert near(open_(saved(Image.fromarray(rgb), "JPEG", keep_rgb=True, quality=100)).luma, exact, 3)


def test_alpha_palette_and_one_bit() -> None:
    clear = PHOTO.copy()
    clear.putalpha(0)
    for kind in ("PNG", "TIFF"):
        image = open_(saved(clear, kind), rgb=True)
        assert image.rgb is not None and near(image.rgb, RGB)
        assert image.warnings == ("alpha_dropped",) and image.components == 4
    grey = PHOTO.convert("LA")
    assert open_(saved(grey, "PNG")).components == 2
    palette = PHOTO.quantize(64)
    image = open_(saved(palette, "PNG", transparency=3), rgb=True)
    assert image.rgb is not None and near(image.rgb, np.asarray(palette.convert("RGB")))
    assert image.warnings == ("alpha_dropped", "few_colours")
    bits = PHOTO.convert("1")
    assert near(open_(saved(bits, "PNG")).luma, np.asarray(bits.convert("L")))
    assert open_(saved(bits, "PNG")).components == 1


def with_palette(kind: str, colours: Image.Image) -> bytes:
    return saved(colours, kind, lossless=True) if kind == "WEBP" else saved(colours, kind)


PALETTES = ["GIF", "PNG", "TIFF", "BMP", "WEBP"]


@pytest.mark.parametrize("kind", PALETTES)
@pytest.mark.parametrize("colours", [256, 64, 16, 2])
def test_few_colours(kind: str, colours: int) -> None:
    image = open_(with_palette(kind, PHOTO.quantize(colours)), rgb=True)
    assert image.warnings == ("few_colours",)
    assert image.rgb is not None and len(np.unique(image.rgb.reshape(-1, 3), axis=0)) <= colours


@pytest.mark.parametrize("kind", PALETTES)
def test_greys_in_a_palette_lose_nothing_unless_there_are_gaps(kind: str) -> None:
    grey = PHOTO.convert("L")
    backwards = Image.fromarray(255 - np.asarray(grey))  # an index is no grey
    backwards.putpalette([v for g in range(255, -1, -1) for v in (g, g, g)])
    assert backwards.mode == "P"
    image = open_(with_palette(kind, backwards))
    assert near(image.luma, np.asarray(grey)) and image.warnings == ()
    assert open_(with_palette(kind, grey.quantize(40))).warnings == ("few_colours",)


def test_full_colours_are_not_few() -> None:
    assert open_(saved(PHOTO.convert("L"), "WEBP", lossless=True)).warnings == ()
    assert open_(saved(Image.fromarray(RGB // 128 * 128), "PNG")).warnings == ()  # nobody gave it a palette
    clear = PHOTO.quantize(64).convert("RGBA")
    clear.putalpha(PHOTO.convert("L"))
    assert open_(saved(clear, "PNG")).warnings == ("alpha_dropped",)


def test_the_index_of_a_palette_with_transparency() -> None:
    both = PHOTO.quantize(64).convert("PA")
    assert open_(saved(both, "TIFF")).warnings == ("alpha_dropped", "few_colours")


def test_deep_samples() -> None:
    grey = luma_of(RGB)
    deep = [
        saved(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        saved(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
        saved(Image.fromarray(grey.astype(np.float32) / np.float32(255)), "TIFF"),
        saved(Image.fromarray(grey.astype(np.float32)), "TIFF"),
        saved(Image.fromarray(grey.astype(np.int32)), "TIFF"),
    ]
    for data in deep:
        image = open_(data, rgb=True)
        assert near(image.luma, grey) and image.warnings == ("reduced_depth",) and image.components == 1
        assert image.rgb is not None and near(image.rgb[:, :, 2], grey)
    odd = grey.astype(np.float32) - 100
    odd[0, 0], odd[0, 1] = np.nan, np.inf
    image = open_(saved(Image.fromarray(odd), "TIFF"))
    assert image.luma.min() == 0 and image.luma.max() == 255


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    out = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        out.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(out)


def test_sixteen_bit_colours() -> None:
    rows = RGB.astype(np.uint16) * 257
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    data = png(
        (b"IHDR", struct.pack(">IIBBBBB", 240, 200, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")
    )
    image = open_(data, rgb=True)
    assert image.rgb is not None and near(image.rgb, RGB) and image.warnings == ("reduced_depth",)


def test_compressed_text_is_never_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zlib.compress(bytes(300 << 20), 9)
    profile = b"x\0\0" + bomb
    chunks = [
        (b"iCCP", profile),
        (b"zTXt", b"k\0\0" + bomb),
        (b"iTXt", b"k\0\1\0\0\0" + bomb * 5),
        (b"zTXt", b"k\0\0" * 10),
    ]
    plain = saved(PHOTO, "PNG")
    body = png(*chunks)[8:]
    image = open_(plain[:33] + body + plain[33:], rgb=True)
    assert image.rgb is not None and near(image.rgb, RGB)
    assert image.warnings == ("metadata_limit",)


def test_png_limits_and_damage() -> None:
    data = bytearray(saved(PHOTO, "PNG"))
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    assert error_of(bytes(data))[0] == "pixel_limit"
    assert error_of(saved(PHOTO, "PNG")[:5000])[0] == "corrupt_data"
    assert error_of(b"\x89PNG\r\n\x1a\n")[0] == "bad_header"
    assert error_of(saved(PHOTO.resize((300, 20)), "PNG"))[0] == "too_small"


@pytest.mark.parametrize(
    ("end", "note"),
    [
        (b"", "truncated"),
        (b"\0\0\0\0IE", "truncated"),
        (b"\0\0\0\0IEND\xae", "truncated"),
        (b"\0\0\0\x20tEXtSoft", "truncated"),  # a chunk that ends outside of the file
        (b"\0\0\0\0IEND\xaeB`\x83", "corrupt_data"),
        (b"\0\0\0\0tEXt\0\0\0\0\0\0\0\0IEND\xaeB`\x82", "corrupt_data"),
    ],
)
def test_a_png_that_is_damaged_behind_its_pixels(end: bytes, note: str) -> None:
    whole = saved(PHOTO, "PNG")
    image = open_(whole[:-12] + end, rgb=True)
    assert image.warnings == (note,) and image.valid_rows is None
    assert image.rgb is not None and near(image.rgb, RGB)


def test_a_chunk_of_pixels_with_another_checksum() -> None:
    data = bytearray(saved(PHOTO, "PNG"))
    data[-14] ^= 1
    assert open_(bytes(data)).warnings == ("corrupt_data",)


def rows_of(pixels: np.ndarray, interlaced: bool) -> list[bytes]:
    """The rows of a PNG before they are compressed, without filters."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    return [b"\0" + row.tobytes() for x, y, dx, dy in passes for row in pixels[y::dy, x::dx]]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("height", [199, 200])
@pytest.mark.parametrize(("depth", "colours", "samples"), [(8, 2, 3), (8, 0, 1), (8, 6, 4), (16, 0, 2), (1, 0, 30)])
def test_rows_that_a_png_lacks(interlaced: bool, height: int, depth: int, colours: int, samples: int) -> None:
    """Pillow fills them with black, and says nothing where the compressed data end as they should."""
    pixels = np.tile(RGB, (1, 1, 10))[:height, :, :samples]
    if depth == 1:
        pixels = pixels[:, :1]  # 240 columns in 30 bytes
        interlaced = False
    header = struct.pack(">IIBBBBB", 240, height, depth, colours, 0, 0, interlaced)

    def made(rows: list[bytes], *end: tuple[bytes, bytes]) -> bytes:
        packed = zlib.compress(b"".join(rows))
        return png((b"IHDR", header), (b"IDAT", packed[:100]), (b"IDAT", packed[100:]), *end)

    end = (b"IEND", b"")
    whole = rows_of(pixels, interlaced)
    assert "corrupt_data" not in open_(made(whole, end)).warnings
    for part in (len(whole) // 2, len(whole) - 1):
        for short in (made(whole[:part], end), made(whole[:part])):
            code, message = error_of(short)
            assert code == "corrupt_data" and "end before its last row" in message
    assert error_of(made([*whole[:-1], whole[-1][:-1]], end))[0] == "corrupt_data", "here Pillow says it"
    pixels = pixels.copy()
    pixels[-3:] = 0
    assert "corrupt_data" not in open_(made(rows_of(pixels, interlaced), end)).warnings, "a picture may end in black"


def test_frames() -> None:
    more = [PHOTO.rotate(90), PHOTO.rotate(180)]
    flat = [p.convert("P") for p in (PHOTO, *more)]
    assert open_(saved(flat[0], "GIF", save_all=True, append_images=flat[1:])).frames == 3
    for kind in ("TIFF", "PNG", "WEBP"):
        image = open_(saved(PHOTO, kind, save_all=True, append_images=more, lossless=True), rgb=True)
        assert image.frames == 3 and image.rgb is not None and near(image.rgb, RGB), kind


def test_tiff_with_a_loop_of_pages() -> None:
    data = bytearray(saved(PHOTO, "TIFF"))
    (ifd,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, ifd)
    struct.pack_into("<I", data, ifd + 2 + 12 * count, ifd)
    assert open_(bytes(data)).frames == 1


def test_tiff_with_jpeg_inside_and_raw_files() -> None:
    assert open_(saved(PHOTO, "TIFF", compression="jpeg")).warnings == ("jpeg_in_tiff",)
    code, message = error_of(saved(PHOTO, "TIFF", tiffinfo={50706: b"\1\4\0\0"}))
    assert code == "unsupported_format" and "raw" in message


@pytest.mark.parametrize("form", ["plain", "exif", "alpha", "frames"])
@pytest.mark.parametrize("lossless", [False, True])
def test_lossy_webp_is_another_codec(form: str, lossless: bool) -> None:
    picture, options = PHOTO.copy(), {}
    if form == "exif":
        options["exif"] = exif_with_thumbnail(None)
    elif form == "alpha":
        picture.putalpha(PHOTO.convert("L"))
    elif form == "frames":
        options = {"save_all": True, "append_images": [PHOTO.rotate(90)]}
    data = saved(picture, "WEBP", lossless=lossless, **options)
    assert (data[12:16] == b"VP8X") == (form in ("exif", "frames") or (form == "alpha" and not lossless))
    assert ("other_codec" in open_(data).warnings) == (not lossless)


@pytest.mark.parametrize("first", [False, True])
def test_the_codec_is_that_of_the_first_frame(first: bool) -> None:
    frames = [saved(PHOTO, "WEBP", lossless=lossless)[12:] for lossless in (first, not first)]
    size = (239).to_bytes(3, "little") + (199).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + size + b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    for frame in frames:
        part = bytes(6) + size + b"\1\0\0\0" + frame
        body += b"ANMF" + struct.pack("<I", len(part)) + part
    image = open_(b"RIFF" + struct.pack("<I", len(body)) + body, rgb=True)
    assert image.frames == 2 and image.rgb is not None and near(image.rgb, RGB) == first
    assert ("other_codec" in image.warnings) == (not first)


def test_webp_canvas_is_checked_before_it_is_allocated() -> None:
    data = bytearray(saved(PHOTO, "WEBP", save_all=True, append_images=[PHOTO.rotate(90)]))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xff\x3f\x00\xff\x3f\x00"
    assert error_of(bytes(data))[0] == "pixel_limit"


def test_large_image_is_no_affair_of_pillows() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        big = Image.new("1", (20_000, 10_000))
        for data in (saved(big, "PNG"), saved(big, "TIFF"), saved(big, "TIFF", compression="packbits")):
            assert decode(data, max_pixels=10**9, rgb=False).width == 20_000
            assert error_of(data)[0] == "pixel_limit"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0", "film"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0", "PostScript"),
        (b"II*\0\x10\0\0\0CR\2\0", "CR2"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"PK\3\4", "zip"),
        (b"P6 8 8 255 ", "netpbm"),
        (b"Hello, this is a letter.\n", "text"),
        ("Größe".encode() * 90, "text"),
        (bytes(range(100)), "no type"),
        (b"\0", "no type"),
    ],
)
def test_types_that_are_not_read(data: bytes, word: str) -> None:
    code, message = error_of(data)
    assert code == "unsupported_format" and word in message


@pytest.mark.parametrize("data", [b"7z\xbc\xaf\x27\x1c\0\4", b"Rar!\x1a\x07\1\0"])
def test_archives_that_are_not_looked_into_are_errors(data: bytes) -> None:
    code, message = error_of(data)
    assert code == "unsupported_method" and "Extract it" in message


def test_type_is_by_content() -> None:
    assert error_of(b"")[0] == "empty"
    assert error_of(b"\xff\xd8")[0] == "bad_header"
    kinds = {"JPEG": "jpeg", "PNG": "png", "TIFF": "tiff", "BMP": "bmp", "WEBP": "webp", "GIF": "gif"}
    for kind, name in kinds.items():
        assert sniff(saved(PHOTO, kind)) == name
    assert sniff(b"BM is how this sentence begins") is None


def test_damaged_files_of_every_format_only_raise_input_errors() -> None:
    kinds = ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF"]
    rng = np.random.default_rng(0)
    for kind in kinds:
        whole = saved(PHOTO.crop((0, 0, 80, 80)), kind)
        for _ in range(120):
            data = bytearray(whole)
            for at in rng.integers(0, min(len(data), int(rng.choice([60, 700, 10**6]))), 3):
                data[at] = rng.integers(0, 256)
            try:
                image = decode(bytes(data), max_pixels=1_000_000, rgb=True)
            except InputError:
                continue
            assert image.rgb is not None and image.rgb.shape == (*image.luma.shape, 3)


@pytest.mark.skipif(not HOSTILE.exists(), reason="the collection of hostile files is not here")
def test_hostile_collection() -> None:
    decoded = 0
    with zipfile.ZipFile(HOSTILE) as archive:
        for entry in archive.infolist()[::6]:
            if entry.is_dir():
                continue
            try:
                decode(archive.read(entry), max_pixels=LIMIT, rgb=True)
                decoded += 1
            except InputError:
                continue
    assert decoded > 5


# --- arrays -------------------------------------------------------------------------------------------------


def test_from_array() -> None:
    for array, components in ((RGB, 3), (np.dstack([RGB, RGB[:, :, 0]]), 4), (RGB[:, :, 0], 1)):
        array = array.copy()
        array.setflags(write=False)
        image = from_array(array, rgb=True)
        assert (image.format, image.components) == ("array", components)
        assert image.rgb is not None and image.rgb.shape == RGB.shape and not image.luma.flags.writeable
        assert near(image.luma, luma_of(image.rgb), 1)
        assert from_array(array, rgb=False).rgb is None
    ours = RGB[:, :, 0].copy()
    from_array(ours, rgb=False)
    assert ours.flags.writeable  # the caller's array stays as it was
    for bad in (RGB.astype(np.float32), RGB[None], RGB[:, :, :2]):
        with pytest.raises(UsageError):
            from_array(bad, rgb=False)
    with pytest.raises(InputError, match="64"):
        from_array(RGB[:63], rgb=False)
