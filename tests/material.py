"""What several tests are made of: photographs without a JPEG past, files made of them, and invented posteriors."""

from __future__ import annotations

import io
import struct
from functools import cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data as pictures

from jscan.jpegtables import Q1_OFFSET, ZIGZAG
from jscan.records import WindowPosteriors
from jscan.tiling import window_grid

Pixels = npt.NDArray[np.uint8]


@cache
def photo(name: str = "astronaut", scale: float = 0.83) -> Pixels:
    """(H, W, 3) RGB, read-only: a picture of scikit-image, reduced, so that no compression it had can be seen."""
    full = getattr(pictures, name)()
    full = np.repeat(full[..., None], 3, axis=2) if full.ndim == 2 else full[..., :3]
    small = cv2.resize(full, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    out = np.asarray(small, np.uint8)
    out.setflags(write=False)
    return out


def file_of(pixels: Pixels, kind: str = "JPEG", **options: Any) -> bytes:
    """The file that Pillow writes of (H, W) or (H, W, 3) pixels; for `kind` "CMYK" a JPEG of four inks."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if kind == "CMYK":
        image, kind = image.convert("CMYK"), "JPEG"
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif_with_thumbnail(thumbnail: bytes | None) -> bytes:
    """A little-endian Exif block with Make, Software and, in IFD1, a JPEG thumbnail; written by hand."""
    texts = b"Acme\0\0\0\0Editor 1\0\0\0\0"
    count = 2
    first = struct.pack("<H", count)
    at = 8 + 2 + 12 * count + 4
    first += struct.pack("<HHII", 271, 2, 5, at) + struct.pack("<HHII", 305, 2, 9, at + 8)
    second_at = at + len(texts)
    if thumbnail is None:
        return b"Exif\0\0II*\0\x08\0\0\0" + first + struct.pack("<I", 0) + texts
    second = struct.pack("<H", 3) + struct.pack("<HHII", 259, 3, 1, 6)
    second += struct.pack("<HHII", 513, 4, 1, second_at + 2 + 36 + 4) + struct.pack("<HHII", 514, 4, 1, len(thumbnail))
    return b"Exif\0\0II*\0\x08\0\0\0" + first + struct.pack("<I", second_at) + texts + second + bytes(4) + thumbnail


def pixels_of(data: bytes) -> Pixels:
    """(H, W, 3) RGB of a file."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def natural(table: Any) -> list[int]:
    """A zigzag table in row order, as Pillow wants it."""
    out = [0] * 64
    for k, (row, col) in enumerate(ZIGZAG):
        out[8 * row + col] = int(table[k])
    return out


def rng(seed: int = 0) -> np.random.Generator:
    """Random numbers, the same on every run."""
    return np.random.default_rng(seed)


def _peaked(size: int, best: int, p: float) -> npt.NDArray[np.float16]:
    """(size,) log-posterior with probability p at `best`, the rest spread evenly."""
    rest = (1 - p) / (size - 1)
    out = np.full(size, np.log(rest))
    out[best] = np.log(p)
    return out.astype(np.float16)


def posteriors(
    table: tuple[int, ...],
    shift: int,
    *,
    height: int = 320,
    width: int = 400,
    origin: tuple[int, int] = (0, 0),
    present: float = 0.95,
    p: float = 0.9,
) -> WindowPosteriors:
    """The same answer in every window: 15 steps of Q1, or (qf,), with probability p each; read-only arrays."""
    rows, cols = window_grid(height - origin[0], width - origin[1])
    if len(table) == 1:
        row = _peaked(100, table[0] - 1, p)
    else:
        row = np.concatenate([_peaked(b - a, q - 1, p) for (a, b), q in zip(pairwise(Q1_OFFSET), table, strict=True)])
    logp = np.tile(row, (rows, cols, 1))
    shifts = np.tile(_peaked(64, shift, p), (rows, cols, 1))
    flags = np.full((rows, cols), present, np.float32)
    return frozen(WindowPosteriors(logp, shifts, flags, origin, (height, width)))


def mixed(base: WindowPosteriors, other: WindowPosteriors, rows: slice, cols: slice) -> WindowPosteriors:
    """`base` with the windows of these rows and columns taken from `other`."""
    parts = []
    for name in ("logp", "shift", "present"):
        array = getattr(base, name).copy()
        array[rows, cols] = getattr(other, name)[rows, cols]
        parts.append(array)
    return frozen(WindowPosteriors(*parts, base.origin, base.size))


def frozen(found: WindowPosteriors) -> WindowPosteriors:
    """The same posteriors, with arrays that cannot be written to."""
    for array in (found.logp, found.shift, found.present):
        array.setflags(write=False)
    return found
