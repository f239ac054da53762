"""JPEG compression as it is met in the world: encoders, chroma subsampling, and quantisation tables.

`Compression` describes one; `recompress` encodes and decodes an image with it, all in memory but for the encoders
of `jpeglib`, which want a file.
"""

from __future__ import annotations

import io
import json
import os
import random
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from jscan.jpegtables import ZIGZAG, nearest_qf, standard_table

Pixels = npt.NDArray[np.uint8]

SUBSAMPLINGS = ("4:2:0", "4:4:4", "4:2:2")
_CV2_SAMPLING = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
}
_PILLOW_SAMPLING = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
_JPEGLIB_SAMPLING = {"4:4:4": "4:4:4", "4:2:2": "4:2:2", "4:2:0": "4:2:0"}
OTHER_ENCODERS = ("6b", "7", "8d", "9e", "turbo120", "mozjpeg101")
"""Versions of jpeglib that differ from libjpeg-turbo's current one in DCT, subsampling or quantisation."""


@dataclass(frozen=True)
class Compression:
    """One JPEG compression."""

    luma: tuple[int, ...]
    """64 steps in zigzag order."""
    chroma: tuple[int, ...]
    """64 steps in zigzag order."""
    subsampling: str
    encoder: str
    """`opencv`, `pillow`, or a version of jpeglib."""
    qf: int | None
    """The quality factor of a standard table, or None."""

    @property
    def nearest_qf(self) -> float:
        """The quality factor itself, or the nearest one of the luma table."""
        return float(self.qf) if self.qf is not None else nearest_qf(self.luma)


def standard(qf: int, subsampling: str = "4:2:0", encoder: str = "opencv") -> Compression:
    """The compression of a standard quality factor."""
    luma, chroma = standard_table(qf), standard_table(qf, "chroma")
    return Compression(tuple(map(int, luma)), tuple(map(int, chroma)), subsampling, encoder, qf)


@cache
def camera_tables() -> tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], ...]:
    """(luma, chroma) tables of 64 steps as cameras and phones write them."""
    rows = json.loads(Path(__file__).with_name("camera_tables.json").read_text())
    return tuple((np.array(r["luma"]), np.array(r["chroma"])) for r in rows)


@cache
def photoshop_tables() -> dict[int, Compression]:
    """Photoshop's compressions by level, 7 to 12, which does not subsample the chroma at these levels.

    Their numbers agree with two published lists: hashes and sums with those that GIMP's `jpegqual.c` gives for
    Photoshop 7.0 and CS, and the MD5 with the digests that ExifTool gives for the same levels of Lightroom.
    """
    rows = json.loads(Path(__file__).with_name("photoshop_tables.json").read_text())
    return {r["level"]: Compression(tuple(r["luma"]), tuple(r["chroma"]), "4:4:4", "pillow", None) for r in rows}


def _smooth_table(rng: random.Random, qf: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A table that nobody wrote: the standard one bent by a random low-order surface, or a ramp of its own."""
    row, col = np.array(ZIGZAG).T / 7.0
    a, b, c, d = (rng.gauss(0, s) for s in (0.25, 0.4, 0.4, 0.4))
    bend = np.exp(a + b * (row - 0.3) + c * (col - 0.3) + d * (row * col - 0.1))
    if rng.random() < 0.4:
        first, slope = rng.uniform(4, 24), rng.uniform(0, 60)
        scale = (5000 / qf if qf < 50 else 200 - 2 * qf) / 100
        luma = (first + slope * (row + col) / 2) * scale * bend
    else:
        luma = standard_table(qf) * bend
    chroma = luma * rng.uniform(1.0, 2.0)
    return np.clip(np.rint(luma), 1, 255).astype(int), np.clip(np.rint(chroma), 1, 255).astype(int)


def draw(
    rng: random.Random, qf_low: int, qf_high: int, *, odd: float = 0.25, common: float = 0.0, photoshop: float = 0.0
) -> Compression:
    """A random compression: QF uniform between the bounds; a share `odd` of non-standard tables.

    `common` is the share of quality factors drawn from the few that programs use as presets, `photoshop` that of
    Photoshop's levels.
    """
    if photoshop and rng.random() < photoshop:
        return rng.choice(tuple(photoshop_tables().values()))
    qf = rng.randint(qf_low, qf_high)
    if rng.random() < common:
        qf = rng.choice([q for q in (50, 60, 70, 75, 80, 85, 90, 92, 95, 97) if qf_low <= q <= qf_high] or [qf])
    subsampling = rng.choices(SUBSAMPLINGS, (0.55, 0.3, 0.15))[0]
    if rng.random() < odd:
        if rng.random() < 0.45:
            luma, chroma = rng.choice(camera_tables())
            if rng.random() < 0.6:  # cameras scale their table to hit a file size
                factor = np.exp(rng.uniform(-0.5, 1.5))
                luma, chroma = (np.clip(np.rint(t * factor), 1, 255).astype(int) for t in (luma, chroma))
        else:
            luma, chroma = _smooth_table(rng, qf)
        return Compression(tuple(map(int, luma)), tuple(map(int, chroma)), subsampling, "pillow", None)
    encoder = rng.choices(("opencv", "pillow", rng.choice(OTHER_ENCODERS)), (0.8, 0.1, 0.1))[0]
    return standard(qf, subsampling, encoder)


def _natural(table: tuple[int, ...]) -> list[int]:
    out = [0] * 64
    for k, (row, col) in enumerate(ZIGZAG):
        out[row * 8 + col] = table[k]
    return out


def encode(image: Pixels, how: Compression) -> bytes:
    """The JPEG file of an image, (H, W, 3) uint8 in BGR order or (H, W)."""
    if how.encoder == "opencv":
        if how.qf is None:
            raise ValueError("OpenCV writes standard tables only")
        flags = [cv2.IMWRITE_JPEG_QUALITY, how.qf, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _CV2_SAMPLING[how.subsampling]]
        return cv2.imencode(".jpg", image, flags)[1].tobytes()
    if how.encoder == "pillow":
        out = io.BytesIO()
        picture = Image.fromarray(image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1]))
        tables = [_natural(how.luma), _natural(how.chroma)]
        picture.save(out, "JPEG", qtables=tables, subsampling=_PILLOW_SAMPLING[how.subsampling])
        return out.getvalue()
    return _encode_jpeglib(image, how)


def _encode_jpeglib(image: Pixels, how: Compression) -> bytes:
    import jpeglib

    tables = np.array([_natural(how.luma), _natural(how.chroma)], np.uint16).reshape(2, 8, 8)
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=folder) as name, jpeglib.version(how.encoder):
        path = os.path.join(name, "a.jpg")
        spatial = jpeglib.from_spatial(np.ascontiguousarray(image[..., ::-1] if image.ndim == 3 else image[..., None]))
        if image.ndim == 3:
            spatial.samp_factor = _JPEGLIB_SAMPLING[how.subsampling]
        spatial.write_spatial(path, qt=tables if image.ndim == 3 else tables[:1])
        return Path(path).read_bytes()


def decode(data: bytes, *, gray: bool = False) -> Pixels:
    """BGR pixels (H, W, 3), or the file's own luma (H, W), uint8."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("the file could not be decoded")
    return image  # type: ignore[return-value]


def recompress(image: Pixels, how: Compression, *, gray: bool = False) -> Pixels:
    """The image after this compression."""
    return decode(encode(image, how), gray=gray)
