"""Mutated files: whatever the bytes, an image or an InputError comes out, soon, and no other exception.

The usual suite tries a few hundred; `make fuzz` sets JSCAN_FUZZ to 25,000 for each of the four formats of images, and a
fifth of that for each of five kinds of archives.
"""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from material import exif_with_thumbnail, file_of, photo
from packing import COMPRESSORS, tar_of, zip_of
from PIL import Image

from jscan.decode import decode
from jscan.discover import discover
from jscan.errors import InputError

EXAMPLES = int(os.environ.get("JSCAN_FUZZ", "100"))
SECONDS = 10.0
"""That one input may take here, where the machine may be busy with other things."""
MAX_PIXELS = 1_000_000
PICTURE = photo()[100:180, 50:146]  # 80 x 96

Mutation = tuple[str, float, bytes]
INTERESTING = [0, 1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 32767, 32768, 65535, 1 << 31, (1 << 31) - 1, (1 << 32) - 1]


def saved(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, kind, **options)
    return out.getvalue()


def exif() -> bytes:
    """An Exif block with texts and a thumbnail."""
    return exif_with_thumbnail(file_of(photo()[100:140, 50:98]))


def text_chunks(png: bytes) -> bytes:
    bodies = [(b"zTXt", b"k\0\0" + zlib.compress(b"text")), (b"tEXt", b"Software\0Editor"), (b"acTL", bytes(7) + b"\2")]
    chunks = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in bodies)
    return png[:33] + chunks + png[33:]


@cache
def seeds(kind: str) -> list[bytes]:
    """Sound files of that kind, as unlike one another as can be made here."""
    more = {"save_all": True, "append_images": [Image.fromarray(PICTURE).rotate(90)]}
    grey = Image.fromarray(PICTURE).convert("L")
    match kind:
        case "jpeg":
            facts = Image.Exif()
            facts[271], facts[305] = "Acme", "Firmware"
            return [
                saved("JPEG"), saved("JPEG", progressive=True), saved("JPEG", restart_marker_rows=1, exif=exif()),
                saved("MPO", **more), file_of(PICTURE, "CMYK"), saved("JPEG", subsampling=0, exif=facts, comment=b"c"),
            ]  # fmt: skip
        case "png":
            return [
                saved("PNG"), text_chunks(saved("PNG")), saved("PNG", **more), file_of(PICTURE[..., 0], "PNG"),
                text_chunks(saved("PNG", exif=exif()[6:])),
            ]  # fmt: skip
        case "tiff":
            packed = [saved("TIFF", compression=c) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")]
            out = io.BytesIO()
            grey.convert("1").save(out, "TIFF", compression="group4")
            return [saved("TIFF"), saved("TIFF", big_tiff=True), saved("TIFF", **more), *packed, out.getvalue()]
        case "webp":
            return [saved("WEBP"), saved("WEBP", lossless=True), saved("WEBP", **more), saved("WEBP", exif=exif()[6:])]
    files = {
        "a.jpg": saved("JPEG"),
        "d/": b"",
        "d/b.png": b"text" * 50,
        "e" * 60 + "/" + "e" * 60: b"",
        "in.zip": zip_of({"x": b"y"}),
    }
    if kind == "zip":
        return [zip_of(files), zip_of(files, 0), zip_of(files, 12), zip_of(files, 14)]
    plain = {name: data for name, data in files.items() if not name.endswith("/")}
    return [COMPRESSORS[kind](tar_of(plain, form)) for form in (0, 1, 2)]


@st.composite
def mutated(draw: st.DrawFn, kind: str) -> bytes:
    """A seed with one to eight changes, most of them near its start, where the headers are."""
    data = bytearray(draw(st.sampled_from(seeds(kind))))
    for _ in range(draw(st.integers(1, 8))):
        span = draw(st.sampled_from([64, 700, len(data)]))
        at = draw(st.integers(0, max(0, min(span, len(data)) - 1)))
        match draw(st.sampled_from(["byte", "number", "insert", "delete", "copy", "cut"])):
            case "byte" if data:
                data[at] = draw(st.integers(0, 255))
            case "number":
                value, form = draw(st.sampled_from(INTERESTING)), draw(st.sampled_from(["<H", ">H", "<I", ">I", "<Q"]))
                packed = struct.pack(form, value & (1 << 8 * struct.calcsize(form)) - 1)
                data[at : at + len(packed)] = packed
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=20))
            case "delete":
                del data[at : at + draw(st.integers(1, 40))]
            case "copy":
                length = draw(st.integers(1, 600))
                data[at:at] = data[at : at + length]
            case "cut":
                if draw(st.booleans()):
                    del data[at + draw(st.integers(0, len(data))) :]
    return bytes(data)


def resealed(data: bytes) -> bytes:
    """A tar whose headers' checksums hold again, so that what is wrong in them is met."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


def archive(kind: str) -> st.SearchStrategy[bytes]:
    """Mutated from outside, or, if it is a tar, from inside."""
    if kind == "zip":
        return mutated("zip")
    return st.one_of(mutated(kind), mutated("tar").map(resealed).map(COMPRESSORS[kind]))


def fuzz(share: int = 1) -> Callable[[Any], Any]:
    """Settings for a test of so many examples; nothing is shrunk for minutes in a run of many thousands."""
    return settings(
        max_examples=max(1, EXAMPLES // share),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


slowest: dict[str, float] = {}


@pytest.fixture(scope="module", autouse=True)
def said_at_the_end() -> Iterator[None]:
    """Nothing; how long the slowest input of each kind took is printed behind the tests, each of which bounds it."""
    yield
    print("slowest, in seconds:", {kind: round(seconds, 2) for kind, seconds in slowest.items()})


def decoded(kind: str, data: bytes) -> None:
    start = time.monotonic()
    try:
        image = decode(data, max_pixels=MAX_PIXELS, rgb=True)
    except InputError as error:
        said = str(error)
        assert said.endswith(".") and "\n" not in said
    else:
        assert image.luma.ndim == 2 and image.luma.size <= MAX_PIXELS
        assert image.rgb is not None and image.rgb.shape == (*image.luma.shape, 3)
        assert image.valid_rows is None or 0 <= image.valid_rows <= image.height
        assert image.frames >= 1
    slowest[kind] = max(slowest.get(kind, 0.0), time.monotonic() - start)
    assert slowest[kind] < SECONDS


@fuzz()
@given(data=mutated("jpeg"))
def test_jpeg(data: bytes) -> None:
    decoded("jpeg", data)


@fuzz()
@given(data=mutated("png"))
def test_png(data: bytes) -> None:
    decoded("png", data)


@fuzz()
@given(data=mutated("tiff"))
def test_tiff(data: bytes) -> None:
    decoded("tiff", data)


@fuzz()
@given(data=mutated("webp"))
def test_webp(data: bytes) -> None:
    decoded("webp", data)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.zst"])
def test_archives(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"

    @fuzz(5)
    @given(data=archive(kind))
    def run(data: bytes) -> None:
        path.write_bytes(data)
        start = time.monotonic()
        refs = list(discover([path]))
        assert refs
        assert not any(r.refused and r.refused[0] == "internal" for r in refs), refs
        keys = {(r.path_bytes, r.container, r.member) for r in refs}
        assert len(keys) == len(refs)
        slowest[kind] = max(slowest.get(kind, 0.0), time.monotonic() - start)
        assert slowest[kind] < SECONDS

    run()
