"""Files, folders, lists and archives to references of inputs, one at a time, in an order that names alone decide."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from jscan import members, reading
from jscan.errors import InputError, UsageError
from jscan.members import ReadArchive
from jscan.names import display_path
from jscan.records import ImageRef

_LONGEST_NAME = 1_000_000
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


def discover(
    sources: Sequence[Path],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    leave_out: frozenset[bytes] = frozenset(),
    wanted: Callable[[ImageRef], bool] = lambda ref: True,
    read: ReadArchive = members.read_archive,
) -> Iterator[ImageRef]:
    """References to every file among the sources, and to every member of every archive, each once.

    Sources come in the order given, the files inside one in the order of their path's bytes, an archive's members in
    the order of the archive, and then the archive. Folders and archives are entered to any depth and to a limited one.
    Whatever its suffix, a file becomes a reference; a symbolic link, a FIFO, a device, a socket or a folder that cannot
    be listed becomes one that says so in `refused`, and so does an archive. Links are never followed. A file that
    several sources reach is yielded for the source nearest to it (itself, if it is named).

    `include` and `exclude` are glob patterns, compared, minding upper and lower case, with the path below its source
    and with the bare name, for a member also with its path inside its archive; `*` matches `/` too. A folder or an
    archive that matches `exclude` is not entered; `include` chooses among files and members, not among archives.
    `leave_out` holds absolute real paths, files or folders, that are passed over (the outputs of the run). At most
    `limit` references are yielded. A member's reference brings its bytes where `wanted` says so of the reference
    without them; they are read when the reference is drawn, by `read`.

    Raises UsageError, before anything is yielded, when a source does not exist.
    """
    roots = _roots(sources)
    entry = _Entry(_Wanted(tuple(include), tuple(exclude)), wanted, read)
    stops = leave_out | {root.real for root in roots}
    return islice(_walk_all(roots, entry, stops, leave_out), limit)


def discover_list(
    names: BinaryIO,
    *,
    null: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    leave_out: Callable[[bytes], bool] = lambda real: False,
    wanted: Callable[[ImageRef], bool] = lambda ref: True,
    read: ReadArchive = members.read_archive,
) -> Iterator[ImageRef]:
    """References to the files that a list names, a line or (with `null`) a NUL-ended name for each, in its order.

    The list is read as references are drawn. Where a line names nothing, but would without the carriage return or the
    byte order mark that some editors write, it is read without. A name that the list holds twice counts once; one that
    does not exist becomes a reference that says so, for it may have vanished since the list was made; a folder is not
    entered. Patterns are compared with the name as it stands in the list. `leave_out` says which absolute real paths
    are passed over. For all else see `discover`.

    Raises UsageError, when it comes to it, where the list holds something that cannot be a path.
    """
    entry = _Entry(_Wanted(tuple(include), tuple(exclude)), wanted, read)
    listed = _names(names, b"\0") if null else filter(None, map(_as_meant, _names(names, b"\n")))
    return islice(_walk_list(listed, entry, leave_out), limit)


@dataclass(frozen=True, slots=True)
class _Root:
    path: bytes
    """As the user gave it."""
    real: bytes
    """Absolute, the links of its parents resolved, but not one that it is itself."""
    mode: int | None
    """From lstat, or None where even that failed."""
    trouble: InputError | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def takes(self, below: bytes) -> bool:
        """Whether a file at this path below its source is wanted."""
        return (not self.include or _matches(below, self.include)) and not _matches(below, self.exclude)

    def enters(self, below: bytes) -> bool:
        """Whether a folder at this path below its source is entered."""
        return not _matches(below, self.exclude)


def _matches(below: bytes, patterns: tuple[str, ...]) -> bool:
    if not patterns:
        return False
    path = os.fsdecode(below)
    if os.sep != "/":
        path = path.replace(os.sep, "/")
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path, p) or fnmatchcase(name, p) for p in patterns)


@dataclass(frozen=True, slots=True)
class _InArchive:
    """The choice among the members of an archive."""

    wanted: _Wanted
    below: bytes
    """The archive's path below its source."""

    def takes(self, member: bytes) -> bool:
        """Whether a member of this name is wanted."""
        include = self.wanted.include
        return self.enters(member) and (
            not include or _matches(member, include) or _matches(self.below + b"!" + member, include)
        )

    def enters(self, member: bytes) -> bool:
        """Whether neither the member nor a folder that it lies in is to be left out."""
        exclude = self.wanted.exclude
        if not exclude:
            return True
        parts = member.split(b"/")
        folders = (b"/".join(parts[: i + 1]) for i in range(len(parts)))
        return not (any(_matches(f, exclude) for f in folders) or _matches(self.below + b"!" + member, exclude))

    def within(self, member: bytes) -> _InArchive:
        """The choice among the members of an archive inside this one."""
        return _InArchive(self.wanted, self.below + b"!" + member)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What becomes of a path that was found."""

    wanted: _Wanted
    content: Callable[[ImageRef], bool]
    """Whether the bytes of a member are to be read."""
    read: ReadArchive

    def references(self, path: bytes, mode: int, below: bytes) -> Iterator[ImageRef]:
        """The references that the path gives: one, none, or those of an archive."""
        takes = self.wanted.takes(below)
        touched = False
        if stat.S_ISREG(mode) and self.wanted.enters(below):
            archive, touched = yield from self.read(path, _InArchive(self.wanted, below), self.content)
            if archive:
                return
        if takes:
            yield replace(_ref(path, mode), touched=touched)


def _roots(sources: Sequence[Path]) -> list[_Root]:
    """The sources, checked, each once."""
    roots: list[_Root] = []
    seen: set[bytes] = set()
    for source in sources:
        path = os.fsencode(source)
        mode: int | None = None
        trouble: InputError | None = None
        try:
            mode = os.lstat(path).st_mode
        except ValueError as exc:  # a NUL inside the name
            raise UsageError(f"{display_path(path)!r} cannot be a path: {exc}") from exc
        except OSError as exc:
            if exc.errno in _ABSENT:
                raise UsageError(f"{display_path(path)} does not exist; check the spelling of the path") from exc
            trouble = reading.os_error(exc, "looked at")
        real = _real(path)
        if real not in seen:
            seen.add(real)
            roots.append(_Root(path, real, mode, trouble))
    return roots


def _real(path: bytes) -> bytes:
    """The absolute path with its parents' links resolved. A last part that is a link stays one."""
    head, tail = os.path.split(os.path.abspath(path))
    if not tail:
        return head
    return os.path.join(os.path.realpath(head), tail)


