"""What the window models reach: the Q1 network on isolated windows, the QF map and the flag on decoded JPEGs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan import q1map, weights
from jscan.jpegtables import standard_table
from jscan.scan import Scanner
from jscan.tiling import WINDOW
from train import compress
from train import measure_metrics as metrics
from train.compress import Pixels
from train.dataset import EXTENSIONS, capped_q1, shift_index

SMALLEST = 136
"""Images with a shorter side are left out."""
QUALITIES = tuple(range(30, 96, 5))
"""Quality factors at which the QF map is measured."""
FLAG_QUALITIES = (85, 90, 95, 96, 97, 98, 99, 100)
"""Quality factors at which the compression flag is measured."""
FLAG_ASKED = 97
"""Images up to this quality factor should be called compressed."""
QF_SIDE, FLAG_SIDE = 256, 512
"""Pixels along a side of the centre crops that stand for whole images."""

Images = dict[str, list[Path]]


def image_sets(data: Path) -> Images:
    """The images of each set: one set for every sub-folder, and one for what lies in the folder itself.

    Raises ValueError where there is no uncompressed image.
    """
    found: Images = {}
    for path in sorted(p for p in data.rglob("*") if p.suffix.lower() in EXTENSIONS):
        parts = path.relative_to(data).parts
        found.setdefault(parts[0] if len(parts) > 1 else data.resolve().name, []).append(path)
    sets = {name: [p for p in paths if _large_enough(p)] for name, paths in found.items()}
    sets = {name: paths for name, paths in sets.items() if paths}
    if not sets:
        raise ValueError(f"{data}: no uncompressed image of {SMALLEST} pixels a side or more in it")
    return sets


def _large_enough(path: Path) -> bool:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return image is not None and min(image.shape[:2]) >= SMALLEST


def _load(path: Path) -> Pixels:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)


@cache
def _q1_model() -> weights.Model:
    return weights.load(q1map.MODEL)


@cache
def scanner() -> Scanner:
    """This process's scanner, on the CPU with one thread."""
    return Scanner(device="cpu")


# --- Q1 ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the Q1 table: what windows it is measured on."""

    name: str
    qf2: int
    qf1: tuple[int, int]
    aligned: bool = False


Q1_ROWS = (
    Row("QF2 90", 90, (60, 98)),
    Row("QF2 80", 80, (55, 98)),
    Row("QF2 92", 92, (60, 98)),
    Row("QF2 90, aligned", 90, (60, 98), aligned=True),
)

Windows = dict[str, npt.NDArray[Any]]


def _q1_windows(job: tuple[Path, int, Row, str]) -> Windows:
    """What the network says of `count` windows of one image, and the truth about them."""
    path, count, row, seed = job
    rng, image, model = random.Random(seed), _load(path), _q1_model()
    table = tuple(int(q) for q in standard_table(row.qf2))
    second = compress.standard(row.qf2)
    logp, qf1, shift, found_shift = [], [], [], []
    for _ in range(count):
        y, x = rng.randrange(image.shape[0] - 127), rng.randrange(image.shape[1] - 127)
        dy, dx, qf = rng.randrange(8), rng.randrange(8), rng.randint(*row.qf1)
        if row.aligned:
            dy = dx = 0
        once = compress.recompress(image[y : y + 128, x : x + 128], compress.standard(qf))
        twice = compress.recompress(once[dy : dy + 112, dx : dx + 112], second, gray=True)
        found = q1map.estimate(model, np.ascontiguousarray(twice[16 : 16 + WINDOW, 16 : 16 + WINDOW]), table)
        logp.append(found.logp[0, 0])
        qf1.append(qf)
        shift.append(shift_index(-dy, -dx))
        found_shift.append(int(found.shift[0, 0].argmax()))
    return {
        "logp": np.stack(logp),
        "qf1": np.array(qf1),
        "shift": np.array(shift),
        "found_shift": np.array(found_shift),
    }


