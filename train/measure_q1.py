"""What the Q1 estimator reaches: on isolated windows, as Tondi 2021 measures it, and on windows within whole images."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan import q1map, weights
from jscan.jpegtables import N_COEFS, Q1_OFFSET
from jscan.records import Maps
from jscan.tiling import WINDOW
from jscan.windows import AllShifts
from train import compress
from train import measure_metrics as metrics
from train.compress import Pixels
from train.dataset import capped_q1, shift_index
from train.measure_rows import IMAGE_ROWS, Q1_ROWS, Row
from train.measure_sets import Images, load, scanner, sides

SOURCE, MIDDLE = 128, 112
"""Pixels along a side of what is compressed first for an isolated window, and of what is left of it after the crop."""
IMAGE_SIDE = 768
"""Pixels along a side of the piece that stands for a whole image, where the image is larger."""
WINDOWS_PER_IMAGE = 10
"""Windows asked for that one scan of a whole image stands for."""
EASY = 5
"""The shift is measured where QF1 is at least this far below QF2."""
COVERAGES = (25, 50, 75, 100)
"""Percentages of the surest windows at which accuracy is measured."""
RELIABILITY_BINS = 15
DEVIATIONS = (2, 5, 10, 20)
"""Standard deviations of pixels between which windows are taken together: flat ones hold little."""
FLOOR = 0.01
"""Added to a window's posteriors before their logs are averaged, so that no window can veto a step."""

Job = tuple[Path, Row, int, str]
"""An image, a line, how many windows or scans of it, and a seed."""
Windows = dict[str, npt.NDArray[Any]]
"""Arrays of one length, by name; what `isolated` and `within` give for the windows, or cells, of one line."""


@cache
def _model() -> weights.Model:
    return weights.load(q1map.MODEL)


def source(path: Path, row: Row) -> Pixels:
    """The pixels that are compressed first: the image, reduced to half its size where the line says so."""
    image = load(path)
    if row.half:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), np.uint8)
    return image


# --- isolated windows -------------------------------------------------------------------------------------------------


def isolated(job: Job) -> Windows:
    """What the network says of `count` isolated windows of one image, and the truth about them.

    `logp` (n, 226), `shift` and `found_shift` (n,) 0 to 63, `present` (n,) 0 to 1; the others as in `_truth`.
    `deviation` (n,) is the standard deviation of the window's pixels.
    """
    model = _model()
    parts: list[dict[str, Any]] = []
    for data, second, truth in isolated_files(job):
        window = inner(compress.decode(data, gray=True), job[1].side)
        found = q1map.estimate(AllShifts(model), window, second.luma)
        parts.append(
            {
                "logp": averaged(found.logp, Q1_OFFSET),
                "found_shift": int(averaged(found.shift, (0, 64)).argmax()),
                "present": found.present.mean(),
                "deviation": window.std(),
                **truth,
            }
        )
    return {name: np.stack([p[name] for p in parts]) for name in parts[0]}


def isolated_files(job: Job) -> Iterator[tuple[bytes, compress.Compression, dict[str, Any]]]:
    """For each isolated window the file that it is the `inner` part of, its last compression, and the truth about it.

    A window is cut from 128 x 128 pixels, or more for a larger one, that were compressed, cropped by the shift, and
    compressed again.
    """
    path, row, count, seed = job
    rng, image = random.Random(seed), source(path, row)
    whole, middle = SOURCE + row.side - WINDOW, MIDDLE + row.side - WINDOW
    for _ in range(count):
        y, x = rng.randrange(image.shape[0] - whole + 1), rng.randrange(image.shape[1] - whole + 1)
        dy, dx, qf1 = rng.randrange(8), rng.randrange(8), rng.randint(*row.qf1)
        if row.aligned:
            dy = dx = 0
        first, second, label = row.draw(rng, qf1)
        piece = image[y : y + whole, x : x + whole]
        once = piece if first is None else compress.recompress(piece, first)
        data = compress.encode(once[dy : dy + middle, dx : dx + middle], second)
        yield data, second, {"shift": shift_index(-dy, -dx), **_truth(first, second, label)}


