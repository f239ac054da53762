"""Rows to Parquet files and back. A file appears whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jscan.atomic import replacing
from jscan.errors import UsageError
from jscan.records import Region, ScanRecord

RUN_KEY = b"jscan.run"
"""Key of the file's metadata under which the run manifest stands, as JSON."""
CHECK_KEY = b"jscan.run.sha256"
"""Key of a shard's metadata under which the SHA-256 of the manifest stands: pages have checksums, footers have none."""

GROUP_ROWS = 1024
"""Rows of one row group of the results, which is made in memory: for 20,000 rows that are alike 4,096 took 41 MB more,
and a quarter less on the disk."""
COPY = "copy"
"""Column of a shard, not of the results: the row holds only what identifies the bytes; their content has a row
elsewhere."""

_INTS = pa.list_(pa.int32())
"""15 steps, a table of 64, or the two numbers of a shift. Arrow's lists of a fixed length would say so, but before
PyArrow 26 they could not be written, or be read, where a row has none."""

_REGION = pa.struct(
    [
        ("y", pa.int32()),
        ("x", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("area", pa.int64()),
        ("score", pa.float32()),
        ("qf1", pa.float32()),
        ("q1", _INTS),
        ("grid_shift", _INTS),
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
        ("duplicate_of", pa.string()),
        ("vanished", pa.timestamp("us", tz="UTC")),
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
        ("q2_luma", _INTS),
        ("q2_chroma", _INTS),
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
        ("q1_background", _INTS),
        ("qf1_background", pa.float32()),
        ("double_fraction", pa.float32()),
        ("grid_shift", _INTS),
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

_VALUES = attrgetter(*SCHEMA.names)

_SHARD_SCHEMA = SCHEMA.append(pa.field(COPY, pa.bool_()))


_DAMAGE = (OSError, ValueError, RecursionError, pa.ArrowException)
"""What PyArrow raises for damaged bytes; an OSError too, though the system was asked for nothing."""


class DamagedError(Exception):
    """These bytes are no shard, or not as they were written."""


def to_table(records: Iterable[ScanRecord]) -> pa.Table:
    """The rows as an Arrow table with `SCHEMA`, in the order given; NaN becomes null."""
    columns = list(zip(*map(_VALUES, records), strict=True)) or [()] * len(SCHEMA)
    arrays = [_column(f.type, values) for f, values in zip(SCHEMA, columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def write_shard(path: Path, records: Sequence[ScanRecord], copies: Sequence[bool], about: Mapping[str, Any]) -> None:
    """Nothing; the rows stand in a file of their own, in this order, with `about` as its metadata.

    `copies` says which rows are to be completed by another one. Raises OutputError, naming the path.
    """
    table = to_table(records).append_column(_SHARD_SCHEMA.field(COPY), pa.array(copies, pa.bool_()))
    said = _json(about)
    schema = _SHARD_SCHEMA.with_metadata({RUN_KEY: said, CHECK_KEY: _check(said)})
    with replacing(path) as stream, writer(stream, schema) as open_file:
        open_file.write_table(table)


def writer(stream: Any, schema: Any = SCHEMA) -> Any:
    """A ParquetWriter on the stream, whose pages bear checksums."""
    return pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True)


def add_metadata(open_file: Any, manifest: Mapping[str, Any]) -> None:
    """Nothing; the file that is being written has this run manifest."""
    open_file.add_key_value_metadata({RUN_KEY: _json(manifest)})


class _Reader(pq.ParquetFile):  # type: ignore[misc]
    """One that closes the file that it was given open."""

    def close(self, force: bool = True) -> None:
        super().close(force)


def reader(path: Path) -> Any:
    """A ParquetFile that compares the pages it reads with their checksums. Raises UsageError, naming the path."""
    try:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(open(path, "rb"))  # Arrow itself wants names in UTF-8
            found = _Reader(file, page_checksum_verification=True)
            opened.pop_all()  # from now on the reader's to close
        return found
    except (OSError, pa.ArrowException) as exc:
        raise UsageError(f"{path} is not a readable Parquet file: {first_line(exc)}") from exc


def read_shard_footer(data: bytes) -> tuple[dict[str, Any], int]:
    """(what was said about it, number of rows) of the bytes of a shard. Raises DamagedError."""
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as stored:
            footer = stored.metadata
        said = footer.metadata or {}
        about = json.loads(said.get(RUN_KEY, b"{}"))
    except _DAMAGE as exc:
        raise DamagedError(first_line(exc)) from exc
    if said.get(CHECK_KEY, b"") not in (b"", _check(said.get(RUN_KEY, b""))):
        raise DamagedError("what is said about it is not what was written")
    return about if isinstance(about, dict) else {}, int(footer.num_rows)


def read_shard(data: bytes, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of these columns of the bytes of a shard.

    Raises DamagedError where a page, of whatever column, is not what its checksum says.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as stored:
            table = stored.read(use_threads=False)
    except _DAMAGE as exc:
        raise DamagedError(first_line(exc)) from exc
    if not table.schema.equals(_SHARD_SCHEMA):
        raise DamagedError("it has other columns")
    found: list[dict[str, Any]] = table.select(list(names)).to_pylist()
    return found


def read_metadata(path: Path) -> dict[str, Any]:
    """The run manifest in a results file or a shard, empty when it has none. Raises UsageError, naming the path."""
    try:
        with open(path, "rb") as file:
            stored = pq.read_metadata(file).metadata or {}
        found = json.loads(stored.get(RUN_KEY, b"{}"))
    except (OSError, ValueError, RecursionError, pa.ArrowException) as exc:
        raise UsageError(f"{path} is not a readable results file: {first_line(exc)}") from exc
    return found if isinstance(found, dict) else {}


def first_line(exc: BaseException) -> str:
    """What an exception says first; Arrow's say a lot."""
    return (str(exc).splitlines() or [type(exc).__name__])[0][:300]


def from_row(row: Mapping[str, Any]) -> ScanRecord:
    """The record of a row as `Table.to_pylist` gives it.

    Columns that this version does not know are passed over; one that is missing has the field's default.
    """
    known = {f.name for f in fields(ScanRecord)}
    return _record({k: v for k, v in row.items() if k in known})


def _check(said: bytes) -> bytes:
    return hashlib.sha256(said).hexdigest().encode()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _column(kind: Any, values: Sequence[Any]) -> Any:
    """The Arrow array of one column: no lone surrogates in strings, no NaN. By type, for most values need nothing."""
    if pa.types.is_floating(kind):
        values = [None if v is None or math.isnan(v) else v for v in values]
    elif pa.types.is_string(kind):
        values = [None if v is None else _text(v) for v in values]
    elif pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        values = [[_text(v) for v in found] for found in values]
    elif pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        values = [None if found is None else [_plain(region) for region in found] for found in values]
    return pa.array(values, kind)


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(region: Region) -> dict[str, Any]:
    """The region as a dict, without NaN."""
    row = {f.name: getattr(region, f.name) for f in fields(region)}
    return {k: None if isinstance(v, float | np.floating) and math.isnan(v) else v for k, v in row.items()}


def _record(row: dict[str, Any]) -> ScanRecord:
    if row.get("regions") is not None:
        row["regions"] = tuple(_region(r) for r in row["regions"])
    for name in ("mtime", "vanished"):
        if isinstance(row.get(name), datetime):
            row[name] = row[name].astimezone(UTC)
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