def q1_figures(windows: Windows, qf2: int) -> dict[str, Any]:
    """Figures of the Q1 network from log-posteriors and truth."""
    logp, qf1 = windows["logp"], windows["qf1"]
    truth = np.stack([capped_q1(tuple(int(q) for q in standard_table(int(qf)))) for qf in qf1])
    found, likely, middle = q1map.decode(logp), metrics.argmax(logp), metrics.median(logp)
    surer = np.argsort(metrics.entropy(logp), kind="stable")[: len(qf1) // 2]
    below, easy = qf1 < qf2, qf1 <= qf2 - 5
    sure = np.stack([p.max(axis=1) for p in metrics.posteriors(logp)], axis=1)
    return {
        "windows": len(qf1),
        "accuracy": metrics.accuracy(found, truth),
        "mse": metrics.mse(found, truth),
        "accuracy_argmax": metrics.accuracy(likely, truth),
        "mse_argmax": metrics.mse(likely, truth),
        "accuracy_median": metrics.accuracy(middle, truth),
        "mse_median": metrics.mse(middle, truth),
        "accuracy_qf1_below_qf2": metrics.accuracy(found[below], truth[below]),
        "accuracy_qf1_from_qf2": metrics.accuracy(found[~below], truth[~below]),
        "shift_accuracy": metrics.accuracy(windows["found_shift"][easy], windows["shift"][easy]),
        "accuracy_surer_half": metrics.accuracy(found[surer], truth[surer]),
        "calibration_error": metrics.calibration_error(sure.ravel(), (likely == truth).ravel()),
    }


def measure_q1(sets: Images, count: int, workers: int) -> dict[str, Any]:
    """Figures by set and row, each from `count` isolated windows of 64 x 64 pixels.

    A window is cut from 128 x 128 pixels that were compressed, cropped by a random shift, and compressed again.
    """
    out: dict[str, Any] = {}
    for name, paths in sets.items():
        out[name] = {}
        for row in Q1_ROWS:
            drawn = random.Random(f"{name}/{row.name}").choices(range(len(paths)), k=count)
            jobs = [
                (path, drawn.count(k), row, f"{name}/{row.name}/{path.name}")
                for k, path in enumerate(paths)
                if k in drawn
            ]
            parts = list(metrics.spread(_q1_windows, jobs, workers))
            windows = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
            out[name][row.name] = q1_figures(windows, row.qf2)
    return out


# --- QF and flag ------------------------------------------------------------------------------------------------------


def _centre(image: Pixels, side: int) -> Pixels:
    """The middle of the image, at most side x side pixels."""
    height, width = (min(side, s) for s in image.shape[:2])
    y, x = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[y : y + height, x : x + width]


def _scan(bgr: Pixels) -> tuple[npt.NDArray[np.float32], float | None]:
    """The QF map of pixels and the share of cells called compressed."""
    result = scanner().scan(np.ascontiguousarray(bgr[..., ::-1]))
    if result.maps is None:
        raise ValueError(f"pixels of shape {bgr.shape} could not be scanned: {result.record.error}")
    return result.maps.qf, result.record.compressed_fraction


def _qf_image(job: tuple[Path, bool]) -> tuple[dict[tuple[str, int], tuple[float, int, int]], dict[str, float | None]]:
    """(sum of errors, cells with an answer, cells) by subsampling and QF; share called compressed by what was done."""
    path, full = job
    image, rng = _load(path), random.Random(path.name)
    # Eight pixels more, so that a crop is as large as it should be after the grid was moved.
    source = image if full else _centre(image, QF_SIDE + 8)
    errors = {}
    for subsampling in ("4:2:0", "4:4:4"):
        for qf in QUALITIES:
            dy, dx = divmod(rng.randrange(1, 64), 8)  # never with the grid at 0, 0
            once = compress.recompress(source, compress.standard(qf, subsampling))[dy:, dx:]
            found, _ = _scan(once if full else once[:QF_SIDE, :QF_SIDE])
            said = np.isfinite(found)
            errors[subsampling, qf] = (float(np.abs(found[said] - qf).sum()), int(said.sum()), found.size)
    whole = image if full else _centre(image, FLAG_SIDE)
    flags = {"never": _scan(whole)[1]}
    for qf in FLAG_QUALITIES:
        dy, dx = divmod(rng.randrange(1, 64), 8)
        flags[str(qf)] = _scan(compress.recompress(whole, compress.standard(qf))[dy:, dx:])[1]
    return errors, flags


def _qf_line(parts: list[tuple[float, int, int]]) -> tuple[float | None, float]:
    """(mean absolute error, share of cells without an answer)."""
    error, said, cells = (sum(p[k] for p in parts) for k in range(3))
    return (error / said if said else None), 1 - said / max(cells, 1)


def measure_qf(sets: Images, full: bool, workers: int) -> dict[str, Any]:
    """By set: the QF map's mean absolute error per cell, and how often the flag is wrong about an image."""
    out: dict[str, Any] = {}
    for name, paths in sets.items():
        done = list(metrics.spread(_qf_image, [(p, full) for p in paths], workers))
        mean, silent = _qf_line([errors["4:2:0", qf] for errors, _ in done for qf in QUALITIES])
        mean_444, silent_444 = _qf_line([errors["4:4:4", qf] for errors, _ in done for qf in QUALITIES])
        by_qf = {}
        for qf in QUALITIES:
            line, line_444 = (_qf_line([e[s, qf] for e, _ in done]) for s in ("4:2:0", "4:4:4"))
            by_qf[str(qf)] = {
                "mae": line[0],
                "no_answer": line[1],
                "mae_444": line_444[0],
                "no_answer_444": line_444[1],
            }
        flag = {}
        for what in ("never", *map(str, FLAG_QUALITIES)):
            shares = [flags[what] for _, flags in done]
            called = sum(s is not None and s > 0.5 for s in shares)
            undecided = sum(s is None for s in shares)
            flag[what] = {
                "images": len(shares),
                "called_compressed": called,
                "called_uncompressed": len(shares) - called - undecided,
                "undecided": undecided,
            }
        missed = sum(
            f["images"] - f["called_compressed"] for q, f in flag.items() if q != "never" and int(q) <= FLAG_ASKED
        )
        out[name] = {
            "images": len(paths),
            "mae": mean,
            "no_answer": silent,
            "mae_444": mean_444,
            "no_answer_444": silent_444,
            "never_called_compressed": flag["never"]["called_compressed"],
            f"up_to_{FLAG_ASKED}_not_called_compressed": missed,
            "by_qf": by_qf,
            "flag": flag,
        }
    return out