def inner(twice: Pixels, side: int = WINDOW) -> Pixels:
    """The window in the middle of what `isolated_files` gives."""
    return np.ascontiguousarray(twice[16 : 16 + side, 16 : 16 + side])


def averaged(logp: npt.NDArray[np.float16], groups: tuple[int, ...]) -> npt.NDArray[np.float16]:
    """(K,) log-posteriors of all windows (R, C, K) together, of one window its own; `groups` says where each begins."""
    if logp.shape[:2] == (1, 1):
        return np.asarray(logp[0, 0])
    mean = np.log(np.exp(logp.astype(np.float32)) + FLOOR).mean(axis=(0, 1))
    parts = [part - np.log(np.exp(part).sum()) for part in np.split(mean, groups[1:-1])]
    return np.concatenate(parts).astype(np.float16)


def _truth(first: compress.Compression | None, second: compress.Compression, label: str) -> dict[str, Any]:
    """The 15 first steps, capped (0 for a single compression), both quality factors, and what the first is called."""
    steps = np.zeros(N_COEFS, np.int16) if first is None else capped_q1(first.luma).astype(np.int16)
    return {"truth": steps, "qf1": first.nearest_qf if first else 0.0, "qf2": second.nearest_qf, "label": label}


def window_figures(w: Windows) -> dict[str, Any]:
    """Figures of isolated windows, and under `by_...` and `reliability` what they come to in parts.

    `calibration_error` and `reliability` are of the probability of the likeliest step, window by window and coefficient
    by coefficient. Windows of a single compression only tell how often they are called double.
    """
    called = {"called_double": float((w["present"] > 0.5).mean())}
    if not w["truth"].any():
        return {"windows": len(w["truth"]), **called}
    logp, truth, qf1, qf2 = w["logp"], w["truth"], w["qf1"], w["qf2"]
    found, likely, middle = q1map.decode(logp), metrics.argmax(logp), metrics.median(logp)
    doubt = metrics.entropy(logp)
    surer = np.argsort(doubt, kind="stable")[: len(truth) // 2]
    easy = qf1 <= qf2 - EASY
    sure = np.stack([p.max(axis=1) for p in metrics.posteriors(logp)], axis=1).ravel()
    right = (likely == truth).ravel()
    return {
        "windows": len(truth),
        **metrics.scores("", found, truth),
        **metrics.scores("argmax", likely, truth),
        **metrics.scores("median", middle, truth),
        **_below_and_from(found, truth, qf1, qf2),
        "shift_accuracy": metrics.accuracy(w["found_shift"][easy], w["shift"][easy]),
        "accuracy_surer_half": metrics.accuracy(found[surer], truth[surer]),
        "calibration_error": metrics.calibration_error(sure, right, RELIABILITY_BINS),
        **called,
        **_parts(found, w, doubt),
        "reliability": metrics.reliability(sure, right),
    }


def _below_and_from(
    found: npt.NDArray[Any], truth: npt.NDArray[Any], qf1: npt.NDArray[Any], qf2: npt.NDArray[Any]
) -> dict[str, float | None]:
    """Accuracy and mean square error where QF1 < QF2, and where not."""
    below = qf1 < qf2
    return {
        **metrics.scores("qf1_below_qf2", found[below], truth[below]),
        **metrics.scores("qf1_from_qf2", found[~below], truth[~below]),
    }


def _parts(found: npt.NDArray[Any], w: Windows, doubt: npt.NDArray[Any]) -> dict[str, Any]:
    """Accuracy and mean square error by coefficient, by first compression, by QF2, by the deviation of the
    pixels where that is known, and of the surest windows."""
    truth, qf1, qf2 = w["truth"], w["qf1"], w["qf2"]
    out: dict[str, Any] = {
        "by_coefficient": {
            str(i + 1): {
                **metrics.scores("", found[:, i], truth[:, i]),
                **_below_and_from(found[:, i], truth[:, i], qf1, qf2),
            }
            for i in range(N_COEFS)
        }
    }
    decades = np.array([f"{int(q) // 10 * 10} to {int(q) // 10 * 10 + 9}" for q in qf2])
    for name, labels in (("by_first", w["label"]), ("by_qf2", decades)):
        # Quality factors and levels in their order, 100 last.
        groups = sorted(set(labels.tolist()), key=lambda s: [int(p) for p in s.split() if p.isdigit()])
        if name == "by_first" or len(groups) > 1:
            of = {g: labels == g for g in groups}
            out[name] = {
                g: {"windows": int(here.sum()), **metrics.scores("", found[here], truth[here])}
                for g, here in of.items()
            }
    if "deviation" in w:
        edges = (0, *DEVIATIONS, np.inf)
        of = {
            f"{a} to {b}" if b < np.inf else f"from {a}": (w["deviation"] >= a) & (w["deviation"] < b)
            for a, b in pairwise(edges)
        }
        out["by_deviation"] = {
            name: {"share": float(here.mean()), **metrics.scores("", found[here], truth[here])}
            for name, here in of.items()
        }
    order = np.argsort(doubt, kind="stable")
    surest = {f"{share} %": order[: len(order) * share // 100] for share in COVERAGES}
    out["by_coverage"] = {name: metrics.scores("", found[k], truth[k]) for name, k in surest.items()}
    return out


# --- whole images -----------------------------------------------------------------------------------------------------


def twice(image: Pixels, row: Row, rng: random.Random) -> tuple[bytes, tuple[int, int], dict[str, Any]]:
    """A JPEG file of a random piece of an image, where its first compression's blocks begin, and the truth about it."""
    height, width = (min(IMAGE_SIDE, s) for s in image.shape[:2])
    y, x = rng.randrange(image.shape[0] - height + 1), rng.randrange(image.shape[1] - width + 1)
    dy, dx, qf1 = rng.randrange(8), rng.randrange(8), rng.randint(*row.qf1)
    if row.aligned:
        dy = dx = 0
    first, second, label = row.draw(rng, qf1)
    piece = np.ascontiguousarray(image[y : y + height, x : x + width])
    once = piece if first is None else compress.recompress(piece, first)
    data = compress.encode(np.ascontiguousarray(once[dy:, dx:]), second)
    return data, (-dy % 8, -dx % 8), _truth(first, second, label)


def steps_of(maps: Maps) -> npt.NDArray[np.int16]:
    """(n, 15) steps of each window, 0 where the map says nothing."""
    # Windows lie two cells apart: every other cell has each of them once.
    return np.nan_to_num(maps.q1[:, 1::2, 1::2].reshape(N_COEFS, -1).T).astype(np.int16)


def within(job: Job) -> Windows:
    """What jscan's maps say of every other cell of `count` scans of one image, and the truth about them.

    `found` (n, 15) steps, 0 where the map says nothing; `coverage` (n,) 0 to 1; `shifted` (n,) whether the shift map is
    right, and `shift_sure` (n,) its confidence; `start` (n,) whether the cell is its scan's first. Of the cell's scan:
    `placed`, whether its grid shift was right; `double`, the share of it that was called double; `background`, the
    share of the background's 15 steps that were right. The others as in `_truth`.
    """
    path, row, count, seed = job
    rng, image = random.Random(seed), source(path, row)
    parts: list[Windows] = []
    for _ in range(count):
        data, (dy, dx), true = twice(image, row, rng)
        result = scanner().scan(data)
        if result.maps is None:
            raise ValueError(f"{path} could not be scanned: {result.record.error}")
        steps = steps_of(result.maps)
        record, n = result.record, len(steps)
        background = 0.0 if record.q1_background is None else np.mean(record.q1_background == true["truth"])
        of_scan = {
            "placed": record.grid_shift == (dy, dx),
            "double": record.double_fraction or 0.0,
            "background": float(background),
            **true,
        }
        parts.append(
            {
                "found": steps,
                "coverage": result.maps.coverage[1::2, 1::2].ravel(),
                "shifted": (result.maps.shift[:, 1::2, 1::2] == np.array((dy, dx))[:, None, None]).all(axis=0).ravel(),
                "shift_sure": np.nan_to_num(result.maps.shift_confidence[1::2, 1::2]).ravel(),
                "start": np.arange(n) == 0,
                **{name: np.repeat(np.asarray(value)[None], n, axis=0) for name, value in of_scan.items()},
            }
        )
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def image_figures(w: Windows) -> dict[str, Any]:
    """Figures of the cells of whole images, as `window_figures`; cells without an answer are left out.

    `shift_accuracy`, `called_double` and `background_accuracy` are of scans. `shift_map_accuracy` is of cells, for the
    same QF1, and `shift_map_calibration_error` that of the map's confidence, for all QF1. `accuracy_all` counts a cell
    without an answer as wrong.
    """
    scans = {name: w[name][w["start"]] for name in ("placed", "double", "background", "qf1", "qf2")}
    called = {"scans": len(scans["qf1"]), "called_double": float((scans["double"] > 0.5).mean())}
    said = w["found"][:, 0] > 0
    if not w["truth"].any():
        return {**called, "cells": len(said), "no_answer": float((~said).mean())}
    easy = scans["qf1"] <= scans["qf2"] - EASY
    kept = {name: values[said] for name, values in w.items()}
    shown = kept["shifted"][kept["qf1"] <= kept["qf2"] - EASY]
    found, truth = kept["found"], kept["truth"]
    return {
        **called,
        "cells": len(said),
        "no_answer": float((~said).mean()),
        **metrics.scores("", found, truth),
        "accuracy_all": metrics.accuracy(w["found"], w["truth"]),
        **_below_and_from(found, truth, kept["qf1"], kept["qf2"]),
        "shift_accuracy": float(scans["placed"][easy].mean()) if easy.any() else None,
        "shift_map_accuracy": float(shown.mean()) if shown.size else None,
        "shift_map_calibration_error": metrics.calibration_error(kept["shift_sure"], kept["shifted"], RELIABILITY_BINS),
        "background_accuracy": float(scans["background"].mean()),
        **_parts(found, kept, -kept["coverage"]),
    }


# --- all lines --------------------------------------------------------------------------------------------------------


def by_line(
    sets: Images,
    rows: tuple[Row, ...],
    count: int,
    workers: int,
    work: Callable[[Job], Windows],
    figures: Callable[[Windows], dict[str, Any]],
) -> dict[str, Any]:
    """Figures by set and line; lines for which every image of a set is too small are left out."""
    places: list[tuple[str, str]] = []
    jobs: list[Job] = []
    for name, paths in sets.items():
        drawn: dict[Row, Counter[Path]] = {}
        for row in rows:
            least = SOURCE + row.side - WINDOW
            usable = [p for p in paths if min(sides(p)) // (2 if row.half else 1) >= least]
            drawn[row] = Counter(random.Random(f"{name}/{row.seed}").choices(usable, k=count) if usable else ())
        # All lines of an image follow each other, so that it is read once.
        for path in paths:
            for row in rows:
                if n := drawn[row][path]:
                    places.append((name, row.name))
                    jobs.append((path, row, n, f"{name}/{row.seed}/{path.name}"))
    gathered: dict[tuple[str, str], list[Windows]] = {}
    for place, part in zip(places, metrics.spread(work, jobs, workers), strict=True):
        gathered.setdefault(place, []).append(part)
    out: dict[str, Any] = {}
    for name, line in ((name, row.name) for name in sets for row in rows):
        if parts := gathered.pop((name, line), None):
            windows = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
            out.setdefault(name, {})[line] = figures(windows)
    return out


def measure_q1(sets: Images, count: int, workers: int, rows: tuple[Row, ...] = Q1_ROWS) -> dict[str, Any]:
    """Figures by set and line of `rows`, each from `count` isolated windows of 64 x 64 pixels; see `window_figures`."""
    return by_line(sets, rows, count, workers, isolated, window_figures)


def measure_q1_images(sets: Images, count: int, workers: int) -> dict[str, Any]:
    """Figures by set and line, each from a tenth of `count` scans of whole images; see `image_figures`."""
    return by_line(sets, IMAGE_ROWS, max(1, count // WINDOWS_PER_IMAGE), workers, within, image_figures)
