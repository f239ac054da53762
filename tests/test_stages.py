"""Stages: each second counts once, for the innermost stage, and for nobody where nobody asked."""

from __future__ import annotations

import threading

import pytest

from jscan import stages
from jscan.stages import Spent, stage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the clock shows, and half as many of processor time; tests move it."""
    now = [0.0]
    monkeypatch.setattr(stages.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(stages.time, "process_time", lambda: now[0] / 2)
    return now


def test_a_second_counts_for_the_innermost_stage(clock: list[float]) -> None:
    with stages.measuring() as times:
        clock[0] += 1
        with stage("estimate"):
            clock[0] += 2
            with stage("network"):
                clock[0] += 4
            clock[0] += 8
        with stage("network"):
            clock[0] += 16
        clock[0] += 32
    assert times == {"other": Spent(33, 16.5), "estimate": Spent(10, 5), "network": Spent(20, 10)}


def _decode_badly(clock: list[float]) -> None:
    with stage("decode"):
        clock[0] += 1
        raise ValueError("x")


def test_a_stage_that_raises_ends(clock: list[float]) -> None:
    with stages.measuring() as times:
        with pytest.raises(ValueError, match="x"):
            _decode_badly(clock)
        clock[0] += 2
    assert times == {"decode": Spent(1, 0.5), "other": Spent(2, 1)}


def test_nothing_is_measured_where_nobody_asked(clock: list[float]) -> None:
    with stages.measuring(False) as times, stage("decode"):
        clock[0] += 1
    assert times == {}
    with stages.measuring() as outer:
        pass
    with stage("decode"):
        clock[0] += 1
    assert set(outer) == {"other"}


def test_other_threads_add_nothing(clock: list[float]) -> None:
    def elsewhere() -> None:
        with stage("decode"):
            clock[0] += 1

    with stages.measuring() as times:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert set(times) == {"other"}


def test_a_name_that_is_not_a_stage_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        stage("decoding")


def test_sums_and_shares_come_in_the_order_of_the_stages() -> None:
    found = stages.total([{"write": Spent(1, 1)}, {"read": Spent(2, 0.5), "write": Spent(1, 0)}])
    assert list(found.items()) == [("read", Spent(2, 0.5)), ("write", Spent(2, 1))]
    assert stages.shares(found)["read"] == {"seconds": 2, "processor_seconds": 0.5, "share": 0.5}
    assert stages.total([]) == {} and stages.shares({}) == {}
