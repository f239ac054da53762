"""Endless training windows from a folder of uncompressed images.

A stream draws an image, changes it a little, compresses it as the task wants, and cuts 64 x 64 windows out of it.
Nothing is written to disk. Worker processes fill a queue; the windows come with their comb features.
"""

from __future__ import annotations

import multiprocessing as mp
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan.jpegtables import N_COEFS, Q1_MAX
from train import compress
from train.comb import WINDOW, Comb, q1_bands, qf_bands

EXTENSIONS = {".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm"}
CROP = 192
"""Pixels along a side of what is compressed; several windows are cut from each."""
WINDOWS_PER_CROP = 4
INNER_SIDE = WINDOW + 7
"""Pixels along a side of what a window inside an image is read from: its last blocks reach beyond it."""
INNER_SHARE = 0.4
"""Share of the batches that are made of such windows; the others are of windows on their own."""

Pixels = npt.NDArray[np.uint8]
Sample = dict[str, Any]


def find_images(folder: Path) -> list[Path]:
    """Sorted paths of the uncompressed images below a folder. Raises ValueError where there is none."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    if not paths:
        raise ValueError(f"{folder}: no uncompressed image ({', '.join(sorted(EXTENSIONS))}) in it")
    return paths


def load_images(folder: Path) -> list[Pixels]:
    """All images of a folder as BGR, at least 200 pixels a side."""
    images = (cv2.imread(str(p), cv2.IMREAD_COLOR) for p in find_images(folder))
    return [i for i in images if i is not None and min(i.shape[:2]) >= CROP + 8]  # type: ignore[misc]


def draw_crop(images: list[Pixels], weights: npt.NDArray[np.float64], rng: random.Random, side: int) -> Pixels:
    """A side x side piece of a random image: flipped, rescaled, brightened, blurred or made noisy now and then."""
    image = images[rng.choices(range(len(images)), cum_weights=list(weights))[0]]
    kind = rng.random()
    # Enlarged ones are soft, as parts out of focus are.
    scale = rng.uniform(0.4, 1.0) if kind < 0.3 else rng.uniform(1.1, 2.0) if kind < 0.42 else 1.0
    want = min(int(np.ceil(side / scale)), *image.shape[:2])
    y, x = rng.randrange(image.shape[0] - want + 1), rng.randrange(image.shape[1] - want + 1)
    piece = image[y : y + want, x : x + want]
    if want != side:
        smooth = (cv2.INTER_CUBIC, cv2.INTER_LINEAR)
        method = rng.choice((cv2.INTER_AREA, *smooth) if want > side else smooth)
        piece = cv2.resize(piece, (side, side), interpolation=method)  # type: ignore[assignment]
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    if rng.random() < 0.25:
        piece = piece.transpose(1, 0, 2)
    if rng.random() < 0.25:
        gain, gamma = rng.uniform(0.6, 1.3), rng.uniform(0.7, 1.4)
        curve = np.clip(255 * gain * (np.arange(256) / 255) ** gamma + rng.uniform(-20, 20), 0, 255)
        piece = np.rint(curve).astype(np.uint8)[piece]
    if rng.random() < 0.15:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(0.5, 5), piece.shape)
        piece = np.clip(np.rint(piece + noise), 0, 255).astype(np.uint8)
    elif rng.random() < 0.1:
        piece = cv2.GaussianBlur(piece, (0, 0), rng.uniform(0.4, 1.5))  # type: ignore[assignment]
    return np.ascontiguousarray(piece)


def image_weights(images: list[Pixels]) -> npt.NDArray[np.float64]:
    """Cumulative weights by a power of the area, so that large images count more, but not all."""
    return np.cumsum([float(i.shape[0] * i.shape[1]) ** 0.9 for i in images])


def draw_places(luma: Pixels, rng: random.Random, grid: int, side: int) -> list[tuple[int, int]]:
    """Corners of random windows of side x side pixels, at multiples of `grid`."""
    rows, cols = ((s - side) // grid + 1 for s in luma.shape)
    return [(rng.randrange(rows) * grid, rng.randrange(cols) * grid) for _ in range(WINDOWS_PER_CROP)]


def _there_and_back(image: Pixels, rng: random.Random) -> Pixels:
    """A square image resized and brought back to its size, as a search for the scale of a compression does.

    Made of compressed images and of others: interpolation alone must not look like compression.
    """
    side = image.shape[0]
    other = max(8, int(side * rng.uniform(0.7, 1.4)))
    method = rng.choice((cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_LANCZOS4))
    there = cv2.resize(image, (other, other), interpolation=method)
    return np.asarray(cv2.resize(there, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def cut_windows(luma: Pixels, places: list[tuple[int, int]], side: int) -> list[Pixels]:
    """The windows of side x side pixels at these corners."""
    return [luma[y : y + side, x : x + side] for y, x in places]


def shift_index(y: int, x: int) -> int:
    """The grid shift, 0 to 63, of blocks of which one begins at (y, x), seen from (0, 0)."""
    return (y % 8) * 8 + x % 8


def capped_q1(table: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """(15,) first steps, capped at the largest step told apart."""
    return np.minimum(table[:N_COEFS], Q1_MAX).astype(np.int64)


@dataclass(frozen=True)
class Q1Task:
    """Double JPEG windows on the grid of the second compression, for the Q1 network."""

    qf1: tuple[int, int] = (45, 100)
    qf2: tuple[int, int] = (60, 100)
    single: float = 0.12
    resized: float = 0.05
    aligned: float = 0.16
    odd1: float = 0.2
    odd2: float = 0.2
    common2: float = 0.25
    photoshop1: float = 0.12
    photoshop2: float = 0.06

    def bands(self) -> Any:
        """The bands of the comb."""
        return q1_bands()

    def positive(self) -> float:
        """Share of windows that were compressed twice, which the network learns as its prior."""
        return 1 - self.single - self.resized

    def draw(
        self, images: list[Pixels], weights: npt.NDArray[np.float64], rng: random.Random, side: int = WINDOW
    ) -> Sample:
        """Windows (k, side, side) of one image with their labels; `shift` is where the first blocks begin."""
        first = compress.draw(rng, *self.qf1, odd=self.odd1, photoshop=self.photoshop1)
        second = compress.draw(rng, *self.qf2, odd=self.odd2, common=self.common2, photoshop=self.photoshop2)
        kind = rng.random()
        dy, dx = rng.randrange(8), rng.randrange(8)
        double = 1
        if kind < self.single:
            image, double = draw_crop(images, weights, rng, CROP), 0
        elif kind < self.single + self.resized:
            larger = min(int(CROP / rng.uniform(0.5, 0.95)), 360)
            once = compress.recompress(draw_crop(images, weights, rng, larger), first)
            image, double = cv2.resize(once, (CROP, CROP), interpolation=cv2.INTER_AREA), 0  # type: ignore[assignment]
        else:
            if kind > 1 - self.aligned:
                dy = dx = 0
            once = compress.recompress(draw_crop(images, weights, rng, CROP + 8), first)
            image = once[dy : dy + CROP, dx : dx + CROP]
            if dy == dx == 0 and first.luma[:N_COEFS] == second.luma[:N_COEFS]:
                double = 0  # the same table on the same grid leaves no trace
        luma = compress.recompress(image, second, gray=True)
        places, n = draw_places(luma, rng, 8, side), WINDOWS_PER_CROP
        return {
            "windows": cut_windows(luma, places, side),
            "q1": [capped_q1(first.luma)] * n,
            "q2": [np.array(second.luma[:N_COEFS], np.int64)] * n,
            "shift": [shift_index(-dy, -dx)] * n,
            "double": [double] * n,
        }


@dataclass(frozen=True)
class QfTask:
    """Windows of decoded pixels at any grid shift, for the QF and flag network."""

    never: float = 0.22
    resized: float = 0.06
    restored: float = 0.08
    double: float = 0.2
    odd: float = 0.12

    def bands(self) -> Any:
        """The bands of the comb."""
        return qf_bands()

    def positive(self) -> float:
        """Share of windows that were compressed, which the network learns as its prior."""
        return 1 - self.never - self.resized

    def draw(
        self, images: list[Pixels], weights: npt.NDArray[np.float64], rng: random.Random, side: int = WINDOW
    ) -> Sample:
        """Windows (k, side, side) of one image; `qf` is the last compression's, `shift` where its blocks begin."""
        kind, how = rng.random(), compress.draw(rng, 5, 100, odd=self.odd)
        if rng.random() < 0.15:
            how = compress.standard(rng.randint(95, 100), how.subsampling)  # where the flag is decided
        dy, dx, flag = rng.randrange(8), rng.randrange(8), 1
        if kind < self.never:
            image, flag = draw_crop(images, weights, rng, CROP), 0
            if rng.random() < 0.3:
                image = _there_and_back(image, rng)
        elif kind < self.never + self.resized:
            # Reduced or enlarged: either way the grid is no longer one of 8 pixels.
            other = min(int(CROP / rng.choice((rng.uniform(0.5, 0.95), rng.uniform(1.05, 1.6)))), 360)
            once = compress.recompress(draw_crop(images, weights, rng, other), how)
            image, flag = cv2.resize(once, (CROP, CROP), interpolation=cv2.INTER_AREA), 0  # type: ignore[assignment]
        else:
            image = draw_crop(images, weights, rng, CROP + 16)
            if kind > 1 - self.double:
                image = compress.recompress(image, compress.draw(rng, 40, 100, odd=self.odd))
            y, x = rng.randrange(8), rng.randrange(8)
            image = compress.recompress(image[y : y + CROP + 8, x : x + CROP + 8], how)
            image = image[dy : dy + CROP, dx : dx + CROP]
            if kind < self.never + self.resized + self.restored:
                image = _there_and_back(np.ascontiguousarray(image), rng)
        luma: Pixels = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY)  # type: ignore[assignment]
        places, n = draw_places(luma, rng, 1, side), WINDOWS_PER_CROP
        return {
            "windows": cut_windows(luma, places, side),
            "qf": [round(how.nearest_qf)] * n,
            "shift": [shift_index(-dy - y, -dx - x) for y, x in places],
            "flag": [flag] * n,
        }


