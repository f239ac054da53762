"""What is done to whole pictures after a compression: noise, a vignette, another codec and so on."""

from __future__ import annotations

import io
import random
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, features

from train import compress
from train.compress import Pixels

PROCESSES = (
    "nothing", "noise", "blur", "sharpened", "brighter or darker", "vignette", "resized", "saved twice", "turned",
    "another codec", "denoised", "median", "warped", "video", "grey", "framed", "straightened", "toned",
)  # fmt: skip
"""What is done to a JPEG's pixels, all over the picture; see `process`. "video" is a frame of one (MPEG-4)."""
MOST_WARPED = 0.06
"""By what share of their distance from the middle the corners of a picture are moved at most."""
MOST_TURNED = 3.0
"""Degrees by which a picture is straightened at most."""


def process(pixels: Pixels, how: str, rng: random.Random) -> Pixels:
    """Pixels (H, W, 3), BGR, of a JPEG after one of PROCESSES, of a strength drawn evenly."""
    out: npt.NDArray[Any] = pixels.astype(np.float32)
    if how == "noise":
        out = out + np.random.default_rng(rng.randrange(2**32)).normal(0, rng.uniform(0.7, 3), out.shape)
    elif how == "blur":
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.2))
    elif how == "sharpened":
        out = out + rng.uniform(0.3, 1) * (out - cv2.GaussianBlur(out, (0, 0), 1.2))
    elif how == "brighter or darker":
        out = out * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20)
    elif how == "vignette":
        y, x = (np.linspace(-1, 1, n, dtype=np.float32) ** 2 for n in out.shape[:2])
        out = out * (1 - rng.uniform(0.1, 0.3) * (y[:, None] + x[None]))[..., None]
    elif how == "resized":
        factor = rng.uniform(0.5, 0.95)
        out = cv2.resize(out, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    elif how == "saved twice":
        out = compress.recompress(pixels, compress.standard(rng.randint(70, 97)))
    elif how == "turned":
        out = np.rot90(pixels)
    elif how == "another codec":
        packed = io.BytesIO()
        codec = rng.choice(("WEBP", "AVIF") if features.check("avif") else ("WEBP",))
        Image.fromarray(pixels[..., ::-1]).save(packed, codec, quality=rng.randint(40, 95))
        out = np.asarray(Image.open(packed).convert("RGB"))[..., ::-1]
    elif how == "denoised":
        out = cv2.fastNlMeansDenoisingColored(pixels, None, rng.uniform(2, 5), 3, 5, 11)
    elif how == "median":
        out = cv2.medianBlur(pixels, 3)
    elif how == "warped":
        out = (_lens if rng.random() < 0.5 else _perspective)(pixels, rng)
    elif how == "video":
        out = _frame(pixels, rng)
    elif how == "framed":
        top, bottom, left, right = (rng.randrange(10, 60) for _ in range(4))
        out = np.pad(out, ((top, bottom), (left, right), (0, 0)), constant_values=rng.choice((0, 128, 255)))
    elif how == "straightened":
        out = _turned(pixels, rng.choice((-1, 1)) * rng.uniform(0.2, MOST_TURNED))
    elif how == "toned":
        levels, bend = out / 255, rng.uniform(0.2, 0.8)
        out = 255 * (levels + bend * (levels * levels * (3 - 2 * levels) - levels))  # an S
    elif how == "grey":
        out = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2)
    return np.ascontiguousarray(np.clip(np.rint(out), 0, 255), np.uint8)


def _lens(pixels: Pixels, rng: random.Random) -> npt.NDArray[Any]:
    """The pixels as after the correction of a lens, barrel or pincushion."""
    height, width = pixels.shape[:2]
    bend = rng.choice((-1, 1)) * rng.uniform(0.2, 1) * MOST_WARPED
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (height, width))
    # Enlarged so much that nothing from beyond the edge is shown.
    scale = np.float32(1 + bend * (y[:, None] ** 2 + x[None] ** 2) - 2 * max(bend, 0))
    at_x, at_y = (x[None] * scale + 1) * (width - 1) / 2, (y[:, None] * scale + 1) * (height - 1) / 2
    return cv2.remap(pixels, at_x.astype(np.float32), at_y.astype(np.float32), cv2.INTER_LINEAR)


def _turned(pixels: Pixels, degrees: float) -> npt.NDArray[Any]:
    """The pixels turned around their middle, and enlarged so much that nothing from beyond the edge is shown."""
    height, width = pixels.shape[:2]
    turn = np.radians(abs(degrees))
    longest = max(height, width) / min(height, width)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, float(np.cos(turn) + longest * np.sin(turn)))
    return cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_CUBIC)


def _perspective(pixels: Pixels, rng: random.Random) -> npt.NDArray[Any]:
    """The pixels as after falling lines were set upright: each corner is moved outwards."""
    height, width = pixels.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    outwards = np.sign(corners - np.array([width / 2, height / 2])) * np.array([width, height])
    moved = corners + outwards * np.array([[rng.uniform(0, MOST_WARPED) for _ in range(2)] for _ in range(4)])
    matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    return cv2.warpPerspective(pixels, matrix, (width, height), flags=cv2.INTER_CUBIC)


def _frame(pixels: Pixels, rng: random.Random) -> npt.NDArray[Any]:
    """One of the first frames of a video of the pixels, over which the camera moves a little."""
    height, width = (n - n % 2 for n in pixels.shape[:2])
    dy, dx = rng.randint(-3, 3), rng.randint(-3, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "video.avi"))
        video = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"XVID"), 25, (width, height))
        video.set(cv2.VIDEOWRITER_PROP_QUALITY, rng.randint(50, 95))
        for k in range(4):
            video.write(np.ascontiguousarray(np.roll(pixels, (k * dy, k * dx), axis=(0, 1))[:height, :width]))
        video.release()
        reader = cv2.VideoCapture(path)
        frames = [reader.read()[1] for _ in range(rng.randint(1, 4))]
        reader.release()
    if frames[-1] is None:
        raise ValueError("OpenCV was built without its video codecs")
    return np.asarray(frames[-1])
