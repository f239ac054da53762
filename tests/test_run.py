"""The run: every input gets one row, and an output is whole or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import fake_scanner
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_scanner import make_inputs
from packing import one_member, tar_of, zip_of
from results import read_results

import jscan.run
from jscan import __version__, manifest, parquet, reading, stages, weights
from jscan.archives import MAX_DEPTH
from jscan.config import ScanConfig, devices
from jscan.engine.local import run as local_engine
from jscan.errors import DeviceError, LockedError, ModelError, OutputError, ResultsError, UsageError
from jscan.journal import Journal
from jscan.records import ScanRecord
from jscan.run import RunSummary, run_scan
from jscan.verify import verify


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", fake_scanner.open_fake)


@pytest.fixture
def scan(tmp_path: Path) -> Callable[..., RunSummary]:
    """Scans `tmp_path/in` to `tmp_path/out.parquet`."""

    def scan_with(**options: Any) -> RunSummary:
        given: dict[str, Any] = {"sources": (tmp_path / "in",), "out": tmp_path / "out.parquet", "workers": 1} | options
        progress = given.pop("progress", None)
        return run_scan(ScanConfig(**given), progress=progress)

    return scan_with


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file."""
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files and run folders."""
    return [p.name for p in folder.iterdir() if p.name.endswith((".run", ".tmp"))]


class Recorder:
    """A Progress that remembers."""

    wants_total = True

    def __init__(self) -> None:
        self.totals: list[int] = []
        self.devices: list[tuple[str, int]] = []
        self.rows: list[ScanRecord] = []
        self.counted = threading.Event()
        self.there = 0

    def total(self, inputs: int) -> None:
        self.totals.append(inputs)
        self.counted.set()

    def device(self, provider: str, workers: int) -> None:
        self.counted.wait(10)
        self.devices.append((provider, workers))

    def row(self, record: ScanRecord) -> None:
        self.rows.append(record)

    def kept(self) -> None:
        self.there += 1


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_every_input_has_one_row(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    folder = make_inputs(
        tmp_path / "in", a="ok 0.9", b="error", c="kill", d="skipped", e="raise", f="memory", g="ok 0.2", h="ok 0.95"
    )
    (folder / "link").symlink_to(folder / "a.jpg")
    run = scan(workers=2)
    found = rows(tmp_path / "out.parquet")
    assert [Path(r["path"]).name for r in found] == [f"{c}.jpg" for c in "abcdefgh"] + ["link"]
    assert [r["error_code"] for r in found] == [
        None, "corrupt_data", "worker_crash", "unsupported_format", "internal", "memory", None, None, "symlink",
    ]  # fmt: skip
    assert "SIGKILL" in found[2]["error"]
    assert "not foreseen" in found[4]["error"]
    assert found[8]["status"] == "skipped"
    assert run.rows == 9
    assert run.by_status == {"ok": 3, "skipped": 2, "error": 4}
    assert run.by_code == {
        "corrupt_data": 1, "internal": 1, "memory": 1, "symlink": 1, "unsupported_format": 1, "worker_crash": 1,
    }  # fmt: skip
    assert run.errors == 4
    assert [f.score for f in run.top] == [0.95, 0.9, 0.2]
    assert run.max_score == 0.95
    assert run.pixels == 3 * 64 * 48
    assert run.provider == "CPU"
    assert leftovers(tmp_path) == []


def test_rows_do_not_depend_on_workers_or_shards(
    tmp_path: Path, scan: Callable[..., RunSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(tmp_path / "in", **{f"i{n:02}": f"ok 0.{(n * 7) % 10}" for n in range(20)})
    scan(out=tmp_path / "one.parquet")
    monkeypatch.setattr(jscan.run, "SHARD_ROWS", 3)
    scan(out=tmp_path / "two.parquet", workers=2)
    assert rows(tmp_path / "one.parquet") == rows(tmp_path / "two.parquet")
    assert len(rows(tmp_path / "two.parquet")) == 20


def test_the_manifest_says_what_the_run_was(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9", b="error")
    scan(max_pixels=1000)
    metadata = pq.read_metadata(tmp_path / "out.parquet").metadata
    (manifest,) = [json.loads(v) for v in metadata.values() if b"by_error_code" in v]
    assert manifest["by_status"] == {"error": 1, "ok": 1}
    assert manifest["by_error_code"] == {"corrupt_data": 1}
    assert manifest["models"] == ["fake@000000000000"]
    assert manifest["provider"] == ["CPU"]
    assert manifest["device"] == "auto"
    assert manifest["limits"] == {"max_pixels": 1000, "timeout": 120.0, "max_memory": 4096, "limit": None}
    assert manifest["arguments"]["sources"] == [str(tmp_path / "in")]
    versions = manifest["libraries"]
    assert {"numpy", "pillow", "simplejpeg", "pyarrow"} <= set(versions)
    assert {"onnxruntime", "onnxruntime-gpu"} & set(versions)
    assert versions["pyarrow"] == pa.__version__
    assert (manifest["jscan"], manifest["python"]) == (__version__, platform.python_version())
    assert (manifest["host"], manifest["platform"]) == (platform.node(), platform.platform())
    assert manifest["model_digests"] == {name: weights.manifest(name)["digest"] for name in weights.names()}
    began, ended = (datetime.fromisoformat(manifest[name]) for name in ("started", "ended"))
    assert began <= ended and began.utcoffset() == ended.utcoffset() == timedelta(0)
    beside = json.loads((tmp_path / "out.parquet.manifest.json").read_text())
    file = beside.pop("file")
    assert beside == manifest
    assert file["sha256"] == hashlib.sha256((tmp_path / "out.parquet").read_bytes()).hexdigest()


def test_the_manifest_has_the_digests_of_the_shards(
    tmp_path: Path, scan: Callable[..., RunSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jscan.run, "SHARD_ROWS", 2)
    make_inputs(tmp_path / "in", a="ok 0.9", b="error", c="ok 0.1")
    seen: dict[str, str] = {}
    clear = Journal.clear

    def noted(self: Journal) -> None:
        seen.update({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in self.folder.glob("0*")})
        clear(self)

    monkeypatch.setattr(Journal, "clear", noted)
    scan()
    shards = json.loads((tmp_path / "out.parquet.manifest.json").read_text())["shards"]
    assert {s["name"]: s["sha256"] for s in shards} == seen
    assert [s["rows"] for s in shards] == [2, 1]


def test_an_empty_folder_gives_an_empty_file(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    (tmp_path / "in").mkdir()
    run = scan()
    assert rows(tmp_path / "out.parquet") == []
    assert "path" in pq.read_schema(tmp_path / "out.parquet").names
    assert (run.rows, run.provider, run.max_score) == (0, None, None)


def test_progress_hears_of_everything(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9", b="error", c="ok 0.1")
    progress = Recorder()
    scan(progress=progress)
    assert progress.totals == [3]
    assert progress.devices == [("CPU", 1)]
    assert len(progress.rows) == 3


def test_heatmaps_and_maps_are_named_by_digest(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9", b="error")
    scan(heatmaps=tmp_path / "deep" / "heat", maps=tmp_path / "maps")
    (ok,) = [r for r in rows(tmp_path / "out.parquet") if r["status"] == "ok"]
    assert [p.name for p in (tmp_path / "deep" / "heat").iterdir()] == [f"{ok['sha256']}.png"]
    assert [p.name for p in (tmp_path / "maps").iterdir()] == [f"{ok['sha256']}.npz"]


def test_the_log_has_a_line_for_every_event(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9", b="error")
    scan(json_log=tmp_path / "log")
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [e["event"] for e in events] == ["run_started", "device", "row", "row", "run_finished"]
    assert {e["status"] for e in events if e["event"] == "row"} == {"ok", "error"}


def test_limit_include_exclude(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.1", b="ok 0.1", c="ok 0.1", d="ok 0.1")
    assert scan(limit=2, out=tmp_path / "1").rows == 2
    assert scan(include=("a*", "b*"), exclude=("b*",), out=tmp_path / "2").rows == 1


def test_an_existing_output_is_refused(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    (tmp_path / "out.parquet").write_text("PAR1 precious")
    with pytest.raises(OutputError, match="--overwrite"):
        scan()
    assert (tmp_path / "out.parquet").read_text() == "PAR1 precious"
    scan(overwrite=True)
    assert len(rows(tmp_path / "out.parquet")) == 1


@pytest.mark.parametrize("name", ["in/out.parquet", "in/deep/out.parquet", "in", "in/a.jpg"])
def test_evidence_is_never_written_to(tmp_path: Path, scan: Callable[..., RunSummary], name: str) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.9")
    with pytest.raises(UsageError, match="--out"):
        scan(out=tmp_path / name, overwrite=True)
    with pytest.raises(UsageError, match="--heatmaps"):
        scan(heatmaps=tmp_path / name)
    with pytest.raises(UsageError, match="--maps"):
        scan(maps=tmp_path / name)
    with pytest.raises(UsageError, match="--json-log"):
        scan(json_log=tmp_path / name)
    assert [p.name for p in folder.iterdir()] == ["a.jpg"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_a_link_is_no_way_into_the_evidence(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.9")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "out.link").symlink_to(folder / "new.parquet")
    for out in (tmp_path / "link" / "out.parquet", tmp_path / "out.link"):
        with pytest.raises(UsageError, match="lies inside"):
            scan(out=out)
        with pytest.raises(UsageError, match="lies inside"):
            scan(sources=(tmp_path / "link",), out=out)
    with pytest.raises(UsageError, match="--heatmaps"):
        scan(heatmaps=tmp_path / "link" / "deep")
    assert [p.name for p in folder.iterdir()] == ["a.jpg"]


def test_a_source_that_is_a_file_may_have_the_output_beside_it(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.9")
    assert scan(sources=(folder / "a.jpg",), out=folder / "out.parquet").rows == 1
    with pytest.raises(UsageError, match="itself"):
        scan(sources=(folder / "a.jpg",), out=folder / "a.jpg", overwrite=True)


def test_outputs_are_checked_before_anything_is_read(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="kill")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no folder"):
        scan(out=tmp_path / "nowhere" / "out.parquet")
    with pytest.raises(OutputError, match="no folder"):
        scan(out=tmp_path / "file" / "out.parquet")
    with pytest.raises(OutputError, match="is a folder"):
        scan(out=tmp_path)
    with pytest.raises(OutputError, match="--heatmaps"):
        scan(heatmaps=tmp_path / "file")
    with pytest.raises(OutputError, match="--maps"):
        scan(maps=tmp_path / "file" / "maps")
    with pytest.raises(OutputError, match="--json-log"):
        scan(json_log=tmp_path / "file" / "log")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "in"]


def test_a_folder_without_write_permission(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="kill")
    locked = Path("/proc") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        locked.mkdir(mode=0o500)
    elif not locked.is_dir():
        pytest.skip("root may write anywhere here")
    with pytest.raises(OutputError, match="cannot be written"):
        scan(out=locked / "out.parquet")


def test_a_missing_source_is_an_error_before_anything_else(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="kill")
    with pytest.raises(UsageError, match="nowhere"):
        scan(sources=(tmp_path / "in", tmp_path / "nowhere"))
    assert leftovers(tmp_path) == []


def test_a_second_run_finds_the_output_locked(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    pytest.importorskip("fcntl")
    make_inputs(tmp_path / "in", a="ok 0.1")

    class Second(Recorder):
        wants_total = False

        def row(self, record: ScanRecord) -> None:
            with pytest.raises(LockedError, match="another run"):
                scan()
            super().row(record)

    progress = Second()
    progress.counted.set()
    scan(progress=progress)
    assert len(progress.rows) == 1
    assert leftovers(tmp_path) == []


def test_what_a_killed_run_left_behind_is_no_hindrance(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.1")
    (tmp_path / "out.parquet.run").mkdir()
    (tmp_path / "out.parquet.run" / "lock").touch()
    (tmp_path / "out.parquet.run" / "00000007.parquet").write_text("half a shard")
    assert scan().rows == 1
    assert leftovers(tmp_path) == []


def test_members_of_archives_have_rows(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    folder = make_inputs(tmp_path / "in", z="ok 0.3")
    inner = tar_of({"deep": b"ok 0.8"})
    (folder / "a.zip").write_bytes(zip_of({"m": b"ok 0.9", "k": b"kill", "in.tar": inner}))
    progress = Recorder()
    run = scan(progress=progress, workers=2)
    found = {Path(r["path"]).name: r for r in rows(tmp_path / "out.parquet")}
    assert {name: r["error_code"] for name, r in found.items()} == {
        "a.zip": "archive", "a.zip!in.tar": "archive", "a.zip!in.tar!deep": None, "a.zip!k": "worker_crash",
        "a.zip!m": None, "z.jpg": None,
    }  # fmt: skip
    assert progress.totals == [6] and run.errors == 1
    own = found["a.zip"]
    assert own["sha256"] == hashlib.sha256((folder / "a.zip").read_bytes()).hexdigest() and own["size"] > 0
    for name, index in (("a.zip!m", 0), ("a.zip!k", 1), ("a.zip!in.tar", 2)):
        row = found[name]
        assert (row["container"], row["member"], row["container_sha256"]) == (own["path"], index, own["sha256"])
    assert found["a.zip!in.tar!deep"]["container_sha256"] == hashlib.sha256(inner).hexdigest()


def test_what_was_not_looked_at_in_an_archive_is_an_error(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    deep = b"ok 0.9"
    for _ in range(MAX_DEPTH + 1):
        deep = zip_of({"in.zip": deep})
    folder = make_inputs(tmp_path / "in", a="ok 0.1")
    (folder / "deep.zip").write_bytes(deep)
    (folder / "secret.zip").write_bytes(one_member(b"m", b"ok 0.9", flags=1))
    (folder / "method.zip").write_bytes(one_member(b"m", b"ok 0.9", method=98))
    codes = {"archive": 5, "archive_depth": 1, "encrypted": 1, "unsupported_method": 1}
    run = scan()
    assert (run.errors, run.by_code) == (3, codes)
    run = scan(update=True)
    assert (run.errors, run.by_code, run.scanned) == (3, codes, 0), "no second look says more"


def test_inputs_from_a_list(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.1", b="ok 0.2", c="ok 0.3")
    (tmp_path / "list").write_text(f"{folder / 'c.jpg'}\n{folder / 'a.jpg'}\n{tmp_path / 'out.parquet.run' / 'lock'}\n")
    progress = Recorder()
    scan(sources=(), files_from=tmp_path / "list", progress=progress)
    assert [Path(r["path"]).name for r in rows(tmp_path / "out.parquet")] == ["a.jpg", "c.jpg"]
    assert progress.totals == [2]
    with pytest.raises(UsageError, match="itself"):
        scan(sources=(), files_from=tmp_path / "list", out=tmp_path / "list", overwrite=True)
    with pytest.raises(UsageError, match="cannot be read"):
        scan(sources=(), files_from=tmp_path / "nowhere")
    for bad in ({"files_from": tmp_path / "list"}, {"null": True}, {"sources": ()}):
        with pytest.raises(UsageError):
            scan(**bad)


@pytest.mark.parametrize(
    ("options", "opener", "error"),
    [({"device": "cuda"}, fake_scanner.open_fake, DeviceError), ({}, fake_scanner.open_broken, ModelError)],
)
def test_a_bad_set_up_stops_the_run(
    tmp_path: Path,
    scan: Callable[..., RunSummary],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    opener: Callable[..., object],
    error: type[Exception],
) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", opener)
    make_inputs(tmp_path / "in", a="ok 0.1")
    with pytest.raises(error):
        scan(**options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_an_interrupted_run_leaves_what_is_finished(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.1", b="slow 60", c="ok 0.1")

    class Impatient(Recorder):
        wants_total = False

        def row(self, record: ScanRecord) -> None:
            signal.raise_signal(signal.SIGINT)

    progress = Impatient()
    progress.counted.set()
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        scan(progress=progress)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.parquet.run"]
    assert sorted(p.name for p in (tmp_path / "out.parquet.run").iterdir()) == ["00000000.parquet", "lock"]


def test_what_is_finished_is_kept_when_the_display_fails(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.1", b="ok 0.2")

    class Broken(Recorder):
        wants_total = False

        def row(self, record: ScanRecord) -> None:
            raise BrokenPipeError

    progress = Broken()
    progress.counted.set()
    with pytest.raises(BrokenPipeError):
        scan(progress=progress)
    assert sorted(p.name for p in (tmp_path / "out.parquet.run").iterdir()) == ["00000000.parquet", "lock"]
    assert scan().scanned == 1


# --- the same content, and updates ------------------------------------------------------------------------------------


def by_name(path: Path) -> dict[str, dict[str, Any]]:
    """The rows by the name of their file, without what the computer's speed decides."""
    return {Path(r["path"]).name: without_times(r) for r in rows(path)}


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in ("decode_ms", "estimate_ms")}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_bytes_are_estimated_once(tmp_path: Path, scan: Callable[..., RunSummary], workers: int) -> None:
    contents = {"a": "ok 0.9", "b": "ok 0.2", "c": "ok 0.9", "d": "ok 0.9", "e": "count", "f": "count", "g": "count"}
    folder = make_inputs(tmp_path / "in", **contents)
    run = scan(workers=workers, heatmaps=tmp_path / "heat")
    found = by_name(tmp_path / "out.parquet")
    named = {n: r["duplicate_of"] and Path(r["duplicate_of"]).stem for n, r in found.items()}
    assert [named[f"{c}.jpg"] for c in "abcdefg"] == [None, None, "a", "a", None, "e", "e"]
    assert found["c.jpg"] | {"path": 0, "path_bytes": 0, "mtime": 0, "duplicate_of": None} == found["a.jpg"] | {
        "path": 0, "path_bytes": 0, "mtime": 0,
    }  # fmt: skip
    assert found["c.jpg"]["score"] is not None
    assert run.duplicates == 4
    assert [p.read_text() for p in tmp_path.glob("*.counted")] == ["1"], folder
    assert len(list((tmp_path / "heat").iterdir())) == 3


