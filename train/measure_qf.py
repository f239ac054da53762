"""What the QF map and the compression flag reach on decoded JPEGs, as Uchida 2019 measures them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train import compress
from train import measure_metrics as metrics
from train.compress import Pixels
from train.measure_sets import Images, load, scanner

QUALITIES = tuple(range(30, 96, 5))
"""Quality factors at which the QF map is measured."""
FLAG_QUALITIES = (85, 90, 95, 96, 97, 98, 99, 100)
"""Quality factors at which the compression flag is measured."""
FLAG_ASKED = 97
"""Images up to this quality factor should be called compressed."""
QF_SIDE, FLAG_SIDE = 256, 512
"""Pixels along a side of the centre crops that stand for whole images."""
ALL_QUALITIES = (*range(5, 96, 5), 96, 97, 98, 99, 100)
"""Quality factors at which map and flag are measured by the size of the crop."""
SIZES = {64: 4, 128: 2, 256: 1, 512: 1}
"""Pixels along a side of a crop, and how many are cut from each image at each quality factor."""
NEVER = "never"
"""What stands for a quality factor where there was no compression."""


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
    image, rng = load(path), random.Random(path.name)
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
    flags = {NEVER: _scan(whole)[1]}
    for qf in FLAG_QUALITIES:
        dy, dx = divmod(rng.randrange(1, 64), 8)
        flags[str(qf)] = _scan(compress.recompress(whole, compress.standard(qf))[dy:, dx:])[1]
    return errors, flags


def _qf_line(parts: list[tuple[float, int, int]]) -> tuple[float | None, float]:
    """(mean absolute error, share of cells without an answer)."""
    error, said, cells = (sum(p[k] for p in parts) for k in range(3))
    return (error / said if said else None), 1 - said / max(cells, 1)


def flag_figures(shares: list[float | None]) -> dict[str, Any]:
    """How many images, or crops, were called compressed, by the share of their cells; None stands for no answer."""
    compressed = sum(s is not None and s > 0.5 for s in shares)
    undecided = sum(s is None for s in shares)
    uncompressed = len(shares) - compressed - undecided
    return {
        "images": len(shares),
        "called_compressed": compressed,
        "called_uncompressed": uncompressed,
        "undecided": undecided,
        "share_uncompressed": uncompressed / max(len(shares), 1),
    }


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
        flag = {what: flag_figures([flags[what] for _, flags in done]) for what in (NEVER, *map(str, FLAG_QUALITIES))}
        missed = sum(
            f["images"] - f["called_compressed"] for q, f in flag.items() if q != NEVER and int(q) <= FLAG_ASKED
        )
        out[name] = {
            "images": len(paths),
            "mae": mean,
            "no_answer": silent,
            "mae_444": mean_444,
            "no_answer_444": silent_444,
            "never_called_compressed": flag[NEVER]["called_compressed"],
            f"up_to_{FLAG_ASKED}_not_called_compressed": missed,
            "by_qf": by_qf,
            "flag": flag,
        }
    return out


# --- by the size of the crop ------------------------------------------------------------------------------------------

Answers = dict[tuple[int, str], list[tuple[npt.NDArray[np.float32], float | None]]]
"""The QF maps and shares called compressed of the crops of one size, at one quality factor or never compressed."""


def _sizes_image(path: Path) -> Answers:
    """What is said of crops of every size of one image; sizes that it does not hold are left out."""
    rng, source = random.Random(f"sizes/{path.name}"), _centre(load(path), max(SIZES) + 8)
    out: Answers = {}
    for qf in (NEVER, *ALL_QUALITIES):
        dy, dx = divmod(rng.randrange(1, 64), 8)
        pixels = source if qf == NEVER else compress.recompress(source, compress.standard(int(qf)))
        pixels = pixels[dy:, dx:]
        for size, crops in SIZES.items():
            if min(pixels.shape[:2]) < size - 8:  # the shift may have taken the last pixels
                continue
            height, width = (min(size, s) for s in pixels.shape[:2])
            for _ in range(crops):
                y, x = rng.randrange(pixels.shape[0] - height + 1), rng.randrange(pixels.shape[1] - width + 1)
                answer = _scan(pixels[y : y + height, x : x + width])
                out.setdefault((size, str(qf)), []).append(answer)
    return out


def error_figures(maps: list[npt.NDArray[np.float32]], qf: int) -> dict[str, Any]:
    """Mean and deviation of all cells' quality factors, their mean absolute error, and the share without an answer.

    None where no cell has an answer. The deviation is about the mean of the cells, as in Uchida 2019.
    """
    cells = np.concatenate([m.ravel() for m in maps]).astype(np.float64)
    said = cells[np.isfinite(cells)]
    some = said.size > 0
    return {
        "mean": float(said.mean()) if some else None,
        "deviation": float(said.std()) if some else None,
        "mae": float(np.abs(said - qf).mean()) if some else None,
        "no_answer": 1 - said.size / max(cells.size, 1),
    }


def measure_qf_sizes(sets: Images, workers: int) -> dict[str, Any]:
    """By set and size of the crop: `error` by quality factor (`error_figures`) and `flag` (`flag_figures`)."""
    jobs = [(name, path) for name, paths in sets.items() for path in paths]
    gathered: dict[str, Answers] = {name: {} for name in sets}
    for (name, _), found in zip(jobs, metrics.spread(_sizes_image, [p for _, p in jobs], workers), strict=True):
        for key, answers in found.items():
            gathered[name].setdefault(key, []).extend(answers)
    out: dict[str, Any] = {}
    for name, of_set in gathered.items():
        for size in SIZES:
            here = {qf: answers for (s, qf), answers in of_set.items() if s == size}
            if here:
                out.setdefault(name, {})[f"{size} x {size}"] = {
                    "error": {q: error_figures([m for m, _ in a], int(q)) for q, a in here.items() if q != NEVER},
                    "flag": {q: flag_figures([share for _, share in a]) for q, a in here.items()},
                }
    return out
