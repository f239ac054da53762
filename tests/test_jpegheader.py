from __future__ import annotations

import io
import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data as pictures

from jscan.errors import InputError
from jscan.jpegheader import MAX_METADATA_SEGMENTS, MAX_SCANS, guess_encoder, parse
from jscan.jpegtables import standard_table

PHOTO = Image.fromarray(pictures.astronaut()[:120, :200])


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    PHOTO.convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def segment(code: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def after_soi(data: bytes, extra: bytes) -> bytes:
    return data[:2] + extra + data[2:]


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """(code, body) of each segment before the image data, by a reader of its own."""
    pos, found = 2, []
    while True:
        code = data[pos + 1]
        length = int.from_bytes(data[pos + 2 : pos + 4], "big")
        found.append((code, data[pos + 4 : pos + 2 + length]))
        pos += 2 + length
        if code == 0xDA:
            return found


def error_of(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        parse(data)
    return caught.value.code.value


@pytest.mark.parametrize("quality", [5, 50, 75, 92, 100])
def test_tables_and_size(quality: int) -> None:
    header = parse(jpeg(quality=quality, subsampling=2))
    assert (header.height, header.width, len(header.components), header.precision) == (120, 200, 3, 8)
    assert header.components[0].table == tuple(standard_table(quality))
    assert header.components[1].table == header.components[2].table == tuple(standard_table(quality, "chroma"))
    assert [bits for bits, _ in header.tables] == [8, 8]
    assert header.has_eoi and header.trailing == 0 and header.scans == 1 and not header.progressive
    assert header.jfif and header.adobe_transform is None and header.warnings == ()


@pytest.mark.parametrize(("subsampling", "name"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_subsampling(subsampling: int, name: str) -> None:
    header = parse(jpeg(subsampling=subsampling))
    assert header.subsampling == name and header.luma_full_size and header.colours == "ycbcr"


@pytest.mark.parametrize(
    ("luma", "chroma", "name", "full"),
    [
        (0x12, 0x11, "4:4:0", True),
        (0x41, 0x11, "4:1:1", True),
        (0x22, 0x22, "4:4:4", True),
        (0x22, 0x12, "4:2:2", True),
        (0x31, 0x11, "3x1,1x1,1x1", True),
        (0x11, 0x22, "1x1,2x2,2x2", False),
    ],
)
def test_unusual_sampling(luma: int, chroma: int, name: str, full: bool) -> None:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 11], data[at + 14], data[at + 17] = luma, chroma, chroma
    header = parse(bytes(data))
    assert header.subsampling == name and header.luma_full_size == full


def test_colours() -> None:
    assert parse(jpeg("L")).colours == "gray" and parse(jpeg("L")).subsampling == "gray"
    assert parse(jpeg("CMYK")).colours == "cmyk" and parse(jpeg("CMYK")).adobe_transform == 0
    rgb = parse(jpeg(keep_rgb=True))
    assert rgb.colours == "rgb"
    plain = b"".join([b"\xff\xd8", jpeg()[20:]])  # without its JFIF segment
    assert parse(plain).colours == "ycbcr" and not parse(plain).jfif
    assert parse(after_soi(plain, segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"))).colours == "rgb"
    assert parse(after_soi(plain, segment(0xEE, b"Adobe\0\x64\0\0\0\0\1"))).colours == "ycbcr"


def test_progressive_and_what_its_scans_send() -> None:
    data = jpeg(progressive=True)
    header = parse(data)
    assert header.progressive and header.scans > 5 and header.luma_complete
    # Pillow's last scan is the last bit of the luma: without it the luma is not complete.
    last = data.rindex(b"\xff\xda")
    cut = parse(data[:last])
    assert not cut.luma_complete and not cut.has_eoi and cut.scans == header.scans - 1


def test_sixteen_bit_table_and_late_redefinition() -> None:
    data = jpeg("L")
    wide = tuple(range(300, 364))
    at = data.index(b"\xff\xdb")
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    dqt = segment(0xDB, b"\x10" + struct.pack(">64H", *wide))
    header = parse(data[:at] + dqt + data[at + 2 + length :])
    assert header.components[0].table == wide and header.tables == ((16, wide),)
    # A table that comes after the component's first scan does not change what was used in it.
    late = data[:-2] + segment(0xDB, b"\0" + bytes(range(1, 65))) + b"\xff\xd9"
    assert parse(late).components[0].table == parse(data).components[0].table


def test_trailing_bytes_and_missing_end() -> None:
    data = jpeg()
    header = parse(data + b"tail")
    assert header.end == len(data) and header.trailing == 4 and header.has_eoi
    header = parse(data[:-2])
    assert not header.has_eoi and header.end == len(data) - 2 and header.data_end == len(data) - 2
    assert parse(data + jpeg()).end == len(data)
    cut = data[:-500]
    assert parse(cut + data).end == len(cut) and not parse(cut + data).has_eoi


def test_multi_picture_index() -> None:
    ifd = struct.pack("<HHHIIHHIII", 2, 0xB000, 7, 4, 0x30303130, 0xB001, 4, 1, 3, 0)
    for order, tiff in (("<", b"II*\0" + struct.pack("<I", 8) + ifd), (">", b"MM\0*")):
        found = parse(after_soi(jpeg(), segment(0xE2, b"MPF\0" + tiff))).frames
        assert found == (3 if order == "<" else 1)


def test_exif_and_restart_interval() -> None:
    exif = Image.Exif()
    exif[271] = "Acme"
    data = jpeg(exif=exif, restart_marker_blocks=4)
    header = parse(data)
    assert header.exif is not None and header.restart_interval == 4
    assert data[header.exif[0] :][:2] in (b"II", b"MM")


def test_encoder() -> None:
    exif = Image.Exif()
    exif[271] = "Acme"
    assert guess_encoder(parse(jpeg(quality=83))) == "ijg"
    assert guess_encoder(parse(jpeg("L", quality=83))) == "ijg"
    assert guess_encoder(parse(jpeg(quality=83, exif=exif, progressive=True)), "Acme") == "ijg"
    other = jpeg(qtables=[list(range(1, 65)), list(range(2, 66))])
    assert guess_encoder(parse(other)) == "unknown"
    assert guess_encoder(parse(other), "Acme", "Firmware 1.2") == "camera"
    assert guess_encoder(parse(other), "Acme", "Adobe Photoshop CS6") == "unknown"
    mixed = jpeg(qtables=[standard_table(80).tolist(), standard_table(70, "chroma").tolist()])
    assert guess_encoder(parse(mixed)) == "unknown"
    adobe = segment(0xED, b"Photoshop 3.0\x008BIM") + segment(0xEE, b"Adobe\0\x64\0\0\0\0\1")
    assert guess_encoder(parse(after_soi(other, adobe)), "Acme") == "photoshop"


def test_bad_structure() -> None:
    data = jpeg()
    frame = next(body for code, body in segments(data) if code == 0xC0)
    sof = data.index(b"\xff\xc0")
    sos = data.index(b"\xff\xda")
    assert error_of(b"") == error_of(b"\xff\xd8") == error_of(b"\xff\xd8\xff\xd9") == "bad_header"
    assert error_of(data[:sof]) == error_of(data[:sos]) == error_of(data[: sof + 5]) == "bad_header"
    assert error_of(data[:sof] + segment(0xC0, frame) + data[sof:]) == "bad_header"  # two frames
    for offset, value in ((5, 0), (9, 7), (11, 0x05), (12, 9)):
        broken = bytearray(data)
        broken[sof + offset] = value
        if offset == 5:
            broken[sof + 6] = 0  # height 0
        assert error_of(bytes(broken)) in ("bad_header", "unsupported_sof")
    quantisation = data.index(b"\xff\xdb")
    zero = bytearray(data)
    zero[quantisation + 30] = 0
    assert error_of(bytes(zero)) == "bad_header"
    length = int.from_bytes(data[quantisation + 2 : quantisation + 4], "big")
    assert error_of(data[:quantisation] + data[quantisation + 2 + length :]) == "bad_header"


@pytest.mark.parametrize("code", [0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF])
def test_frames_that_are_not_read(code: int) -> None:
    assert error_of(jpeg().replace(b"\xff\xc0", bytes([0xFF, code]), 1)) == "unsupported_sof"


def test_twelve_bits_and_two_components() -> None:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 4] = 12
    assert error_of(bytes(data)) == "unsupported_sof"
    data[at + 4], data[at + 9] = 8, 2
    assert error_of(bytes(data)) == "unsupported_sof"


def test_scan_limit() -> None:
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    room = MAX_SCANS - parse(data).scans
    assert parse(data[:-2] + scan * room + b"\xff\xd9").scans == MAX_SCANS
    assert error_of(data[:-2] + scan * (room + 1) + b"\xff\xd9") == "scan_limit"


def test_limits_on_metadata_and_segments() -> None:
    flood = segment(0xE1, b"Exif\0\0" + bytes(60_000))
    data = after_soi(jpeg(), flood * (MAX_METADATA_SEGMENTS + 50))
    started = time.perf_counter()
    header = parse(data)
    assert header.warnings == ("metadata_limit",) and header.width == 200
    assert time.perf_counter() - started < 1
    assert error_of(after_soi(jpeg(), segment(0xFE, b"") * 60_000)) == "bad_header"


def test_search_is_fast_in_stuffed_data() -> None:
    data = jpeg()
    sos = data.index(b"\xff\xda") + 14
    started = time.perf_counter()
    assert parse(data[:sos] + b"\xff\x00\xff\xd3" * 5_000_000 + b"\xff\xd9").has_eoi
    assert time.perf_counter() - started < 3


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), changes=st.integers(1, 30), cut=st.floats(0, 1), progressive=st.booleans())
def test_never_raises_anything_else(seed: int, changes: int, cut: float, progressive: bool) -> None:
    exif = Image.Exif()
    exif[271] = "Acme"
    data = bytearray(after_soi(jpeg(progressive=progressive, exif=exif), segment(0xE2, b"MPF\0II*\0\x08\0\0\0")))
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, 700, changes):
        data[at] = rng.integers(0, 256)
    try:
        header = parse(bytes(data[: round(len(data) * (0.2 + 0.8 * cut))]))
    except InputError:
        return
    assert header.width > 0 and header.height > 0 and all(len(c.table) == 64 for c in header.components)
    assert guess_encoder(header, "Acme") in ("ijg", "camera", "unknown", "photoshop")
    assert header.subsampling and header.colours


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(tail: bytes) -> None:
    with pytest.raises(InputError):
        parse(b"\xff\xd8" + tail)