def test_copies_of_what_kills_a_worker_are_not_tried(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="kill", b="kill", c="kill", d="ok 0.1")
    scan()
    found = by_name(tmp_path / "out.parquet")
    assert [found[f"{c}.jpg"]["error_code"] for c in "abcd"] == ["worker_crash"] * 3 + [None]
    assert found["a.jpg"]["sha256"] == found["c.jpg"]["sha256"] is not None
    assert Path(found["c.jpg"]["duplicate_of"]).name == "a.jpg"


def test_an_update_scans_what_is_new_or_changed(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.1", b="ok 0.2", c="ok 0.3", d="error", e="kill", f="ok 0.3")
    assert scan(update=True).scanned == 6, "where there are no results yet, an update is a scan"
    first = by_name(tmp_path / "out.parquet")
    make_inputs(folder, b="ok 0.25", g="ok 0.4", h="ok 0.1")
    (folder / "c.jpg").unlink()
    run = scan(update=True)
    second = by_name(tmp_path / "out.parquet")
    assert run.scanned == 4, "b changed, g and h are new, and e is tried again"
    assert (run.rows, run.vanished) == (7, 1)
    assert second["a.jpg"] == first["a.jpg"]
    assert second["d.jpg"] == first["d.jpg"]
    assert second["b.jpg"]["score"] == pytest.approx(0.25)
    assert second["c.jpg"]["vanished"] is not None
    assert second["c.jpg"] | {"vanished": None} == first["c.jpg"]
    assert first["f.jpg"]["duplicate_of"] == first["c.jpg"]["path"]
    assert second["f.jpg"]["duplicate_of"] is None, "the first of its content is not there any more"
    assert second["h.jpg"]["duplicate_of"] == second["a.jpg"]["path"]
    make_inputs(folder, c="ok 0.3")
    run = scan(update=True)
    third = by_name(tmp_path / "out.parquet")
    assert third["c.jpg"]["vanished"] is None
    assert third["f.jpg"]["duplicate_of"] == third["c.jpg"]["path"]
    assert (run.vanished, leftovers(tmp_path)) == (0, [])


def test_an_update_of_what_did_not_change_scans_nothing(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.1", b="ok 0.2", c="ok 0.1")
    scan()
    before = rows(tmp_path / "out.parquet")
    run = scan(update=True)
    assert (run.scanned, run.rows, run.max_score) == (0, 3, 0.2)
    assert rows(tmp_path / "out.parquet") == before
    stamp = os.stat(folder / "b.jpg")
    (folder / "b.jpg").write_text("ok 0.7")
    os.utime(folder / "b.jpg", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert scan(update=True).max_score == 0.2, "neither size nor time tell"
    run = scan(update=True, rehash=True)
    assert (run.scanned, run.max_score) == (3, 0.7)
    assert by_name(tmp_path / "out.parquet")["a.jpg"] == without_times(before[0])


def test_a_source_in_which_nothing_is_left_is_an_error(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    """Its disk may not be mounted: the mount point is there, and empty, or holds empty folders."""
    disk = make_inputs(tmp_path / "in" / "disk", a="ok 0.1", b="ok 0.2")
    (disk / "z.zip").write_bytes(zip_of({"m": b"ok 0.9"}))
    make_inputs(tmp_path / "other", c="ok 0.3")
    sources = (tmp_path / "in", tmp_path / "other")
    scan(sources=sources)
    first = by_name(tmp_path / "out.parquet")
    disk.rename(tmp_path / "away")
    for folder in ((), ("disk", "x")):
        (tmp_path / "in").joinpath(*folder).mkdir(parents=True, exist_ok=True)
        run = scan(sources=sources, update=True)
        found = by_name(tmp_path / "out.parquet")
        assert (run.errors, run.vanished, run.rows) == (1, 0, 6)
        assert len(run.missed) == 1 and "had 4 inputs. Is its disk mounted" in run.missed[0]
        assert found.pop("in")["error_code"] == "empty_source"
        assert found == first
        assert verify(tmp_path / "out.parquet").count == 0
    (disk / "x").rmdir()
    disk.rmdir()
    (tmp_path / "away").rename(disk)
    run = scan(sources=sources, update=True)
    assert (run.errors, run.vanished, run.missed, by_name(tmp_path / "out.parquet")) == (0, 0, (), first)
    for path in disk.iterdir():
        path.unlink()
    (disk / "note.txt").write_text("ok 0.1")
    run = scan(sources=sources, update=True)
    assert (run.errors, run.vanished) == (0, 4), "a file says that the disk is there"
    (disk / "note.txt").unlink()
    run = scan(sources=sources, update=True)
    assert "had 1 input. " in run.missed[0], "what had vanished before is not missed anew"


def shut(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Nothing; this process cannot open files of these names. Root may read everything, so permissions would not do."""
    real = reading._open

    def opened(path: bytes, more: int = 0) -> tuple[int, bool]:
        if os.path.basename(path) in map(os.fsencode, names):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, more)

    monkeypatch.setattr(reading, "_open", opened)


def test_members_of_an_archive_that_cannot_be_opened_have_not_vanished(
    tmp_path: Path, scan: Callable[..., RunSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.1")
    (folder / "z.zip").write_bytes(zip_of({"m": b"ok 0.9", "n": b"ok 0.2"}))
    scan()
    first = by_name(tmp_path / "out.parquet")
    with monkeypatch.context() as shutting:
        shut(shutting, "z.zip", "a.jpg")
        for _ in range(2):
            run = scan(update=True)
            again = by_name(tmp_path / "out.parquet")
            assert (run.errors, run.vanished, run.by_code) == (1, 0, {"os_error": 1})
            assert "EACCES" in again["z.zip"]["error"]
            assert again | {"z.zip": None} == first | {"z.zip": None}, "a file that is as it was keeps its row too"
    run = scan(update=True)
    assert (run.errors, run.vanished) == (0, 0)
    last = by_name(tmp_path / "out.parquet")
    assert without_times(last["z.zip!m"]) == without_times(first["z.zip!m"])


def test_members_of_an_archive_that_is_cut_have_not_vanished(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.1")
    whole = zip_of({"m": b"ok 0.9", "n": b"ok 0.2"})
    (folder / "z.zip").write_bytes(whole)
    scan()
    first = by_name(tmp_path / "out.parquet")
    (folder / "z.zip").write_bytes(whole[:50])
    for _ in range(3):  # the archive is read once, and then as it was
        run = scan(update=True)
        again = by_name(tmp_path / "out.parquet")
        assert (run.errors, run.vanished, run.by_code) == (1, 0, {"bad_archive": 1})
        assert again["z.zip!m"]["score"] == first["z.zip!m"]["score"] and again["z.zip!n"] == first["z.zip!n"]
    (folder / "z.zip").unlink()
    assert scan(update=True).vanished == 3


def test_a_file_that_may_be_an_archive_is_a_row_whatever_is_included(
    tmp_path: Path, scan: Callable[..., RunSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.1")
    (folder / "z").write_bytes(zip_of({"m.jpg": b"ok 0.9"}))
    shut(monkeypatch, "z")
    assert scan(include=("*.jpg",)).by_code == {"os_error": 1}
    assert scan(exclude=("z",), overwrite=True).errors == 0


def test_damaged_results_are_not_updated(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.1", b="ok 0.2")
    scan()
    out = tmp_path / "out.parquet"
    chunk = pq.read_metadata(out).row_group(0).column(pq.read_schema(out).names.index("path_bytes"))
    data = bytearray(out.read_bytes())
    begin = chunk.data_page_offset if chunk.dictionary_page_offset is None else chunk.dictionary_page_offset
    data[begin + chunk.total_compressed_size - 1] ^= 1
    out.write_bytes(data)
    with pytest.raises(ResultsError, match="not the file whose digest.*--restart"):
        scan(update=True)
    manifest.write_beside(out, parquet.read_metadata(out))
    with pytest.raises(UsageError, match="damaged.*--restart"):
        scan(update=True)
    assert out.read_bytes() == data
    out.write_bytes(data[:-9])
    with pytest.raises(UsageError, match="not a readable.*--restart"):
        scan(update=True)
    assert scan(update=True, restart=True).scanned == 2


def test_results_that_are_not_what_their_run_wrote_are_not_updated(
    tmp_path: Path, scan: Callable[..., RunSummary]
) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9", b="ok 0.2")
    out, beside = tmp_path / "out.parquet", tmp_path / "out.parquet.manifest.json"
    scan()
    real, said, about = out.read_bytes(), beside.read_bytes(), parquet.read_metadata(out)
    records = [replace(r, score=0.01) for r in read_results(out)]
    with open(out, "wb") as stream, parquet.writer(stream) as written:
        written.write_table(parquet.to_table(records))
        parquet.add_metadata(written, about)
    tampered = out.read_bytes()
    for results, described in ((tampered, said), (real, None), (real, b"{}"), (real, b'{"file": 3}'), (real, b'{"')):
        out.write_bytes(results)
        beside.unlink(missing_ok=True)
        if described is not None:
            beside.write_bytes(described)
        with pytest.raises(ResultsError, match=r"jscan verify.*--restart") as caught:
            scan(update=True)
        assert caught.value.exit_code == 5 and out.read_bytes() == results
    beside.write_bytes(said)
    assert scan(update=True).max_score == 0.9
    out.write_bytes(tampered)
    assert scan(update=True, restart=True).max_score == 0.9


def test_an_update_that_ends_between_results_and_manifest_is_gone_on_with(
    tmp_path: Path, scan: Callable[..., RunSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.9", b="ok 0.2")
    scan()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for change, options in (({}, {}), ({}, {"timeout": 7.0}), ({"c": "ok 0.3"}, {"timeout": 8.0})):
        make_inputs(folder, **change)
        with monkeypatch.context() as ending:
            ending.setattr(manifest, "write_beside", killed)
            with pytest.raises(KeyboardInterrupt):
                scan(update=True)
        assert verify(tmp_path / "out.parquet").count > 0
        run = scan(update=True, **options)
        assert (run.rows, run.scanned, leftovers(tmp_path)) == (2 + len(change), 0, [])
        assert verify(tmp_path / "out.parquet").count == 0
    assert parquet.read_metadata(tmp_path / "out.parquet")["shards"] == []


def test_a_manifest_of_another_kind_is_not_updated(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    out = tmp_path / "out.parquet"
    for key in ("arguments", "model_digests", "run_id", "folder", "previous_run_id"):
        scan(overwrite=True)
        about = parquet.read_metadata(out) | {key: 5}
        with open(out, "wb") as stream, parquet.writer(stream) as written:
            parquet.add_metadata(written, about)
        with pytest.raises(UsageError, match="says too little.*--restart"):
            scan(update=True)


def test_an_update_with_other_options_is_refused(
    tmp_path: Path, scan: Callable[..., RunSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(tmp_path / "in", a="ok 0.1")
    scan()
    before = (tmp_path / "out.parquet").read_bytes()
    with pytest.raises(UsageError, match="--max-pixels was 150000000 and is 9.*--restart"):
        scan(update=True, max_pixels=9)
    monkeypatch.setattr(jscan.run, "model_digests", lambda: {"q1-comb": "other"})
    with pytest.raises(UsageError, match="model q1-comb is another.*--restart"):
        scan(update=True)
    assert (tmp_path / "out.parquet").read_bytes() == before
    assert scan(update=True, restart=True).scanned == 1
    with pytest.raises(UsageError, match="--update"):
        scan(rehash=True)
    with pytest.raises(UsageError, match="--limit"):
        scan(update=True, limit=1)


def test_the_stages_of_all_workers_are_summed(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9", b="slow 0.2", c="slow 0.20", d="error", e="kill")
    log = tmp_path / "log.jsonl"
    run = scan(workers=2, profile_stages=True, json_log=log, maps=tmp_path / "maps")
    assert {"read", "hash", "write", "other"} <= set(run.times) <= set(stages.STAGES)
    assert 0.4 <= run.times["other"].seconds < 10, "two that slept for 0.2 s, outside of all stages"
    assert run.times["other"].processor < 0.4
    events = [json.loads(line) for line in log.read_text().splitlines()]
    (said,) = (e for e in events if e["event"] == "stages")
    assert said["write"]["seconds"] == pytest.approx(run.times["write"].seconds)
    assert sum(said[name]["share"] for name in run.times) == pytest.approx(1)


def test_nothing_is_measured_unless_asked(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    log = tmp_path / "log.jsonl"
    assert scan(json_log=log).times == {}
    assert "stages" not in {json.loads(line)["event"] for line in log.read_text().splitlines()}


def test_workers_and_threads_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.9", b="ok 0.2", c="ok 0.3")
    asked: list[tuple[int, int]] = []

    def engine(task: Any, items: Any, *, init: Any, workers: int, **_: Any) -> Any:
        asked.append((workers, init.args[2]))
        return local_engine(task, items, init=init, workers=workers, **_)

    files = [folder / f"{name}.jpg" for name in "abc"]
    zipped = tmp_path / "z.zip"
    zipped.write_bytes(zip_of({"a.jpg": b"ok 0.1"}))
    for cores, sources, workers, expected, *limit in (
        (8, (folder,), 0, (8, 1)),  # nobody knows how much is in a folder
        (8, (zipped,), 0, (8, 1)),
        (8, tuple(files), 0, (3, 2)),
        (8, tuple(files[:1]), 0, (1, 8)),
        (2, tuple(files), 0, (2, 1)),
        (8, (folder,), 1, (1, 8)),
        (8, (folder,), 3, (3, 2)),
        (2, (folder,), 5, (5, 1)),
        (8, tuple(files), 40, (3, 2)),
        (8, (*files, zipped), 40, (40, 1)),
        (8, (folder,), 40, (2, 4), 2),
        (8, tuple(files), 0, (2, 4), 2),
        (8, tuple(files), 40, (3, 2), 7),
        (8, (folder,), 3, (3, 2), 7),
    ):
        monkeypatch.setattr(jscan.run, "usable_cores", lambda cores=cores: cores)
        out = tmp_path / f"{len(asked)}.parquet"
        config = ScanConfig(sources=sources, out=out, workers=workers, limit=limit[0] if limit else None)
        run = run_scan(config, engine=engine)
        assert asked[-1] == expected and run.workers == expected[0]
        assert max(1, cores // expected[0]) == expected[1]


@pytest.mark.skipif(not hasattr(os, "O_NOATIME"), reason="this system has no O_NOATIME")
@pytest.mark.parametrize("workers", [0, 1, 40])
def test_counting_the_workers_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Where an access time cannot be spared the row says so; a look before that of the run would hide the change."""
    real = os.open

    def refuse(name: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_NOATIME:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(name, flags, *rest, **named)

    file = make_inputs(tmp_path / "in", a="ok 0.9") / "a.jpg"
    os.utime(file, ns=(10**18, 10**18 + 1))
    monkeypatch.setattr(os, "open", refuse)
    out = tmp_path / "out.parquet"
    run_scan(ScanConfig(sources=(file,), out=out, workers=workers))
    if file.stat().st_atime_ns == 10**18:
        pytest.skip("this file system keeps no access times")
    assert rows(out)[0]["warnings"] == ["atime_changed", "wrong_suffix"]


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_are_at_work_at_the_same_time(tmp_path: Path, scan: Callable[..., RunSummary], workers: int) -> None:
    # Each waits until all have come: a run in which one reads while the others wait for it would never end.
    meeting = "meet " + str(workers)
    make_inputs(tmp_path / "in", **{f"i{k}": f"{meeting} {k}" for k in range(workers)})
    run = scan(workers=workers, timeout=30)
    assert run.by_status == {"ok": workers}


def test_devices_by_number() -> None:
    assert devices("auto") == ("auto",) and devices("cuda") == ("cuda",)
    assert devices("cuda:3") == ("cuda:3",) and devices("cuda:0,1,10") == ("cuda:0", "cuda:1", "cuda:10")
    for wrong in ("", "gpu", "cpu:0", "cuda:", "cuda:a", "cuda:0,", "cuda:-1", "cuda:0;1", "auto:0"):
        with pytest.raises(UsageError, match="--device is one of auto, cpu, cuda, or GPUs by their numbers"):
            devices(wrong)
    with pytest.raises(UsageError, match="names a GPU twice"):
        devices("cuda:0,00")


@pytest.mark.parametrize(("workers", "given"), [(1, ["cuda:0"]), (3, ["cuda:0", "cuda:0", "cuda:2"])])
def test_workers_share_out_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, given: list[str]
) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", partial(fake_scanner.open_noting, tmp_path))
    # All meet, so that there are as many workers as were asked for; each notes the device that it was given.
    folder = make_inputs(tmp_path / "in", **{f"i{k}": f"meet {workers} {k}" for k in range(workers)})
    out = tmp_path / "out.parquet"
    run = run_scan(ScanConfig(sources=(folder,), out=out, workers=workers, device="cuda:0,2", timeout=60))
    assert run.by_status == {"ok": workers}
    assert sorted(p.read_text() for p in tmp_path.glob("*.device")) == given


@pytest.mark.parametrize(
    ("workers", "device", "batch", "given"),
    [(1, "auto", 0, "0 1"), (2, "cuda", 100, "100 2"), (2, "cuda:0,2", 9, "9 1"), (3, "cuda:0,2", 0, "0 2")],
)
def test_workers_are_told_how_many_windows_a_gpu_looks_at_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, device: str, batch: int, given: str
) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", partial(fake_scanner.open_noting, tmp_path))
    folder, out = make_inputs(tmp_path / "in", a="ok 0.1"), tmp_path / "out.parquet"
    run_scan(ScanConfig(sources=(folder,), out=out, workers=workers, device=device, batch=batch))
    assert {p.read_text() for p in tmp_path.glob("*.batch")} == {given}


def test_a_batch_that_does_not_fit() -> None:
    def config(**options: Any) -> ScanConfig:
        return ScanConfig(sources=(Path("in"),), out=Path("out.parquet"), **options)

    assert config().batch == 0 and config(batch=400).options()["batch"] == 400
    with pytest.raises(UsageError, match=r"--batch is 0 \(chosen from the GPU's free memory\) or .* windows, not -1"):
        config(batch=-1)
    with pytest.raises(UsageError, match="--batch is for --estimator comb"):
        config(batch=4, estimator="paper")


def test_results_are_updated_with_another_batch(tmp_path: Path, scan: Callable[..., RunSummary]) -> None:
    """Where the memory of a GPU ran out, a smaller one is given."""
    make_inputs(tmp_path / "in", a="ok 0.1")
    assert scan(batch=400).scanned == 1
    assert scan(update=True, batch=100).scanned == 0


def test_a_worker_that_takes_the_place_of_another_has_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", partial(fake_scanner.open_noting, tmp_path))
    folder = make_inputs(tmp_path / "in", a="kill", b="ok 0.1")
    out = tmp_path / "out.parquet"
    run_scan(ScanConfig(sources=(folder,), out=out, workers=1, device="cuda:1,0"))
    noted = [p.read_text() for p in tmp_path.glob("*.device")]
    assert len(noted) == 3 and set(noted) == {"cuda:1"}, "one that died, twice, and one that went on"
