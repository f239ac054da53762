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
from jscan.errors import OutputError, UsageError
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


@pytest.mark.parametrize(
    "options",
    [
        {"json_log": "out.parquet"},
        {"json_log": "out.parquet.manifest.json"},
        {"json_log": "out.parquet.run"},
        {"json_log": "out.parquet.run/log"},
        {"json_log": "link/out.parquet"},
        {"heatmaps": "out.parquet"},
        {"heatmaps": "out.parquet.run"},
        {"heatmaps": "out.parquet.run/deep"},
        {"maps": "out.parquet.run"},
        {"maps": "out.parquet.manifest.json"},
        {"maps": "out.parquet/maps"},
        {"maps": "both", "json_log": "both"},
        {"maps": "both", "json_log": "both/../both"},
        {"heatmaps": "both/deep", "json_log": "both"},
    ],
)
def test_outputs_that_lie_in_one_place(
    tmp_path: Path, scan: Callable[..., RunSummary], options: dict[str, str]
) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="in the place of"):
        scan(**{name: tmp_path / value for name, value in options.items()})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "link"]


def test_outputs_may_share_a_folder(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    all_in = tmp_path / "results"
    all_in.mkdir()
    scan(out=all_in / "r", heatmaps=all_in, maps=all_in, json_log=all_in / "log")
    assert sorted(p.suffix for p in all_in.iterdir()) == ["", "", ".json", ".npz", ".png"]


@pytest.mark.parametrize("name", ["photo.jpg", "00000000.parquet/photo.jpg", "lock/photo.jpg", "link"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_in_the_place_of_the_journal_is_left_alone(
    tmp_path: Path, scan: Callable[..., RunSummary], name: str, restart: bool
) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    photo = tmp_path / "out.parquet.run" / name
    photo.parent.mkdir(parents=True)
    if name == "link":
        photo.symlink_to("elsewhere")
    else:
        photo.write_bytes(b"precious")
    with pytest.raises(OutputError, match="is of no run"):
        scan(restart=restart)
    assert [p.name for p in photo.parent.iterdir()] == [photo.name]


@pytest.mark.parametrize("name", ["out.run", "out.manifest.json"])
def test_what_lies_beside_the_results_is_no_source_either(
    tmp_path: Path, scan: Callable[..., RunSummary], name: str
) -> None:
    if name == "out.run":
        source = make_inputs(tmp_path / name, a="ok 0.9") / "a.jpg"
    else:
        source = tmp_path / name
        source.write_text("{}")
    for given in ({"sources": (tmp_path / name,)}, {"sources": (), "files_from": source}):
        with pytest.raises((UsageError, OutputError), match="itself|lies inside|of no run"):
            scan(**given, out=tmp_path / "out")
    assert source.exists() and not (tmp_path / "out").exists()


def test_links_in_a_circle_are_a_bad_name(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    (tmp_path / "circle").symlink_to("circle")
    for options in ({"out": tmp_path / "circle"}, {"json_log": tmp_path / "circle"}):
        with pytest.raises(OutputError):
            scan(**options)


@pytest.mark.parametrize("lead", ["itself", "a hard link", "a symbolic link"])
@pytest.mark.parametrize("given", ["a list", "a source", "nothing"])
def test_evidence_is_no_output_whatever_leads_to_it(
    tmp_path: Path, scan: Callable[..., RunSummary], lead: str, given: str
) -> None:
    photo = make_inputs(tmp_path / "in", a="ok 0.9", b="ok 0.1") / "a.jpg"
    (tmp_path / "list").write_text(f"{photo}\n{tmp_path / 'in' / 'b.jpg'}\n")
    path = {"itself": photo, "a hard link": tmp_path / "hard", "a symbolic link": tmp_path / "soft"}[lead]
    if lead == "a hard link":
        os.link(photo, path)
    elif lead == "a symbolic link":
        path.symlink_to(photo)
    read: dict[str, Any] = {
        "a list": {"sources": (), "files_from": tmp_path / "list"},
        "a source": {"sources": (photo,)},
        "nothing": {"sources": (tmp_path / "in" / "b.jpg",)},
    }[given]
    for options in (
        {"json_log": path},
        {"out": path, "overwrite": True},
        {"out": path, "update": True, "restart": True},
        {"out": path, "update": True},
        {"out": path},
    ):
        with pytest.raises((UsageError, OutputError)):
            scan(**read, **options)
    assert photo.read_text() == path.read_text() == "ok 0.9"
    assert path.is_symlink() == (lead == "a symbolic link") and not path.with_name("out.parquet").exists()


def test_what_stands_in_the_place_of_the_manifest_is_left_alone(
    tmp_path: Path, scan: Callable[..., RunSummary]
) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    (tmp_path / "out.parquet.manifest.json").write_text("precious")
    with pytest.raises(OutputError, match="is not a manifest"):
        scan(overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.parquet.manifest.json"]


def test_outputs_of_jscan_are_written_again(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    for name in ("out.parquet", "out.parquet.manifest.json", "log", "real"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("real")
    for log in ("log", "link"):
        for _ in range(2):
            scan(overwrite=True, json_log=tmp_path / log)
        assert (tmp_path / log).read_text().count("run_finished") == 2


def test_a_log_goes_where_stderr_goes(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    errors = tmp_path / "errors"
    errors.write_text("jscan: what was said before\n")
    before = os.dup(2)
    with open(errors, "ab") as stream:
        os.dup2(stream.fileno(), 2)
    try:
        scan(json_log=errors)
    finally:
        os.dup2(before, 2)
        os.close(before)
    assert errors.read_text().count('"event"') == 4
    with pytest.raises(OutputError, match="is not a log"):
        scan(json_log=errors, out=tmp_path / "other")


def test_evidence_beside_heatmaps_is_scanned_from_a_list(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.9")
    for again in (False, True):
        names = [str(p) for p in folder.iterdir()]
        (tmp_path / "list").write_text("\n".join(names))
        run = scan(sources=(), files_from=tmp_path / "list", heatmaps=folder, maps=folder, overwrite=again)
        assert run.rows == 1 and len(names) == (3 if again else 1)
