"""What the papers' networks reach beside jscan's own, on the same patches: the baselines."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jscan import papermap, q1map, weights
from jscan.windows import AllShifts
from train import compress, measure_q1, measure_qf
from train import measure_metrics as metrics
from train.compress import Pixels
from train.measure_q1 import Windows
from train.measure_rows import MAIN_ROWS, Row
from train.measure_sets import Images, load, scanner
from train.paper_patches import planes

ROWS = tuple(row for row in MAIN_ROWS if row.qf2[0] == row.qf2[1] and row.qf2[0] <= 92)
"""Lines on which they are measured: those near to the quality factors that they were trained on."""
OF_WINDOWS = (papermap.DENSENET, "regression-")
"""What the names of the networks begin with that answer for windows."""
QUALITIES = (10, 30, 50, 70, 80, 90, 95, 98, 100)
"""Quality factors at which Uchida's network is measured."""
SIDE = 256
"""Pixels along a side of the centre crops that it is measured on."""


def networks() -> tuple[str, ...]:
    """Names of the papers' networks that are in `weights/` and answer for windows."""
    return tuple(name for name in weights.names() if name.startswith(OF_WINDOWS))


def serves(name: str, qf2: float) -> bool:
    """Whether a network was trained near to this second quality factor."""
    return abs(float(weights.manifest(name)["qf2"]) - qf2) <= papermap.FAR


@cache
def _model(name: str) -> weights.Model:
    return weights.load(name)


def windows(job: tuple[Path, Row, int, str]) -> Windows:
    """The truth about the windows of `measure_q1.isolated`, and under each estimator's name its steps, (n, 15)."""
    _, row, _, _ = job
    names = [name for name in networks() if serves(name, row.qf2[0])]
    parts: list[dict[str, Any]] = []
    for data, second, truth in measure_q1.isolated_files(job):
        luma = measure_q1.inner(compress.decode(data, gray=True))
        found = {"comb": q1map.decode(q1map.estimate(AllShifts(_model(q1map.MODEL)), luma, second.luma).logp[0, 0])}
        for name in names:
            reads = weights.manifest(name)["reads"]
            patch = luma if reads == "luma" else measure_q1.inner(compress.decode(data))
            model = _model(name)
            found[name] = papermap.decode(model(pixels=planes(patch, reads)[None])[model.outputs[0]][0, 0, 0])
        parts.append({"truth": truth["truth"], **found})
    return {name: np.stack([p[name] for p in parts]) for name in parts[0]}


def window_figures(w: Windows) -> dict[str, Any]:
    """Accuracy and mean square error of each estimator."""
    out: dict[str, Any] = {"windows": len(w["truth"])}
    for name, found in w.items():
        if name != "truth":
            out |= {f"{k} {name}": v for k, v in metrics.scores("", found, w["truth"]).items()}
    return out


# --- QF and flag ------------------------------------------------------------------------------------------------------


def _answers(bgr: Pixels, qf: int) -> dict[str, float]:
    """Sums over one crop: of `comb` over its cells with an answer, of `uchida` over its pixels."""
    out: dict[str, float] = {}

    def add(name: str, quality: npt.NDArray[np.floating[Any]], uncompressed: npt.NDArray[np.floating[Any]]) -> None:
        said = quality[np.isfinite(quality)].astype(np.float64)
        flags = uncompressed[np.isfinite(uncompressed)].astype(np.float64)
        out[f"{name} said"], out[f"{name} sum"] = said.size, float(said.sum())
        out[f"{name} squares"], out[f"{name} error"] = float((said**2).sum()), float(np.abs(said - qf).sum())
        out[f"{name} flagged"], out[f"{name} flags"] = flags.size, float(flags.sum())

    pixels = np.ascontiguousarray(bgr)
    maps = scanner().scan(pixels[..., ::-1].copy()).maps
    if maps is None:
        raise ValueError(f"pixels of shape {bgr.shape} could not be scanned")
    add("comb", maps.qf, 1 - maps.flag)
    found = _model(papermap.UCHIDA)(pixels=planes(pixels, "rgb")[None])
    add("uchida", found["qf"], found["uncompressed"])
    return out


def _crop(path: Path) -> list[tuple[str, dict[str, float]]]:
    """The answers for the centre of one image by quality factor, and never compressed."""
    source = measure_qf._centre(load(path), SIDE)
    never = (measure_qf.NEVER, _answers(source, 100))
    return [never, *((str(q), _answers(compress.recompress(source, compress.standard(q)), q)) for q in QUALITIES)]


def crop_figures(parts: list[dict[str, float]]) -> dict[str, Any]:
    """For each estimator the mean and deviation of its QF, their mean absolute error, and the mean of "uncompressed".

    None where nothing was said. Errors of what was never compressed are those from a quality factor of 100.
    """
    total = {key: sum(p[key] for p in parts) for key in parts[0]}
    out: dict[str, Any] = {"images": len(parts)}
    for name in ("comb", "uchida"):
        count, flagged = total[f"{name} said"], total[f"{name} flagged"]
        mean = total[f"{name} sum"] / count if count else None
        out[f"mean {name}"] = mean
        out[f"deviation {name}"] = (
            None if mean is None else float(np.sqrt(max(0.0, total[f"{name} squares"] / count - mean**2)))
        )
        out[f"mae {name}"] = total[f"{name} error"] / count if count else None
        out[f"uncompressed {name}"] = total[f"{name} flags"] / flagged if flagged else None
    return out


def measure_networks(sets: Images, count: int, workers: int) -> dict[str, Any]:
    """By set: a line for each of ROWS, from `count` windows, and for each quality factor; only of models at hand."""
    out: dict[str, Any] = {name: {} for name in sets}
    if networks():
        rows = tuple(row for row in ROWS if any(serves(name, row.qf2[0]) for name in networks()))
        for name, found in measure_q1.by_line(sets, rows, count, workers, windows, window_figures).items():
            out[name] |= found
    if papermap.UCHIDA in weights.names():
        jobs = [(name, path) for name, paths in sets.items() for path in paths]
        by_set: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in sets}
        for (name, _), answers in zip(jobs, metrics.spread(_crop, [p for _, p in jobs], workers), strict=True):
            for qf, answer in answers:
                by_set[name].setdefault(qf, []).append(answer)
        for name, of_set in by_set.items():
            out[name] |= {f"QF {qf}": crop_figures(parts) for qf, parts in of_set.items()}
    return out
