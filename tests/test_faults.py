"""Faults: whatever ends a run, the same command goes on, and the results are those of an unbroken run."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import fake_scanner
import numpy as np
import pytest
from fake_scanner import make_inputs
from faulty import Killer, forked, in_this_process, scan_of
from material import file_of, photo
from packing import tar_of, zip_of
from results import read_results

import jscan.journal
import jscan.run
from jscan import members, parquet
from jscan.archives import Entry
from jscan.config import ScanConfig
from jscan.errors import OutputError, UsageError
from jscan.records import ScanRecord
from jscan.run import RunSummary, Silent, run_scan
from jscan.verify import verify

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills with POSIX signals")

ROOT = Path(__file__).parent.parent
CONTENTS = {"a": "ok 0.9", "b": "ok 0.2", "c": "skipped", "d": "ok 0.9", "e": "error", "f": "ok 0.4", "g": "ok 0.2"}


@pytest.fixture
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", fake_scanner.open_fake)
    monkeypatch.setattr(jscan.run, "SHARD_ROWS", 2)


def scan(base: Path, **options: Any) -> RunSummary:
    """Scans `base/in` to `base/out/r.parquet`."""
    (base / "out").mkdir(exist_ok=True)
    progress, engine = options.pop("progress", None), options.pop("engine", None)
    read = options.pop("read", members.read_archive if engine is in_this_process else None)
    given: dict[str, Any] = {"sources": (base / "in",), "out": base / "out" / "r.parquet", "workers": 1} | options
    return run_scan(ScanConfig(**given), progress=progress, engine=engine, read=read)


def results(base: Path) -> list[ScanRecord]:
    """The rows, without what differs from run to run: timings, and when something was missed."""
    rows = scan_of(base / "out" / "r.parquet")
    return [replace(r, vanished=r.vanished and r.vanished.replace(2000, 1, 1, 0, 0, 0, 0)) for r in rows]


def journal(base: Path) -> list[str]:
    """What lies in the folder of an unfinished run."""
    folder = base / "out" / "r.parquet.run"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def assert_whole(base: Path, expected: list[ScanRecord]) -> None:
    """The results are these, nothing is wrong with them, and nothing else is left."""
    assert results(base) == expected
    assert verify(base / "out" / "r.parquet").troubles == []
    assert sorted(p.name for p in (base / "out").iterdir()) == ["r.parquet", "r.parquet.manifest.json"]


# --- killed at every step ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_fake")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("update", [False, True])
def test_a_run_killed_at_any_step_goes_on(tmp_path: Path, update: bool) -> None:
    """SIGKILL before and after every call that changes the disk, then the same command again."""
    make_inputs(tmp_path / "in", **CONTENTS)
    options: dict[str, Any] = {"engine": in_this_process, "maps": tmp_path / "maps", "update": update}
    (tmp_path / "before").mkdir()
    (tmp_path / "maps").mkdir()
    if update:
        scan(tmp_path, **options)
        (tmp_path / "before").rmdir()
        (tmp_path / "out").rename(tmp_path / "before")
        make_inputs(tmp_path / "in", b="ok 0.3", h="ok 0.4", i="ok 0.5", j="ok 0.9")
        (tmp_path / "in" / "a.jpg").unlink()

    shutil.copytree(tmp_path / "maps", tmp_path / "maps-before")

    def anew() -> None:
        for name, before in (("out", "before"), ("maps", "maps-before")):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            shutil.copytree(tmp_path / before, tmp_path / name)

    def count() -> None:
        killer = Killer(None)
        scan(tmp_path, **options)
        (tmp_path / "steps").write_text(str(killer.count))

    anew()
    assert forked(count) == 0
    steps = int((tmp_path / "steps").read_text())
    expected = results(tmp_path)
    maps = sorted(os.listdir(tmp_path / "maps"))
    assert steps > 40
    for at in range(1, steps + 1):
        anew()

        def killed(at: int = at) -> None:
            Killer(at)
            scan(tmp_path, **options)

        status = forked(killed)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"step {at} of {steps}"
        there = _committed(tmp_path)
        for shard in (tmp_path / "out" / "r.parquet.run").glob("0*.parquet"):
            for row in read_results(shard):
                assert row.status != "ok" or (tmp_path / "maps" / f"{row.sha256}.npz").exists(), "a row before its maps"
        done = (tmp_path / "out" / "r.parquet.manifest.json").exists() and not update and not there
        if done and verify(tmp_path / "out" / "r.parquet").count == 0:
            # Only the empty folder of the run was still to be removed.
            with pytest.raises(OutputError, match="exists already"):
                scan(tmp_path, **options)
        else:
            run = scan(tmp_path, **options)
            assert run.scanned <= len(expected) - there, f"step {at} of {steps}: computed again what was finished"
        assert [n for n in sorted(os.listdir(tmp_path / "maps")) if not n.endswith(".tmp")] == maps, f"step {at}"
        if at % 5:
            assert results(tmp_path) == expected, f"step {at} of {steps}"
        else:
            assert_whole(tmp_path, expected)


def _committed(base: Path) -> int:
    """Rows in whole shards. Copies are left out: they are read again where what they copy was not committed."""
    count = 0
    for name in journal(base):
        if name.endswith(".parquet") and not name.startswith("."):
            with parquet.reader(base / "out" / "r.parquet.run" / name) as stored:
                count += stored.read(columns=[parquet.COPY])[parquet.COPY].to_pylist().count(False)
    return count


# --- archives ---------------------------------------------------------------------------------------------------------


def make_archives(folder: Path) -> None:
    """A file, and archives that hold it again, members of one name, one that is refused, and archives."""
    make_inputs(folder, a="ok 0.9", z="ok 0.3")
    inner = tar_of({"deep": b"ok 0.8", "again": b"ok 0.9"})
    packed = zip_of({"m": b"ok 0.9", "dup-1": b"error", "in.tar": inner, "dup-2": b"error"})
    (folder / "b.zip").write_bytes(packed.replace(b"dup-1", b"dup-0").replace(b"dup-2", b"dup-0"))
    (folder / "c.tgz").write_bytes(gzip.compress(tar_of({f"t{i}": b"ok 0.%d" % i for i in range(5)}), mtime=0))
    (folder / "d.zip").write_bytes((folder / "b.zip").read_bytes())


@pytest.mark.usefixtures("_fake")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_over_archives_goes_on(tmp_path: Path) -> None:
    """Killed at every third step; what is finished is neither estimated nor handed out again."""
    make_archives(tmp_path / "in")
    scan(tmp_path, engine=in_this_process)
    expected = results(tmp_path)
    paths = [Path(r.path).name for r in expected]
    assert len(expected) == 22 and paths.count("b.zip!dup-0") == 2
    same = {Path(r.path).name: Path(r.duplicate_of).name for r in expected if r.duplicate_of}
    assert same["b.zip!m"] == "a.jpg" and same["d.zip"] == "b.zip" and same["d.zip!in.tar"] == "b.zip!in.tar"
    steps = 0
    for at in range(1, 1000, 3):
        shutil.rmtree(tmp_path / "out")

        def killed(at: int = at) -> None:
            Killer(at)
            scan(tmp_path, engine=in_this_process)

        if os.WIFEXITED(forked(killed)):
            break
        steps += 1
        there = _committed(tmp_path)
        if (tmp_path / "out" / "r.parquet").exists() and not there:
            continue
        run = scan(tmp_path, engine=in_this_process)
        assert run.scanned <= len(expected) - there, f"step {at}: computed again what was finished"
        assert_whole(tmp_path, expected)
    assert steps > 20
    assert verify(tmp_path / "out" / "r.parquet", source=True, engine=in_this_process).troubles == []


@pytest.mark.usefixtures("_fake")
def test_finished_members_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(zip_of({f"m{i}": b"ok 0.%d" % i for i in range(7)}))
    with pytest.raises(KeyboardInterrupt):
        scan(tmp_path, engine=in_this_process, progress=Interrupts(5, signal.SIGINT))
    read: list[bytes] = []
    init = members._Intake.__init__

    def counted(self: members._Intake, entry: Entry, room: int) -> None:
        init(self, entry, room)
        whole = self.all

        def all_of_it() -> bytes:
            read.append(entry.name)
            return whole()

        monkeypatch.setattr(self, "all", all_of_it)

    monkeypatch.setattr(members._Intake, "__init__", counted)
    assert scan(tmp_path, engine=in_this_process).scanned == 3
    assert sorted(set(read)) == [b"m5", b"m6"]


@pytest.mark.usefixtures("_fake")
def test_an_update_after_an_archive_changed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make_archives(folder)
    scan(tmp_path, engine=in_this_process)
    before = results(tmp_path)
    run = scan(tmp_path, engine=in_this_process, update=True)
    assert (run.scanned, run.vanished, results(tmp_path)) == (0, 0, before)
    (folder / "b.zip").write_bytes(zip_of({"m": b"ok 0.9", "new": b"ok 0.7"}))
    (folder / "c.tgz").unlink()
    run = scan(tmp_path, engine=in_this_process, update=True)
    assert (run.scanned, run.rows) == (3, 2 + 7 + 3), "the archive and its members"
    found = {Path(r.path).name: r for r in results(tmp_path) if r.vanished is None}
    gone = {Path(r.path).name for r in results(tmp_path) if r.vanished is not None}
    assert gone == {"c.tgz", *(f"c.tgz!t{i}" for i in range(5)), "b.zip!dup-0", "b.zip!in.tar", "b.zip!in.tar!deep",
                    "b.zip!in.tar!again"}  # fmt: skip
    assert found["b.zip!m"].container_sha256 == found["b.zip"].sha256 != found["d.zip"].sha256
    assert verify(tmp_path / "out" / "r.parquet", source=True, engine=in_this_process).troubles == []
    (folder / "d.zip").write_bytes(b"PK\x03\x04 not it")
    report = verify(tmp_path / "out" / "r.parquet", source=True, engine=in_this_process)
    assert [(t.kind, Path(t.where).name) for t in report.troubles] == [("source", "d.zip")]


@pytest.mark.usefixtures("_fake")
def test_an_archive_that_changed_before_its_run_went_on(tmp_path: Path) -> None:
    """Rows say by digest which archive they were read from; an update does not take them for those of the new one."""
    (tmp_path / "in").mkdir()
    archive = tmp_path / "in" / "a.zip"
    archive.write_bytes(zip_of({f"m{i}": b"ok 0.1%d" % i for i in range(4)}))
    with pytest.raises(KeyboardInterrupt):
        scan(tmp_path, engine=in_this_process, progress=Interrupts(2, signal.SIGINT))
    archive.write_bytes(zip_of({f"m{i}": b"ok 0.2%d" % i for i in range(5)}))
    assert scan(tmp_path, engine=in_this_process).rows == 6
    report = verify(tmp_path / "out" / "r.parquet", source=True, engine=in_this_process)
    assert {t.kind for t in report.troubles} == {"source"} and report.count <= 2
    run = scan(tmp_path, engine=in_this_process, update=True)
    assert 1 <= run.scanned <= 2
    assert [round(r.score or 0, 2) for r in results(tmp_path)] == [0, 0.2, 0.21, 0.22, 0.23, 0.24]
    assert verify(tmp_path / "out" / "r.parquet", source=True, engine=in_this_process).troubles == []


@pytest.mark.usefixtures("_fake")
def test_a_list_that_is_another_one_when_the_run_goes_on(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", **CONTENTS)
    listed = tmp_path / "list"
    options: dict[str, Any] = {"sources": (), "files_from": listed, "engine": in_this_process}
    listed.write_text("".join(f"{tmp_path / 'in' / n}.jpg\n" for n in "abcdf"))
    with pytest.raises(KeyboardInterrupt):
        scan(tmp_path, **options, progress=Interrupts(4, signal.SIGINT))
    with pytest.raises(UsageError, match="--null was False and is True"):
        scan(tmp_path, **options, null=True)
    listed.write_text("".join(f"{tmp_path / 'in' / n}.jpg\n" for n in "befg"))
    scan(tmp_path, **options)
    assert [Path(r.path).stem for r in results(tmp_path)] == ["b", "e", "f", "g"]
    assert_whole(tmp_path, results(tmp_path))


# --- interrupted ------------------------------------------------------------------------------------------------------


class Interrupts(Silent):
    """A Progress that interrupts the run after so many rows."""

    def __init__(self, after: int, number: signal.Signals) -> None:
        self._left = after
        self._number = number

    def row(self, record: ScanRecord) -> None:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(self._number)


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [1, 2, 5, 7])
def test_an_interrupted_run_goes_on(tmp_path: Path, number: signal.Signals, after: int) -> None:
    def interrupt(*_: object) -> None:  # as the command line does for SIGTERM
        raise KeyboardInterrupt

    make_inputs(tmp_path / "in", **CONTENTS)
    scan(tmp_path, engine=in_this_process)
    expected = results(tmp_path)
    shutil.rmtree(tmp_path / "out")
    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            scan(tmp_path, engine=in_this_process, progress=Interrupts(after, number))
    finally:
        signal.signal(number, before)
    assert not (tmp_path / "out" / "r.parquet").exists()
    run = scan(tmp_path, engine=in_this_process)
    assert run.scanned in (7 - after, 7 - after + 1), "at most the copies are read again"
    assert_whole(tmp_path, expected)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import fake_scanner, jscan.run, jscan.worker
from jscan.cli import main
jscan.run.SHARD_ROWS = 2
jscan.run.open_in_worker = jscan.worker.open_scanner = fake_scanner.open_fake
if __name__ == "__main__":
    main()
"""


