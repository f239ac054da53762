"""JPEG quantisation tables: zigzag order, the standard tables, and quality factors.

A table is held as 64 integers in zigzag order, as in the file (ITU-T T.81, B.2.4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

N_COEFS = 15
"""How many zigzag coefficients of Q1 are estimated (Tondi 2021, section 4.3)."""

# ITU-T T.81, Annex K, tables K.1 and K.2, in row order.
_ANNEX_K_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_ANNEX_K_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)


def _zigzag() -> tuple[tuple[int, int], ...]:
    cells = [(row, col) for row in range(8) for col in range(8)]
    return tuple(sorted(cells, key=lambda p: (p[0] + p[1], p[0] if (p[0] + p[1]) % 2 else p[1])))


ZIGZAG = _zigzag()
"""The (row, column) of each of the 64 coefficients, in zigzag order."""

_BASE = {
    "luma": np.array([_ANNEX_K_LUMA[r][c] for r, c in ZIGZAG], dtype=np.int64),
    "chroma": np.array([_ANNEX_K_CHROMA[r][c] for r, c in ZIGZAG], dtype=np.int64),
}


def standard_table(qf: int, component: str = "luma") -> IntArray:
    """The standard table of a quality factor: (64,) int64 in zigzag order, values 1 to 255.

    `qf` is 1 to 100, `component` "luma" or "chroma". Raises ValueError outside of these.
    The scaling is that of the Independent JPEG Group's library (`jpeg_quality_scaling`).
    """
    if not 1 <= qf <= 100:
        raise ValueError(f"a quality factor is 1 to 100, not {qf}")
    if component not in _BASE:
        raise ValueError(f"a component is luma or chroma, not {component}")
    scale = 5000 // qf if qf < 50 else 200 - 2 * qf
    table: IntArray = np.clip((_BASE[component] * scale + 50) // 100, 1, 255)
    return table


def steps_text(q1: Sequence[int]) -> str:
    """Estimated first steps, in zigzag order, as text: `>=` stands before those that mean "at least that".

    Only the first N_COEFS steps of a table can be given. Raises ValueError for more.
    """
    return " ".join(f">={q}" if q >= most else str(q) for q, most in zip(q1, Q1_MAX[: len(q1)], strict=True))


@cache
def _standard_tables(component: str) -> IntArray:
    tables = np.stack([standard_table(qf, component) for qf in range(1, 101)])
    tables.setflags(write=False)
    return tables


Q1_MAX: tuple[int, ...] = tuple(int(q) for q in standard_table(50)[:N_COEFS])
"""The largest step told apart for each coefficient: the table of QF 50 (Tondi 2021, section 3.1). An estimated step
that is as large means "at least that"."""

LOWEST_QF1 = 50.0
"""The lowest quality factor told apart of a first compression: where an estimated first table is nearest to it, that
means "at most that"."""

Q1_OFFSET: tuple[int, ...] = tuple(int(v) for v in np.concatenate([[0], np.cumsum(Q1_MAX)]))
"""Where each coefficient's steps begin among the 226 posteriors; 16 values, the last is 226."""


def nearest_qf(table: npt.ArrayLike, component: str = "luma") -> float:
    """The standard quality factor, 1 to 100, whose table is nearest to this one.

    `table` holds the first n steps in zigzag order, 1 <= n <= 64. Nearness is the mean absolute
    difference of log steps, so that a step of 1 against 2 counts as much as 10 against 20. Of several that are equally
    near (the first 15 steps of QF 74 and 75 are the same) a multiple of 5 is taken, as programs offer these, else the
    lowest. Raises ValueError for an empty table or a step below 1.
    """
    steps = np.asarray(table, dtype=np.float64).ravel()
    if steps.size == 0 or steps.size > 64 or np.any(steps < 1):
        raise ValueError("a table has 1 to 64 steps of at least 1")
    standard = np.log(_standard_tables(component)[:, : steps.size])
    distance = np.abs(standard - np.log(steps)).mean(axis=1)
    nearest = np.flatnonzero(distance <= distance.min() + 1e-9) + 1
    presets = nearest[nearest % 5 == 0]
    return float((presets if presets.size else nearest)[0])


def dct_basis() -> npt.NDArray[np.float32]:
    """(8, 8) float32: row k is the k-th function of the orthonormal 8-point DCT (ITU-T T.81, A.3.3)."""
    m = np.arange(8)
    rows = [np.sqrt((1 if k == 0 else 2) / 8) * np.cos((2 * m + 1) * k * np.pi / 16) for k in range(8)]
    return np.asarray(np.stack(rows), np.float32)
