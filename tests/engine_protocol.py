"""What every engine promises, as tests: a module of tests for an engine has a class that inherits them.

It gives two fixtures: `run`, the engine, and `alive`, which counts the worker processes that there are.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from jscan.engine import Ask, Engine, MoreTime
from jscan.engine import local as engine
from jscan.errors import EngineError, ErrorCode, InputError, ModelError

Alive = Callable[[], int]


def _state() -> str:
    return "state"


def _fast_beats(seconds: float) -> str:
    engine.BEAT_SECONDS = seconds
    for thread in threading.enumerate():
        if thread.name == "beat":
            beat = thread._target  # type: ignore[attr-defined]
            threading.Thread(target=beat, daemon=True).start()
    return "state"


def _soon_orphaned() -> str:
    engine.ORPHAN_SECONDS = 0.5
    return "state"


def _broken_state() -> str:
    raise ModelError("the digest is wrong")


def _dying_state() -> str:
    os._exit(7)


def _state_once_in_two(folder: Path) -> str:
    """Dies in the first process, works in the next ones."""
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        return "state"
    os._exit(7)


def _task(state: str, item: str, ask: Ask) -> str:
    match item.split(":")[0]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "raise":
            raise ValueError("no such thing")
        case "awkward":
            raise InputError(ErrorCode.CORRUPT, "an error that pickle cannot rebuild")
        case "sleep":
            time.sleep(float(item.split(":")[1]))
        case "hang":
            ctypes.PyDLL(None).sleep(3600)  # holds the interpreter's lock: no thread and no handler of Python's runs
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "memory":
            raise MemoryError(os.getpid())
        case "ask":
            item = str(ask(item))
        case "ask-kill":
            ask(item)
            os.kill(os.getpid(), signal.SIGKILL)
    return f"{state} {item}"


def _unpicklable(state: str, item: str, ask: Ask) -> object:
    return lambda: item


def _dies_once(folder: Path, state: str, item: int, ask: Ask) -> int:
    """Item 3 dies the first time; alone it is fine. Every start and end is noted, to see who ran beside whom."""
    log = folder / f"{item}-{time.monotonic_ns()}"
    log.write_text("start")
    if item == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    (folder / f"{item}-{time.monotonic_ns()}").write_text("end")
    return item


def _slow_state(folder: Path) -> str:
    (folder / f"start-{os.getpid()}").write_text(str(time.monotonic()))
    time.sleep(4)
    (folder / f"end-{os.getpid()}").write_text(str(time.monotonic()))
    return "state"


def _large(state: str, item: str, ask: Ask) -> str:
    if item == "large":
        ask(MoreTime(20))
    time.sleep(0 if item == "small" else 2.5)
    return item


def _asks_late(state: str, item: str, ask: Ask) -> object:
    time.sleep(0.3 if item == "late" else 0)
    said = ask(item)
    time.sleep(0.3 if item == "late" else 0)
    return said


class ProtocolTests:
    """Every item gets exactly one outcome, whatever happens to the processes."""

    @pytest.mark.parametrize("workers", [1, 2])
    def test_each_item_has_one_outcome(self, run: Engine, alive: Alive, workers: int) -> None:
        items = ["a", "kill", "b", "raise", "c", "exit", "d", "awkward"]
        outcomes = sorted(run(_task, items, init=_state, workers=workers), key=lambda o: o.index)
        assert [o.index for o in outcomes] == list(range(len(items)))
        assert [o.item for o in outcomes] == items
        assert [o.kind for o in outcomes] == ["done", "crashed", "done", "raised", "done", "crashed", "done", "raised"]
        assert outcomes[0].value == "state a"
        assert "SIGKILL" in outcomes[1].message
        assert isinstance(outcomes[3].error, ValueError)
        assert outcomes[3].message == "ValueError: no such thing"
        assert "exit code 3" in outcomes[5].message
        assert "an error that pickle cannot rebuild" in outcomes[7].message
        assert alive() == 0

    def test_results_do_not_depend_on_the_number_of_workers(self, run: Engine) -> None:
        items = [f"sleep:{(i * 7) % 3 / 100}" for i in range(12)]
        answers = [
            [o.value for o in sorted(run(_task, items, init=_state, workers=n), key=lambda o: o.index)] for n in (1, 3)
        ]
        assert answers[0] == answers[1] == [f"state {i}" for i in items]

    def test_a_result_that_cannot_be_pickled_is_that_items_error(self, run: Engine) -> None:
        outcomes = list(run(_unpicklable, ["a", "b"], init=_state, workers=1))
        assert [o.kind for o in outcomes] == ["raised", "raised"]

    def test_an_item_is_tried_again_alone(self, run: Engine, tmp_path: Path) -> None:
        outcomes = list(run(partial(_dies_once, tmp_path), range(100), init=_state, workers=2))
        assert sorted(o.value for o in outcomes if o.value is not None) == list(range(100))
        notes = sorted(
            (int(stamp), int(item), path.read_text())
            for path in tmp_path.glob("*-*")
            for item, stamp in [path.name.split("-")]
        )
        tries = [i for i, (_, item, what) in enumerate(notes) if item == 3 and what == "start"]
        assert len(tries) == 2
        assert notes[tries[1] + 1][1:] == (3, "end"), "something ran beside the second try"

    def test_items_are_drawn_only_as_they_are_needed(self, run: Engine, alive: Alive) -> None:
        drawn = 0

        def items() -> Iterator[str]:
            nonlocal drawn
            for i in range(1000):
                drawn += 1
                yield str(i)

        outcomes = run(_task, items(), init=_state, workers=2)
        for _ in range(3):
            next(outcomes)
        assert drawn <= 3 + 2
        outcomes.close()
        assert alive() == 0

    def test_large_items_do_not_make_workers_start_one_after_another(self, run: Engine, tmp_path: Path) -> None:
        items = ["x" * 5_000_000] * 2
        outcomes = list(run(_task, items, init=partial(_slow_state, tmp_path), workers=2))
        assert [o.value for o in outcomes] == [f"state {i}" for i in items]
        times = {kind: [float(p.read_text()) for p in tmp_path.glob(f"{kind}-*")] for kind in ("start", "end")}
        assert len(times["start"]) == 2 and max(times["start"]) < min(times["end"])

    def test_no_items_no_processes(self, run: Engine) -> None:
        assert list(run(_task, [], init=_broken_state, workers=2)) == []

    def test_a_failing_init_stops_the_run(self, run: Engine, alive: Alive) -> None:
        with pytest.raises(ModelError, match="the digest is wrong"):
            list(run(_task, ["a", "b"], init=_broken_state, workers=2))
        assert alive() == 0

    def test_workers_that_die_while_starting_stop_the_run(self, run: Engine, alive: Alive) -> None:
        with pytest.raises(EngineError, match="exit code 7"):
            list(run(_task, ["a", "b"], init=_dying_state, workers=1))
        assert alive() == 0

    def test_one_failed_start_costs_nothing(self, run: Engine, tmp_path: Path) -> None:
        outcomes = list(run(_task, ["a", "b"], init=partial(_state_once_in_two, tmp_path), workers=1))
        assert [o.value for o in outcomes] == ["state a", "state b"]

    def test_an_exception_in_the_caller_leaves_no_process(self, run: Engine, alive: Alive) -> None:
        def consume() -> None:
            for _ in run(_task, ["a", "sleep:60"], init=_state, workers=2):
                raise KeyboardInterrupt

        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            consume()
        assert alive() == 0
        assert time.monotonic() - start < 30

    def test_at_least_one_worker(self, run: Engine) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            list(run(_task, ["a"], init=_state, workers=0))

    @pytest.mark.parametrize("workers", [1, 2])
    def test_an_item_that_hangs_costs_itself_alone(self, run: Engine, alive: Alive, workers: int) -> None:
        outcomes = sorted(
            run(_task, ["a", "sleep:60", "b"], init=_state, workers=workers, timeout=0.5), key=lambda o: o.index
        )
        assert [o.kind for o in outcomes] == ["done", "timed_out", "done"]
        assert outcomes[1].message == "the worker process was ended, twice (no result within 0.5 s)"
        assert alive() == 0

    def test_a_large_item_may_ask_for_more_time_for_itself_alone(self, run: Engine) -> None:
        outcomes = list(run(_large, ["large", "slow", "small"], init=_state, workers=1, timeout=1.0))
        assert [(o.item, o.kind) for o in sorted(outcomes, key=lambda o: o.index)] == [
            ("large", "done"),
            ("slow", "timed_out"),
            ("small", "done"),
        ]

    def test_who_waits_while_an_archive_is_read_is_not_late(self, run: Engine) -> None:
        def items() -> Iterator[str]:
            yield from ("late", "soon")
            time.sleep(3)
            yield "soon"

        asked: list[str] = []
        outcomes = run(
            _asks_late, items(), init=_state, workers=2, timeout=1, answer=lambda item, _: asked.append(item)
        )
        assert [o.kind for o in outcomes] == ["done"] * 3
        assert sorted(asked) == ["late", "soon", "soon"], "tried once each"

    def test_signs_of_life_are_no_results(self, run: Engine) -> None:
        """A worker beats while it hangs; its parent wakes up for that, and must look at the clock as well."""
        started = time.monotonic()
        items = ["sleep:60"]
        (outcome,) = run(_task, items, init=partial(_fast_beats, 0.01), workers=1, timeout=1)
        assert outcome.kind == "timed_out"
        assert time.monotonic() - started < 30

    def test_an_item_without_memory_is_tried_again_in_a_fresh_process(self, run: Engine) -> None:
        outcomes = sorted(run(_task, ["a", "memory", "b"], init=_state, workers=1), key=lambda o: o.index)
        assert [o.kind for o in outcomes] == ["done", "raised", "done"]
        assert isinstance(outcomes[1].error, MemoryError)

    def test_a_task_may_ask_and_the_question_outlives_it(self, run: Engine) -> None:
        answers = {"ask:1": "one", "ask-kill": None}
        items = ["ask:1", "ask-kill", "a"]
        outcomes = run(_task, items, init=_state, workers=1, answer=lambda item, question: answers[question])
        one, killed, plain = sorted(outcomes, key=lambda o: o.index)
        assert (one.value, one.asked) == ("state one", "ask:1")
        assert (killed.kind, killed.asked) == ("crashed", "ask-kill")
        assert plain.asked is None
