"""Archives read in a process of their own, so that a fault of a decompressor costs one archive and not the run."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from jscan import limits, members
from jscan.engine.stream import LostError, Stream, Streamed
from jscan.errors import ErrorCode, InputError
from jscan.members import Choice, Reading
from jscan.records import ImageRef

TRIES = 2
"""An archive whose reader died or hung is read once more, in a fresh process."""
MAX_MEMORY = 3 << 30
"""Address space of the reader beyond what it has at its start: the members around one, and the decoders."""


class Unpacker:
    """Reads archives in a child process, which is started for the first of them; a `ReadArchive`.

    A reader that is silent for `timeout` seconds is ended; None sets no limit. `reader` is what runs in the child.
    """

    def __init__(self, timeout: float | None, *, reader: Streamed | None = None) -> None:
        self._stream = Stream(reader or read_members, init=_prepare, timeout=timeout)

    def close(self) -> None:
        """Nothing; the process is gone."""
        self._stream.close()

    def __call__(self, path: bytes, choice: Choice, wanted: Callable[[ImageRef], bool]) -> Reading:
        """What `members.read_archive` gives. Where its process is lost twice, the archive's own reference says so."""
        try:
            archive, touched = members.may_be_archive(path)
        except InputError as error:
            yield members.unread(path, error)
            return True, False
        if not archive:
            return False, touched
        given = 0  # references that need not be given again
        for last in (False, True):
            count = 0
            try:
                pieces = self._stream.run((path, choice, touched), wanted)
                while True:
                    try:
                        ref, content = next(pieces)
                    except StopIteration as end:
                        found: tuple[bool, bool] = end.value
                        return found
                    count += 1
                    if count > given:
                        given = count
                        yield ref if content is None else replace(ref, content=content)
            except LostError as lost:
                if last:
                    yield ImageRef(members.archive_path(path), path, refused=_said(lost))
        return True, touched


def _said(lost: LostError) -> tuple[str, str]:
    """(error code, sentence) of an archive that could not be read."""
    if lost.kind == "raised":
        return ErrorCode.INTERNAL.value, f"jscan failed on this archive ({lost}); please report it with the file."
    behind = "Members that it may hold behind those that have rows were not read."
    if lost.kind == "timed_out":
        said = f"The process that read the archive was ended, twice ({lost}); a longer --timeout may help. {behind}"
        return ErrorCode.TIMEOUT.value, said
    return ErrorCode.WORKER_CRASH.value, f"The process that read the archive died, twice ({lost}). {behind}"


# --- in the child -----------------------------------------------------------------------------------------------------


def _prepare() -> None:
    limits.forbid_core_dumps()
    limits.limit_memory(MAX_MEMORY)


def read_members(
    request: tuple[bytes, Choice, bool], ask: Callable[[Any], Any], alive: Callable[[], None]
) -> Generator[tuple[ImageRef, bytes | None], None, tuple[bool, bool]]:
    """The references of one archive, and their bytes beside them; a `Streamed`."""
    path, choice, touched = request
    found = members.read_archive(path, choice, ask, alive=alive, touched=touched)
    while True:
        try:
            ref = next(found)
        except StopIteration as end:
            returned: tuple[bool, bool] = end.value
            return returned
        yield replace(ref, content=None), ref.content
