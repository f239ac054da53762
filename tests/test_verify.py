"""`jscan verify`: whatever was changed in the results, the manifest or the evidence is named."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_scanner
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_scanner import make_inputs
from faulty import in_this_process
from packing import zip_of
from typer.testing import CliRunner

import jscan.run
from jscan import cli, parquet, weights
from jscan.config import ScanConfig
from jscan.engine import local
from jscan.errors import ModelError, UsageError
from jscan.members import read_archive
from jscan.verify import Report, verify


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", fake_scanner.open_fake)
    monkeypatch.setattr(local, "started_early", lambda *_: contextlib.nullcontext())  # a fake imports nothing


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of four files, one of them an error and one a duplicate."""
    make_inputs(tmp_path / "in", a="ok 0.9", b="error", c="ok 0.9", d="ok 0.2")
    out = tmp_path / "r.parquet"
    jscan.run.run_scan(ScanConfig(sources=(tmp_path / "in",), out=out, workers=1), engine=in_this_process)
    return out


def kinds(report: Report) -> set[str]:
    return {trouble.kind for trouble in report.troubles}


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table], about: dict[str, Any] | None = None) -> None:
    """The results with other rows, and the run manifest that they had, or another one."""
    table = change(pq.read_table(path))
    about = parquet.read_metadata(path) if about is None else about
    with open(path, "wb") as stream, parquet.writer(stream) as written:
        written.write_table(table.select(parquet.SCHEMA.names).cast(parquet.SCHEMA))
        parquet.add_metadata(written, about)


def test_nothing_is_wrong(results: Path) -> None:
    report = verify(results, source=True, engine=in_this_process)
    assert report == Report(rows=4, hashed=4)


def test_a_lost_a_doubled_and_a_changed_row(results: Path) -> None:
    whole = results.read_bytes()
    rewritten(results, lambda t: t.slice(1))
    assert kinds(verify(results)) == {"results", "inputs"}
    results.write_bytes(whole)
    rewritten(results, lambda t: pa.concat_tables([t.slice(0, 1), t]))
    report = verify(results)
    assert [x.what for x in report.troubles if x.kind == "rows"] == ["It has more than one row."]
    results.write_bytes(whole)
    rewritten(results, lambda t: t.set_column(t.schema.get_field_index("status"), "status", pa.array(["ok"] * 4)))
    assert kinds(verify(results)) == {"results", "inputs", "rows"}
    results.write_bytes(whole)
    assert verify(results).count == 0


def test_columns_of_another_kind(results: Path) -> None:
    """Whatever somebody made of the results, it is said, and nothing else goes wrong."""
    whole = pq.read_table(results)
    about = pq.read_metadata(results).metadata
    for name, values, what in (
        ("path_bytes", pa.array([None] * 4, pa.binary()), "lack values in the column path_bytes"),
        ("path_bytes", pa.array(["a"] * 4), "another type of values in the column path_bytes"),
        ("score", pa.array(["0.9"] * 4), "another type of values in the column score"),
        ("path", pa.array([b"\xff"] * 4).view(pa.string()), "cannot be read: .*UTF"),
    ):
        changed = whole.set_column(whole.schema.get_field_index(name), name, values)
        pq.write_table(changed.replace_schema_metadata({parquet.RUN_KEY: about[parquet.RUN_KEY]}), results)
        report = verify(results, source=True, engine=in_this_process)
        assert any(re.search(what, x.what) for x in report.troubles), report.troubles


def test_names_that_read_alike(tmp_path: Path) -> None:
    """One holds a newline, the other the two characters that stand for it."""
    make_inputs(tmp_path / "in", **{"a\nb": "ok 0.9", "a\\nb": "ok 0.9"})
    out = tmp_path / "r.parquet"
    jscan.run.run_scan(ScanConfig(sources=(tmp_path / "in",), out=out, workers=1), engine=in_this_process)
    assert verify(out) == Report(rows=2)


