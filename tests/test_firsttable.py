"""The first compression's table, from the coefficients of most of an image."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from material import file_of, natural, photo, pixels_of

from jscan import firsttable, kernels, trace
from jscan.decode import decode
from jscan.firsttable import FirstSteps
from jscan.history import Background
from jscan.jpegtables import N_COEFS, Q1_MAX, Q1_OFFSET, ZIGZAG, standard_table
from jscan.records import WindowPosteriors
from jscan.scan import Scanner
from jscan.tiling import window_grid

ODD_TABLE = np.clip(np.rint(standard_table(70) * np.linspace(0.7, 1.6, 64)), 1, 255).astype(int)
"""Of no quality factor: 7, 5, 5, 6, 5, 5, 8, 7, 7, 7, 10, 10, 10, 11, 15 are its first steps."""
SAID = tuple(standard_table(75)[:N_COEFS].tolist())
"""What windows say, in all tests: another table."""
SHIFT = (3, 5)
"""Pixels cropped between the two compressions."""


def file_of_twice(first: npt.NDArray[np.int64], qf2: int, shift: tuple[int, int] = SHIFT, pasted: int = 0) -> bytes:
    """A photograph that was compressed twice, and into which a square of it was pasted uncompressed in between."""
    table = natural(first)
    once = pixels_of(file_of(photo(scale=1), qtables=[table, table], subsampling=0)).copy()
    once[100 : 100 + pasted, 120 : 120 + pasted] = photo(scale=1)[:pasted, :pasted]
    return file_of(np.ascontiguousarray(once[shift[0] :, shift[1] :]), quality=qf2, subsampling=0)


def twice(
    first: npt.NDArray[np.int64], qf2: int, shift: tuple[int, int] = SHIFT, pasted: int = 0
) -> npt.NDArray[np.uint8]:
    """The luma of such a file."""
    return np.asarray(decode(file_of_twice(first, qf2, shift, pasted), max_pixels=10**7, rgb=False).luma)


def told(
    luma: npt.NDArray[np.uint8],
    qf2: int,
    shift: tuple[int, int] = SHIFT,
    said: tuple[int, ...] = SAID,
    present: npt.NDArray[np.float32] | None = None,
    without: npt.NDArray[np.bool_] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> FirstSteps:
    rows, cols = window_grid(luma.shape[0] - origin[0], luma.shape[1] - origin[1])
    logp, places = (np.zeros((rows, cols, n), np.float16) for n in (Q1_OFFSET[-1], 64))
    shown = np.ones((rows, cols), np.float32) if present is None else present
    found = WindowPosteriors(logp, places, shown, origin, luma.shape)
    at = (-shift[0] - origin[0]) % 8 * 8 + (-shift[1] - origin[1]) % 8
    q2 = tuple(standard_table(qf2).tolist())
    return firsttable.estimate(luma, found, Background(said, at, 1.0), q2, without)


@pytest.mark.parametrize("shift", [SHIFT, (0, 0), (0, 4)])
@pytest.mark.parametrize("qf2", [85, 90, 95])
def test_a_table_that_nobody_knows(qf2: int, shift: tuple[int, int]) -> None:
    """Whatever windows take it for."""
    found = told(twice(ODD_TABLE, qf2, shift), qf2, shift)
    known = found.steps[:N_COEFS] > 0
    assert found.sure and known.sum() >= firsttable.ENOUGH
    # At QF2 85 multiples of 13 and of 15 are moved to the same first three of 7.
    away = np.abs(found.steps - ODD_TABLE)[:N_COEFS][known]
    assert np.count_nonzero(away) <= (qf2 == 85) and away.max() <= 2
    beyond = found.steps[N_COEFS:] > 0
    assert (found.steps[N_COEFS:][beyond] == ODD_TABLE[N_COEFS:][beyond]).mean() > 0.8 if beyond.any() else True
    assert len(found.steps) == 64


@pytest.mark.parametrize("shift", [(0, 1), (0, 3), (5, 0), (2, 0), (0, 4)])
@pytest.mark.parametrize(("qf1", "qf2"), [(70, 80), (60, 75)])
def test_the_last_steps_are_not_seen_through_a_grid_in_the_same_rows_or_columns(
    qf1: int, qf2: int, shift: tuple[int, int]
) -> None:
    """Compared with a grid apart from both, up to 6 steps of each of these were told as 2 to 10 instead of 13 to 60."""
    first = standard_table(qf1).astype(np.int64)
    steps = told(twice(first, qf2, shift), qf2, shift).steps
    wrong = (steps > 0) & (np.abs(steps - first) > 2)
    assert (steps > 0).sum() >= 13 and wrong.sum() <= (2 if shift == (0, 4) else 0)
    assert shift != (0, 4) or not steps[N_COEFS:].any()  # its mirror image is itself: there is none to compare with


def test_a_step_that_only_its_first_multiple_tells_is_left_to_windows() -> None:
    """In a soft picture, of which the last compression drew the few coefficients towards 0."""
    soft = cv2.GaussianBlur(photo(scale=1), (0, 0), 2)
    first = standard_table(60).astype(np.int64)
    table = natural(first)
    once = pixels_of(file_of(soft, qtables=[table, table], subsampling=0))
    data = file_of(np.ascontiguousarray(once[SHIFT[0] :, SHIFT[1] :]), quality=90, subsampling=0)
    luma = np.asarray(decode(data, max_pixels=10**7, rgb=False).luma)
    steps = told(luma, 90).steps[:N_COEFS]
    assert (steps[steps > 0] == first[:N_COEFS][steps > 0]).all() and (steps > 0).sum() >= 8


def test_a_square_without_it_changes_nothing() -> None:
    for shift in (SHIFT, (0, 0)):
        found = told(twice(ODD_TABLE, 90, shift, pasted=200), 90, shift)
        known = found.steps[:N_COEFS] > 0
        assert found.sure and np.array_equal(found.steps[:N_COEFS][known], ODD_TABLE[:N_COEFS][known])


@pytest.mark.parametrize("origin", [(0, 0), (2, 7)])
def test_the_grid_is_seen_from_the_windows(origin: tuple[int, int]) -> None:
    found = told(twice(ODD_TABLE, 92), 92, origin=origin)
    assert found.sure


@pytest.mark.parametrize("shift", [(3, 6), (6, 1), (0, 5)])
def test_nothing_on_another_grid(shift: tuple[int, int]) -> None:
    found = told(twice(ODD_TABLE, 90), 90, shift)
    assert not found.sure and np.count_nonzero(found.steps) <= 2


@pytest.mark.parametrize("shift", [SHIFT, (0, 0)])
@pytest.mark.parametrize("qf", [75, 92])
def test_nothing_of_an_image_that_was_compressed_once(qf: int, shift: tuple[int, int]) -> None:
    luma = np.asarray(decode(file_of(photo(scale=1), quality=qf), max_pixels=10**7, rgb=False).luma)
    found = told(luma, qf, shift)
    assert not found.sure and np.count_nonzero(found.steps) <= 2


def test_last_steps_of_sixteen_bits_are_no_harm() -> None:
    """As a table of a file may have them; a coefficient can be no multiple of one but zero."""
    luma = twice(ODD_TABLE, 90, (0, 0))
    rows, cols = window_grid(*luma.shape)
    logp, places = (np.zeros((rows, cols, n), np.float16) for n in (Q1_OFFSET[-1], 64))
    found = WindowPosteriors(logp, places, np.ones((rows, cols), np.float32), (0, 0), luma.shape)
    steps = firsttable.estimate(luma, found, Background(SAID, 0, 1.0), (65535,) * 32 + (200,) * 32).steps
    assert not steps.any()


def test_only_windows_that_show_it_are_asked() -> None:
    luma = twice(ODD_TABLE, 90)
    shape = window_grid(*luma.shape)
    nowhere = np.zeros(shape, np.float32)
    assert told(luma, 90, present=nowhere) is firsttable.NOTHING
    assert told(luma, 90, without=np.ones(shape, bool)) is firsttable.NOTHING
    half = np.zeros(shape, bool)
    half[:, : shape[1] // 2] = True
    luma = luma.copy()
    luma[:, : luma.shape[1] // 2 + 32] = twice(standard_table(50), 90)[:, : luma.shape[1] // 2 + 32]
    found = told(luma, 90, without=half)
    known = found.steps[:N_COEFS] > 0
    assert found.sure and np.array_equal(found.steps[:N_COEFS][known], ODD_TABLE[:N_COEFS][known])


def test_a_standard_table_is_not_given_up_for_one_step() -> None:
    """Steps that seem to be others are by chance, where they are few and the table that windows tell is a known one."""
    table = standard_table(70)
    table[10] += 3
    said = tuple(np.minimum(standard_table(70)[:N_COEFS], Q1_MAX).tolist())
    found = told(twice(table, 95), 95, said=said)
    assert found.steps[10] == 0 and found.merged(said) == said
    own = (*said[:12], said[12] + 1, *said[13:])  # no standard one
    assert told(twice(table, 95), 95, said=own).steps[10] == table[10]


def test_steps_are_merged_as_far_as_windows_tell_them() -> None:
    steps = np.zeros(64, np.int64)
    steps[[1, 14, 40]] = 9, 99, 7
    table = FirstSteps(steps, True).merged(SAID)
    assert table == (SAID[0], 9, *SAID[2:14], Q1_MAX[14])
    assert firsttable.NOTHING.merged(SAID) == SAID
    whole = trace.whole_table(table, steps)
    in_zigzag = [whole[8 * u + v] for u, v in ZIGZAG]
    assert in_zigzag[14] == 99 and in_zigzag[40] == 7 and in_zigzag[:14] == list(table[:14])


def test_step_cosines_equal_their_definition() -> None:
    values = np.random.default_rng(1).laplace(0, 9, (3, 200)).astype(np.float32)
    total, count = np.zeros((2, 3, 20))
    kernels.step_cosines(values, np.float32(0.5), total, count)
    for k, q in itertools.product(range(3), range(2, 20)):
        speak = values[k][np.abs(values[k]) > 0.5 * q].astype(np.float64)
        assert count[k, q] == len(speak)
        assert total[k, q] == pytest.approx(np.cos(2 * np.pi * speak / q).sum(), abs=1e-3)
    assert (count[:, :2] == 0).all() and (total[:, :2] == 0).all()


def test_lattice_likelihoods_equal_their_definition() -> None:
    rng = np.random.default_rng(2)
    places, noises, odd = rng.integers(0, 9, (2, 6)).astype(np.float64), np.array([0.4, 1.0]), np.array([0.05, 0.3])
    last = np.array([4, 5])
    below = np.minimum(np.cumsum(rng.random((2, 81)), axis=1) / 30, 1)
    out = np.full((2, 13), np.nan)
    kernels.lattice_likelihoods(places, below, last, noises, odd, out)

    def mass(k: int, step: int, m: int) -> float:
        edges = [int(below.shape[1] - 1 if e > 80 else e) for e in ((2 * m + 1) * step, (2 * m - 1) * step)]
        return float(below[k, edges[0]] - (below[k, edges[1]] if m else 0))

    def moved(k: int, q: int, m: int, n: int, noise: float) -> float:
        ends = [((n + half) * last[k] - m * q) / noise / math.sqrt(2) for half in (0.5, -0.5)]
        return (math.erf(ends[0]) - math.erf(ends[1])) / 2

    for k, q in itertools.product(range(2), range(1, 13)):
        tried = []
        for noise, share in itertools.product(noises, odd):
            comb = [sum(mass(k, q, m) * moved(k, q, m, n, noise) for m in range(40)) for n in range(6)]
            p = np.array([share * mass(k, int(last[k]), n) + (1 - share) * comb[n] + 1e-7 for n in range(1, 6)])
            tried.append(float(places[k, 1:] @ np.log(p / p.sum())))
        assert out[k, q] == pytest.approx(max(tried), abs=0.05), (k, q)
    assert np.isnan(out[:, 0]).all()


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(device="cpu")


@pytest.mark.parametrize("shift", [SHIFT, (0, 0)])
def test_a_scan_tells_it_and_finds_what_lacks_it(scanner: Scanner, tmp_path: Path, shift: tuple[int, int]) -> None:
    """Told by windows alone, no step of many is right, and what is left of the trace is too little to say anything."""
    path = tmp_path / "a.jpg"
    path.write_bytes(file_of_twice(ODD_TABLE, 92, shift, pasted=150))
    result = scanner.scan(path)
    row, maps = result.record, result.maps
    assert row.q1_background is not None and row.score is not None and row.regions and maps is not None
    right = [min(q, most) for q, most in zip(ODD_TABLE[:N_COEFS].tolist(), Q1_MAX, strict=True)]
    assert sum(a == b for a, b in zip(row.q1_background, right, strict=True)) >= 14
    best = max(row.regions, key=lambda region: region.score)
    middle = (best.y + best.height / 2, best.x + best.width / 2)
    assert row.score >= 0.5 and np.allclose(middle, (175 - shift[0], 195 - shift[1]), atol=24)
    # The map has it where windows show its grid and nothing is suspected, whatever table they say it is.
    of_background = np.array(row.q1_background)[:, None, None] == maps.q1
    assert of_background[:, 40:, 40:].mean() > 0.9 and of_background[:, 14:30, 17:33].mean() < 0.7


def test_a_part_with_such_a_table_has_it_in_its_row(scanner: Scanner, tmp_path: Path) -> None:
    """In a picture that was never compressed before."""
    table = natural(ODD_TABLE)
    ground, donor = photo(scale=1).copy(), pixels_of(file_of(photo("chelsea"), qtables=[table, table], subsampling=0))
    ground[131 : 131 + 200, 150 : 150 + 200] = donor[20:220, 40:240]
    path = tmp_path / "a.jpg"
    path.write_bytes(file_of(ground, quality=92, subsampling=0))
    row = scanner.scan(path).record
    assert row.score is not None and row.score >= 0.5 and row.regions and row.regions[0].q1 is not None
    right = [min(q, most) for q, most in zip(ODD_TABLE[:N_COEFS].tolist(), Q1_MAX, strict=True)]
    assert sum(a == b for a, b in zip(row.regions[0].q1, right, strict=True)) >= 13
