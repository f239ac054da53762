from __future__ import annotations

from dataclasses import fields
from datetime import UTC
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jscan.errors import OutputError, UsageError
from jscan.parquet import (
    SCHEMA,
    merge,
    read_metadata,
    read_results,
    to_table,
    write_results,
    write_shard,
)
from jscan.records import Region, ScanRecord


def _steps(n: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(1, 65535), min_size=n, max_size=n).map(tuple)


_fraction = st.none() | st.floats(0, 1, width=32)
_text = st.text(st.characters(codec="utf-8"), max_size=12)
_shift = st.none() | st.tuples(st.integers(0, 7), st.integers(0, 7))
_regions = st.builds(
    Region,
    y=st.integers(0, 10**6),
    x=st.integers(0, 10**6),
    height=st.integers(1, 10**6),
    width=st.integers(1, 10**6),
    area=st.integers(1, 2**40),
    score=st.floats(0, 1, width=32),
    qf1=st.none() | st.floats(1, 100, width=32),
    q1=st.none() | _steps(15),
    grid_shift=_shift,
    kind=st.sampled_from(["other_q1", "other_qf"]),
)
_records = st.builds(
    ScanRecord,
    path=_text,
    path_bytes=st.binary(max_size=8),
    container=st.none() | _text,
    member=st.none() | st.integers(0, 2**31 - 1),
    size=st.none() | st.integers(0, 2**62),
    mtime=st.none() | st.datetimes(timezones=st.just(UTC)),
    warnings=st.lists(_text, max_size=3).map(tuple),
    q2_luma=st.none() | _steps(64),
    q2_chroma=st.none() | _steps(64),
    progressive=st.none() | st.booleans(),
    q1_background=st.none() | _steps(15),
    grid_shift=_shift,
    n_regions=st.none() | st.integers(0, 9),
    regions=st.none() | st.lists(_regions, max_size=3).map(tuple),
    score=_fraction,
    reasons=st.lists(_text, max_size=3).map(tuple),
)


def _key(record: ScanRecord) -> tuple[bytes, bytes, int]:
    return record.path_bytes, (record.container or "").encode(), -1 if record.member is None else record.member


def test_one_column_for_each_field() -> None:
    assert SCHEMA.names == [f.name for f in fields(ScanRecord)]
    assert SCHEMA.field("regions").type.value_type.names == [f.name for f in fields(Region)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(_records, max_size=8, unique_by=_key))
def test_what_is_written_is_read(tmp_path: Path, records: list[ScanRecord]) -> None:
    path = tmp_path / "results.parquet"
    assert write_results(path, records, {"n": len(records)}, overwrite=True) == len(records)
    assert read_results(path) == sorted(records, key=_key)
    assert read_metadata(path) == {"n": len(records)}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(_records, max_size=24, unique_by=_key), shards=st.integers(1, 5), data=st.data())
def test_merging_shards_is_writing_all_at_once(
    tmp_path: Path, records: list[ScanRecord], shards: int, data: st.DataObject
) -> None:
    owner = [data.draw(st.integers(0, shards - 1)) for _ in records]
    paths = []
    for number in range(shards):
        paths.append(tmp_path / f"{number}.parquet")
        write_shard(paths[-1], [r for r, o in zip(records, owner, strict=True) if o == number])
    out = tmp_path / "out.parquet"
    assert merge(paths, out, {"a": ["é", None]}, overwrite=True) == len(records)
    assert read_results(out) == sorted(records, key=_key)
    assert read_metadata(out) == {"a": ["é", None]}


def test_merge_in_small_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jscan.parquet.GROUP_ROWS", 7)
    monkeypatch.setattr("jscan.parquet._OPEN_SHARDS", 2)
    rng = np.random.default_rng(1)
    names = [f"{i:03}".encode() for i in rng.permutation(60)]
    paths = [tmp_path / str(i) for i in range(6)]
    for i, path in enumerate(paths):
        write_shard(path, [ScanRecord(n.decode(), n, score=float(n)) for n in names[i * 10 : i * 10 + 10]])
    assert merge(paths, tmp_path / "all", {}) == 60
    assert [r.score for r in read_results(tmp_path / "all")] == list(range(60))
    assert pq.ParquetFile(tmp_path / "all").num_row_groups == 9


def test_merge_of_nothing(tmp_path: Path) -> None:
    assert merge([], tmp_path / "none", {}) == 0
    assert read_results(tmp_path / "none") == []


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_results(path, [ScanRecord("a", b"a")], {})
    before = path.read_bytes()
    with pytest.raises(OutputError, match="r.parquet exists"):
        write_results(path, [], {})
    with pytest.raises(OutputError, match="exists"):
        merge([], path, {})
    assert path.read_bytes() == before
    assert write_results(path, [], {}, overwrite=True) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]


def test_failure_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        write_shard(tmp_path / "nowhere" / "x", [])
    with pytest.raises(OutputError, match="folder"):
        write_shard(tmp_path, [])

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_shard(tmp_path / "x", [])
    assert list(tmp_path.iterdir()) == []


def test_a_path_stands_once(tmp_path: Path) -> None:
    twice = [ScanRecord("a", b"a"), ScanRecord("a", b"a", member=3), ScanRecord("a", b"a")]
    with pytest.raises(OutputError, match="two rows for a"):
        write_results(tmp_path / "x", twice, {})
    write_shard(tmp_path / "1", twice[:1])
    write_shard(tmp_path / "2", twice[2:])
    with pytest.raises(OutputError, match="two rows"):
        merge([tmp_path / "1", tmp_path / "2"], tmp_path / "x", {})
    assert not (tmp_path / "x").exists()


def test_values_that_arrow_refuses(tmp_path: Path) -> None:
    record = ScanRecord("a\udcff", b"a\xff", score=float("nan"), qf_mean=np.float32("nan"), software="\ud800x")
    write_shard(tmp_path / "x", [record])
    (row,) = read_results(tmp_path / "x")
    assert row.path == "a\\udcff" and row.path_bytes == b"a\xff"
    assert row.score is None and row.qf_mean is None and row.software == "\\ud800x"


def test_reading_something_else(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("text", b"hello, world, this is text")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=name):
            read_results(tmp_path / name)
        with pytest.raises(UsageError, match=name):
            read_metadata(tmp_path / name)
    with pytest.raises(UsageError, match="absent"):
        read_results(tmp_path / "absent")
    with pytest.raises(OutputError, match="text"):
        merge([tmp_path / "text"], tmp_path / "out", {})


def test_columns_of_another_version(tmp_path: Path) -> None:
    table = to_table([ScanRecord("a", b"a", reasons=("why",))])
    pq.write_table(table.drop_columns(["score", "warnings"]).append_column("new", [[1]]), tmp_path / "k=v")
    assert read_results(tmp_path / "k=v") == [ScanRecord("a", b"a", reasons=("why",))]
    pq.write_table(table.drop_columns(["status"]), tmp_path / "other")
    with pytest.raises(UsageError, match="status"):
        read_results(tmp_path / "other")
