from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jscan.jpegtables import (
    LOWEST_QF1,
    N_COEFS,
    Q1_MAX,
    Q1_OFFSET,
    ZIGZAG,
    nearest_qf,
    standard_table,
    steps_text,
)

components = st.sampled_from(["luma", "chroma"])
qualities = st.integers(1, 100)


def test_zigzag_is_that_of_the_standard() -> None:
    # ITU-T T.81, figure A.6: the place of each coefficient in the sequence, row by row.
    rows = """ 0  1  5  6 14 15 27 28   2  4  7 13 16 26 29 42   3  8 12 17 25 30 41 43   9 11 18 24 31 40 44 53
              10 19 23 32 39 45 52 54  20 22 33 38 46 51 55 60  21 34 37 47 50 56 59 61  35 36 48 49 57 58 62 63"""
    order = np.array(rows.split(), dtype=int).reshape(8, 8)
    assert [order[r, c] for r, c in ZIGZAG] == list(range(64))


@pytest.mark.parametrize("component", ["luma", "chroma"])
def test_tables_are_those_that_libjpeg_writes(component: str) -> None:
    grey = Image.new("RGB", (8, 8))
    for qf in range(1, 101):
        out = io.BytesIO()
        grey.save(out, "JPEG", quality=qf)
        tables = Image.open(out).quantization  # type: ignore[attr-defined]
        written = tables[0 if component == "luma" else 1]
        # Pillow gives the tables row by row.
        assert [written[8 * r + c] for r, c in ZIGZAG] == standard_table(qf, component).tolist()


@given(qf=qualities, component=components)
def test_every_standard_table_is_its_own_nearest(qf: int, component: str) -> None:
    table = standard_table(qf, component)
    found = int(nearest_qf(table, component))
    # The lowest qualities clip to the same table.
    assert np.array_equal(standard_table(found, component), table)
    assert qf < 10 or found == qf


@given(qf=st.integers(30, 95), n=st.integers(N_COEFS, 64))
def test_the_first_steps_suffice(qf: int, n: int) -> None:
    table = standard_table(qf)[:n]
    # The first 15 steps of 74 and 75 are the same, so they are compared and not the qualities.
    found = int(nearest_qf(table))
    assert abs(found - qf) <= 1 and np.array_equal(standard_table(found)[:n], table)


@given(qf=st.integers(20, 90), component=components, seed=st.integers(0, 2**32 - 1))
def test_a_table_close_to_a_standard_one(qf: int, component: str, seed: int) -> None:
    table = standard_table(qf, component).copy()
    at = int(np.random.default_rng(seed).integers(64))
    table[at] += 1
    assert abs(nearest_qf(table, component) - qf) <= 1


@given(a=qualities, b=qualities)
def test_a_higher_quality_never_has_a_larger_step(a: int, b: int) -> None:
    low, high = min(a, b), max(a, b)
    assert np.all(standard_table(low) >= standard_table(high))


def test_ranges() -> None:
    assert standard_table(100).tolist() == [1] * 64 and standard_table(1).max() == 255
    assert standard_table(50)[:6].tolist() == [16, 11, 12, 14, 12, 10]
    assert len(Q1_MAX) == N_COEFS and len(Q1_OFFSET) == N_COEFS + 1
    assert Q1_OFFSET[-1] == sum(Q1_MAX) == 226  # Tondi 2021, section 3.1: posteriors of all coefficients
    assert nearest_qf(standard_table(90), "luma") == 90


@pytest.mark.parametrize("qf", [0, 101, -3])
def test_no_such_quality(qf: int) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        standard_table(qf)


def test_no_such_table() -> None:
    with pytest.raises(ValueError, match="luma or chroma"):
        standard_table(50, "red")
    for bad in ([], [0] * 64, [1] * 65):
        with pytest.raises(ValueError, match="1 to 64 steps"):
            nearest_qf(bad)


def test_the_largest_steps_are_written_as_at_least() -> None:
    assert steps_text(standard_table(60)[:N_COEFS]) == "13 9 10 11 10 8 13 11 10 11 14 14 13 15 19"
    assert steps_text(Q1_MAX) == ">=16 >=11 >=12 >=14 >=12 >=10 >=16 >=14 >=13 >=14 >=18 >=17 >=16 >=19 >=24"
    assert steps_text([15, 12]) == "15 >=12" and steps_text([]) == ""
    with pytest.raises(ValueError, match="zip"):
        steps_text(standard_table(60))
    # Whatever the first quality was, its capped table is never nearest to one below LOWEST_QF1.
    capped = [nearest_qf(np.minimum(standard_table(qf)[:N_COEFS], Q1_MAX)) for qf in range(1, 101)]
    # (The first steps of 51 are as near to those of 50 as to its own.)
    assert set(capped[:50]) == {LOWEST_QF1} and min(capped[51:]) > LOWEST_QF1


def test_cached_tables_cannot_be_spoilt() -> None:
    standard_table(80)[:] = 1
    assert standard_table(80)[0] == 6
