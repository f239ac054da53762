"""Calibrating the score: of the pristine cases kept apart no more are suspected than was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from material import rng

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from jscan import score  # noqa: E402
from train.fit_regions import Sample, calibrate  # noqa: E402


def made(pristine: int, forged: int) -> tuple[list[Sample], list[npt.NDArray[np.float32]], npt.NDArray[Any]]:
    """Cases of 10 x 10 windows, their logits, which are larger where something was pasted, and which those are."""
    truth = np.arange(pristine + forged) >= pristine
    cases, logits = [], []
    for k, there in enumerate(truth):
        label = np.zeros((20, 20), np.float32)
        label[4:12, 4:12] = there
        cases.append(Sample("a", np.zeros((3, 10, 10), np.float32), label, np.zeros((10, 10), bool)))
        logits.append((rng(k).normal(-1, 1) + 2 * label).astype(np.float32))
    return cases, logits, truth


@pytest.mark.parametrize("suspected", [0.05, 0.2])
def test_as_many_pristine_cases_are_suspected_as_was_said(suspected: float) -> None:
    cases, logits, truth = made(300, 200)
    found = calibrate(cases, logits, truth, (16,), suspected)
    scores = np.array([score.probability(score.smooth(x), x.size, found) for x in logits])
    assert np.mean(scores[~truth] >= 0.5) == pytest.approx(suspected, abs=0.01)
    assert np.mean(scores[truth] >= 0.5) > 3 * suspected
    assert found["counts"] == [16]
