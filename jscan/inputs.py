"""The inputs of a run, as its options name them, and how many there are."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jscan import manifest
from jscan.config import STDIN, ScanConfig
from jscan.discover import discover, discover_list
from jscan.errors import UsageError
from jscan.journal import run_folder
from jscan.members import ReadArchive
from jscan.records import ImageRef
from jscan.unpack import Unpacker

_DRAWN = re.compile(rb"\.?[0-9a-f]{64}\.(png|npz)(\.\d+\.tmp)?")
"""Names of heatmaps and maps, and of those that are being written."""
COUNT_SECONDS = 5.0
"""How long the end of a run waits for the count of the inputs, which nobody needs any more."""


def references(config: ScanConfig, read: ReadArchive, *, wanted: Callable[[ImageRef], bool]) -> Iterator[ImageRef]:
    """References to all inputs. Raises UsageError, at once, where a source or the list of them is not there."""
    choice: dict[str, Any] = {
        "include": config.include,
        "exclude": config.exclude,
        "limit": config.limit,
        "wanted": wanted,
        "read": read,
    }
    if config.files_from is None:
        return discover(config.sources, **choice)
    return _listed(_open_list(config.files_from), null=config.null, leave_out=_made_by(config), **choice)


def _made_by(config: ScanConfig) -> Callable[[bytes], bool]:
    """Says of an absolute real path whether it is an output of the run, which is no input though a list may name it."""
    journal, *files = _real(run_folder(config.out), config.out, manifest.beside(config.out), config.json_log)
    folders = _real(config.heatmaps, config.maps)

    def made(path: bytes) -> bool:
        folder, name = os.path.split(path)
        drawn = folder in folders and _DRAWN.fullmatch(name)  # what else lies there may be evidence
        return path in files or path in folders or journal in (path, folder) or bool(drawn)

    return made


def _real(*paths: Path | None) -> list[bytes]:
    return [os.fsencode(os.path.realpath(path)) for path in paths if path is not None]


def _open_list(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    if path == STDIN:
        if sys.stdin is None:
            raise UsageError("--files-from - cannot be read: standard input is closed")
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(
            f"--files-from {path} cannot be read: {error.strerror}; check the spelling of the path"
        ) from error


def _listed(opened: contextlib.AbstractContextManager[BinaryIO], **options: Any) -> Iterator[ImageRef]:
    """The references of a list, which is closed at the end."""
    with opened as names:
        yield from discover_list(names, **options)


@contextlib.contextmanager
def counting(config: ScanConfig, read: ReadArchive | None, tell: Callable[[int], None] | None) -> Iterator[None]:
    """A context beside which the inputs are counted, where there is somebody to tell; on a thread of its own."""
    listed = config.files_from
    if tell is None or (listed is not None and (listed == STDIN or not os.path.isfile(listed))):
        # A list that comes through a pipe can be read once.
        yield
        return
    stop = threading.Event()

    def count() -> None:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as the process of the unpacker is to have it
        inputs = 0
        with contextlib.closing(Unpacker(config.timeout or None)) as unpacker:
            for inputs, _ in enumerate(references(config, read or unpacker, wanted=lambda ref: False), 1):  # noqa: B007
                if stop.is_set():
                    return
        tell(inputs)

    thread = threading.Thread(target=count, name="jscan-count", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(COUNT_SECONDS)  # not for ever: it may be waiting for an archive
