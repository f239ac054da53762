"""What a scan is compared with: decoding alone, and the papers' networks run as their papers do.

All of it runs in this process, each on one thread, and is timed by its processor time, so that what else the machine
does changes little. The networks have random weights, which take as long as trained ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from jscan.papermap import STRIDE
from jscan.tiling import WINDOW

SECONDS = 2.0
"""What is timed is repeated for so long, and at least twice."""
UCHIDA_SIDE = 256
PATCHES = 32
"""Patches that a DenseNet is given at a time, and one by one."""


def processor_seconds(work: Callable[[], object], seconds: float = SECONDS) -> float:
    """Processor seconds that the work takes, the least of the times that it was done; once is not counted."""
    work()
    best, spent, count = float("inf"), 0.0, 0
    while count < 2 or spent < seconds:
        start = time.process_time()
        work()
        took = time.process_time() - start
        best, spent, count = min(best, took), spent + took, count + 1
    return best


def decoded_pixels(data: bytes) -> int:
    """How many pixels a JPEG file has, which are decoded; by OpenCV where simplejpeg refuses it."""
    try:
        return int(simplejpeg.decode_jpeg(data, "GRAY", strict=False).size)
    except ValueError:
        flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
        return int(np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags)).size)


def decode_alone(paths: list[Path], seconds: float = SECONDS) -> dict[str, Any]:
    """Decoding the JPEG files to luma with simplejpeg, which are read before."""
    files = [p.read_bytes() for p in paths]
    pixels = 0

    def decode() -> None:
        nonlocal pixels
        pixels = sum(decoded_pixels(data) for data in files)

    took = processor_seconds(decode, seconds)
    return {"images": len(files), "megapixels": pixels / 1e6, **_pace(pixels / 1e6, took)}


def _pace(megapixels: float, took: float) -> dict[str, float]:
    return {
        "processor_seconds": took,
        "processor_seconds_per_mp": took / megapixels,
        "mp_per_processor_second": megapixels / took,
    }


def _session(network: str) -> Any:
    """The network of a paper in ONNX Runtime, with random weights, on one thread."""
    import torch

    from train import export, export_paper, paper_config

    torch.manual_seed(0)
    name = {"uchida": "uchida", "densenet": "densenet-qf90"}[network]
    net = paper_config.build(paper_config.load(name)).eval()
    return export.open_session(export_paper.build_onnx(net, network))


def uchida(side: int = UCHIDA_SIDE, seconds: float = SECONDS) -> dict[str, Any]:
    """Uchida's network on one image of `side` x `side` pixels."""
    session = _session("uchida")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, side, side)).astype(np.uint8)
    took = processor_seconds(lambda: session.run(None, {"pixels": pixels}), seconds)
    return {"megapixels": side * side / 1e6, **_pace(side * side / 1e6, took)}


def densenet(patches: int = PATCHES, seconds: float = SECONDS) -> dict[str, Any]:
    """DenseNet-40 on patches of 64 x 64 pixels, of which an image has one for every 8 x 8 pixels.

    They are given one at a time and all at a time, and the faster way counts.
    """
    session = _session("densenet")
    (channels,) = (i.shape[1] for i in session.get_inputs())
    shape = (patches, channels, WINDOW, WINDOW)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)

    def one_by_one() -> None:
        for k in range(patches):
            session.run(None, {"pixels": pixels[k : k + 1]})

    ways = {"one at a time": one_by_one, f"{patches} at a time": lambda: session.run(None, {"pixels": pixels})}
    took = {name: processor_seconds(work, seconds) for name, work in ways.items()}
    fastest = min(took, key=lambda name: took[name])
    megapixels = patches * STRIDE**2 / 1e6
    return {"patches": fastest, "megapixels": megapixels, **_pace(megapixels, took[fastest])}


def measure(paths: list[Path], seconds: float = SECONDS) -> dict[str, dict[str, Any]]:
    """What each of them reaches, by name."""
    return {
        "decoding to luma (simplejpeg)": decode_alone(paths, seconds),
        "Uchida's network (ONNX Runtime)": uchida(seconds=seconds),
        "DenseNet-40 patch by patch, stride 8 (ONNX Runtime)": densenet(seconds=seconds),
    }
