"""Endless patches for the papers' networks, made by worker processes and never stored.

Double JPEG patches as Tondi 2021, section 4.2: a crop is compressed with a random QF1, its grid is moved by a random
shift, it is compressed with QF2, and patches are cut out of it. For Uchida 2019: compressed once, or never.
"""

from __future__ import annotations

import multiprocessing as mp
import queue
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan.tiling import BLOCK
from train import compress
from train.compress import Pixels
from train.dataset import CROP, capped_q1, draw_crop, image_weights, load_images
from train.paper_config import Config

Batch = dict[str, npt.NDArray[Any]]
"""`pixels` (n, channels, side, side) uint8, and `target` (n, 2) float32 of one compression.

Of two: `q1` (n, 15), `corner` (n, 2), where the first of the first compression's blocks begins down and right, 0 to 7,
and `qf1` (n,)."""


def planes(image: Pixels, kind: str) -> Pixels:
    """(channels, H, W) of what a network reads: of BGR pixels (H, W, 3) their RGB planes, of luma (H, W) itself."""
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)) if kind == "rgb" else image[None]


def draw_double(
    config: Config, images: list[Pixels], weights: npt.NDArray[np.float64], rng: random.Random, side: int, count: int
) -> Batch:
    """`count` patches of one double compression, side x side pixels."""
    qf1 = rng.randint(*config.qf1)
    first = compress.standard(qf1, rng.choice(config.subsamplings))
    second = compress.standard(config.qf2, rng.choice(config.subsamplings))
    dy, dx = rng.randrange(8), rng.randrange(8)
    once = compress.recompress(draw_crop(images, weights, rng, CROP + 8), first)
    moved = once[dy : dy + CROP, dx : dx + CROP]
    twice = planes(compress.recompress(moved, second, gray=config.input == "luma"), config.input)
    pixels, corners = _cut(twice, rng, side, config.grid, count)
    return {
        "pixels": pixels,
        "q1": np.stack([capped_q1(first.luma)] * count),
        "corner": -(corners + np.array([dy, dx])) % BLOCK,
        "qf1": np.array([qf1] * count),
    }


def draw_single(
    config: Config, images: list[Pixels], weights: npt.NDArray[np.float64], rng: random.Random, side: int, count: int
) -> Batch:
    """`count` patches of one compression, or of none; `target` is 1 - QF / 100, and 1 for none, else 0."""
    image, target = draw_crop(images, weights, rng, CROP), (0.0, 1.0)
    if rng.random() >= config.never:
        qf = rng.randint(*config.qf)
        image = compress.recompress(image, compress.standard(qf, rng.choice(config.subsamplings)))
        target = (1 - qf / 100, 0.0)
    return {
        "pixels": _cut(planes(image, config.input), rng, side, config.grid, count)[0],
        "target": np.array([target] * count, np.float32),
    }


def _cut(image: Pixels, rng: random.Random, side: int, grid: int, count: int) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Patches (count, channels, side, side), and where they begin (count, 2), down and right."""
    rows, cols = ((s - side) // grid + 1 for s in image.shape[1:])
    corners = [(rng.randrange(rows) * grid, rng.randrange(cols) * grid) for _ in range(count)]
    return np.stack([image[:, y : y + side, x : x + side] for y, x in corners]), np.array(corners)


def shapes(config: Config, size: int, per_crop: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(pixels along a side, patches) of a batch of patches on their own, and of one of patches with surroundings.

    Of the latter there are fewer, with as many pixels in all; of both a multiple of `per_crop`.
    """
    few = max(1, round(size * (config.side / config.crop) ** 2))
    return (config.side, -(-size // per_crop) * per_crop), (config.crop, -(-few // per_crop) * per_crop)


def make_batch(
    config: Config,
    images: list[Pixels],
    weights: npt.NDArray[np.float64],
    rng: random.Random,
    size: int,
    per_crop: int = 1,
) -> Batch:
    """About `size` patches, `per_crop` of each compressed image.

    A share of the batches is of patches with their surroundings.
    """
    surrounded = rng.random() < config.context_share
    side, count = shapes(config, size, per_crop)[surrounded]
    draw = draw_single if config.network == "uchida" else draw_double
    parts = [draw(config, images, weights, rng, side, per_crop) for _ in range(count // per_crop)]
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def _work(config: Config, folder: Path, seed: int, size: int, per_crop: int, out: Any) -> None:
    cv2.setNumThreads(1)
    images = load_images(folder)
    weights, rng = image_weights(images), random.Random(seed)
    while True:
        out.put(make_batch(config, images, weights, rng, size, per_crop))


class Patches:
    """Worker processes that make batches until closed."""

    def __init__(
        self, config: Config, folder: Path, *, seed: int, workers: int, size: int, per_crop: int, depth: int = 8
    ) -> None:
        context = mp.get_context("spawn")
        self._queue = context.Queue(depth)
        self._workers = [
            context.Process(
                target=_work, args=(config, folder, seed * 1000 + k, size, per_crop, self._queue), daemon=True
            )
            for k in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def __next__(self) -> Batch:
        """The next batch. Raises RuntimeError where a worker has died, which would otherwise mean waiting for ever."""
        while True:
            try:
                return self._queue.get(timeout=10)  # type: ignore[no-any-return]
            except queue.Empty as error:
                if all(worker.is_alive() for worker in self._workers):
                    continue
                self.close()
                raise RuntimeError("a process that makes patches has died; its message stands above") from error

    def __iter__(self) -> Iterator[Batch]:
        return self

    def close(self) -> None:
        """Stops the workers."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()
