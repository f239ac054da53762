"""Tar archives: POSIX ustar and pax (IEEE 1003.1, pax), GNU, and what came before them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from jscan.archives import Budget, Entries, Entry, Findings
from jscan.archives.streams import damaged, read_exactly
from jscan.errors import ErrorCode, InputError
from jscan.filetypes import is_tar
from jscan.timestamps import utc

BLOCK = 512
MAX_HEADER_BYTES = 1 << 20
"""A long name or a set of attributes may take so much; Linux knows no path of more than 4,096 bytes."""
MAX_EXTENSIONS = 100
"""Headers in front of one member that speak of it; programs write two."""

_EMPTY = bytes(BLOCK)
_ZEROS = bytes(1 << 20)
_REGULAR = frozenset({b"0", b"\0", b"7"})
_LINKS = {b"1": "a hard link", b"2": "a symbolic link"}
_DEVICES = {b"3": "a device", b"4": "a device", b"6": "a FIFO"}
_FOLDERS = frozenset({b"5", b"D"})  # D: with a list of what was in it, as data
_BARE = frozenset({*_LINKS, *_DEVICES, b"5"})  # no data follow, whatever their size says


class Stream(Protocol):
    """The archive's bytes one after another."""

    def read(self, count: int) -> bytes:
        """At least one byte and at most `count`, or none at the end. Raises InputError."""
        ...

    def skip(self, count: int) -> int:
        """How many of the next `count` bytes were passed over; fewer at the end. Raises InputError."""
        ...


@dataclass(slots=True)
class _Header:
    """What the blocks in front of a member say of it."""

    name: bytes
    kind: bytes
    size: int
    mtime: datetime | None
    extended: bool
    """Whether blocks that list the parts of a sparse file follow."""


@dataclass(slots=True)
class _Said:
    """What blocks of their own said of the next member, or of all that follow."""

    next: dict[bytes, bytes] = field(default_factory=dict)
    all: dict[bytes, bytes] = field(default_factory=dict)

    def get(self, key: bytes) -> bytes | None:
        """The attribute, or None."""
        return self.next.get(key, self.all.get(key))


class _Rewindable:
    """A stream to which bytes can be given back."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._held = b""
        self._at = 0

    def give_back(self, data: bytes) -> None:
        """Nothing; `data`, which was the last that was read, will be read again."""
        self._held, self._at = data, 0

    def read(self, count: int) -> bytes:
        """The next bytes."""
        out = self._held[self._at : self._at + count]
        self._at += len(out)
        return out or self._stream.read(count)

    def skip(self, count: int) -> int:
        """How many of the next bytes were passed over."""
        held = min(count, len(self._held) - self._at)
        self._at += held
        return held + self._stream.skip(count - held)


def entries(packed: Stream, budget: Budget, findings: Findings) -> Entries:
    """The members as they come. What follows the end mark is read as well, for archives may lie behind one another.

    Behind a damaged header the next one that holds is looked for. Raises InputError where the stream cannot be read on.
    """
    stream = _Rewindable(packed)
    said = _Said()
    index = -1
    extensions = 0
    ended = lost = False
    while True:
        block = read_exactly(stream, BLOCK)
        if not block:
            break
        if len(block) < BLOCK:
            if not ended:
                findings.blame("The archive is cut off in the middle of a header. What stands before was read.")
            elif block.strip(b"\0"):
                findings.warnings.append("trailing_bytes")
            break
        if block == _EMPTY:
            ended = True
            _pass_zeros(stream)
            continue
        header = _parse(block) if is_tar(block) else None
        if header is None:
            if ended and not lost:
                findings.warnings.append("trailing_bytes")
            elif not lost:
                findings.blame("The archive is damaged: a header does not hold. Members may be missing behind it.")
            lost = True
            continue
        ended = lost = False
        if header.kind in (b"x", b"g", b"L", b"K", b"X"):
            extensions += 1
            if extensions > MAX_EXTENSIONS:
                raise damaged(f"more than {MAX_EXTENSIONS:,} headers speak of one member")
            _extension(stream, header, said, findings)
            continue
        extensions = 0
        _apply(header, said)
        said.next = {}
        index += 1
        yield from _member(stream, index, header, said, budget, findings)
    if not ended and findings.trouble is None:
        findings.blame(
            "The archive does not end in two empty blocks: it was cut off, or not finished. What is there was read."
        )


def _pass_zeros(stream: _Rewindable) -> None:
    """Nothing; whole empty blocks are passed over at the speed of a comparison: a sparse file may have terabytes."""
    while chunk := read_exactly(stream, len(_ZEROS)):
        if chunk != _ZEROS[: len(chunk)]:
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            stream.give_back(chunk[zeros // BLOCK * BLOCK :])
            return


def _member(
    stream: _Rewindable, index: int, header: _Header, said: _Said, budget: Budget, findings: Findings
) -> Entries:
    """The member that a header stands before, and then its bytes passed over as far as nobody read them."""
    if header.kind == b"V":  # the name of a volume
        _skip(stream, _padded(header.size), findings)
        return
    while header.extended:
        block = read_exactly(stream, BLOCK)
        header.extended = len(block) == BLOCK and block[504] != 0
    data = _Data(stream, 0 if header.kind in _BARE else header.size)
    whole = _padded(data.left)
    budget.count()
    if not (header.kind in _FOLDERS or (header.kind in _REGULAR and header.name.endswith(b"/") and not header.size)):
        yield Entry(index, header.name, header.mtime, None, lambda: data, _refusal(header, said))
    _skip(stream, whole - data.count, findings)


def _refusal(header: _Header, said: _Said) -> InputError | None:
    """Why a member is not read, or None."""
    if header.kind in _LINKS:
        return InputError(
            ErrorCode.SYMLINK,
            f"It is {_LINKS[header.kind]} inside the archive, which is not followed; what it points to, if it is in "
            "the archive, has a row of its own.",
        )
    if header.kind in _DEVICES:
        return InputError(ErrorCode.NOT_REGULAR, f"It is {_DEVICES[header.kind]}, of which an archive holds no bytes.")
    sparse = header.kind == b"S" or any(key.startswith(b"GNU.sparse") for key in said.all)
    if sparse or header.kind not in _REGULAR:
        what = "a sparse file" if sparse else f"of the unknown kind {header.kind!r}"
        return InputError(
            ErrorCode.UNSUPPORTED_METHOD,
            f"It is {what}, which is not read. Extract it with another tool and scan the file.",
        )
    return None


class _Data:
    """The bytes of one member, which lie in the stream before the next header."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self.left = size
        self.count = 0
        self.warnings: list[str] = []

    def read(self, count: int) -> bytes:
        """The next bytes. Raises InputError `bad_archive` where the stream ends before the member does."""
        if self.left == 0:
            return b""
        data = self._stream.read(min(count, self.left))
        if not data:
            raise damaged("it ends in the middle of a member")
        self.left -= len(data)
        self.count += len(data)
        return data


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _skip(stream: _Rewindable, count: int, findings: Findings) -> None:
    """Nothing; the next bytes are passed over."""
    if stream.skip(count) < count:
        findings.blame("The archive is cut off in the middle of a member. What stands before was read.")


