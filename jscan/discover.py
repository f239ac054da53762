"""Files and folders to references of inputs, one at a time, in an order that depends on names alone."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from jscan import reading
from jscan.errors import InputError, UsageError
from jscan.names import display_path
from jscan.records import ImageRef

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


def discover(
    sources: Sequence[Path],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    leave_out: frozenset[bytes] = frozenset(),
) -> Iterator[ImageRef]:
    """References to every file among the sources, folders entered to any depth, each file once.

    Sources come in the order given, the files inside one in the order of their path's bytes. Whatever its
    suffix, a file becomes a reference; a symbolic link, a FIFO, a device, a socket or a folder that cannot
    be listed becomes one that says so in `refused`. Links are never followed. A file that several sources
    reach is yielded for the source nearest to it (itself, if it is named).

    `include` and `exclude` are glob patterns, compared, minding upper and lower case, with the path below its
    source and with the bare name; `*` matches `/` too. A folder that matches `exclude` is not entered.
    `leave_out` holds absolute real paths, files or folders, that are passed over (the outputs of the run). At most
    `limit` references are yielded.

    Raises UsageError, before anything is yielded, when a source does not exist.
    """
    roots = _roots(sources)
    wanted = _Wanted(tuple(include), tuple(exclude))
    stops = leave_out | {root.real for root in roots}
    return islice(_walk_all(roots, wanted, stops, leave_out), limit)


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
    roots: list[_Root], wanted: _Wanted, stops: frozenset[bytes], leave_out: frozenset[bytes]
) -> Iterator[ImageRef]:
    for root in roots:
        if root.real in leave_out:
            continue
        name = os.path.basename(root.real) or root.path
        if root.mode is None:
            if root.trouble is not None:
                yield _refused(root.path, root.trouble)
        elif stat.S_ISDIR(root.mode):
            yield from _walk(root, wanted, stops)
        elif wanted.takes(name):
            yield _ref(root.path, root.mode)


def _walk(root: _Root, wanted: _Wanted, stops: frozenset[bytes]) -> Iterator[ImageRef]:
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
            if wanted.enters(relative):
                entries, trouble = _list(path)
                if trouble:
                    yield _refused(path, trouble)
                stack.append(entries)
                below.append(name)
        elif wanted.takes(relative):
            if mode is not None:
                yield _ref(path, mode)
            elif trouble:
                yield _refused(path, trouble)


_Listed = tuple[bytes, int | None, InputError | None]


def _list(folder: bytes) -> tuple[Iterator[_Listed], InputError | None]:
    """(name, file type bits, None) or (name, None, why not) of each entry in order, and why the listing failed.

    A folder's name is ordered as if it ended in a separator, so that whole paths come out in byte order.
    """
    found: list[_Listed] = []
    trouble = None
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                try:
                    found.append((entry.name, _type_bits(entry), None))
                except OSError as exc:
                    found.append((entry.name, None, reading.os_error(exc, "looked at")))
    except OSError as exc:
        trouble = reading.os_error(exc, "listed")
    found.sort(key=lambda e: e[0] + b"/" if e[1] is not None and stat.S_ISDIR(e[1]) else e[0])
    return iter(found), trouble


def _type_bits(entry: os.DirEntry[bytes]) -> int:
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
