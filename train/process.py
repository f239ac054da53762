"""What is done to whole pictures after a compression: noise, a vignette, another codec and so on."""

from __future__ import annotations

import io
import random
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, features

from train import compress
from train.compress import Pixels

PROCESSES = (
    "nothing", "noise", "blur", "sharpened", "brighter or darker", "vignette", "resized", "saved twice", "turned",
    "another codec",
)  # fmt: skip
"""What is done to a JPEG's pixels, evenly all over the picture; see `process`."""


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
    return np.ascontiguousarray(np.clip(np.rint(out), 0, 255), np.uint8)