def test_results_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    out = Path(os.fsdecode(bytes(tmp_path) + b"/\xe9.parquet"))
    config = ScanConfig(sources=(tmp_path / "in",), out=out, workers=1)
    jscan.run.run_scan(config, engine=in_this_process)
    assert verify(config.out) == Report(rows=1)


def test_a_damaged_file(results: Path) -> None:
    data = bytearray(results.read_bytes())
    data[40] ^= 1
    results.write_bytes(data)
    assert "results" in kinds(verify(results))
    results.write_bytes(data[:-7])
    assert "results" in kinds(verify(results))
    with pytest.raises(UsageError, match="is not a file"):
        verify(results.with_name("nowhere"))


def test_the_manifest_beside(results: Path) -> None:
    beside = results.with_name("r.parquet.manifest.json")
    said = json.loads(beside.read_text())
    beside.write_text(json.dumps(said | {"host": "elsewhere"}))
    assert kinds(verify(results)) == {"manifest"}
    beside.unlink()
    assert kinds(verify(results)) == {"manifest"}


def test_manifests_of_another_kind(results: Path) -> None:
    whole, beside = results.read_bytes(), results.with_name("r.parquet.manifest.json")
    said = beside.read_text()
    for other in ('{"file": 3}', "[]", "[" * 100_000, "{}"):
        beside.write_text(other)
        assert kinds(verify(results)) & {"results", "manifest"} and verify(results).rows == 4
    beside.write_text(said)
    about = parquet.read_metadata(results)
    for key in ("inputs", "arguments", "model_digests", "folder", "by_status", "models", "run_id"):
        for value in (5, None if key != "folder" else 6, {"count": "x"}):
            rewritten(results, lambda t: t, about | {key: value})
            assert {"results", "manifest"} <= kinds(verify(results, source=True, engine=in_this_process))
    results.write_bytes(whole)
    assert verify(results).count == 0


