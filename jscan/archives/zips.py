"""Zip archives, after PKWARE's APPNOTE 6.3; sections are cited as (4.3.7) and so on."""

from __future__ import annotations

import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt

from jscan.archives import Budget, Entries, Entry, Findings, Member, Reader, Source
from jscan.archives.streams import Inflated, Slice, damaged, read_exactly
from jscan.errors import ErrorCode, InputError
from jscan.timestamps import utc

_LOCAL, _CENTRAL, _END, _END64, _LOCATOR64 = b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7"
_DESCRIPTOR = b"PK\7\x08"
_FOLLOWS = (_LOCAL, _CENTRAL, _END, _END64, b"PK\6\x08")
_LOCAL_BYTES, _CENTRAL_BYTES, _END_BYTES = 30, 46, 22
_METHODS = {0: "stored", 8: "deflate", 12: "bzip2", 14: "lzma", 93: "Zstandard", 95: "xz"}
_NAMES = {1: "shrink", 6: "implode", 9: "Deflate64", 96: "JPEG", 97: "WavPack", 98: "PPMd", 99: "AES"}
_NOTHING = 64  # bytes; some programs compress the nothing that a folder holds
_FAR = 1 << 62  # larger offsets and sizes than any file has are all the same


@dataclass(frozen=True, slots=True)
class _Record:
    """What a header says of one member."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    """Of the local header."""
    mtime: datetime | None
    mode: int
    """Of Unix, 0 where it is not told."""
    exact: bool = True
    """Whether the sizes are known: an archive without directory may tell them only behind the data."""


@dataclass(frozen=True, slots=True)
class _Directory:
    start: int
    stop: int
    shift: int
    """Bytes put in front of the archive after it was made (a self-extractor, say)."""
    entries: int


def entries(source: Source, budget: Budget, findings: Findings) -> Entries:
    """The members in the order of the directory; where there is none, those whose local headers can be followed.

    The data of members that share bytes with one another are never read (CVE-2024-0450: a few kilobytes that many
    members share come out as petabytes). Raises InputError `archive_limit`.
    """
    directory = _find(source)
    if directory is None:
        findings.blame(
            "The archive is cut off or damaged: it has no directory at its end. What could be found was read."
        )
        records: Iterator[_Record] = _follow(source, budget)
        shared: frozenset[int] = frozenset()
    else:
        shared = _overlaps(source, directory, budget.members + 1)
        records = _listed(source, directory)
    index = -1
    for index, record in enumerate(records):
        budget.count()
        if record.name.endswith((b"/", b"\\")) and record.size == 0 and record.packed <= _NOTHING:
            continue  # a folder; one that holds data is no folder
        refused = _refusal(record)
        if refused is None and index in shared:
            refused = damaged("the member's data are shared with another member, as in a bomb, and were not read")
        yield Entry(
            index,
            record.name,
            record.mtime,
            None if record.method == 0 else record.packed,
            partial(_open, source, record, budget),
            refused,
        )
    # Programs that know no zip64 count no further than 65,535.
    if directory is not None and (index + 1 - directory.entries) % 65536:
        findings.blame(
            f"The archive is damaged: its directory holds {index + 1:,} entries that can be read and claims "
            f"{directory.entries:,}. Look for an undamaged copy."
        )


def _refusal(record: _Record) -> InputError | None:
    """Why a member is not read, or None."""
    if record.flags & 0x2041 or record.method == 99:
        return InputError(ErrorCode.ENCRYPTED, "It is encrypted. Extract it with its password and scan the file.")
    if record.method not in _METHODS:
        name = _NAMES.get(record.method, "unknown")
        return InputError(
            ErrorCode.UNSUPPORTED_METHOD,
            f"It is packed by method {record.method} ({name}), which is not read. Extract it with another tool and "
            "scan the file.",
        )
    if not record.exact and record.method in (0, 14):
        return damaged("the member's length stands only in the directory, which is missing")
    if stat.S_ISLNK(record.mode):
        return InputError(ErrorCode.SYMLINK, "It is a symbolic link inside the archive, which is not followed.")
    return None


# --- the directory ----------------------------------------------------------------------------------------------------


def _find(source: Source) -> _Directory | None:
    """The central directory (4.3.12 to 4.3.16), or None where there is none that fits into the file."""
    tail_at = max(0, source.size - _END_BYTES - 0xFFFF)
    tail = source.pread(source.size - tail_at, tail_at)
    at = len(tail)
    while (at := tail.rfind(_END, 0, at)) >= 0:
        if at + _END_BYTES > len(tail):
            continue
        entries, size, offset = struct.unpack_from("<HII", tail, at + 10)
        stop = tail_at + at
        locator = source.pread(20, stop - 20) if stop >= 20 else b""
        if locator.startswith(_LOCATOR64):
            (where,) = struct.unpack_from("<Q", locator, 8)
            # What was put in front of the archive moves this record as well; without extensions it lies right here.
            for place in (where, stop - 20 - 56):
                record = source.pread(56, place) if 0 <= place < stop else b""
                if len(record) == 56 and record.startswith(_END64):
                    entries, size, offset = struct.unpack_from("<QQQ", record, 32)
                    stop = place
                    break
        start = stop - size
        if start < 0 or offset > start:
            continue  # bytes that happen to look like an end record
        if size == 0 or source.pread(4, start) == _CENTRAL:
            return _Directory(start, stop, start - offset, entries)
    return None


def _listed(source: Source, directory: _Directory) -> Iterator[_Record]:
    """The directory's entries (4.3.12)."""
    reader = Slice(source, directory.start, directory.stop)
    buffered = _Buffered(reader)
    while header := buffered.take(_CENTRAL_BYTES):
        if len(header) < _CENTRAL_BYTES or not header.startswith(_CENTRAL):
            return  # the count of entries tells that some are missing, or that there are other records behind them
        flags, method, _, _, crc, packed, size, n, m, k = struct.unpack_from("<HHHHIIIHHH", header, 8)
        attributes, offset = struct.unpack_from("<II", header, 38)
        rest = buffered.take(n + m + k)
        if len(rest) < n + m + k:
            return
        name, extra = rest[:n], rest[n : n + m]
        size, packed, offset = _wide(extra, size, packed, offset)
        mode = attributes >> 16 if header[5] in (3, 19) else 0  # made by Unix or macOS
        yield _Record(name, flags, method, crc, packed, size, offset + directory.shift, _mtime(extra), mode)


