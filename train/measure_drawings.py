"""False alarms: drawings, screenshots and the like, each of one history."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from train import drawings
from train import measure_metrics as metrics
from train.measure_files import NOTABLE
from train.measure_sets import scanner

Job = tuple[str, str, str]
"""A kind of drawing, what it went through, and a seed."""


def measure(job: Job) -> float:
    """The score of one picture."""
    kind, history, seed = job
    rng = random.Random(seed)
    record = scanner().scan(drawings.save(drawings.draw(kind, rng), history, rng)).record
    if record.score is None:
        raise ValueError(f"a {kind}, {history}, could not be scanned: {record.error}")
    return record.score


def measure_drawings(per_kind: int, workers: int) -> dict[str, Any]:
    """Figures by kind and by history, of `per_kind` pictures of each kind, which go through each history in turn."""
    jobs: list[Job] = [
        (kind, drawings.HISTORIES[k % len(drawings.HISTORIES)], f"{kind}/{k}")
        for kind in drawings.KINDS
        for k in range(per_kind)
    ]
    scores = list(metrics.spread(measure, jobs, workers))
    out: dict[str, Any] = {}
    for which, names in (("kinds", drawings.KINDS), ("histories", drawings.HISTORIES)):
        gathered: dict[str, list[float]] = {name: [] for name in names}
        for (kind, history, _), score in zip(jobs, scores, strict=True):
            gathered[kind if which == "kinds" else history].append(score)
        out[which] = {
            name: {
                "images": len(of),
                "median_score": float(np.median(of)),
                f"share_from_{NOTABLE}": float(np.mean(np.array(of) >= NOTABLE)),
            }
            for name, of in gathered.items()
            if of
        }
    return out
