"""What is known of every input of a run, on the disk: 10 million inputs do not fit into the memory of the parent.

The ledger is an index and no record: it is made anew from the journal and from the walk over the sources whenever a run
starts, and thrown away when it ends. So it is never synced, and nothing in it is trusted after a crash.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

from jscan.errors import OutputError

Key: TypeAlias = tuple[bytes, str | None, int | None]
"""(path_bytes, container, member): what tells one input from all others."""

CACHE_KIB = 8 * 1024
"""Memory that the index may take; what is beyond lies on the disk."""

# A missing container is stored as '', a missing member as -1: in SQL no two nulls are the same. Blobs and UTF-8 text
# are compared byte by byte, which is the order of the results.
_TABLES = """
CREATE TABLE inputs (
    path BLOB, container TEXT, member INTEGER,
    walked INTEGER, source INTEGER, row INTEGER, vanished INTEGER DEFAULT 0,
    PRIMARY KEY (path, container, member)) WITHOUT ROWID;
CREATE TABLE previous (
    path BLOB, container TEXT, member INTEGER,
    size INTEGER, mtime INTEGER, archive INTEGER, vanished INTEGER, source INTEGER, row INTEGER,
    PRIMARY KEY (path, container, member)) WITHOUT ROWID;
CREATE TABLE contents (sha256 BLOB PRIMARY KEY, source INTEGER, row INTEGER) WITHOUT ROWID;
CREATE TABLE groups (sha256 BLOB PRIMARY KEY, first BLOB) WITHOUT ROWID;
"""


class Place(NamedTuple):
    """Where a row lies: a source of rows, as the ledger's user numbers them, and the row's number in it."""

    source: int
    row: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One input in the order of the results."""

    key: Key
    place: Place
    vanished: bool
    """Whether it is of an earlier run, and was not met in this one."""


@dataclass(frozen=True, slots=True)
class Before:
    """An input of the run before, as it was then."""

    place: Place
    size: int | None
    mtime: int | None
    """Microseconds since 1970, UTC."""
    archive: bool = False
    """Whether its row stands for an archive."""
    vanished: bool = False
    """Whether it was missed already then."""