def command(base: Path, *options: str) -> list[str]:
    """`jscan scan base/in --out base/out/r.parquet`, with a fake scanner."""
    (base / "out").mkdir(exist_ok=True)
    script = base / "main.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests")))
    arguments = ["scan", str(base / "in"), "-o", str(base / "out" / "r.parquet"), "--workers", "2", "-q", *options]
    return [sys.executable, str(script), *arguments]


@pytest.mark.usefixtures("_fake")
def test_processes_killed_and_a_second_run_meanwhile(tmp_path: Path) -> None:
    """The whole of it in real processes: a second start is refused at once; SIGKILL; the same command goes on."""
    make_inputs(tmp_path / "in", **CONTENTS, slow="slow 120")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command(tmp_path), env=environment)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len([n for n in journal(tmp_path) if n.startswith("0")]) < 3:
        time.sleep(0.05)
    second = subprocess.run(command(tmp_path), env=environment, capture_output=True, text=True, timeout=60)
    assert second.returncode == 11
    assert "another run is writing" in second.stderr
    first.kill()
    first.wait()
    shards = [n for n in journal(tmp_path) if n.startswith("0")]
    assert len(shards) >= 3
    (tmp_path / "in" / "slow.jpg").write_text("slow 0")
    assert subprocess.run(command(tmp_path), env=environment, timeout=60).returncode == 3, "3: there is an error row"
    found = results(tmp_path)
    shutil.rmtree(tmp_path / "out")
    scan(tmp_path, engine=in_this_process)
    assert_whole(tmp_path, found)


