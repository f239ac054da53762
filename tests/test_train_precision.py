"""Which of two ways to compute is the faster one here."""

from __future__ import annotations

import time

import pytest

from train.precision import narrow_is_faster


@pytest.mark.parametrize(("narrow", "wide", "faster"), [(0.001, 0.02, True), (0.03, 0.02, False), (0.1, 0.005, False)])
def test_the_faster_of_two_steps(narrow: float, wide: float, faster: bool) -> None:
    taken: list[bool] = []

    def step(is_narrow: bool) -> None:
        taken.append(is_narrow)
        time.sleep(narrow if is_narrow else wide)

    assert narrow_is_faster(step) is faster
    # One that is hopeless is tried once only.
    assert taken.count(False) == 3 and taken.count(True) == (1 if narrow > 3 * wide else 3)
