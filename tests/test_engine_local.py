"""The local engine: every item gets exactly one outcome, whatever happens to the processes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import Pipe, active_children
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine_protocol import Alive, ProtocolTests, _soon_orphaned, _state, _task
from faulty import forked, stopped

from jscan.engine import Ask, Engine
from jscan.engine import local as engine
from jscan.engine.local import run as local_run
from jscan.engine.process import ends_with
from jscan.errors import EngineError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tests kill with POSIX signals")


@pytest.fixture
def run() -> Engine:
    return local_run


@pytest.fixture
def alive() -> Alive:
    return lambda: len(active_children())


class TestProtocol(ProtocolTests):
    pass


class TestProtocolOfWorkersStartedEarly(ProtocolTests):
    @pytest.fixture(autouse=True)
    def _early(self) -> Iterator[None]:
        with engine.started_early(2, "json"):
            yield


def _has_imported(state: str, item: str, ask: Ask) -> bool:
    return "colorsys" in sys.modules


def test_workers_started_early_have_imported_what_they_will_want() -> None:
    with engine.started_early(1, "colorsys"):
        outcomes = local_run(_has_imported, "abcd", init=_state, workers=1)
        assert [o.value for o in outcomes] == [True] * 4
        assert [o.value for o in local_run(_has_imported, "ab", init=_state, workers=1)] == [False] * 2


def _is_warm(state: str, item: str, ask: Ask) -> tuple[bool, bool, int]:
    return "jscan.scan" in sys.modules, "numba" in sys.modules, gc.get_threshold()[0]


def test_a_warm_worker_has_what_scans_and_no_compiler() -> None:
    import jscan.warm  # noqa: F401 - so that the loop that it calls is kept

    with engine.started_early(1, "jscan.warm"):
        (outcome,) = local_run(_is_warm, ["a"], init=_state, workers=1)
    assert outcome.value == (True, False, 50_000)


def test_who_was_started_early_and_is_not_wanted_ends() -> None:
    with engine.started_early(3, "colorsys"):
        early = [process.pid or 0 for process in active_children()]
        assert len(early) == 3
        assert [o.value for o in local_run(_has_imported, ["a"], init=_state, workers=1)] == [True]
    assert not active_children() and not any(map(_alive, early))


def test_those_of_a_context_around_count() -> None:
    with engine.started_early(2, "colorsys"):
        with engine.started_early(3, "colorsys"):
            assert len(active_children()) == 3
        assert not active_children()
        with engine.started_early(1, "colorsys"), engine.started_early(1, "colorsys"):
            assert len(active_children()) == 1


def test_who_was_started_early_and_died_costs_nothing() -> None:
    with engine.started_early(2, "colorsys"):
        for process in active_children():
            process.kill()
        outcomes = sorted(local_run(_has_imported, "abcd", init=_state, workers=2), key=lambda o: o.index)
        assert [o.value for o in outcomes] == [False] * 4
    assert not active_children()


def test_workers_that_are_killed_while_they_are_idle_cost_nothing() -> None:
    def items() -> Iterator[str]:
        yield from "ab"
        time.sleep(1)  # both are idle by then
        for process in active_children():
            process.kill()
        yield from "cd"

    outcomes = sorted(local_run(_task, items(), init=_state, workers=2), key=lambda o: o.index)
    assert [o.value for o in outcomes] == [f"state {i}" for i in "abcd"]
    assert not active_children()


class Clock:
    """The engine's clock, which can be put forward; what runs in the workers does not notice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + self.ahead))


def _until(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def _meanwhile(folder: Path, state: str, item: str, ask: Ask) -> None:
    """`works` is at work while the others bring their outcomes and ask, and ends when it is told that they have."""
    (folder / f"{item}-{time.monotonic_ns()}").touch()
    if item == "works":
        _until(folder / "enough")
        return
    while not list(folder.glob("works-*")):
        time.sleep(0.01)
    if item == "asks":
        ask("first")
        ask("second")  # is answered after all workers were looked at
    elif item == "raises":
        raise ValueError("no such thing")


@pytest.mark.parametrize("pause", ["asks", "is done", "raises"])
def test_time_in_which_the_caller_is_busy_counts_against_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: str
) -> None:
    """While it answers, and while it has an outcome in hand; else `works` would be tried again, and be noted twice."""
    clock = Clock(monkeypatch)

    def answer(item: str, question: str) -> None:
        if question == "second":
            (tmp_path / "enough").touch()
        elif pause == "asks":
            clock.ahead += 1000

    items = ["works", "asks"] if pause == "asks" else ["works", pause, "asks"]
    task = partial(_meanwhile, tmp_path)
    for outcome in local_run(task, items, init=_state, workers=2, timeout=600, answer=answer):
        if outcome.item == pause != "asks":
            clock.ahead += 1000
    assert len(list(tmp_path.glob("works-*"))) == 1


def _waits(folder: Path, state: str, item: str, ask: Ask) -> None:
    (folder / f"{os.getpid()}.pid").touch()
    _until(folder / "on")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a timer ends workers, and it runs on")
