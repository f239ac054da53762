"""Which grid shifts are looked at, and what is then said of the others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from material import rng

from jscan import candidates
from jscan.candidates import GRID_KNOWN, GRID_UNKNOWN, SHIFTS, Strata

BOTH = pytest.mark.parametrize("strata", [GRID_KNOWN, GRID_UNKNOWN], ids=["known", "unknown"])
RANKED = st.lists(st.integers(0, SHIFTS - 1), max_size=80)


@BOTH
def test_every_shift_is_of_one_kind(strata: Strata) -> None:
    assert sorted(s for members in strata.members for s in members) == list(range(SHIFTS))
    assert len(strata.sampled) == len(strata.members)


def test_kinds_of_a_known_grid() -> None:
    for members, wanted in zip(
        GRID_KNOWN.members, ((True, True), (True, False), (False, True), (False, False)), strict=True
    ):
        assert {(s // 8 == 0, s % 8 == 0) for s in members} == {wanted}


@BOTH
def test_the_fewer_windows_an_image_has_the_more_shifts_it_may_name(strata: Strata) -> None:
    few, many = strata.of_image[1], strata.of_image[0]
    counts = [candidates.shifts_of_image(n, strata) for n in (0, 1, 64, 2304, 4096, 8000, 20_000, 30_000, 10**6)]
    assert counts == sorted(counts, reverse=True) and (counts[0], counts[3], counts[-1]) == (few, few, many)
    assert counts[4] == (12 if strata is GRID_KNOWN else 2)


@given(RANKED, st.integers(0, SHIFTS), st.sampled_from([GRID_KNOWN, GRID_UNKNOWN]))
def test_what_is_chosen(ranked: list[int], most: int, strata: Strata) -> None:
    chosen = candidates.choose(ranked, most, strata)
    place = chosen.place.tolist()
    assert len(set(place)) == len(place) == len(chosen.stands_for)
    assert chosen.place.dtype == np.int64 and chosen.stands_for.dtype == np.float32
    assert chosen.stands_for.sum() == pytest.approx(SHIFTS, abs=1e-4) and (chosen.stands_for >= 1).all()
    always = [s for members, size in zip(strata.members, strata.sampled, strict=True) if size == 0 for s in members]
    named = [s for s in dict.fromkeys(ranked) if s not in always][:most]
    assert place[: len(always) + len(named)] == always + named
    assert (chosen.stands_for[: len(always) + len(named)] == 1).all()
    # Of each kind, the sample stands for exactly those that were not named.
    for members, size in zip(strata.members, strata.sampled, strict=True):
        others = [s for s in members if s not in always + named]
        sample = [k for k, s in enumerate(place) if s in others]
        assert len(sample) == min(size, len(others))
        assert chosen.stands_for[sample].sum() == pytest.approx(len(others), abs=1e-4)


@given(RANKED, st.integers(0, SHIFTS), st.sampled_from([GRID_KNOWN, GRID_UNKNOWN]), st.integers(0, 1000))
def test_posteriors_of_all_shifts(ranked: list[int], most: int, strata: Strata, seed: int) -> None:
    chosen = candidates.choose(ranked, most, strata)
    p = np.random.default_rng(seed).dirichlet(np.ones(len(chosen.place)), 3)
    shift = np.log(np.maximum(p, 1e-12)).astype(np.float32)
    spread = np.exp(chosen.spread(shift))
    assert spread.shape == (3, SHIFTS) and np.allclose(spread.sum(axis=1), 1, atol=1e-4)
    alone = chosen.stands_for == 1
    assert np.allclose(spread[:, chosen.place[alone]], p[:, alone], atol=1e-5)
    for members in strata.members:
        mine = [k for k, s in enumerate(chosen.place) if s in members and not alone[k]]
        unseen = [s for s in members if s not in chosen.place]
        if unseen:
            # Those that were not looked at share what their sample got beyond its own part: evenly.
            each = (p[:, mine] / chosen.stands_for[mine]).mean(axis=1)
            assert np.allclose(spread[:, unseen], each[:, None], rtol=1e-3, atol=1e-6)


def test_a_candidate_keeps_its_posterior() -> None:
    chosen = candidates.choose([42, 9], 5, GRID_KNOWN)
    p = np.full(len(chosen.place), 0.02)
    p[chosen.place.tolist().index(42)] = 1 - 0.02 * (len(p) - 1)
    spread = np.exp(chosen.spread(np.log(p)[None].astype(np.float32))[0])
    assert spread.argmax() == 42 and spread[42] == pytest.approx(p.max(), abs=1e-5)
    assert spread[9] == pytest.approx(0.02, abs=1e-5)
    # Two of the four kinds' samples stand for six or seven shifts each, and none of these stands out.
    assert np.delete(spread, [0, 9, 42]).max() < 0.02 / 6


def test_votes_and_evidence_equal_their_definition() -> None:
    p = rng(3).dirichlet(np.full(SHIFTS, 0.1), 7)
    assert ((p > candidates.CLAIM).sum(axis=1) > 1).any() and p.min() < candidates.CLAIM
    shift = np.log(np.maximum(p, 1e-9)).astype(np.float32)
    assert np.allclose(candidates.votes(shift), np.maximum(p - candidates.CLAIM, 0).sum(axis=0), atol=1e-5)
    assert np.allclose(candidates.evidence(shift), np.log(p + 0.01).sum(axis=0), atol=1e-4)


def test_a_window_of_many_can_name_a_shift_and_none_can_veto_one() -> None:
    """Windows of a small part speak for its shift; the image's own shift is that of most windows."""
    ground, part = np.full((40, SHIFTS), np.log(1e-13)), np.full((2, SHIFTS), np.log(1e-13))
    ground[:, 11], part[:, 50] = 0, 0
    both = np.concatenate([ground, part])
    assert np.argsort(-candidates.votes(both))[:2].tolist() == [11, 50]
    assert candidates.evidence(both).argmax() == 11
