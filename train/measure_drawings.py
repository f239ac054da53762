"""False alarms: drawings, screenshots and the like, each of one history."""

from __future__ import annotations

import random
from typing import Any

from train import drawings
from train import measure_metrics as metrics
from train.measure_files import of_pristine
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
    out = {}
    for at, which in enumerate(("kinds", "histories")):
        gathered: dict[str, list[float]] = {}
        for job, score in zip(jobs, scores, strict=True):
            gathered.setdefault(job[at], []).append(score)
        out[which] = {name: of_pristine(of) for name, of in gathered.items()}
    return out