def _number(text: bytes) -> int | None:
    """A number of a header: octal digits, or, where the first bit is set, binary (GNU); None where it is neither."""
    if text[0] == 0x80:
        return int.from_bytes(text[1:], "big")
    if text[0] == 0xFF:
        return int.from_bytes(text, "big", signed=True)
    digits = text.split(b"\0")[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return None


def _parse(block: bytes) -> _Header | None:
    """The header in a block whose checksum holds, or None where its numbers are none."""
    size, mtime = _number(block[124:136]), _number(block[136:148])
    if size is None or size < 0:
        return None
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0")[0] + b"/" + name
    kind = block[156:157]
    return _Header(
        name,
        kind,
        size,
        None if mtime is None else utc(mtime * 10**9),
        kind == b"S" and block[482] != 0,
    )


def _extension(stream: _Rewindable, header: _Header, said: _Said, findings: Findings) -> None:
    """Nothing; reads a block that speaks of the next member into `said`."""
    if header.size > MAX_HEADER_BYTES:
        findings.blame(f"The archive is damaged: a header claims to have {header.size:,} bytes, and was passed over.")
        _skip(stream, _padded(header.size), findings)
        return
    data = read_exactly(stream, header.size)
    if len(data) < header.size:
        findings.blame("The archive is cut off in the middle of a header. What stands before was read.")
    _skip(stream, _padded(header.size) - len(data), findings)
    if header.kind == b"L":
        said.next[b"path"] = data.split(b"\0")[0]
    elif header.kind != b"K":
        (said.all if header.kind == b"g" else said.next).update(_attributes(data))


def _attributes(data: bytes) -> dict[bytes, bytes]:
    """The records `length key=value` of a pax header, as far as they hold."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        digits = data[at : at + 20].split(b" ")[0]
        if not digits.isdigit() or not len(digits) + 2 < int(digits) <= len(data) - at:
            break
        key, equals, value = data[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        if equals:
            found[key] = value
        at += int(digits)
    return found


def _apply(header: _Header, said: _Said) -> None:
    """Nothing; puts into the header what was said of it before."""
    name, size, mtime = said.get(b"path"), said.get(b"size"), said.get(b"mtime")
    if name is not None:
        header.name = name
    if size is not None and size.isdigit() and len(size) < 20:
        header.size = int(size)
    if mtime is not None:
        try:
            header.mtime = utc(int(float(mtime) * 10**9))
        except (ValueError, OverflowError):
            header.mtime = None
    if any(key.startswith(b"GNU.sparse") for key in said.next):
        header.kind = b"S"
        header.name = said.next.get(b"GNU.sparse.name", header.name)
