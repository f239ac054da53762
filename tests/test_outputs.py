"""Where a run may write, and where not: nothing that jscan did not make is replaced, added to or removed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_scanner
import pytest
from fake_scanner import make_inputs
from faulty import in_this_process

import jscan.run
from jscan import members, outputs
from jscan.atomic import replacing
from jscan.config import ScanConfig
from jscan.errors import OutputError
from jscan.run import RunSummary, run_scan


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunSummary]:
    """Scans `tmp_path/in` to `tmp_path/out.parquet`, in this process."""
    monkeypatch.setattr(jscan.run, "open_in_worker", fake_scanner.open_fake)

    def scan_with(**options: Any) -> RunSummary:
        given: dict[str, Any] = {"sources": (tmp_path / "in",), "out": tmp_path / "out.parquet", "workers": 1} | options
        return run_scan(ScanConfig(**given), engine=in_this_process, read=members.read_archive)

    return scan_with


def test_a_log_that_cannot_be_written_to_the_end(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "log"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write_both() -> None:
        with outputs.json_log(path) as log:
            log("first", {})
            # As on a full disk, a part of the next line still goes, and nothing when the log is closed.
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
            log("second", {})

    try:
        with pytest.raises(OutputError, match="--json-log .*log cannot be written") as caught:
            write_both()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 12
    first, rest = path.read_bytes().split(b"\n")
    assert json.loads(first)["event"] == "first" and len(rest) == 10


def special(path: Path, kind: str) -> None:
    """Nothing; something that is no regular file stands there, or the test is skipped."""
    try:
        match kind:
            case "a FIFO":
                os.mkfifo(path)
            case "a device":  # one of our own, as harmless as /dev/null
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
            case "a symbolic link":
                path.with_name("target").write_text("precious")
                path.symlink_to("target")
            case "a folder":
                path.mkdir()
    except (AttributeError, OSError):
        pytest.skip(f"{kind} cannot be made here")


KINDS = ("a FIFO", "a device", "a symbolic link", "a folder")


@pytest.mark.parametrize("name", ["out.parquet", "out.parquet.manifest.json"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"overwrite": True}, {"update": True, "restart": True}, {}])
def test_only_files_are_replaced(
    tmp_path: Path, scan: Callable[..., RunSummary], kind: str, name: str, options: dict[str, Any]
) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    special(tmp_path / name, kind)
    before = os.lstat(tmp_path / name)
    with pytest.raises(OutputError, match=kind) as caught:
        scan(**options)
    assert caught.value.exit_code == 12
    assert os.lstat(tmp_path / name) == before
    assert {p.name for p in tmp_path.iterdir()} <= {"in", name, "target"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_takes_the_place_of_a_file_alone(tmp_path: Path, kind: str) -> None:
    special(tmp_path / "it", kind)
    before = os.lstat(tmp_path / "it")

    def write() -> None:
        with replacing(tmp_path / "it") as stream:
            stream.write(b"new")

    with pytest.raises(OutputError, match=kind):
        write()
    assert os.lstat(tmp_path / "it") == before
    assert {p.name for p in tmp_path.iterdir()} <= {"it", "target"}


def test_a_log_may_be_read_by_another_process(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    special(tmp_path / "log", "a FIFO")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        scan(json_log=tmp_path / "log")
        lines = os.read(reader, 1 << 16).splitlines()
    finally:
        os.close(reader)
    assert [json.loads(line)["event"] for line in lines] == ["run_started", "device", "row", "run_finished"]


@pytest.mark.parametrize("length", [236, 245, 251, 300])
def test_a_name_that_leaves_no_room_for_the_manifest(
    tmp_path: Path, scan: Callable[..., RunSummary], length: int
) -> None:
    try:
        (tmp_path / ("x" * 236)).touch()
        (tmp_path / ("x" * 236)).unlink()
    except OSError:
        pytest.skip("this file system takes shorter names alone")
    make_inputs(tmp_path / "in", a="ok 0.9")
    with pytest.raises(OutputError, match="too long"):
        scan(out=tmp_path / ("x" * length))
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_long_name_that_leaves_room(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    scan(out=tmp_path / ("x" * 220))
    assert len(list(tmp_path.iterdir())) == 3