# --- the disk ---------------------------------------------------------------------------------------------------------


def mounted_small(place: Path) -> bool:
    """Whether a file system of 1 MB is mounted there."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "jscan-test", str(place)]
    return bool(shutil.which("mount")) and not subprocess.run(command, capture_output=True, check=False).returncode


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "out"
    disk.mkdir()
    if not mounted_small(disk):
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("room", [0, 4, 24, 60, 100])
def test_a_full_disk_costs_nothing_that_is_finished(tmp_path: Path, small_disk: Path, room: int) -> None:
    make_inputs(tmp_path / "in", **CONTENTS)
    scan(tmp_path, engine=in_this_process)
    expected = results(tmp_path)
    for path in small_disk.iterdir():
        path.unlink()
    filler = small_disk / "filler"
    free = os.statvfs(small_disk)
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 1024 * room))
    with pytest.raises(OutputError) as caught:
        scan(tmp_path, engine=in_this_process)
    assert caught.value.exit_code == 12
    for name in journal(tmp_path):
        assert name == "lock" or read_results(small_disk / "r.parquet.run" / name), "a half file with a name"
    assert not (small_disk / "r.parquet").exists()
    there = _committed(tmp_path)
    filler.unlink()
    assert scan(tmp_path, engine=in_this_process).scanned <= 7 - there
    assert_whole(tmp_path, expected)


@pytest.mark.usefixtures("_fake")
def test_a_full_disk_of_the_maps_costs_nothing_that_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot write stops the run; no row stands without its maps."""
    disk = tmp_path / "maps"
    disk.mkdir()
    if not mounted_small(disk):
        pytest.skip("no file system can be mounted here")
    try:
        make_inputs(tmp_path / "in", **CONTENTS)
        scan(tmp_path, maps=tmp_path / "elsewhere")
        expected, each = results(tmp_path), max(p.stat().st_size for p in (tmp_path / "elsewhere").iterdir())
        shutil.rmtree(tmp_path / "out")
        free = os.statvfs(disk)
        pages = -(-each // free.f_frsize)
        (disk / "filler").write_bytes(bytes((free.f_bavail - 2 * pages) * free.f_frsize))  # room for two
        with pytest.raises(OutputError, match=r"maps/\w+\.npz could not be written: No space left") as caught:
            scan(tmp_path, maps=disk)
        assert caught.value.exit_code == 12
        assert not (tmp_path / "out" / "r.parquet").exists()
        assert not [n for n in os.listdir(disk) if n.endswith(".tmp")]
        there = _committed(tmp_path)
        (disk / "filler").unlink()
        assert scan(tmp_path, maps=disk).scanned <= 7 - there
        assert_whole(tmp_path, expected)
        assert len(list(disk.glob("*.npz"))) == len(list((tmp_path / "elsewhere").iterdir()))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def interrupted(base: Path) -> list[ScanRecord]:
    """The rows of an unbroken run, and an unfinished run whose shards hold seven inputs."""
    make_inputs(base / "in", **CONTENTS)
    scan(base, engine=in_this_process)
    expected = results(base)
    shutil.rmtree(base / "out")
    with pytest.raises(KeyboardInterrupt):
        scan(base, engine=in_this_process, progress=Interrupts(7, signal.SIGINT))
    return expected


SHARD = Path("out", "r.parquet.run", "00000001.parquet")


@pytest.mark.usefixtures("_fake")
def test_a_torn_shard_is_scanned_again(tmp_path: Path) -> None:
    expected = interrupted(tmp_path)
    (tmp_path / SHARD).write_bytes((tmp_path / SHARD).read_bytes()[:-9])
    assert 1 <= scan(tmp_path, engine=in_this_process).scanned <= 3
    assert_whole(tmp_path, expected)


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("column", ["path", "path_bytes", "status", "score", "reasons", "models", "regions", "copy"])
def test_a_shard_with_a_damaged_page_is_scanned_again(tmp_path: Path, column: str) -> None:
    """Its footer is whole, and says where the page lies; the page's checksum does not fit."""
    expected = interrupted(tmp_path)
    with parquet.reader(tmp_path / SHARD) as stored:
        group = stored.metadata.row_group(0)
        chunks = [group.column(i) for i in range(group.num_columns)]
    chunk = next(c for c in chunks if c.path_in_schema.split(".")[0] == column)
    data = bytearray((tmp_path / SHARD).read_bytes())
    begin = chunk.data_page_offset if chunk.dictionary_page_offset is None else chunk.dictionary_page_offset
    data[begin + chunk.total_compressed_size - 1] ^= 1
    (tmp_path / SHARD).write_bytes(data)
    assert 1 <= scan(tmp_path, engine=in_this_process).scanned <= 3
    assert_whole(tmp_path, expected)


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("name", [b"run_id", b'"CPU"', b"max_pixels"])
def test_a_shard_whose_footer_says_something_else_is_scanned_again(tmp_path: Path, name: bytes) -> None:
    """It would pass for a shard of another run, which is refused."""
    expected = interrupted(tmp_path)
    data = bytearray((tmp_path / SHARD).read_bytes())
    data[data.rindex(name) + 1] ^= 1
    (tmp_path / SHARD).write_bytes(data)
    assert 1 <= scan(tmp_path, engine=in_this_process).scanned <= 3
    assert_whole(tmp_path, expected)


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("name", ["00000000.parquet", "00000001.parquet"])
@pytest.mark.parametrize("good", [0, 1])
def test_a_shard_that_cannot_be_read_for_the_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, good: int
) -> None:
    """The system fails where footers are read, or, after one `good` reading, where rows are."""
    expected = interrupted(tmp_path)
    left, real, read = journal(tmp_path), Path.read_bytes, 0

    def stale(self: Path) -> bytes:
        nonlocal read
        read += self.name == name
        if self.name == name and read > good:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", stale)
        with pytest.raises(OutputError, match=f"{name} cannot be read: Stale file handle; .*--restart") as caught:
            scan(tmp_path, engine=in_this_process)
        assert caught.value.exit_code == 12
        assert journal(tmp_path) == left
    assert scan(tmp_path, engine=in_this_process).scanned <= 1
    assert_whole(tmp_path, expected)


