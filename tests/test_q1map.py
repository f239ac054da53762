"""From posteriors of the first table to its steps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import posteriors

from jscan import q1map
from jscan.jpegtables import N_COEFS, Q1_MAX, Q1_OFFSET, standard_table


@pytest.mark.parametrize("qf", [50, 60, 75, 90, 99])
def test_sharp_posteriors_give_their_table(qf: int) -> None:
    table = tuple(int(q) for q in standard_table(qf)[:N_COEFS])
    found = posteriors(table, 0)
    steps = q1map.decode(found.logp)
    assert steps.shape == (*found.present.shape, N_COEFS) and steps.dtype == np.int16
    assert (steps == np.array(table)).all()


@pytest.fixture(scope="module")
def compiled() -> None:
    """Compiles the loop of `decode` before anything is timed; on a machine that never ran it this takes seconds."""
    q1map.decode(np.zeros((1, Q1_OFFSET[-1]), np.float16))


@pytest.mark.usefixtures("compiled")
@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.1, 8))
def test_decoding_equals_its_definition(seed: int, sharpness: float) -> None:
    logits = np.random.default_rng(seed).normal(0, sharpness, (3, Q1_OFFSET[-1]))
    parts = [logits[:, a:b] - np.log(np.exp(logits[:, a:b]).sum(1, keepdims=True)) for a, b in pairwise(Q1_OFFSET)]
    logp = np.concatenate(parts, axis=1).astype(np.float16)  # as posteriors are kept, and decoded
    decoded, sure = q1map.decode_surely(logp)
    assert np.array_equal(q1map.decode(logp), decoded)
    parts = [logp[:, a:b].astype(np.float64) for a, b in pairwise(Q1_OFFSET)]
    for k in range(3):
        assert sure[k] == pytest.approx(np.mean([np.exp(part[k]).max() for part in parts]), abs=1e-5)
        for i, part in enumerate(parts):
            p = np.exp(part[k])
            mean = sum(p[j] * j for j in range(Q1_MAX[i]))
            deviation = sum(p[j] * (j - mean) ** 2 for j in range(Q1_MAX[i])) ** 0.5
            pull = q1map.PULL / (deviation + 0.5)
            worth = [max(part[k][q], -8) - pull * (q - mean) ** 2 for q in range(Q1_MAX[i])]
            # Of two steps that are worth the same in float32 either may be taken.
            assert worth[decoded[k, i] - 1] >= max(worth) - 1e-3


def test_a_vague_posterior_gives_its_middle() -> None:
    logp = np.concatenate([np.full(m, -np.log(m)) for m in Q1_MAX]).astype(np.float16)
    for step, most in zip(q1map.decode(logp), Q1_MAX, strict=True):
        assert abs(step - (most + 1) / 2) <= 1


def test_steps_stay_in_range_for_the_lowest_posteriors() -> None:
    steps = q1map.decode(np.full((2, 2, Q1_OFFSET[-1]), -30, np.float16))
    assert ((steps >= 1) & (steps <= np.array(Q1_MAX))).all()
