"""Looking at every second window first: which these are, and where their neighbours do not agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from jscan import sparse
from jscan.jpegtables import Q1_OFFSET

TABLE = (6, 5, 5, 5, 5, 6, 8, 8, 7, 6, 7, 8, 8, 9, 11)


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, [0]), (2, [0]), (3, [0, 2]), (4, [0, 2]), (7, [0, 2, 4, 6]), (8, [0, 2, 4, 6])]
)
def test_every_second_one(count: int, wanted: list[int]) -> None:
    assert sparse.axis(count).tolist() == wanted


@pytest.mark.parametrize("count", range(1, 12))
def test_those_between_lie_between(count: int) -> None:
    first = sparse.axis(count)
    before, behind = sparse.between(count)
    for k in range(count):
        a, b = first[before[k]], first[behind[k]]
        assert (a == b == k) if k in first else (a == k - 1 and b == (k + 1 if k + 1 in first else k - 1))


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (4, 3), (7, 8)])
def test_numbers_of_the_others_are_means(shape: tuple[int, int]) -> None:
    whole = np.add.outer(np.arange(shape[0]) * 10.0, np.arange(shape[1])).astype(np.float32)
    got = sparse.fill(whole[::2, ::2], shape)
    assert got.dtype == np.float32 and got.shape == shape
    inner = (slice(0, (shape[0] - 1) // 2 * 2 + 1), slice(0, (shape[1] - 1) // 2 * 2 + 1))
    assert np.array_equal(got[inner], whole[inner])  # beyond the last one: as this
    assert np.array_equal(got[-1, inner[1]], whole[inner][-1]) and np.array_equal(
        got[inner[0], -1], whole[inner][:, -1]
    )


@pytest.mark.parametrize("count", range(1, 40))
def test_few_are_enough_where_windows_are_quiet(count: int) -> None:
    few = sparse.quiet_axis(count)
    assert len(few) == max(1, -(-(count - 4) // 8)) and set(few.tolist()) <= set(sparse.axis(count).tolist())
    # No window is farther from the next one than half the way to the one after, or the width of a window from it.
    assert max(np.abs(few[:, None] - np.arange(count)).min(axis=0)) <= 7


@pytest.mark.parametrize("first", [[4], [4, 12], [0, 8, 16]])
def test_between_few_the_nearer_counts_for_more(first: list[int]) -> None:
    at = np.arange(20)
    (low, near), (high, far) = sparse.around(at, np.array(first))
    assert near.dtype == far.dtype == np.float32 and np.allclose(near + far, 1)
    assert np.allclose(low * near + high * far, np.clip(at, first[0], first[-1]))
    assert {*low.tolist(), *high.tolist()} <= set(first)


# --- what a glance leaves out -----------------------------------------------------------------------------------------


def test_a_calm_image_is_a_large_one_of_which_half_says_nothing() -> None:
    glance = np.full((64, 80), 0.2, np.float32)
    assert sparse.calm(glance) and not sparse.calm(glance[:, :60])
    glance[:30] = 0.9
    assert sparse.calm(glance)
    glance[:34] = 0.9
    assert not sparse.calm(glance)


def test_windows_near_one_that_speaks_are_not_quiet() -> None:
    glance = np.full((20, 20), 0.2, np.float32)
    assert sparse.quiet(glance).all()
    glance[5:8, 9:12] = 0.95
    loud = ~sparse.quiet(glance)
    assert loud[3:10, 7:14].all() and not loud[:, :4].any() and not loud[14:].any()


def test_one_window_alone_may_be_chance() -> None:
    """Neighbours share three quarters of their pixels: what one of them saw, they would have seen."""
    glance = np.full((9, 9), 0.1, np.float32)
    glance[4, 4] = 1.0
    assert sparse.quiet(glance).all()


def answers(rows: int = 4, cols: int = 5) -> dict[str, npt.NDArray[Any]]:
    """The same sure answer in every window."""
    logp = np.full((rows, cols, Q1_OFFSET[-1]), np.log(0.001), np.float32)
    for start, step in zip(Q1_OFFSET[:-1], TABLE, strict=True):
        logp[..., start + step - 1] = np.log(0.95)
    shift = np.full((rows, cols, 64), np.log(0.001), np.float32)
    shift[..., 21] = np.log(0.937)
    return {"logp": logp, "shift": shift, "present": np.full((rows, cols), 0.9, np.float32)}


def found(seen: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    return sparse.disagreement(np.exp(seen["logp"]), np.exp(seen["shift"]), seen["present"], Q1_OFFSET)


def of_another_shift(seen: dict[str, npt.NDArray[Any]], at: Any, p: float = 0.9) -> None:
    seen["shift"][at] = np.log((1 - p) / 63)
    seen["shift"][at][..., 40] = np.log(p)


def of_other_steps(seen: dict[str, npt.NDArray[Any]], at: Any, groups: int, p: float = 0.95) -> None:
    for start, step in list(zip(Q1_OFFSET[:-1], TABLE, strict=True))[:groups]:
        seen["logp"][at][..., start + step - 1] = np.log(0.001)
        seen["logp"][at][..., start + step] = np.log(p)


def around(row: int, col: int, rows: int = 4, cols: int = 5) -> npt.NDArray[np.bool_]:
    """The squares that have this window at a corner, and not it alone."""
    out = np.zeros((rows, cols), bool)
    out[max(row - 1, 0) : row + 1, max(col - 1, 0) : col + 1] = True
    out[-1, -1] = False
    return out


def test_windows_that_say_the_same_agree() -> None:
    assert not found(answers()).any()


@pytest.mark.parametrize("at", [(0, 0), (1, 2), (3, 4), (0, 4), (3, 0), (2, 4)])
@pytest.mark.parametrize("what", ["present", "shift", "steps"])
def test_one_that_says_otherwise_is_seen_in_its_squares(at: tuple[int, int], what: str) -> None:
    seen = answers()
    if what == "present":
        seen["present"][at] -= np.float32(sparse.PRESENT_APART + 0.01)
    elif what == "shift":
        of_another_shift(seen, at)
    else:
        of_other_steps(seen, at, 3)  # of 15; 2 of them are below STEPS_APART
    assert np.array_equal(found(seen), around(*at))


def test_small_differences_are_none() -> None:
    seen = answers()
    seen["present"][1, 1] -= np.float32(sparse.PRESENT_APART - 0.01)
    of_other_steps(seen, (1, 3), 2)
    of_another_shift(seen, (2, 2), p=0.45)  # not sure of it
    assert not found(seen).any()


def test_where_none_is_sure_of_a_compression_none_disagrees() -> None:
    seen = answers()
    seen["present"][:] = 0.1
    seen["present"][1, 1] = sparse.SURE - 0.01
    assert not found(seen).any()
    seen["present"][1, 1] = sparse.SURE + 0.01
    assert found(seen).any()


def test_without_a_compression_steps_and_shift_say_nothing() -> None:
    seen = answers()
    seen["present"][:] = 0.1
    of_another_shift(seen, (1, 1))
    of_other_steps(seen, (2, 2), 9)
    assert not found(seen).any()


@pytest.mark.parametrize("pair", [((1, 2), (2, 2)), ((2, 1), (2, 2)), ((1, 1), (2, 2)), ((1, 2), (2, 1))])
def test_every_pair_of_a_square_is_compared(pair: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Where no other window is sure of anything, so that only these two can disagree."""
    seen = answers()
    seen["shift"][:] = np.log(1 / 64)
    of_another_shift(seen, pair[0])
    of_another_shift(seen, pair[1])
    assert not found(seen).any()
    seen["shift"][pair[1]] = seen["shift"][pair[1]][::-1]
    assert np.array_equal(found(seen), around(*pair[0]) & around(*pair[1])) and found(seen)[1, 1]


@pytest.mark.parametrize("shape", [(1, 6), (6, 1)])
def test_a_single_row_or_column_of_windows(shape: tuple[int, int]) -> None:
    seen = answers(*shape)
    assert not found(seen).any()
    of_another_shift(seen, (0, 3) if shape[0] == 1 else (3, 0))
    assert np.flatnonzero(found(seen)).tolist() == [2, 3]