class Ledger:
    """The inputs of one run, by path; the contents that have a row, by digest. Raises OutputError from everything."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.unlink(missing_ok=True)
            # No locks of SQLite's own: the run holds a lock already, and network drives may know none.
            self._base = sqlite3.connect(f"file:{quote(bytes(path))}?nolock=1", uri=True, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._trouble(error) from error
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", f"cache_size=-{CACHE_KIB}"):
            self._run(f"PRAGMA {pragma}")
        for statement in _TABLES.strip().split(";\n"):
            self._run(statement)
        self._run("BEGIN")  # and never a commit: pages are written only where the cache overflows

    def close(self) -> None:
        """Nothing; the file is gone."""
        self._base.close()
        self._path.unlink(missing_ok=True)

    # --- the walk over the sources ------------------------------------------------------------------------------------

    def meet(self, key: Key) -> bool:
        """Whether this input has no row yet; False as well where it was met already, for a list may name it twice."""
        stored = _stored(key)
        found = self._one("SELECT walked, source FROM inputs WHERE path=? AND container=? AND member=?", stored)
        if found is None:
            self._run("INSERT INTO inputs (path, container, member, walked) VALUES (?, ?, ?, 1)", stored)
            return True
        walked, source = found
        if walked:
            return False
        self._run("UPDATE inputs SET walked=1 WHERE path=? AND container=? AND member=?", stored)
        return source is None

    def has_row(self, key: Key) -> bool:
        """Whether this input has a row."""
        found = self._one("SELECT source FROM inputs WHERE path=? AND container=? AND member=?", _stored(key))
        return found is not None and found[0] is not None

    def forget_unmet(self) -> None:
        """Nothing; rows of inputs that were not met are no rows of this run."""
        self._run("DELETE FROM inputs WHERE walked=0")

    def finish(self, key: Key, place: Place) -> None:
        """Nothing; the input's row lies there."""
        self._run(
            "INSERT INTO inputs (path, container, member, walked, source, row) VALUES (?, ?, ?, 0, ?, ?) "
            "ON CONFLICT DO UPDATE SET source=excluded.source, row=excluded.row",
            (*_stored(key), *place),
        )

    def unfinished(self) -> Key | None:
        """An input without a row, or None."""
        found = self._one("SELECT path, container, member FROM inputs WHERE source IS NULL LIMIT 1")
        return None if found is None else _key(*found)

    # --- contents -----------------------------------------------------------------------------------------------------

    def add_content(self, sha256: str, place: Place) -> None:
        """Nothing; a row for this content lies there, unless there was one already."""
        self._run("INSERT OR IGNORE INTO contents VALUES (?, ?, ?)", (bytes.fromhex(sha256), *place))

    def content(self, sha256: str) -> Place | None:
        """Where a row for this content lies, or None."""
        found = self._one("SELECT source, row FROM contents WHERE sha256=?", (bytes.fromhex(sha256),))
        return None if found is None else Place(*found)

    def add_group(self, sha256: str) -> None:
        """Nothing; several inputs may have this content."""
        self._run("INSERT OR IGNORE INTO groups (sha256) VALUES (?)", (bytes.fromhex(sha256),))

    def has_groups(self) -> bool:
        """Whether any content may have several inputs."""
        return self._one("SELECT 1 FROM groups LIMIT 1") is not None

    def first_of(self, sha256: str, path: str) -> str | None:
        """The path that was first given for this content: None where that is this one, or the content is no group's."""
        digest = bytes.fromhex(sha256)
        found = self._one("SELECT first FROM groups WHERE sha256=?", (digest,))
        if found is None:
            return None
        if found[0] is None:
            self._run("UPDATE groups SET first=? WHERE sha256=?", (path.encode("utf-8", "surrogatepass"), digest))
            return None
        return str(bytes(found[0]).decode("utf-8", "surrogatepass"))

    # --- the run before -----------------------------------------------------------------------------------------------

    def add_before(self, key: Key, before: Before) -> None:
        """Nothing; the run before had this input."""
        self._run(
            "INSERT INTO previous VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*_stored(key), before.size, before.mtime, before.archive, before.vanished, *before.place),
        )

    def before(self, key: Key) -> Before | None:
        """What the run before knew of this input, or None."""
        found = self._one(
            "SELECT source, row, size, mtime, archive, vanished FROM previous "
            "WHERE path=? AND container=? AND member=?",
            _stored(key),
        )
        if found is None:
            return None
        return Before(Place(found[0], found[1]), found[2], found[3], bool(found[4]), bool(found[5]))

    def missed(self, folder: bytes) -> int:
        """How many inputs the run before had below a folder of which this one met nothing, nor that it is unlisted."""
        below = _range(os.path.join(folder, b""))
        if self._one(
            "SELECT 1 FROM inputs WHERE walked=1 AND (path=? OR path>=? AND path<?) LIMIT 1", (folder, *below)
        ):
            return 0
        found = self._one("SELECT COUNT(*) FROM previous WHERE vanished=0 AND path>=? AND path<?", below)
        return 0 if found is None else int(found[0])

    def add_vanished(self, unlisted: Iterable[bytes]) -> None:
        """Nothing; what the run before had, and this one did not meet, is an entry from here on, marked as vanished.

        What lies in a folder or an archive that could not be looked into, in `unlisted`, may be there: it is kept
        without a mark.
        """
        self._run(
            "INSERT INTO inputs SELECT path, container, member, 0, source, row, 1 FROM previous AS p WHERE NOT EXISTS "
            "(SELECT 1 FROM inputs AS i WHERE i.path=p.path AND i.container=p.container AND i.member=p.member)"
        )
        for below in (start for path in unlisted for start in (os.path.join(path, b""), path + b"!")):
            self._run("UPDATE inputs SET vanished=0 WHERE vanished=1 AND path>=? AND path<?", _range(below))

    # --- the end ------------------------------------------------------------------------------------------------------

    def ordered(self) -> Iterator[Entry]:
        """All entries in the order of the results."""
        try:
            # A cursor of its own: others ask and write while this one is read.
            rows = self._base.cursor().execute(
                "SELECT path, container, member, source, row, vanished FROM inputs ORDER BY path, container, member"
            )
            for path, container, member, source, row, vanished in rows:
                yield Entry(_key(path, container, member), Place(source, row), bool(vanished))
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    # --- SQL ----------------------------------------------------------------------------------------------------------

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        try:
            self._base.execute(statement, values)
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    def _one(self, statement: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        try:
            found: tuple[Any, ...] | None = self._base.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        return found

    def _trouble(self, error: Exception) -> OutputError:
        return OutputError(f"{self._path} could not be written: {error}; make room there, and run the same again")


class Containers:
    """Whether members have the digests that their archives' rows have; told row by row in the order of the results.

    An archive's `path_bytes` begin those of its members, so that only the archives around the current row are kept.
    """

    def __init__(self) -> None:
        self._around: list[tuple[bytes, dict[str, str | None]]] = []

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether the row is of no member, or its archive, and all around that, were read as their own rows say."""
        path: bytes = row["path_bytes"]
        while self._around and not path.startswith(self._around[-1][0]):
            self._around.pop()
        fits = row["member"] is None
        if not fits:
            digests = [names[row["container"]] for _, names in self._around if row["container"] in names]
            fits = bool(digests) and digests[-1] is not None and digests[-1] == row["container_sha256"]
        if fits and row["error_code"] is not None:  # as every archive's row has
            if not self._around or self._around[-1][0] != path:
                self._around.append((path, {}))
            self._around[-1][1][row["path"]] = row["sha256"]
        return fits

    def rowless(self, row: Mapping[str, Any]) -> str | None:
        """The archive file of a member, the last row that `fits` was asked about, where that file has no row.

        It comes after those of all its members, so that a run that was ended within the archive has none.
        """
        file: str = row["path"].partition("!")[0]
        return None if any(file in names for _, names in self._around) else file


def _range(start: bytes) -> tuple[bytes, bytes]:
    """The name with which all that begin so begin in order, and the first one that does not begin so any more."""
    return start, start[:-1] + bytes([start[-1] + 1])


def _stored(key: Key) -> tuple[bytes, str, int]:
    path, container, member = key
    name = (container or "").encode("utf-8", "backslashreplace").decode("utf-8")
    return path, name, -1 if member is None else member


def _key(path: bytes, container: str, member: int) -> Key:
    return path, container or None, None if member < 0 else member
