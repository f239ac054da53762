"""The images that are timed: photographs of cameras where they are at hand, else made from scikit-image's."""

from __future__ import annotations

import random
from pathlib import Path

import cv2
import numpy as np

from train.measure_speed import Rgb, photographs, tiled

QUALITY = 90
MADE = (1500, 2000)
"""Rows and columns of a photograph that is made."""
SMALL = 96
"""Pixels along a side of the small images, of which there are many."""


def spread(paths: list[Path], count: int) -> list[Path]:
    """So many of the paths, evenly from the first to the last; all where there are fewer."""
    return [paths[k * len(paths) // count] for k in range(count)] if len(paths) > count else paths


def jpegs(folder: Path) -> list[Path]:
    """The JPEG files of a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))


def _write(path: Path, image: Rgb, *options: int) -> None:
    """Nothing. Raises RuntimeError where the image cannot be written."""
    if not cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1]), list(options)):
        raise RuntimeError(f"{path.name} could not be written")


def write_photographs(folder: Path, count: int) -> list[Path]:
    """JPEG files of 3 megapixels; each is another arrangement of scikit-image's photographs."""
    photos, draw = photographs(), random.Random(0)
    paths = []
    for k in range(count):
        paths.append(folder / f"photo_{k:02}.jpg")
        _write(paths[-1], tiled(draw.sample(photos, len(photos)), *MADE), cv2.IMWRITE_JPEG_QUALITY, QUALITY)
    return paths


def as_png(photo: Path, folder: Path) -> Path:
    """A PNG file of a photograph's pixels, in the folder. Raises RuntimeError where it cannot be read, or written."""
    image = cv2.imread(str(photo), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise RuntimeError(f"{photo.name} could not be read")
    path = folder / f"{photo.name}.png"
    _write(path, np.asarray(image[..., ::-1], np.uint8), cv2.IMWRITE_PNG_COMPRESSION, 1)
    return path


def write_sized(path: Path, megapixels: float) -> Path:
    """The path, a square image of that many megapixels: JPEG, or uncompressed TIFF where it ends in `.tif`."""
    side = round((megapixels * 1e6) ** 0.5)
    jpeg = path.suffix == ".jpg"
    options = (cv2.IMWRITE_JPEG_QUALITY, QUALITY) if jpeg else (cv2.IMWRITE_TIFF_COMPRESSION, 1)
    _write(path, tiled(photographs(), side, side), *options)
    return path


def write_small(folder: Path, count: int) -> None:
    """Nothing; the folder holds so many JPEG files of SMALL x SMALL pixels, no two alike."""
    photo, draw = tiled(photographs(), 1024, 1024), random.Random(0)
    for k in range(count):
        y, x = (draw.randrange(photo.shape[0] - SMALL) for _ in range(2))
        part = photo[y : y + SMALL, x : x + SMALL].copy()
        part[:2, :16] = np.frombuffer(k.to_bytes(4, "big"), np.uint8).repeat(8).reshape(2, 16, 1)
        _write(folder / f"{k:06}.jpg", part, cv2.IMWRITE_JPEG_QUALITY, QUALITY)
