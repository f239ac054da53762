"""Figures from arrays: accuracy, calibration, ranking, overlap; and the loop over jobs that measurements share."""

from __future__ import annotations

import itertools
import multiprocessing as mp
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from jscan.jpegtables import Q1_OFFSET

Job = TypeVar("Job")
Answer = TypeVar("Answer")

SAY_EVERY = 20.0
"""Seconds between two lines on how far a measurement is."""


def spread(work: Callable[[Job], Answer], jobs: Sequence[Job], workers: int) -> Iterator[Answer]:
    """The answers to the jobs in their order, computed here or in `workers` processes.

    Says on the standard error every SAY_EVERY seconds how much is done and about how long the rest will take.
    """
    if workers <= 1:
        yield from _watched(map(work, jobs), len(jobs))
        return
    with mp.get_context("spawn").Pool(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from _watched(pool.imap(work, jobs), len(jobs))


def _watched(answers: Iterable[Answer], count: int) -> Iterator[Answer]:
    start = said = time.monotonic()
    for done, answer in enumerate(answers, 1):
        yield answer
        now = time.monotonic()
        if now - said >= SAY_EVERY and done < count:
            said, left = now, (now - start) / done * (count - done) / 60
            print(f"  {done} of {count}, about {left:.0f} min left", file=sys.stderr, flush=True)


def accuracy(found: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float | None:
    """The share of values that are right; None for no values."""
    return float(np.mean(found == truth)) if truth.size else None


def mse(found: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float | None:
    """The mean square error; None for no values."""
    return float(np.mean((found.astype(np.float64) - truth) ** 2)) if truth.size else None


def scores(name: str, found: npt.NDArray[Any], truth: npt.NDArray[Any]) -> dict[str, float | None]:
    """Accuracy and mean square error under `accuracy_<name>` and `mse_<name>`, or without a name."""
    end = f"_{name}" if name else ""
    return {f"accuracy{end}": accuracy(found, truth), f"mse{end}": mse(found, truth)}


def calibration_error(said: npt.NDArray[Any], happened: npt.NDArray[Any], bins: int = 15) -> float | None:
    """The expected calibration error: |mean said - share that happened| of equal bins, weighed by their counts."""
    if not said.size:
        return None
    total = sum(b["count"] * abs(b["said"] - b["happened"]) for b in reliability(said, happened, bins).values())
    return float(total / said.size)


def reliability(said: npt.NDArray[Any], happened: npt.NDArray[Any], bins: int = 10) -> dict[str, dict[str, Any]]:
    """For each filled bin of said probabilities: count, mean probability said, share that happened."""
    place = np.minimum((said.astype(np.float64) * bins).astype(int), bins - 1)
    out = {}
    for k in np.unique(place):
        here = place == k
        out[f"{k / bins:.2f} to {(k + 1) / bins:.2f}"] = {
            "count": int(here.sum()),
            "said": float(said[here].astype(np.float64).mean()),
            "happened": float(happened[here].mean()),
        }
    return out


def auc(score: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float | None:
    """The area under the ROC curve, ties counted half; None where one of the two classes is missing."""
    from sklearn.metrics import roc_auc_score

    truth = np.asarray(truth, bool)
    return float(roc_auc_score(truth, score)) if truth.any() and not truth.all() else None


def iou(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def posteriors(logp: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
    """The 15 posteriors, (n, steps) each, of log-posteriors (n, 226)."""
    return [np.exp(logp[:, a:b].astype(np.float32)) for a, b in itertools.pairwise(Q1_OFFSET)]


def argmax(logp: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(n, 15) most likely steps."""
    return np.stack([p.argmax(axis=1) + 1 for p in posteriors(logp)], axis=1)


def median(logp: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(n, 15) medians of the posteriors."""
    # Of the posterior's own sum, which half precision leaves a little off one.
    return np.stack([(p.cumsum(1) < p.sum(1, keepdims=True) / 2).sum(1) + 1 for p in posteriors(logp)], axis=1)


def entropy(logp: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(n,) mean entropy of the 15 posteriors, in nats."""
    groups = itertools.pairwise(Q1_OFFSET)
    log = logp.astype(np.float32)
    return np.asarray(-np.mean([(np.exp(log[:, a:b]) * log[:, a:b]).sum(1) for a, b in groups], axis=0))
