"""Results and shards as records, for tests that compare whole rows."""

from __future__ import annotations

from pathlib import Path

from jscan.parquet import from_row, reader
from jscan.records import ScanRecord


def read_results(path: Path) -> list[ScanRecord]:
    """The rows of a results file or a shard, in file order; every page is compared with its checksum."""
    with reader(path) as stored:
        return [from_row(row) for row in stored.read().to_pylist()]
