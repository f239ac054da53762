"""Archives read as streams: zip, and tar plain or compressed. Nothing is ever written to the disk.

Why not `zipfile` and `tarfile`: the first gives up a whole archive for one name that is not UTF-8 or a missing end and
holds all of the directory in memory before a limit can be set; the second reads headers of any stated size into
memory and descends once for each in a chain of them. Both hide the bytes of names, and what can still be read of a
damaged archive. The decompressors are the standard library's, called with a bound on what they may return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from jscan.errors import ErrorCode, InputError

MAX_DEPTH = 3
"""An archive in an archive in an archive is looked into; one that lies deeper is not."""
MAX_MEMBERS = 1_000_000
"""Members of one archive file, those of the archives inside it included."""
MAX_MEMBER_BYTES = 512 << 20
"""A member is held in memory whole; a larger one than this is not read. Archives inside archives share this room."""
MAX_MEMBER_SECONDS = 60.0
"""Reading one member may take so long."""
MAX_RATIO = 200
"""So many times its own size may come out of what is compressed; photographs reach 2, blank pages 100."""
MAX_ARCHIVE_BYTES = 1 << 40
"""A larger archive file is not looked into: only a sparse file, which costs nothing to make, is likely to be one."""
FREE_MEMBER_BYTES = 64 << 20
"""The ratio of a member is looked at from here on."""
FREE_ARCHIVE_BYTES = 1 << 30
"""The ratio of a whole archive file, with all that lies inside it, is looked at from here on."""


class Source(Protocol):
    """Bytes that can be read at any place: a file, or a member held in memory."""

    size: int

    def pread(self, count: int, offset: int) -> bytes:
        """The `count` bytes from `offset` on; fewer at the end. Raises InputError."""
        ...


class Reader(Protocol):
    """Bytes one after another."""

    def read(self, count: int) -> bytes:
        """At least one byte and at most `count`, or none at the end. Raises InputError."""
        ...


class Member(Reader, Protocol):
    """The bytes of one member."""

    warnings: list[str]
    """What was odd; complete when `read` has returned nothing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One member, as long as the archive has not been asked for the next one."""

    index: int
    """Its place in the archive, from 0, folders counted: in the directory of a zip, in the order of a tar."""
    name: bytes
    """As it is stored; it may point anywhere, for nothing is ever written there."""
    mtime: datetime | None
    """UTC, where the archive tells; the DOS time of a zip does not say of which time zone it is."""
    packed: int | None
    """Bytes that it takes in the archive, or None where it is not compressed by itself."""
    open: Callable[[], Member]
    """Its bytes; to be called once at most."""
    refused: InputError | None = None
    """Why it is not read, if it is known without reading."""


@dataclass(slots=True)
class Findings:
    """What is wrong with an archive as a whole; its reader adds to it on the way."""

    trouble: InputError | None = None
    """The first reason for which members may be missing."""
    warnings: list[str] = field(default_factory=list)

    def blame(self, sentence: str) -> None:
        """Nothing; notes that the archive is damaged."""
        if self.trouble is None:
            self.trouble = InputError(ErrorCode.BAD_ARCHIVE, sentence)


def silent() -> None:
    """Nothing, where nobody waits for signs of life."""


@dataclass(slots=True)
class Budget:
    """What may still be read out of one archive file, at all depths together."""

    bytes: int
    members: int = MAX_MEMBERS
    alive: Callable[[], None] = silent
    """Called whenever something came out of it."""

    @classmethod
    def of(cls, size: int, alive: Callable[[], None] = silent) -> Budget:
        """The budget of an archive file of so many bytes."""
        return cls(max(FREE_ARCHIVE_BYTES, MAX_RATIO * size), alive=alive)

    def spend(self, count: int) -> None:
        """Nothing. Raises InputError `archive_limit` when more was read than the budget holds."""
        self.alive()
        self.bytes -= count
        if self.bytes < 0:
            raise InputError(
                ErrorCode.ARCHIVE_LIMIT,
                f"More than {MAX_RATIO} times its size came out of the archive, as of a bomb, and reading was stopped. "
                "If it is none, extract it with another tool and scan the folder.",
            )

    def count(self) -> None:
        """Nothing. Raises InputError `archive_limit` for a member too many."""
        self.members -= 1
        if self.members < 0:
            raise InputError(
                ErrorCode.ARCHIVE_LIMIT,
                f"It has more than {MAX_MEMBERS:,} members; the others were not read. Extract it with another tool "
                "and scan the folder.",
            )


Entries = Iterator[Entry]
