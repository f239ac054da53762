"""Evidence off the disk: read without touching it, and told by a digest of exactly what was read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from types import TracebackType

from jscan import filetypes
from jscan.errors import ErrorCode, InputError
from jscan.records import Evidence, ImageRef
from jscan.stages import stage
from jscan.timestamps import utc

MAX_FILE_BYTES = 4 << 30
"""A file is read whole; a larger one than this is refused."""
MAX_UNREAD_BYTES = 64 << 20
"""A larger file of a type that is not decoded (a film, say) is refused after a look at its first bytes."""
CHUNK = 1 << 20
"""Bytes read at a time where the whole is not needed at once."""

READ_BYTES = 1 << 30
"""Bytes asked of the system at a time: it gives two GiB at most."""

ATIME_CHANGED = "atime_changed"
SYMLINK = "It is a symbolic link, which is not followed; scan what it points to."
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def read(ref: ImageRef) -> tuple[bytes, Evidence]:
    """The input's bytes and what identifies them: size, time of change, SHA-256 of exactly these bytes.

    A reference that brings its bytes along (a member of an archive) is not read again. A file is opened without
    touching its access time where the system allows that; where the time did change, the evidence's warnings say
    `atime_changed`. Links are not followed, and anything but a regular file is not opened. Raises InputError: what
    discovery refused, `not_found`, `symlink`, `not_regular`, `os_error` with the name of the errno, `changed` when
    the file changed meanwhile, `memory` when it is too large to hold, and `unsupported_format` for large files whose
    first bytes are of no image type that is read.
    """
    if ref.refused is not None:
        raise InputError(ErrorCode(ref.refused[0]), ref.refused[1])
    if ref.content is not None and ref.evidence is not None:
        return ref.content, ref.evidence
    try:
        with stage("read"), EvidenceFile(ref.path_bytes) as file:
            data = _whole(file)
            file.check_unchanged()
            touched = ref.touched or file.touched()
    except MemoryError as exc:
        raise InputError(
            ErrorCode.MEMORY, "There was not enough memory to hold the file. Scan it with fewer --workers."
        ) from exc
    if len(data) != file.size:
        raise _changed()
    warnings = (ATIME_CHANGED,) if touched else ()
    with stage("hash"):
        digest = hashlib.sha256(data).hexdigest()
    return data, Evidence(len(data), file.mtime, digest, warnings)


class EvidenceFile:
    """A regular file open for reading at any place; a context manager. Raises InputError, naming the errno.

    `alive` is called at every reading.
    """

    def __init__(self, path: bytes, *, alive: Callable[[], None] = lambda: None) -> None:
        self._alive = alive
        try:
            self._before = os.lstat(path)
            check_regular(self._before.st_mode)  # a FIFO or a device may answer to being opened at all
            self._handle, self._spared = _open(path)
            try:
                opened = os.fstat(self._handle)
                check_regular(opened.st_mode)
            except BaseException:
                os.close(self._handle)
                raise
        except OSError as exc:
            raise os_error(exc) from exc
        except ValueError as exc:  # what Python says of a NUL
            raise InputError(
                ErrorCode.NOT_FOUND, "It is not there: its path holds a NUL byte, which no file's can. It is misspelt."
            ) from exc
        self._closed = False
        self._identity = _identity(self._before)
        self.size: int = opened.st_size
        """In bytes, when it was opened."""
        self.mtime = utc(opened.st_mtime_ns)

    def __enter__(self) -> EvidenceFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing; the file is closed. It may be closed twice."""
        if not self._closed:
            self._closed = True
            os.close(self._handle)

    def pread(self, count: int, offset: int) -> bytes:
        """The `count` bytes from `offset` on; fewer where the file ends."""
        self._alive()
        parts: list[bytes] = []
        if offset and offset >= self.size:
            return b""  # not asked for: no system knows offsets of more than 63 bits
        try:
            os.lseek(self._handle, offset, os.SEEK_SET)
            while count > 0:
                part = os.read(self._handle, min(count, READ_BYTES))
                if not part:
                    break
                parts.append(part)
                count -= len(part)
        except OSError as exc:
            raise os_error(exc) from exc
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def digest(self) -> str:
        """The SHA-256 of the whole file, in hexadecimal."""
        found = hashlib.sha256()
        at = 0
        while part := self.pread(CHUNK, at):
            found.update(part)
            at += len(part)
        return found.hexdigest()

    def check_unchanged(self) -> None:
        """Nothing. Raises InputError `changed` where the file is no longer what it was before it was opened."""
        try:
            same = _identity(os.fstat(self._handle)) == self._identity
        except OSError as exc:
            raise os_error(exc) from exc
        if not same:
            raise _changed()

    def touched(self) -> bool:
        """Whether reading it changed its access time."""
        if self._spared:
            return False
        try:
            return os.fstat(self._handle).st_atime_ns != self._before.st_atime_ns
        except OSError as exc:
            raise os_error(exc) from exc


@contextlib.contextmanager
def folder(path: bytes) -> Iterator[int | bytes]:
    """What `os.scandir` takes to list a folder: an open one, whose access time is spared, or else its path.

    Raises OSError.
    """
    if os.scandir not in os.supports_fd or not hasattr(os, "O_NOATIME"):
        yield path
        return
    handle, _ = _open(path, os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


def kind(mode: int) -> str:
    """Words for what is not a regular file."""
    return _KINDS.get(stat.S_IFMT(mode), "something other than a file")


def check_regular(mode: int) -> None:
    """Nothing. Raises InputError `symlink` or `not_regular`, saying what it is, for anything but a regular file."""
    if stat.S_ISLNK(mode):
        raise InputError(ErrorCode.SYMLINK, SYMLINK)
    if not stat.S_ISREG(mode):
        raise InputError(ErrorCode.NOT_REGULAR, f"It is {kind(mode)}, not a regular file, and was not opened.")


def os_error(exc: OSError, verb: str = "read") -> InputError:
    """What an error of the system is called in a row."""
    name = errno.errorcode.get(exc.errno or 0, "an unknown error")
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return InputError(ErrorCode.NOT_FOUND, f"It is not there: {name}. It was removed or renamed, or misspelt.")
    if exc.errno == errno.ELOOP:
        return InputError(ErrorCode.SYMLINK, SYMLINK)
    return InputError(
        ErrorCode.OS_ERROR,
        f"It could not be {verb}: {name} ({exc.strerror}). Mend the permissions or the disk, and scan it again.",
    )


def _open(path: bytes, more: int = 0) -> tuple[int, bool]:
    """(descriptor, whether the access time is certainly spared)."""
    flags = os.O_RDONLY | more
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    spare = getattr(os, "O_NOATIME", 0)
    if spare:
        try:
            return os.open(path, flags | spare), True
        except PermissionError as exc:  # EPERM: only a file's owner may ask for that
            if exc.errno != errno.EPERM:
                raise
    return os.open(path, flags), False


def _whole(file: EvidenceFile) -> bytes:
    if file.size > MAX_UNREAD_BYTES:
        filetypes.image_type(file.pread(filetypes.HEAD_BYTES, 0))
    if file.size > MAX_FILE_BYTES:
        raise InputError(
            ErrorCode.MEMORY,
            f"It has {file.size:,} bytes; files of up to {MAX_FILE_BYTES:,} are read. Split it, or convert it.",
        )
    # One byte more than it has: then a file that grows is noticed.
    return file.pread(file.size + 1, 0)


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _changed() -> InputError:
    return InputError(ErrorCode.CHANGED, "It changed while it was read. Scan it again when nothing writes to it.")