class _Buffered:
    """Small pieces out of a reader."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._data = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        if len(self._data) - self._at < count:
            self._data = self._data[self._at :] + read_exactly(self._reader, max(count, 1 << 18))
            self._at = 0
        out = self._data[self._at : self._at + count]
        self._at += len(out)
        return out


def _extras(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """The extra fields (4.5.1), as far as they fit."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        yield kind, extra[at + 4 : at + 4 + length]
        at += 4 + length


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """(size, packed, offset) with those that do not fit into 32 bits taken from the zip64 field (4.5.3)."""
    values = [size, packed, offset]
    if 0xFFFFFFFF in values:
        body = next((b for kind, b in _extras(extra) if kind == 1), b"")
        for i, value in enumerate(values):
            if value == 0xFFFFFFFF and len(body) >= 8:
                values[i], body = min(int.from_bytes(body[:8], "little"), _FAR), body[8:]
    return values[0], values[1], values[2]


def _mtime(extra: bytes) -> datetime | None:
    """The time of change in UTC, from the fields of Info-ZIP (0x5455) or NTFS (0x000a), or None."""
    for kind, body in _extras(extra):
        if kind == 0x5455 and len(body) >= 5 and body[0] & 1:
            return utc(int.from_bytes(body[1:5], "little", signed=True) * 10**9)
        if kind == 0x000A and len(body) >= 32 and body[4:8] == b"\1\0\x18\0":
            return utc((int.from_bytes(body[8:16], "little") - 116_444_736_000_000_000) * 100)
    return None


def _overlaps(source: Source, directory: _Directory, most: int) -> frozenset[int]:
    """The members, of the first `most`, that certainly share bytes with another one or with the directory.

    Counted is what the directory states, with a local header of the least length: so no sound archive is accused.
    """
    starts, stops = array("q"), array("q")
    for record in islice(_listed(source, directory), most):
        begin = min(record.offset, _FAR)
        starts.append(begin)
        stops.append(min(begin + _LOCAL_BYTES + record.packed, _FAR))
    if not starts:
        return frozenset()
    start: npt.NDArray[np.int64] = np.frombuffer(starts, np.int64)
    stop: npt.NDArray[np.int64] = np.frombuffer(stops, np.int64)
    order = np.argsort(start, kind="stable")
    reach = np.maximum.accumulate(stop[order])
    later = np.flatnonzero(start[order][1:] < reach[:-1]) + 1
    bad = set(order[later].tolist())
    # Whoever reaches into the next ones is as guilty: each that ends after the start of its successor.
    bad |= set(order[np.flatnonzero(stop[order][:-1] > start[order][1:])].tolist())
    bad |= set(np.flatnonzero((start < directory.start) & (stop > directory.start)).tolist())
    return frozenset(bad)


