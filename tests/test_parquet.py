from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results import read_results

from jscan.assemble import assemble
from jscan.errors import OutputError, UsageError
from jscan.ledger import Ledger, Place
from jscan.parquet import COPY, SCHEMA, read_metadata, reader, to_table, write_shard
from jscan.records import Region, ScanRecord
from jscan.tally import Tally


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
    duplicate_of=st.none() | _text,
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
    assert [f.name for f in SCHEMA.field("regions").type.value_type] == [f.name for f in fields(Region)]


def test_no_lists_of_a_fixed_length() -> None:
    """PyArrow before 26, and what was built on it, can neither write nor read these where a row has none."""
    kinds = [f.type for f in (*SCHEMA, *SCHEMA.field("regions").type.value_type)]
    assert not any(pa.types.is_fixed_size_list(kind) for kind in kinds)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(_records, max_size=8), copies=st.lists(st.booleans(), min_size=8, max_size=8))
def test_what_is_written_is_read(tmp_path: Path, records: list[ScanRecord], copies: list[bool]) -> None:
    path = tmp_path / "shard.parquet"
    write_shard(path, records, copies[: len(records)], {"a": ["\u00e9", None]})
    assert read_results(path) == records
    assert read_metadata(path) == {"a": ["\u00e9", None]}
    with reader(path) as stored:
        assert stored.read(columns=[COPY])[COPY].to_pylist() == copies[: len(records)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(_records, max_size=24, unique_by=_key), shards=st.integers(1, 5), data=st.data())
def test_the_results_do_not_depend_on_the_shards(
    tmp_path: Path, records: list[ScanRecord], shards: int, data: st.DataObject
) -> None:
    parts: list[list[ScanRecord]] = [[] for _ in range(shards)]
    for record in records:
        parts[data.draw(st.integers(0, shards - 1))].append(record)
    out = tmp_path / "out.parquet"
    tally = merged(tmp_path, parts)
    assert read_results(out) == sorted(records, key=_key)
    assert read_metadata(out) == {"rows": tally.rows}


def test_results_in_small_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jscan.parquet.GROUP_ROWS", 7)
    monkeypatch.setattr("jscan.assemble.CACHE_ROWS", 25)
    rng = np.random.default_rng(1)
    names = [f"{i:03}".encode() for i in rng.permutation(60)]
    records = [ScanRecord(n.decode(), n, score=float(n)) for n in names]
    merged(tmp_path, [records[i : i + 10] for i in range(0, 60, 10)])
    assert [r.score for r in read_results(tmp_path / "out.parquet")] == list(range(60))
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 9


def test_results_of_nothing(tmp_path: Path) -> None:
    assert merged(tmp_path, []).rows == 0
    assert read_results(tmp_path / "out.parquet") == []


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    merged(tmp_path, [[ScanRecord("a", b"a")]])
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        merged(tmp_path, [], overwrite=False)
    assert path.read_bytes() == before


def test_a_damaged_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    merged(tmp_path, [[ScanRecord(f"a{i}", b"a%d" % i, software="x" * 50) for i in range(9)]])
    data = bytearray(path.read_bytes())
    data[60] ^= 0x40
    path.write_bytes(data)
    with reader(path) as stored, pytest.raises(OSError, match="CRC"):
        stored.read()


def merged(folder: Path, parts: list[list[ScanRecord]], *, overwrite: bool = True) -> Tally:
    """The counts of `folder/out.parquet`, which holds these rows, brought there in one shard for each part."""
    ledger = Ledger(folder / "ledger")
    paths = {}
    for number, records in enumerate(parts):
        paths[number] = folder / f"{number}.parquet"
        write_shard(paths[number], records, [False] * len(records), {})
        for i, r in enumerate(records):
            ledger.finish((r.path_bytes, r.container, r.member), Place(number, i))
    out, missed = folder / "out.parquet", datetime(2026, 1, 1, tzinfo=UTC)
    try:
        tally, _ = assemble(out, ledger, paths, None, missed, lambda t, _: {"rows": t.rows}, overwrite=overwrite)
    finally:
        ledger.close()
    return tally


def test_failure_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        write_shard(tmp_path / "nowhere" / "x", [], [], {})
    with pytest.raises(OutputError, match="folder"):
        write_shard(tmp_path, [], [], {})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_shard(tmp_path / "x", [], [], {})
    assert list(tmp_path.iterdir()) == []


def test_values_that_arrow_refuses(tmp_path: Path) -> None:
    record = ScanRecord("a\udcff", b"a\xff", score=float("nan"), qf_mean=np.float32("nan"), software="\ud800x")
    write_shard(tmp_path / "x", [record], [False], {})
    (row,) = read_results(tmp_path / "x")
    assert row.path == "a\\udcff" and row.path_bytes == b"a\xff"
    assert row.score is None and row.qf_mean is None and row.software == "\\ud800x"


def test_reading_something_else(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("text", b"hello, world, this is text")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=name):
            reader(tmp_path / name)
        with pytest.raises(UsageError, match=name):
            read_metadata(tmp_path / name)
    with pytest.raises(UsageError, match="absent"):
        reader(tmp_path / "absent")


def test_columns_of_another_version(tmp_path: Path) -> None:
    table = to_table([ScanRecord("a", b"a", reasons=("why",))])
    pq.write_table(table.drop_columns(["score", "warnings"]).append_column("new", [[1]]), tmp_path / "k=v")
    assert read_results(tmp_path / "k=v") == [ScanRecord("a", b"a", reasons=("why",))]