@pytest.mark.usefixtures("_fake")
def test_restart_needs_no_shard_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = interrupted(tmp_path)

    def broken(self: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    assert scan(tmp_path, engine=in_this_process, restart=True).scanned == 7
    monkeypatch.undo()
    assert results(tmp_path) == expected


@pytest.mark.usefixtures("_fake")
def test_a_shard_that_was_written_and_cannot_be_read_back_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(tmp_path / "in", **CONTENTS)

    def broken(path: Path) -> str:
        raise OutputError(f"{path} cannot be read back: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(jscan.journal, "digest", broken)
        with pytest.raises(OutputError, match="read back"):
            scan(tmp_path, engine=in_this_process)
    assert journal(tmp_path) == ["00000000.parquet", "lock"]
    assert scan(tmp_path, engine=in_this_process).scanned == 5


@pytest.mark.usefixtures("_fake")
def test_a_shard_that_is_damaged_while_the_run_goes_on_costs_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = interrupted(tmp_path)
    write = jscan.run._Run._write

    def damaged_first(self: Any, workers: int) -> Any:
        (tmp_path / SHARD).write_bytes((tmp_path / SHARD).read_bytes()[:-1])
        return write(self, workers)

    with monkeypatch.context() as patch:
        patch.setattr(jscan.run._Run, "_write", damaged_first)
        with pytest.raises(OutputError, match="cannot be read back: .*run the same again"):
            scan(tmp_path, engine=in_this_process)
    assert 1 <= scan(tmp_path, engine=in_this_process).scanned <= 3
    assert_whole(tmp_path, expected)


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_of_numbered_files_that_are_of_no_run_is_left_alone(tmp_path: Path, restart: bool) -> None:
    make_inputs(tmp_path / "in", **CONTENTS)
    folder = tmp_path / "out" / "r.parquet.run"
    folder.mkdir(parents=True)
    (folder / "00000000.parquet").write_text("mine")
    with pytest.raises(OutputError, match="holds 00000000.parquet, which is of no run") as caught:
        scan(tmp_path, engine=in_this_process, restart=restart)
    assert caught.value.exit_code == 12
    assert journal(tmp_path) == ["00000000.parquet"]
    assert (folder / "00000000.parquet").read_text() == "mine"


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("restart", [False, True])
def test_what_a_killed_run_did_not_finish_to_write_is_removed(tmp_path: Path, restart: bool) -> None:
    expected = interrupted(tmp_path)
    for name in ("ledger", ".00000003.parquet.77.tmp", "00000009.parquet"):
        (tmp_path / SHARD).with_name(name).write_text("left by a run that was killed")
    assert scan(tmp_path, engine=in_this_process, restart=restart).scanned == (7 if restart else 0)
    assert_whole(tmp_path, expected)


@pytest.mark.usefixtures("_fake")
def test_an_unreadable_folder_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in" / "open", a="ok 0.1")
    make_inputs(tmp_path / "in" / "shut", b="ok 0.1")
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if isinstance(path, bytes) and path.endswith(b"shut"):  # root may read everything, so permissions would not do
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)

    scan(tmp_path, engine=in_this_process)
    monkeypatch.setattr(os, "scandir", scandir)
    run = scan(tmp_path, engine=in_this_process, update=True)
    assert run.by_code == {"os_error": 1}
    assert (run.rows, run.vanished, run.scanned) == (3, 0, 1), "what cannot be seen is not called vanished"
    assert_whole(tmp_path, results(tmp_path))
    monkeypatch.setattr(os, "scandir", listed)
    run = scan(tmp_path, engine=in_this_process, update=True)
    assert (run.rows, run.vanished, run.errors) == (2, 1, 0), "the folder itself was an input, and is none any more"


def mounted_read_only(base: Path, content: Path) -> Path | None:
    """Where the content lies, mounted read-only: ext4 or, where there is no loop device, tmpfs. None: neither."""
    place, image = base / "evidence", base / "disk.img"
    place.mkdir()
    quiet: dict[str, Any] = {"capture_output": True, "check": False}
    if shutil.which("mkfs.ext4") and shutil.which("mount"):
        with open(image, "wb") as disk:
            disk.truncate(8 << 20)
        made = subprocess.run(["mkfs.ext4", "-q", "-d", str(content), str(image)], **quiet)
        options = "ro,loop,noload,strictatime"
        if (
            not made.returncode
            and not subprocess.run(["mount", "-o", options, str(image), str(place)], **quiet).returncode
        ):
            return place
        image.unlink()
    options = "strictatime"
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "jscan-test", str(place)], **quiet).returncode
    ):
        return None
    shutil.copytree(content, place, dirs_exist_ok=True)
    subprocess.run(["mount", "-o", f"remount,ro,{options}", str(place)], capture_output=True, check=True)
    return place


