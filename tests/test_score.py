"""The score: monotone, calibrated for the number of places, and explained in sentences."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from material import rng

from jscan import score
from jscan.records import Region
from jscan.score import CALIBRATION_CELLS
from jscan.wording import KINDS

COUNTS = (7, 40)
CALIBRATION = {"counts": [40], "weights": [1.1], "bias": -1.5}


def scored(logits: npt.NDArray[np.float32]) -> float:
    smoothed = score.smooth(logits)
    return score.probability(smoothed, smoothed.size, CALIBRATION)


def region(**changes: object) -> Region:
    values: dict[str, object] = {
        "y": 8, "x": 16, "height": 64, "width": 72, "area": 4000, "score": 0.91,
        "qf1": 83.0, "q1": (4,) * 15, "grid_shift": (3, 5), "kind": "other_q1",
    }  # fmt: skip
    return Region(**{**values, **changes})  # type: ignore[arg-type]


@given(st.integers(0, 10**6), st.floats(0.01, 4))
def test_more_suspicion_never_lowers_the_score(seed: int, more: float) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(-2, 2, (random.integers(1, 60), random.integers(1, 60))).astype(np.float32)
    raised = logits + (more * (random.random(logits.shape) < 0.3)).astype(np.float32)
    assert scored(raised) >= scored(logits) - 1e-6
    assert 0 <= scored(logits) <= 1


def test_the_score_rises_with_size_and_strength() -> None:
    def patch(side: int, strength: float) -> float:
        logits = np.full((50, 60), -5, np.float32)
        logits[10 : 10 + side, 10 : 10 + side] = strength
        return scored(logits)

    assert patch(0, 0) < patch(4, 3) < patch(8, 3) < patch(12, 3) < patch(12, 6)
    assert patch(0, 0) < 0.05 and patch(14, 7) > 0.9


def test_smoothing() -> None:
    logits = rng().normal(0, 3, (9, 11)).astype(np.float32)
    logits[3, 4], logits[0, 0], logits[8, 10] = np.nan, 100, -100
    logits.setflags(write=False)
    got = score.smooth(logits)
    known = np.clip(np.nan_to_num(logits, nan=-8), -8, 8)
    padded = np.pad(known, 1, mode="edge")
    for r, c in np.ndindex(*logits.shape):
        assert got[r, c] == pytest.approx(padded[r : r + 3, c : c + 3].mean(), abs=1e-5)
    assert np.isfinite(score.smooth(np.full((4, 4), np.nan, np.float32))).all()


@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (8, 20), (13, 40)])
def test_the_summary_is_the_mean_of_the_top(shape: tuple[int, int]) -> None:
    values = rng(2).normal(0, 2, shape).astype(np.float32)
    for got, count in zip(score.summary(values, COUNTS), COUNTS, strict=True):
        top = sorted(values.ravel().tolist(), reverse=True)[:count]
        top += [-8.0] * (count - len(top))
        assert got == pytest.approx(np.mean(top), abs=1e-4)


@given(st.floats(-8, 8), st.integers(1, 10**7))
def test_odds_are_divided_by_the_number_of_places(a: float, cells: int) -> None:
    smoothed = np.full((5, 8), a, np.float32)
    logit = 1.1 * a - 1.5
    if cells > CALIBRATION_CELLS:
        logit -= math.log(cells / CALIBRATION_CELLS)
    assert score.probability(smoothed, cells, CALIBRATION) == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-6)


@pytest.mark.parametrize("strength", [-1e9, 1e9])
def test_extreme_summaries_stay_probabilities(strength: float) -> None:
    p = score.probability(np.full((5, 8), strength, np.float32), 10**6, CALIBRATION)
    assert 0 <= p <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_sentence(kind: str) -> None:
    said = score.describe(region(kind=kind), 2)
    assert said.startswith("Region 2 at x 16, y 8 (72 x 64 pixels) ")
    assert said.endswith("(quality about 83, grid shift 3, 5, score 0.91).")
    others = {score.describe(region(kind=k), 2) for k in KINDS if k != kind}
    assert said not in others
    assert not {"fake", "authentic", "genuine", "tampered"} & set(said.lower().replace(",", " ").split())


def test_what_is_unknown_is_left_out() -> None:
    said = score.describe(region(qf1=None, q1=None, grid_shift=None, kind="no_first_compression"), 1)
    assert "quality" not in said and "shift" not in said and "score 0.91" in said


def test_the_lowest_first_quality_is_an_upper_bound() -> None:
    assert "(quality at most 50, grid" in score.describe(region(qf1=50.0), 1)
    assert "(quality about 51, grid" in score.describe(region(qf1=51.0), 1)
    # Of decoded pixels' own compression, which has no first table, every quality is told apart.
    assert "(quality about 50, grid" in score.describe(region(qf1=50.0, q1=None, kind="other_qf"), 1)


def test_reasons() -> None:
    first, second = region(), region(x=200, score=0.6, kind="other_shift")
    said = score.reasons([first, second], 0.95, 0.8)
    assert said == (score.describe(first, 1), score.describe(second, 2))
    (none,) = score.reasons([], 0.1, 0.8)
    assert none.startswith("No region")
    assert first.grid_shift is not None
    (own, _) = score.reasons([first, second], 0.95, 0.8, first.grid_shift)
    assert own == score.describe(first, 1, first.grid_shift) and "toned" in own and "toned" not in "".join(said)
    assert "toned" not in score.describe(second, 2, second.grid_shift), "another grid is another grid"
    assert score.reasons([], 0.1, 0.1)[1].startswith("Only 10 % of the image")
    assert score.reasons([], 0.1, 0.1)[1].endswith("; a low score says little here.")
    assert score.reasons([first], 0.6, 0.0)[1].endswith("; the score rests on little.")
