"""Threads give the answers of a loop."""

from __future__ import annotations

import threading
import time

import pytest

from jscan.inparallel import in_order


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def late(k: int) -> int:
        time.sleep(0.002 * (k % 3))
        return k * k

    assert list(in_order(late, range(20), threads)) == [k * k for k in range(20)]


def test_so_many_run_at_a_time_and_no_more() -> None:
    together = threading.Barrier(3, timeout=10)
    running, most = 0, 0
    lock = threading.Lock()

    def meet(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()  # breaks unless three are here at once
        with lock:
            running -= 1

    list(in_order(meet, range(9), 3))
    assert most == 3


def test_items_are_drawn_as_they_are_needed() -> None:
    drawn: list[int] = []

    def items() -> object:
        for k in range(100):
            drawn.append(k)
            yield k

    results = in_order(lambda k: k, items(), 2)  # type: ignore[arg-type]
    assert next(results) == 0 and len(drawn) <= 3
    results.close()  # type: ignore[attr-defined]
    assert len(drawn) <= 3


def test_the_first_error_is_raised_and_nothing_goes_on() -> None:
    done: list[int] = []

    def fail(k: int) -> int:
        if k >= 3:
            raise ValueError(str(k))
        done.append(k)
        return k

    with pytest.raises(ValueError, match="3"):
        list(in_order(fail, range(100), 2))
    assert sorted(done) == [0, 1, 2]
    assert not [t for t in threading.enumerate() if t.name.startswith("jscan")]