def test_being_stopped_for_longer_than_an_item_may_take_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-Z, say, with the parent, for which its clock stands still here."""
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: 0.0))
    with stopped(tmp_path, 2):
        (outcome,) = local_run(partial(_waits, tmp_path), "a", init=_soon_orphaned, workers=1, timeout=1)
    assert outcome.kind == "done" and len(list(tmp_path.glob("*.pid"))) == 1


def test_a_stop_a_little_longer_than_the_timeout_counts_against_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent is stopped, with its workers, while it waits for them."""
    clock = Clock(monkeypatch)

    def stopped_once(pipes: list[Connection], seconds: float) -> list[object]:
        if list(tmp_path.glob("*.pid")):
            if not clock.ahead:
                clock.ahead = 9.0
                return []
            (tmp_path / "on").touch()
        return wait(pipes, seconds)

    monkeypatch.setattr(engine, "wait", stopped_once)
    (outcome,) = local_run(partial(_waits, tmp_path), "a", init=_state, workers=1, timeout=8)
    assert outcome.kind == "done" and len(list(tmp_path.glob("*.pid"))) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody dies of the signal")
def test_who_was_let_go_of_before_it_said_so_ends() -> None:
    neck, leash = Pipe(duplex=False)
    leash.close()
    assert os.waitstatus_to_exitcode(forked(lambda: ends_with(neck))) == 1


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from engine_protocol import _task, _state
from jscan.engine.local import run, started_early
if __name__ == "__main__":
    try:
        with started_early({early}, "slow"):
            if {early}:
                print("imports", flush=True)
            for outcome in run(_task, ["a"] + ["sleep:60"] * 4, init=_state, workers=2):
                print("first", flush=True)
    except KeyboardInterrupt:
        from multiprocessing import active_children
        print("stopped", len(active_children()), flush=True)
        sys.exit(130)
"""


@pytest.mark.parametrize("when", ["it works", "it imports", "all have imported"])
def test_ctrl_c_stops_everything_without_a_traceback(tmp_path: Path, when: str) -> None:
    """Also where workers were started early, and are still importing what they will want."""
    script = tmp_path / "main.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), early=2 * (when != "it works")))
    (tmp_path / "slow.py").write_text(f"import time\ntime.sleep({3 if when == 'it imports' else 0})\n")
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), str(tmp_path)])},
    )
    assert process.stdout is not None
    for line in {"it works": ("first",), "it imports": ("imports",)}.get(when, ("imports", "first")):
        assert process.stdout.readline() == line + "\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "stopped 0\n"
    assert err == ""


def test_a_worker_that_gives_no_sign_of_life_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SILENT_SECONDS", 0.5)
    (outcome,) = local_run(_task, ["stop"], init=_state, workers=1, timeout=600)
    assert outcome.kind == "timed_out"
    assert "no sign of life" in outcome.message
    assert not active_children()


def test_a_worker_that_never_starts_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "START_SECONDS", 0.2)
    with pytest.raises(EngineError, match="no start"):
        list(local_run(_task, ["a"], init=partial(time.sleep, 60), workers=1, timeout=1))
    assert not active_children()


ORPHANS = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from engine_protocol import _task, _soon_orphaned
from jscan.engine import local
local.BEAT_SECONDS = 0.2
if not {leash}:
    local.ends_with = lambda leash: False
if __name__ == "__main__":
    with local.started_early(int({early}), "json"):
        outcomes = local.run(_task, ["a", {item!r}], init=_soon_orphaned, workers=1, timeout={timeout})
        next(outcomes)
        from multiprocessing import active_children
        print(active_children()[0].pid, flush=True)
        next(outcomes)
"""


TOLD_AGAIN = """
import threading, time
from jscan.engine.process import leaving_on_sigterm
threading.Thread(target=time.sleep, args=(2,)).start()  # the interpreter waits for it when it ends
with leaving_on_sigterm():
    try:
        print("works", flush=True)
        time.sleep(60)
    finally:
        print("leaves", flush=True)
        time.sleep(0.5)
        print("left", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_being_told_to_stop_again_breaks_nothing_off() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TOLD_AGAIN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert process.stdout is not None
    for said in ("works", "leaves", "left"):
        assert process.stdout.readline() == said + "\n"
        if said == "left":
            time.sleep(0.2)  # in the interpreter's own end
        process.terminate()
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("item", "timeout", "leash"),
    [("sleep:60", None, True), ("hang", None, True), ("sleep:60", None, False), ("hang", 4.0, False)],
)
def test_workers_do_not_outlive_a_killed_parent(
    tmp_path: Path, item: str, timeout: float | None, leash: bool, early: bool
) -> None:
    """Nor does one that a C library holds in its grip, whose threads cannot run: the system ends it.

    Where the system cannot look for the parent, `leash`, it is ended by its beats or by a timer.
    """
    if leash and sys.platform != "linux":
        pytest.skip("only Linux ends a process that nobody holds any more")
    script = tmp_path / "main.py"
    given = {"item": item, "timeout": timeout, "leash": leash, "early": early}
    script.write_text(ORPHANS.format(tests=str(Path(__file__).parent), **given))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    time.sleep(0.5)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _alive(worker):
        time.sleep(0.1)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