def _walk_all(
    roots: list[_Root], entry: _Entry, stops: frozenset[bytes], leave_out: frozenset[bytes]
) -> Iterator[ImageRef]:
    for root in roots:
        if root.real in leave_out:
            continue
        name = os.path.basename(root.real) or root.path
        if root.mode is None:
            if root.trouble is not None:
                yield _refused(root.path, root.trouble)
        elif stat.S_ISDIR(root.mode):
            yield from _walk(root, entry, stops)
        else:
            yield from entry.references(root.path, root.mode, name)


def _walk_list(names: Iterable[bytes], entry: _Entry, leave_out: Callable[[bytes], bool]) -> Iterator[ImageRef]:
    seen: set[bytes] = set()  # digests, which are smaller than paths
    for path in names:
        real = _real(path)
        key = hashlib.blake2b(real, digest_size=12).digest()
        if key in seen or leave_out(real):
            continue
        seen.add(key)
        try:
            mode = os.lstat(path).st_mode
        except OSError as exc:
            if entry.wanted.takes(path):
                yield _refused(path, reading.os_error(exc, "looked at"))
            continue
        yield from entry.references(path, mode, path)


def _as_meant(line: bytes) -> bytes:
    """The path in a line, less what is of the text and not of the name, where only that is a file or nothing at all."""
    bare = line.removesuffix(b"\r").removeprefix(codecs.BOM_UTF8)
    if bare == line or os.path.lexists(line):
        return line
    return bare if not bare or os.path.lexists(bare) else line


def _names(names: BinaryIO, end: bytes) -> Iterator[bytes]:
    """The names in a list, empty ones left out."""
    rest = b""
    start = True
    while True:
        try:
            chunk = names.read(1 << 16)
        except OSError as error:
            raise UsageError(f"the list of files cannot be read: {error.strerror or error}") from error
        if start and end == b"\n" and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UsageError("the list of files is UTF-16 text; save it as UTF-8 without a byte order mark")
        start = False
        *whole, rest = (rest + chunk).split(end)
        for name in [*whole, *([] if chunk else [rest])]:
            if b"\0" in name:
                raise UsageError("the list of files holds a NUL byte; one made by `find -print0` needs --null")
            if name:
                yield name
        if not chunk:
            return
        if len(rest) > _LONGEST_NAME:
            raise UsageError("the list of files holds a name of more than a million bytes; it is no list of paths")


def _walk(root: _Root, entry: _Entry, stops: frozenset[bytes]) -> Iterator[ImageRef]:
    """Everything below one folder. Its own stack, because a deep tree would exhaust Python's."""
    stack: list[Iterator[_Listed]] = []
    below: list[bytes] = []  # names of the folders that the stack is in

    entries, trouble = _list(root.path)
    if trouble:
        yield _refused(root.path, trouble)
    stack.append(entries)
    while stack:
        try:
            name, mode, trouble = next(stack[-1])
        except StopIteration:
            stack.pop()
            if below:
                below.pop()
            continue
        relative = os.path.join(*below, name) if below else name
        if os.path.join(root.real, relative) in stops:
            continue
        path = os.path.join(root.path, relative)
        if mode is not None and stat.S_ISDIR(mode):
            if entry.wanted.enters(relative):
                entries, trouble = _list(path)
                if trouble:
                    yield _refused(path, trouble)
                stack.append(entries)
                below.append(name)
        elif mode is not None:
            yield from entry.references(path, mode, relative)
        elif trouble and entry.wanted.takes(relative):
            yield _refused(path, trouble)


_Listed = tuple[bytes, int | None, InputError | None]


def _list(folder: bytes) -> tuple[Iterator[_Listed], InputError | None]:
    """(name, file type bits, None) or (name, None, why not) of each entry in order, and why the listing failed.

    A folder's name is ordered as if it ended in a separator, so that whole paths come out in byte order.
    """
    found: list[_Listed] = []
    trouble = None
    try:
        with reading.folder(folder) as place, os.scandir(place) as listing:
            for entry in listing:
                name = os.fsencode(entry.name)
                try:
                    found.append((name, _type_bits(entry), None))
                except OSError as exc:
                    found.append((name, None, reading.os_error(exc, "looked at")))
    except OSError as exc:
        trouble = reading.os_error(exc, "listed")
    found.sort(key=lambda e: e[0] + b"/" if e[1] is not None and stat.S_ISDIR(e[1]) else e[0])
    return iter(found), trouble


def _type_bits(entry: os.DirEntry[bytes] | os.DirEntry[str]) -> int:
    """The type of an entry without a call of stat for the usual cases."""
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)


def _ref(path: bytes, mode: int) -> ImageRef:
    try:
        reading.check_regular(mode)
    except InputError as found:
        return _refused(path, found)
    return ImageRef(display_path(path), path)


def _refused(path: bytes, found: InputError) -> ImageRef:
    return ImageRef(display_path(path), path, refused=(found.code.value, str(found)))