def test_models(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = weights.manifest
    monkeypatch.setattr(weights, "manifest", lambda name: real(name) | {"digest": "0" * 64})
    assert kinds(verify(results)) == {"models"}
    monkeypatch.undo()

    def damaged(name: str) -> None:
        raise ModelError(f"{name} is damaged")

    monkeypatch.setattr(weights, "check", damaged)
    assert kinds(verify(results)) == {"models"}


def test_changed_evidence(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = results.parent / "in"
    (folder / "a.jpg").write_text("other")
    (folder / "d.jpg").unlink()
    report = verify(results, source=True, engine=in_this_process)
    assert {(Path(x.where).name, x.kind) for x in report.troubles} == {("a.jpg", "source"), ("d.jpg", "source")}
    answer = CliRunner().invoke(cli.app, ["verify", str(results), "--source", "--workers", "1"])
    assert answer.exit_code == 5
    assert "d.jpg" in answer.output and "2 troubles" in answer.output
    answer = CliRunner().invoke(cli.app, ["verify", str(results)])
    assert (answer.exit_code, "all as its manifest says" in answer.output) == (0, True)


def test_relative_paths_are_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    monkeypatch.chdir(tmp_path)
    config = ScanConfig(sources=(Path("in"),), out=tmp_path / "r.parquet", workers=1)
    jscan.run.run_scan(config, engine=in_this_process)
    monkeypatch.chdir("/")
    report = verify(tmp_path / "r.parquet", source=True, engine=in_this_process)
    assert (report.count, report.hashed) == (0, 1)


def test_an_unfinished_run_is_said(results: Path) -> None:
    folder = results.with_name("r.parquet.run")
    folder.mkdir()
    (folder / "00000000.parquet").touch()
    assert kinds(verify(results)) == {"journal"}


@pytest.mark.parametrize("limit", range(1, 9))
def test_members_of_an_archive_within_which_limit_ended_the_run(tmp_path: Path, limit: int) -> None:
    """Nobody is accused for what the run did not come to: it is said that it cannot be checked."""
    make_inputs(tmp_path / "in", a="ok 0.9", z="ok 0.1")
    inner = zip_of({"deep": b"ok 0.3", "error": b"error"})
    (tmp_path / "in" / "m.zip").write_bytes(zip_of({"m": b"ok 0.2", "in.zip": inner, "n": b"ok 0.4"}))
    out = tmp_path / "r.parquet"
    config = ScanConfig(sources=(tmp_path / "in",), out=out, workers=1, limit=limit)
    jscan.run.run_scan(config, engine=in_this_process, read=read_archive)
    cut = limit - 1 if 1 < limit < 7 else 0  # in order: a.jpg, four rows below m.zip with in.zip's own, n, m.zip, z.jpg
    report = verify(out, source=True, engine=in_this_process)
    archive = str(tmp_path / "in" / "m.zip") if cut else None
    assert report == Report(rows=limit, hashed={7: 2, 8: 3}.get(limit, 1), cut=archive, unchecked=cut)
    answer = CliRunner().invoke(cli.app, ["verify", str(out), "--source", "--workers", "1"])
    said = " ".join(answer.output.split())
    assert answer.exit_code == 0 and ("--limit ended the run" in said) == (cut > 0)
    assert ("all else as its manifest says" if cut else "read again: all as its manifest says") in said
    (tmp_path / "in" / "a.jpg").write_text("other")
    report = verify(out, source=True, engine=in_this_process)
    assert [(Path(x.where).name, x.kind) for x in report.troubles] == [("a.jpg", "source")]


def test_an_archives_row_that_was_removed_is_no_limit(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", z="ok 0.1")
    (tmp_path / "in" / "a.zip").write_bytes(zip_of({"m": b"ok 0.2"}))
    out = tmp_path / "r.parquet"
    config = ScanConfig(sources=(tmp_path / "in",), out=out, workers=1, limit=3)
    jscan.run.run_scan(config, engine=in_this_process, read=read_archive)
    rewritten(out, lambda t: t.slice(1))
    report = verify(out, source=True, engine=in_this_process)
    assert kinds(report) == {"results", "inputs", "source"} and report.unchecked == 0
    (tmp_path / "in" / "a.zip").write_bytes(zip_of({"m": b"ok 0.3"}))
    config = ScanConfig(sources=(tmp_path / "in",), out=out, workers=1, limit=3, overwrite=True)
    jscan.run.run_scan(config, engine=in_this_process, read=read_archive)

    def changed(table: pa.Table) -> pa.Table:
        """With another digest of the archive in the row of its member."""
        digests = [d and "0" * 64 for d in table["container_sha256"].to_pylist()]
        return table.set_column(table.schema.get_field_index("container_sha256"), "container_sha256", pa.array(digests))

    rewritten(out, changed)
    report = verify(out, source=True, engine=in_this_process)
    assert kinds(report) == {"results", "source"} and report.unchecked == 0


def test_two_archives_without_a_row_are_one_too_many(tmp_path: Path) -> None:
    """Whoever makes a manifest that fits his rows: a run is ended within one archive at most."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.zip").write_bytes(zip_of({"m": b"ok 0.2", "n": b"ok 0.3"}))
    out = tmp_path / "r.parquet"
    config = ScanConfig(sources=(tmp_path / "a.zip", tmp_path / "b.zip"), out=out, workers=1, limit=5)
    jscan.run.run_scan(config, engine=in_this_process, read=read_archive)
    about = parquet.read_metadata(out)
    rewritten(out, lambda t: t.slice(1), about | {"limits": about["limits"] | {"limit": 4}})
    report = verify(out, source=True, engine=in_this_process)
    assert report.cut == str(tmp_path / "a.zip")
    assert [Path(x.where).name for x in report.troubles if x.kind == "source"] == ["b.zip!m", "b.zip!n"]