@pytest.mark.usefixtures("_fake")
def test_read_only_evidence_is_scanned_and_stays_as_it_is(tmp_path: Path) -> None:
    content = make_inputs(tmp_path / "content", a="ok 0.1", b="ok 0.2")
    make_inputs(content / "below", c="error")
    (content / "d.zip").write_bytes(zip_of({"m": b"ok 0.3"}))
    place = mounted_read_only(tmp_path, content)
    if place is None:
        pytest.skip("no file system can be mounted here")
    image = tmp_path / "disk.img"
    try:
        with pytest.raises(OSError, match="[Rr]ead-only"):
            (place / "new").touch()
        paths = [place, *sorted(p for p in place.rglob("*") if p.name != "lost+found")]
        before = [(p.stat(), p.read_bytes() if p.is_file() else b"") for p in paths]
        before = [(p.stat(), data) for p, (_, data) in zip(paths, before, strict=True)]
        disk = image.read_bytes() if image.exists() else b""
        run = scan(tmp_path, sources=(place,), engine=in_this_process)
        assert run.by_status == {"ok": 3, "error": 1, "skipped": 1}
        assert not any("atime_changed" in r.warnings for r in results(tmp_path))
        after = [p.stat() for p in paths]
        for path, (then, data), now in zip(paths, before, after, strict=True):
            assert (now.st_atime_ns, now.st_mtime_ns, now.st_ctime_ns, now.st_size) == (
                then.st_atime_ns, then.st_mtime_ns, then.st_ctime_ns, then.st_size,
            ), path  # fmt: skip
            assert not path.is_file() or path.read_bytes() == data
        assert not image.exists() or image.read_bytes() == disk
        with pytest.raises(UsageError, match="lies inside"):
            scan(tmp_path, sources=(place,), out=place / "r.parquet", engine=in_this_process)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_or_hangs_costs_one_input(tmp_path: Path, workers: int) -> None:
    make_inputs(tmp_path / "in", a="ok 0.1", b="segfault", c="ok 0.2", d="hang", e="ok 0.3", f="memory", g="kill")
    run = scan(tmp_path, workers=workers, timeout=1.5)
    codes = {Path(r.path).stem: r.error_code for r in results(tmp_path)}
    assert codes == {
        "a": None, "b": "worker_crash", "c": None, "d": "timeout", "e": None, "f": "memory", "g": "worker_crash",
    }  # fmt: skip
    assert run.by_status == {"ok": 3, "error": 4}
    assert all(r.sha256 for r in results(tmp_path)), "the worker said what it had read"
    assert_whole(tmp_path, results(tmp_path))


