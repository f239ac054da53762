"""Files that appear whole or not at all: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jscan.errors import OutputError
from jscan.reading import kind


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """A binary file open for writing; `path` takes its content when the block ends without an exception.

    The temporary file lies in the same folder, because a rename does not cross file systems. When the block
    raises, the temporary file is removed and `path` is as it was. Raises OutputError, naming the path, when
    the file cannot be written, or exists already and `overwrite` is False, or is a link, a device or anything
    else but a regular file: a file in its place would not be what its maker meant.
    """
    temporary = temporary_of(path)
    try:
        _refuse_existing(path, overwrite)
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _refuse_existing(path, overwrite)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as exc:
        raise OutputError(f"{path} could not be written: {exc.strerror or exc}") from exc
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def temporary_of(path: Path) -> Path:
    """Where the content of `path` lies while this process writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(path: Path) -> None:
    """Nothing; temporary files that killed processes left of `path` are gone. Nobody may be writing it."""
    with contextlib.suppress(OSError):
        for left in path.parent.iterdir():
            middle = left.name.removeprefix(f".{path.name}.").removesuffix(".tmp")
            if middle.isdigit() and left.name == f".{path.name}.{middle}.tmp":
                left.unlink()


def sync_folder(folder: Path) -> None:
    """Nothing; the folder's entries are on the disk when it returns. Raises OSError.

    Systems that cannot open a folder (Windows) or sync one (some network file systems) are passed over.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def refuse_special(path: Path, name: str) -> None:
    """Nothing. Raises OutputError, by this name, where a folder, a link, a device or a FIFO stands at the path."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # nothing is there, or writing will say why not
    if stat.S_ISLNK(mode):
        raise OutputError(f"{name} is a symbolic link, which is not followed; name the file that it points to")
    if not stat.S_ISREG(mode):
        raise OutputError(f"{name} is {kind(mode)}, which is not replaced; name a file")


def _refuse_existing(path: Path, overwrite: bool) -> None:
    refuse_special(path, str(path))
    if not overwrite and os.path.lexists(path):
        raise OutputError(f"{path} exists already; name another file, or add --overwrite to replace it")
