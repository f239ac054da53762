"""Rows to Parquet files and back. A file appears whole or not at all, with its rows sorted by path."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jscan.atomic import replacing
from jscan.errors import OutputError, UsageError
from jscan.jpegtables import N_COEFS
from jscan.records import Region, ScanRecord

RUN_KEY = b"jscan.run"
"""Key of the file's metadata under which the run manifest stands, as JSON."""

GROUP_ROWS = 16_384
"""Rows of one row group: what `merge` holds in memory beside the keys."""

_OPEN_SHARDS = 16  # shards whose rows `merge` keeps at hand

_STEPS = pa.list_(pa.int32(), N_COEFS)
_TABLE = pa.list_(pa.int32(), 64)
_SHIFT = pa.list_(pa.int32(), 2)

_REGION = pa.struct(
    [
        ("y", pa.int32()),
        ("x", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("area", pa.int64()),
        ("score", pa.float32()),
        ("qf1", pa.float32()),
        ("q1", _STEPS),
        ("grid_shift", _SHIFT),
        ("kind", pa.string()),
    ]
)

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("path_bytes", pa.binary(), nullable=False),
        ("container", pa.string()),
        ("member", pa.int32()),
        ("container_sha256", pa.string()),
        ("size", pa.int64()),
        ("mtime", pa.timestamp("us", tz="UTC")),
        ("sha256", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        ("error_code", pa.string()),
        ("error", pa.string()),
        ("warnings", pa.list_(pa.string())),
        ("format", pa.string()),
        ("frames", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("components", pa.int32()),
        ("subsampling", pa.string()),
        ("progressive", pa.bool_()),
        ("q2_luma", _TABLE),
        ("q2_chroma", _TABLE),
        ("qf2", pa.float32()),
        ("encoder", pa.string()),
        ("camera_make", pa.string()),
        ("camera_model", pa.string()),
        ("software", pa.string()),
        ("capture_time", pa.string()),
        ("has_thumbnail", pa.bool_()),
        ("thumbnail_differs", pa.bool_()),
        ("qf_mean", pa.float32()),
        ("qf_p10", pa.float32()),
        ("qf_p90", pa.float32()),
        ("compressed_fraction", pa.float32()),
        ("q1_background", _STEPS),
        ("qf1_background", pa.float32()),
        ("double_fraction", pa.float32()),
        ("grid_shift", _SHIFT),
        ("n_regions", pa.int32()),
        ("regions", pa.list_(_REGION)),
        ("score", pa.float32()),
        ("reasons", pa.list_(pa.string())),
        ("coverage", pa.float32()),
        ("models", pa.list_(pa.string())),
        ("jscan_version", pa.string()),
        ("decode_ms", pa.float32()),
        ("estimate_ms", pa.float32()),
    ]
)
"""One column for each field of ScanRecord, in its order. Numbers with a fraction are 32-bit floats."""

_KEY = ("path_bytes", "container", "member")


def to_table(records: Iterable[ScanRecord]) -> pa.Table:
    """The rows as an Arrow table with `SCHEMA`, in the order given; NaN becomes null."""
    rows = [_clean(record.as_dict()) for record in records]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_shard(path: Path, records: Iterable[ScanRecord]) -> int:
    """The number of rows written to a file of their own, sorted, in place of a file of this name.

    Raises OutputError, naming the path.
    """
    table = to_table(records)
    table = table.take(_order(table.select(_KEY), path))
    with replacing(path) as stream, pq.ParquetWriter(stream, SCHEMA, compression="zstd") as writer:
        writer.write_table(table)
    return int(table.num_rows)


def write_results(
    path: Path, records: Iterable[ScanRecord], metadata: Mapping[str, Any], *, overwrite: bool = False
) -> int:
    """The number of rows written to the results, sorted by path, with `metadata` as the run manifest.

    Raises OutputError, naming the path: it exists already and `overwrite` is False, it cannot be written, or
    two rows have the same path.
    """
    table = to_table(records)
    table = table.take(_order(table.select(_KEY), path))
    with replacing(path, overwrite=overwrite) as stream, _results_writer(stream, metadata) as writer:
        writer.write_table(table, row_group_size=GROUP_ROWS)
    return int(table.num_rows)


def merge(shards: Sequence[Path], path: Path, metadata: Mapping[str, Any], *, overwrite: bool = False) -> int:
    """The number of rows written to the results out of shard files, sorted by path over all of them.

    Memory holds the paths of all rows (in Arrow's compact form), one row group, and a few shards. Raises
    OutputError as `write_results` does, and when a shard cannot be read.
    """
    keys = []
    for number, shard in enumerate(shards):
        key = _read(shard, columns=list(_KEY))
        count = key.num_rows
        key = key.append_column("shard", pa.array([number] * count, pa.int32()))
        keys.append(key.append_column("row", pa.array(range(count), pa.int64())))
    if keys:
        index = pa.concat_tables(keys)
        order = _order(index.select(_KEY), path)
        shard_of, row_of = index["shard"].take(order), index["row"].take(order)
        del index, order
    else:
        shard_of = row_of = pa.chunked_array([pa.array([], pa.int64())])
    del keys

    cache: OrderedDict[int, pa.Table] = OrderedDict()
    with replacing(path, overwrite=overwrite) as stream, _results_writer(stream, metadata) as writer:
        for start in range(0, len(shard_of), GROUP_ROWS):
            wanted = list(
                zip(
                    shard_of.slice(start, GROUP_ROWS).to_pylist(),
                    row_of.slice(start, GROUP_ROWS).to_pylist(),
                    strict=True,
                )
            )
            writer.write_table(_gather(shards, wanted, cache), row_group_size=GROUP_ROWS)
    return len(shard_of)


def read_results(path: Path) -> list[ScanRecord]:
    """The rows of a results file or a shard, in file order.

    Columns that this version does not know are passed over; one that is missing has the field's default.
    Raises UsageError, naming the path, when it is not such a file.
    """
    try:
        with pq.ParquetFile(path) as stored:
            table = stored.read()
    except (OSError, pa.ArrowException) as exc:
        raise UsageError(f"{path} is not a readable Parquet file: {_first_line(exc)}") from exc
    known = {f.name for f in fields(ScanRecord)}
    missing = {"path", "path_bytes", "status"} - set(table.column_names)
    if missing:
        raise UsageError(f"{path} is not a results file of jscan: it has no column {sorted(missing)[0]}")
    return [_record({k: v for k, v in row.items() if k in known}) for row in table.to_pylist()]


def read_metadata(path: Path) -> dict[str, Any]:
    """The run manifest in a results file, empty when it has none. Raises UsageError, naming the path."""
    try:
        stored = pq.read_schema(path).metadata or {}
        found = json.loads(stored.get(RUN_KEY, b"{}"))
    except (OSError, ValueError, pa.ArrowException) as exc:
        raise UsageError(f"{path} is not a readable results file: {_first_line(exc)}") from exc
    return found if isinstance(found, dict) else {}


def _results_writer(stream: Any, metadata: Mapping[str, Any]) -> Any:
    manifest = json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return pq.ParquetWriter(stream, SCHEMA.with_metadata({RUN_KEY: manifest}), compression="zstd")


def _order(keys: pa.Table, path: Path) -> pa.Array:
    """The row numbers in order of path, archive member last; nulls come first."""
    # Ordered by a copy without nulls: a missing member sorts as -1, a missing container as "".
    plain = pa.table(
        {
            "path_bytes": keys["path_bytes"],
            "container": keys["container"].fill_null(""),
            "member": keys["member"].fill_null(-1),
        }
    )
    order = pc.sort_indices(plain, sort_keys=[(name, "ascending") for name in _KEY])
    plain = plain.take(order)
    if plain.num_rows > 1:
        first, second = plain.slice(0, plain.num_rows - 1), plain.slice(1)
        same = pc.and_(
            pc.equal(first["path_bytes"], second["path_bytes"]),
            pc.and_(
                pc.equal(first["container"], second["container"]),
                pc.equal(first["member"], second["member"]),
            ),
        )
        at = pc.index(same, True).as_py()
        if at >= 0:
            name = plain["path_bytes"][at].as_py().decode("utf-8", "backslashreplace")
            raise OutputError(f"{path} was not written: there are two rows for {name}")
    return order


def _gather(shards: Sequence[Path], wanted: list[tuple[int, int]], cache: OrderedDict[int, pa.Table]) -> pa.Table:
    """The wanted rows, (shard, row) each, as one table in that order."""
    rows: dict[int, list[int]] = {}
    place: list[tuple[int, int]] = []
    for number, row in wanted:
        mine = rows.setdefault(number, [])
        place.append((number, len(mine)))
        mine.append(row)
    parts, start_of, total = [], {}, 0
    for number, mine in rows.items():
        if number not in cache:
            while len(cache) >= _OPEN_SHARDS:
                cache.popitem(last=False)
            cache[number] = _read(shards[number])
        cache.move_to_end(number)
        parts.append(cache[number].take(mine))
        start_of[number] = total
        total += len(mine)
    return pa.concat_tables(parts).take([start_of[number] + i for number, i in place])


def _read(shard: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        # Not `read_table`, which would read a whole folder, and take "a=b" in a path for a column.
        with pq.ParquetFile(shard) as stored:
            return stored.read(columns=columns)
    except (OSError, pa.ArrowException) as exc:
        raise OutputError(f"{shard} cannot be read back: {_first_line(exc)}; remove it and run again") from exc


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:300]


def _clean(value: Any) -> Any:
    """Plain values that Arrow takes: no lone surrogates in strings, no NaN, lists for tuples."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {k: _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    return value


def _record(row: dict[str, Any]) -> ScanRecord:
    if row.get("regions") is not None:
        row["regions"] = tuple(_region(r) for r in row["regions"])
    if isinstance(row.get("mtime"), datetime):
        row["mtime"] = row["mtime"].astimezone(UTC)
    for name in ("q2_luma", "q2_chroma", "q1_background", "grid_shift"):
        if row.get(name) is not None:
            row[name] = tuple(row[name])
    for name in ("warnings", "reasons", "models"):
        row[name] = tuple(row.get(name) or ())
    return ScanRecord(**row)


def _region(row: dict[str, Any]) -> Region:
    known: dict[str, Any] = {f.name: row.get(f.name) for f in fields(Region)}
    for name in ("q1", "grid_shift"):
        if known[name] is not None:
            known[name] = tuple(known[name])
    return Region(**known)
