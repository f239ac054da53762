"""Archives read in a process of their own: the same references, and a reader that dies or hangs costs its archive."""

from __future__ import annotations

import gzip
import os
import sys
import time
from collections.abc import Generator
from multiprocessing import active_children
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_scanner
import pytest
from fake_scanner import make_inputs
from faulty import broken_reader, scan_of, stopped
from packing import tar_of, zip_of

import jscan.engine.stream
import jscan.run
from jscan.config import ScanConfig
from jscan.discover import discover
from jscan.engine.stream import LostError, Stream
from jscan.errors import EngineError, ModelError
from jscan.run import run_scan
from jscan.unpack import Unpacker
from jscan.verify import verify

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills with POSIX signals")

FILES = {f"m{i}": b"ok 0.%d" % (i + 1) for i in range(5)}


def test_the_same_references_as_in_this_process(tmp_path: Path) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.9")
    inner = tar_of({"deep": b"ok 0.8", "large": bytes(3_000_000)})
    (folder / "b.zip").write_bytes(zip_of({**FILES, "in.tar": inner}))
    (folder / "c.tgz").write_bytes(gzip.compress(tar_of(FILES)))
    (folder / "d.gz").write_bytes(gzip.compress(b"no tar"))
    (folder / "e.zip").write_bytes((folder / "b.zip").read_bytes()[:700])
    here = list(discover([folder], wanted=lambda ref: ref.member != 2))
    unpacker = Unpacker(60)
    try:
        there = list(discover([folder], wanted=lambda ref: ref.member != 2, read=unpacker))
    finally:
        unpacker.close()
    assert there == here and len(here) > 15
    facts = [(r.content, r.evidence, r.archive, r.touched, r.refused) for r in here]
    assert [(r.content, r.evidence, r.archive, r.touched, r.refused) for r in there] == facts
    assert not active_children()


def test_a_reader_that_dies_or_hangs_costs_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", fake_scanner.open_fake)
    folder = make_inputs(tmp_path / "in", a="ok 0.9", z="ok 0.3")
    names = ("hang", "kill", "memory", "once", "raise", "sound")
    for number, name in enumerate(names):
        (folder / f"{name}.tgz").write_bytes(
            gzip.compress(tar_of({n: b"%s%d" % (v, number) for n, v in FILES.items()}))
        )
    out = tmp_path / "r.parquet"
    unpacker = Unpacker(2.0, reader=broken_reader)
    try:
        config = ScanConfig(sources=(folder,), out=out, workers=1, exclude=("*.died",))
        run_scan(config, read=unpacker)
    finally:
        unpacker.close()
    rows = {Path(r.path).name: r for r in scan_of(out)}
    codes = {name: rows[f"{name}.tgz"].error_code for name in names}
    assert codes == {
        "hang": "timeout", "kill": "worker_crash", "memory": "internal", "once": "archive", "raise": "internal",
        "sound": "archive",
    }  # fmt: skip
    assert "died, twice (killed by SIGSEGV)" in (rows["kill.tgz"].error or "")
    assert "no sign of life for 2 s" in (rows["hang.tgz"].error or "")
    assert "MemoryError" in (rows["memory.tgz"].error or "")
    for name in names:
        there = [i for i in range(5) if f"{name}.tgz!m{i}" in rows]
        assert there == ([0, 1, 2, 3, 4] if name in ("once", "sound") else [0, 1]), name
        assert all(rows[f"{name}.tgz!m{i}"].status == "ok" for i in there), name
    assert rows["a.jpg"].status == rows["z.jpg"].status == "ok"
    assert verify(out).troubles == []
    assert not active_children()


def test_a_second_reading_gives_no_reference_again(tmp_path: Path) -> None:
    """The results would not show it, for an input that is met twice has one row; but it counts towards `--limit`."""
    archive = tmp_path / "once.tgz"
    archive.write_bytes(gzip.compress(tar_of(FILES)))
    here = list(discover([archive]))
    unpacker = Unpacker(60, reader=broken_reader)
    try:
        there = list(discover([archive], read=unpacker))
    finally:
        unpacker.close()
    assert (tmp_path / "once.tgz.died").exists()
    assert there == here and [r.content for r in there] == [r.content for r in here]


def _slow(request: Any, ask: Any, alive: Any) -> Generator[Any, None, str]:
    until = time.monotonic() + request
    while time.monotonic() < until:
        time.sleep(0.05)
        alive()
    answer = ask("how")
    yield answer, b"x" * 1_000_000
    return "end"


def _all(stream: Stream, request: Any) -> tuple[list[Any], Any]:
    pieces = []
    running = stream.run(request, lambda question: f"{question}?")
    while True:
        try:
            pieces.append(next(running))
        except StopIteration as end:
            return pieces, end.value


def test_who_works_long_is_not_late_and_who_waits_is_not_either() -> None:
    with Stream(_slow, init=dict, timeout=4) as stream:
        assert _all(stream, 8) == ([("how?", b"x" * 1_000_000)], "end")
        running = stream.run(0, lambda question: question)
        time.sleep(5)  # nobody draws: the child is not to blame
        assert next(running) == ("how", b"x" * 1_000_000)
        running.close()
        assert not active_children(), "what is left in the middle is ended"
        assert _all(stream, 0)[1] == "end"
    assert not active_children()


def _soon_orphaned() -> None:
    jscan.engine.stream.ORPHAN_SECONDS = 0.5


def _waits(request: Path, ask: Any, alive: Any) -> Generator[Any, None, str]:
    (request / f"{os.getpid()}.pid").touch()
    while not (request / "on").exists():
        time.sleep(0.01)
    yield "on", None
    return "end"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a timer ends the child, and it runs on")
def test_a_child_that_was_stopped_for_long_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-Z, say, with the parent, for which its clock stands still here."""
    monkeypatch.setattr(jscan.engine.stream, "time", SimpleNamespace(monotonic=lambda: 0.0))
    with stopped(tmp_path, 2), Stream(_waits, init=_soon_orphaned, timeout=1) as stream:
        assert _all(stream, tmp_path) == ([("on", None)], "end")


def test_a_parent_that_was_stopped_for_long_goes_on_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears nothing in its first look, during which a thousand seconds pass."""
    ahead, poll = [0.0], Connection.poll

    def stopped_once(self: Connection, timeout: float | None = 0.0) -> bool:
        if ahead[0]:
            return poll(self, timeout)
        ahead[0] = 1000.0
        return False

    with Stream(_slow, init=dict, timeout=60) as stream:
        _all(stream, 0)
        monkeypatch.setattr(jscan.engine.stream, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))
        monkeypatch.setattr(Connection, "poll", stopped_once)
        assert _all(stream, 0)[1] == "end"
        assert ahead[0]


def _broken() -> None:
    raise ModelError("no start")


def test_a_process_that_does_not_start_stops_the_run() -> None:
    with Stream(_slow, init=_broken, timeout=4) as stream, pytest.raises(EngineError, match="no start"):
        _all(stream, 0)
    assert not active_children()


def _unpicklable(request: Any, ask: Any, alive: Any) -> Generator[Any, None, None]:
    yield (lambda: request), None


def test_what_cannot_be_sent_is_an_error() -> None:
    with Stream(_unpicklable, init=dict, timeout=60) as stream, pytest.raises(LostError) as caught:
        _all(stream, 0)
    assert caught.value.kind == "raised"
