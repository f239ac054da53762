"""What a run need not do again: by its journal, by the results that it updates, and by what it has done so far."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from jscan import parquet
from jscan.assemble import group_source
from jscan.config import ScanConfig
from jscan.errors import ARCHIVE_CODES, ErrorCode, UsageError
from jscan.journal import Header, Journal
from jscan.ledger import Before, Containers, Key, Ledger, Place
from jscan.names import display_path
from jscan.records import Evidence, ImageRef, ScanRecord

TRY_AGAIN = frozenset(
    {
        ErrorCode.NOT_FOUND,
        ErrorCode.EMPTY_SOURCE,
        ErrorCode.OS_ERROR,
        ErrorCode.CHANGED,
        ErrorCode.MEMORY,
        ErrorCode.WORKER_CRASH,
        ErrorCode.TIMEOUT,
        ErrorCode.INTERNAL,
    }
)
"""Codes that speak of circumstances as much as of the input: an update scans it again, changed or not."""
CLOSED = TRY_AGAIN - {ErrorCode.NOT_FOUND} | {ErrorCode.BAD_ARCHIVE, ErrorCode.ARCHIVE_LIMIT}
"""Errors of a folder or an archive after which nobody knows what else lies in it."""


class Known:
    """The inputs and contents that have a row, as the ledger of the run holds them."""

    def __init__(self, config: ScanConfig, header: Header, journal: Journal, ledger: Ledger) -> None:
        self._out = config.out
        self._rehash = config.rehash
        self._header = header
        self._journal = journal
        self._ledger = ledger
        self._claims: dict[str, Key] = {}  # contents that are being estimated, or whose rows are not committed yet
        self._damaged: set[bytes] = set()  # archives that could not be read to their end in the run before
        self.unlisted: list[bytes] = []
        """Folders and archives that could not be looked into: what lies there is not to count as vanished."""

    def remember(self) -> None:
        """Nothing; the ledger knows the rows of the results that are updated, and of all shards."""
        if self._header.previous is not None:
            self._remember_results()
        copies: list[tuple[str, Key, Place]] = []
        names = ["path_bytes", "container", "member", "sha256", "error_code", parquet.COPY]
        for shard in tuple(self._journal.shards):
            rows = self._journal.read(shard, names)
            if rows is None:
                continue  # it was damaged: its inputs are scanned again
            for i, row in enumerate(rows):
                key, place = _key_of(row), Place(shard.number, i)
                if row[parquet.COPY]:
                    copies.append((row["sha256"], key, place))
                    continue
                self._ledger.finish(key, place)
                self.note_unlisted(row["path_bytes"], row["error_code"])
                self._note_content(row["sha256"], row["error_code"], place)
        for sha256, key, place in copies:
            # Where the run was killed before the row that was to be copied was committed, there is nothing to copy.
            if self._ledger.content(sha256) is not None:
                self._ledger.finish(key, place)
                self._ledger.add_group(sha256)

    def _note_content(self, sha256: str | None, error_code: str | None, place: Place) -> None:
        """Nothing; what has these bytes is estimated by that row, or is an archive of several of one content."""
        if sha256 is None:
            return
        if error_code in ARCHIVE_CODES:
            self._ledger.add_group(sha256)
        else:
            self._ledger.add_content(sha256, place)

    def _remember_results(self) -> None:
        names = ["path", "path_bytes", "container", "member", "container_sha256", "size", "mtime", "sha256"]
        names += ["duplicate_of", "vanished", "error_code"]
        containers = Containers()
        with parquet.reader(self._out) as stored:
            for group in range(stored.metadata.num_row_groups):
                try:
                    rows = stored.read_row_group(group, columns=names).to_pylist()
                except (OSError, pa.ArrowException) as error:
                    said = parquet.first_line(error)
                    raise UsageError(
                        f"{self._out} is damaged and cannot be updated: {said}; add --restart to scan everything anew"
                    ) from error
                for i, row in enumerate(rows):
                    self._remember_row(row, Place(group_source(group), i), containers)

    def _remember_row(self, row: Mapping[str, Any], place: Place, containers: Containers) -> None:
        """Nothing; the ledger knows this row of the run before."""
        if row["error_code"] == ErrorCode.EMPTY_SOURCE:
            return  # of a source, and of no input that could vanish
        mtime = None if row["mtime"] is None else _microseconds(row["mtime"])
        # A run that went on may have members of an archive as it was, and the archive as it is now.
        fits = containers.fits(row)
        again = row["error_code"] in TRY_AGAIN
        size = row["size"] if row["member"] is None else 0  # a member is as old as its archive
        archive = row["error_code"] in ARCHIVE_CODES
        if row["error_code"] in CLOSED and row["member"] is None:
            self._damaged.add(row["path_bytes"])
        vanished = row["vanished"] is not None
        self._ledger.add_before(
            _key_of(row), Before(place, size if fits and not again else None, mtime, archive, vanished)
        )
        if row["sha256"] is not None and not again:
            self._note_content(row["sha256"], row["error_code"], place)
            if row["duplicate_of"] is not None:
                self._ledger.add_group(row["sha256"])

    def wants(self, ref: ImageRef) -> bool:
        """Whether a member, or an archive, has no row yet, so that it must be read."""
        key = ref.path_bytes, ref.container, ref.member
        return not self._ledger.has_row(key) and self.unchanged(ref, key) is None

    def unchanged(self, ref: ImageRef, key: Key) -> Place | None:
        """Where the row of an input lies that is as it was in the run before, by the size and time of its file."""
        if self._header.previous is None or self._rehash:
            return None
        before = self._ledger.before(key)
        if before is None or before.size is None:
            return None
        refused = None if ref.refused is None else ref.refused[0]
        if refused in TRY_AGAIN:
            # A file that is as it was need not be read, and so may have become unreadable; but an archive is walked
            # through, and where that failed its row must say so, or its members would count as vanished.
            if before.archive or ref.archive is not None:
                return None
        elif refused is not None and ref.archive is None and refused not in ARCHIVE_CODES:
            return None
        if ref.archive is not None:
            whole, file = self._ledger.before((ref.archive.path_bytes, None, None)), ref.archive
            if whole is None or whole.size is None or file.mtime is None:
                return None
            same = (file.size, _microseconds(file.mtime)) == (whole.size, whole.mtime)
            return before.place if same else None
        try:
            now = os.lstat(ref.path_bytes)
        except OSError:
            return None
        if (now.st_size, now.st_mtime_ns // 1000) != (before.size, before.mtime):
            return None
        if ref.path_bytes in self._damaged:
            self.unlisted.append(ref.path_bytes)
        return before.place

    def missed(self, sources: Iterable[Path]) -> Iterator[ImageRef]:
        """A reference to each source in which nothing is left, once all are walked through, that says so.

        The disk that should be there may not be mounted. What lay there is kept as if it could not be looked into.
        """
        if self._header.previous is None:
            return
        for source in sources:
            path = os.fsencode(source)
            inputs = self._ledger.missed(path)
            if inputs:
                said = (
                    f"Nothing to scan was found in it, where the run before had {inputs:,} input{'s' * (inputs != 1)}. "
                    "Is its disk mounted? The rows are kept as they were. If it is to be empty, put any file into it."
                )
                yield ImageRef(display_path(path), path, refused=(ErrorCode.EMPTY_SOURCE.value, said))

    def is_known(self, ref: ImageRef, evidence: Evidence) -> bool:
        """Whether the content has a row, or will have that of the worker that asked first."""
        key = ref.path_bytes, ref.container, ref.member
        owner = self._claims.get(evidence.sha256)
        if owner is None and self._ledger.content(evidence.sha256) is None:
            self._claims[evidence.sha256] = key
            return False
        return owner != key

    def add(self, shard: int, rows: Sequence[tuple[ScanRecord, bool]]) -> None:
        """Nothing; these rows, each with whether it is a mere copy, are on the disk, in the shard of this number."""
        for i, (record, copy) in enumerate(rows):
            place = Place(shard, i)
            self._ledger.finish((record.path_bytes, record.container, record.member), place)
            if record.sha256 is not None and copy:
                self._ledger.add_group(record.sha256)
            elif record.sha256 is not None:
                self._note_content(record.sha256, record.error_code, place)
                self._claims.pop(record.sha256, None)

    def note_unlisted(self, path: bytes, error_code: str | None) -> None:
        """Nothing; what lies in a folder or an archive that could not be looked into is not to count as vanished."""
        if self._header.previous is not None and error_code in CLOSED:
            self.unlisted.append(path)


def _key_of(row: Mapping[str, Any]) -> Key:
    return row["path_bytes"], row["container"], row["member"]


def _microseconds(time_of_change: datetime) -> int:
    """Since 1970 began, exactly."""
    return (time_of_change - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
