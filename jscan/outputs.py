"""Where a run writes: checked before anything is read, and the log of its events."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any, Protocol

from jscan import manifest
from jscan.atomic import refuse_special, temporary_of
from jscan.config import STDIN, ScanConfig
from jscan.errors import ErrorCode, InputError, OutputError, UsageError
from jscan.journal import run_folder
from jscan.reading import EvidenceFile

FOLDERS = ("--heatmaps", "--maps")
"""Folders in which files are named by the digest of an input; they may be one, and hold other files too."""


class Log(Protocol):
    """Something that appends an event to a log."""

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None: ...


def check(config: ScanConfig) -> None:
    """Nothing; makes the folders for heatmaps and maps. Raises where something could not be written later.

    Raises UsageError where outputs would lie in one another's place, or inside a source; OutputError where a file
    stands there that is not of jscan's making. A list of files may name it, which nobody knows before its end.
    """
    out = config.out
    _check_length(out)
    written = _written(config)
    read = config.sources if config.files_from is None or config.files_from == STDIN else (config.files_from,)
    for flag, path in written.items():
        _check_outside(flag, path, read)
    _check_apart(written)
    if os.path.isdir(out):
        raise OutputError(f"--out {out} is a folder; name a file in it, such as {out / 'results.parquet'}")
    refuse_special(out, f"--out {out}")
    refuse_special(manifest.beside(out), f"the manifest of --out, {manifest.beside(out)},")
    if config.overwrite or config.update:
        _check_made("--out", out, b"PAR1", "a Parquet file")
    _check_made("the manifest of --out,", manifest.beside(out), b"{", "a manifest")
    if config.json_log is not None and not _is_open(config.json_log):
        _check_made("--json-log", config.json_log, b"{", "a log of JSON lines")
    for flag in ("--out", "--json-log"):
        if flag in written and not os.path.isdir((path := written[flag]).parent):
            raise OutputError(f"{flag} {path} cannot be written: there is no folder {path.parent}; make it first")
    for flag in FOLDERS:
        if flag in written:
            folder = written[flag]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise OutputError(f"{flag} {folder} cannot be written to: {error.strerror}") from error


def _written(config: ScanConfig) -> dict[str, Path]:
    """Where the run writes, by what a message calls it."""
    named = {
        "--out": config.out,
        "the manifest of --out,": manifest.beside(config.out),
        "the journal of --out,": run_folder(config.out),
        "--heatmaps": config.heatmaps,
        "--maps": config.maps,
        "--json-log": config.json_log,
    }
    return {name: path for name, path in named.items() if path is not None}


def _check_length(out: Path) -> None:
    """Nothing. Raises OutputError where a file that a run writes beside its results would have too long a name."""
    for path in (out, manifest.beside(out), run_folder(out) / "lock"):
        try:
            os.lstat(temporary_of(path))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise OutputError(
                    f"--out {out} cannot be written: {path.name}, which belongs to it, would have too long a name or "
                    "path; name a shorter one"
                ) from error


def _check_outside(flag: str, path: Path, sources: Iterable[Path]) -> None:
    """Nothing. Raises UsageError where the path is a source, or lies inside one: evidence is never written to."""
    real = _real(path)
    for source in sources:
        real_source = _real(source)
        if real == real_source:
            raise UsageError(f"{flag} {path} is itself to be scanned; name another place")
        if real_source in real.parents and os.path.isdir(real_source):
            raise UsageError(
                f"{flag} {path} lies inside {source}, which is scanned and never written to; name a place outside"
            )


def _check_apart(written: Mapping[str, Path]) -> None:
    """Nothing. Raises UsageError where two outputs are one, or one lies inside another; only folders may be shared."""
    for (flag, path), (other, place) in permutations(written.items(), 2):
        if flag in FOLDERS:
            continue
        real, taken = _real(place), _real(path)
        if real == taken or taken in real.parents:
            raise UsageError(f"{other} {place} would lie in the place of {flag} {path}; name another one")


def _check_made(name: str, path: Path, begin: bytes, what: str) -> None:
    """Nothing. Raises OutputError where a file is there that does not begin so, and is not empty either.

    So evidence is told whatever path or link leads to it: no image and no archive begins like what jscan writes.
    """
    try:
        with EvidenceFile(os.fsencode(_real(path))) as file:
            head = file.pread(len(begin), 0)
    except InputError as found:
        if found.code in (ErrorCode.NOT_FOUND, ErrorCode.NOT_REGULAR):
            return
        raise OutputError(f"{name} {path} cannot be written. {found}") from found
    if head not in (b"", begin):
        raise OutputError(f"{name} {path} is there and is not {what}: it is left as it is; name another file")


def _is_open(path: Path) -> bool:
    """Whether the path is a stdout or stderr of ours, such as `/dev/stderr`: whatever it leads to is written to."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        for number in (1, 2):
            with contextlib.suppress(OSError):
                if os.path.samestat(found, os.fstat(number)):
                    return True
    return False


def _real(path: Path) -> Path:
    """The absolute path without links. Path.resolve raises where links go round in a circle."""
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def json_log(path: Path | None) -> Iterator[Log]:
    """A function that appends one event as a line of JSON; it does nothing where there is no path."""
    if path is None:
        yield lambda event, facts: None
        return
    try:
        # Without a buffer: what could not be written would be tried again when it is closed, and fail there.
        stream = open(path, "ab", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"--json-log {path} cannot be written: {error.strerror}") from error

    def log(event: str, facts: Mapping[str, Any]) -> None:
        line = json.dumps({"time": datetime.now(UTC).isoformat(), "event": event, **facts}) + "\n"
        left = line.encode()
        try:
            while left:
                left = left[stream.write(left) :]
        except OSError as error:
            raise OutputError(f"--json-log {path} cannot be written: {error.strerror}") from error

    with stream:
        yield log