SCAN_AND_TAKE = """
import sys
from jscan.worker import open_in_worker

scanner = open_in_worker("cpu", 10**8, 1, int(sys.argv[1]))
rows = [scanner.scan(open(name, "rb").read()).record for name in sys.argv[2:]]
try:
    bytearray(300 << 20)
    print(*(row.status for row in rows), "taken")
except MemoryError:
    print(*(row.status for row in rows), "refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept by Linux")
@pytest.mark.parametrize(("max_memory", "then"), [(5, "refused"), (200, "refused"), (0, "taken")])
def test_a_worker_has_the_memory_that_it_was_given(tmp_path: Path, max_memory: int, then: str) -> None:
    """What models, compiled loops and their libraries take, more than the least of these limits, does not count."""
    names = []
    for kind in ("JPEG", "PNG"):
        names.append(str(tmp_path / kind))
        Path(names[-1]).write_bytes(file_of(photo()[:96, :96], kind))
    command = [sys.executable, "-c", SCAN_AND_TAKE, str(max_memory), *names]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert answer.stdout.split() == ["ok", "ok", then]


# --- another run ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_fake")
def test_a_run_goes_on_only_as_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", **CONTENTS)

    def begin() -> None:
        with pytest.raises(KeyboardInterrupt):
            scan(tmp_path, engine=in_this_process, progress=Interrupts(4, signal.SIGINT))

    begin()
    left = journal(tmp_path)
    with pytest.raises(UsageError, match="--max-pixels was 150000000 and is 7.*--restart"):
        scan(tmp_path, engine=in_this_process, max_pixels=7)
    with pytest.raises(UsageError, match="--timeout was 120.0 and is 60.*--restart"):
        scan(tmp_path, engine=in_this_process, timeout=60)
    with monkeypatch.context() as other:
        other.setattr(jscan.run, "model_digests", lambda: {"q1-comb": "another"})
        with pytest.raises(UsageError, match="model q1-comb is another one.*--restart"):
            scan(tmp_path, engine=in_this_process)
    with monkeypatch.context() as other:
        other.setattr(jscan.run, "__version__", "9.9")
        with pytest.raises(UsageError, match=r"jscan was .* and is 9.9.*--restart"):
            scan(tmp_path, engine=in_this_process)
    assert journal(tmp_path) == left
    run = scan(tmp_path, engine=in_this_process, max_pixels=7, restart=True)
    assert run.scanned == 7


@pytest.mark.usefixtures("_fake")
def test_relative_paths_begin_where_they_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", **CONTENTS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        scan(tmp_path, sources=(Path("in"),), engine=in_this_process, progress=Interrupts(4, signal.SIGINT))
    make_inputs(tmp_path / "other" / "in", **CONTENTS)
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(UsageError, match="relative paths"):
        scan(tmp_path, sources=(Path("in"),), engine=in_this_process)


# --- same image, same row ---------------------------------------------------------------------------------------------


def test_the_same_image_gives_the_same_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real models: any number of workers, any size of shards, any order, and gone on with or not."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i, name in enumerate(("astronaut", "coffee", "rocket")):
        pixels = photo(name)[:200, :232]
        again = cv2.imdecode(np.frombuffer(file_of(pixels, quality=70 + 5 * i), np.uint8), cv2.IMREAD_COLOR_RGB)
        (folder / f"{name}.jpg").write_bytes(file_of(np.asarray(again, np.uint8), quality=92))
        (folder / f"{name}.png").write_bytes(file_of(np.asarray(again, np.uint8), "PNG"))
    (folder / "again.jpg").write_bytes((folder / "rocket.jpg").read_bytes())
    (folder / "broken.jpg").write_bytes((folder / "rocket.jpg").read_bytes()[:900])
    scan(tmp_path, workers=1)
    expected = results(tmp_path)
    assert {r.status for r in expected} >= {"ok"}
    files = tuple(sorted(folder.iterdir(), reverse=True))
    for workers, shard, sources in ((2, 1, (folder,)), (1, 3, files), (2, 1000, files)):
        monkeypatch.setattr(jscan.run, "SHARD_ROWS", shard)
        shutil.rmtree(tmp_path / "out")
        if shard == 3:
            with pytest.raises(KeyboardInterrupt):
                scan(tmp_path, workers=workers, sources=sources, progress=Interrupts(5, signal.SIGINT))
            assert scan(tmp_path, workers=workers, sources=sources).scanned < len(expected)
        else:
            scan(tmp_path, workers=workers, sources=sources)
        assert_whole(tmp_path, expected)