# --- without a directory ----------------------------------------------------------------------------------------------


def _follow(source: Source, budget: Budget) -> Iterator[_Record]:
    """Members by their local headers (4.3.7), one behind the other from the start, as long as they can be followed."""
    at = 0
    while True:
        header = source.pread(_LOCAL_BYTES, at)
        if len(header) < _LOCAL_BYTES or not header.startswith(_LOCAL):
            return
        flags, method, _, _, crc, packed, size, n, m = struct.unpack_from("<HHHHIIIHH", header, 6)
        rest = source.pread(n + m, at + _LOCAL_BYTES)
        name, extra = rest[:n], rest[n:]
        size, packed, _ = _wide(extra, size, packed, 0)
        exact = not flags & 8
        data = at + _LOCAL_BYTES + n + m
        if not exact:
            packed = min(packed or _FAR, max(0, source.size - data))
        yield _Record(name, flags, method, crc, packed, size, at, _mtime(extra), 0, exact)
        if exact:
            at = min(data + packed, source.size)
            continue
        end = _end_of_data(source, data, method, budget)
        if end is None:
            return
        at = end


def _end_of_data(source: Source, start: int, method: int, budget: Budget) -> int | None:
    """Where the record behind data of unknown length begins, or None: only a compressed stream says where it ends."""
    if _METHODS.get(method, "stored") in ("stored", "lzma"):
        return None
    stream = Inflated(Slice(source, start, source.size), _METHODS[method], budget, joined=False)
    try:
        while stream.read(1 << 20):
            pass
    except InputError:
        return None
    end = start + stream.taken
    behind = source.pread(64, end)
    # The data descriptor (4.3.9): its signature may be missing, its sizes have 4 or 8 bytes.
    for length in (16, 12, 24, 20):
        if behind.startswith(_FOLLOWS, length):
            return end + length
    return None


# --- the members' bytes -----------------------------------------------------------------------------------------------


def _open(source: Source, record: _Record, budget: Budget) -> Member:
    """The member's bytes. Raises InputError `bad_archive` where its local header is not there."""
    header = source.pread(_LOCAL_BYTES, record.offset) if record.offset < source.size else b""
    if len(header) < _LOCAL_BYTES or not header.startswith(_LOCAL):
        raise damaged("the member is not where the directory says that it is")
    n, m = struct.unpack_from("<HH", header, 26)
    warnings = [] if source.pread(n, record.offset + _LOCAL_BYTES) == record.name else ["other_name"]
    start = record.offset + _LOCAL_BYTES + n + m
    packed: Reader = Slice(source, start, start + record.packed)
    method = _METHODS[record.method]
    if method == "lzma":
        intro = read_exactly(packed, 4)
        properties = read_exactly(packed, min(int.from_bytes(intro[2:4], "little"), 64))
        packed = Inflated(packed, method, budget, joined=False, properties=properties)
    elif method != "stored":
        packed = Inflated(packed, method, budget, joined=False)
    return _Bytes(packed, record, warnings)


class _Bytes:
    """A member's bytes, compared at their end with what the headers say of them."""

    def __init__(self, data: Reader, record: _Record, warnings: list[str]) -> None:
        self._data = data
        self._record = record
        self._crc = 0
        self._count = 0
        self._ended = False
        self.warnings = warnings

    def read(self, count: int) -> bytes:
        """The next bytes."""
        record = self._record
        if record.method == 14:
            # LZMA data need not mark their end; what follows the stated size is not theirs.
            count = min(count, max(record.size - self._count, 0))
        data = self._data.read(count) if count else b""
        if data:
            self._crc = zlib.crc32(data, self._crc)
            self._count += len(data)
        elif record.exact and not self._ended:
            self._ended = True
            if self._count != record.size:
                self.warnings.append("wrong_size")
            if self._crc != record.crc:
                self.warnings.append("bad_crc")
        return data