def make_batch(
    task: Any,
    images: list[Pixels],
    weights: npt.NDArray[np.float64],
    rng: random.Random,
    size: int,
    side: int = WINDOW,
) -> tuple[Pixels, dict[str, npt.NDArray[np.int64]]]:
    """(windows (n, side, side) uint8, labels by name (n, ...) int64) of n >= size windows."""
    windows: list[Pixels] = []
    labels: dict[str, list[Any]] = {}
    while len(windows) < size:
        sample = task.draw(images, weights, rng, side)
        windows += sample.pop("windows")
        for name, values in sample.items():
            labels.setdefault(name, []).extend(values)
    return np.stack(windows), {k: np.array(v) for k, v in labels.items()}


def _work(task: Any, folder: Path, seed: int, size: int, queue: Any) -> None:
    cv2.setNumThreads(1)
    images = load_images(folder)
    weights, rng, comb = image_weights(images), random.Random(seed), Comb(task.bands())
    while True:
        side = INNER_SIDE if rng.random() < INNER_SHARE else WINDOW
        windows, labels = make_batch(task, images, weights, rng, size, side)
        features, energy = comb(windows)
        queue.put((features, energy, labels))


class Stream:
    """Worker processes that make windows with their features until closed."""

    def __init__(self, task: Any, folder: Path, *, seed: int, workers: int, size: int = 512, depth: int = 4) -> None:
        context = mp.get_context("spawn")
        self._queue = context.Queue(depth)
        self._workers = [
            context.Process(target=_work, args=(task, folder, seed * 1000 + k, size, self._queue), daemon=True)
            for k in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def __next__(self) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float32], dict[str, npt.NDArray[np.int64]]]:
        """(features (n, 64, F) float16, energy (n, B) float32, labels)."""
        return self._queue.get()  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Any]:
        return self

    def close(self) -> None:
        """Stops the workers."""
        for worker in self._workers:
            worker.terminate()


TASKS: dict[str, Callable[[], Any]] = {"q1": Q1Task, "qf": QfTask}
