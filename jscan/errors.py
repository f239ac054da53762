"""The errors of jscan: what becomes a row's error code, and what becomes the process's exit code."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """What the process returns; what was found in the images is in the data, never here."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    ERROR_ROWS = 3
    SCORE = 4
    VERIFY = 5
    LOCKED = 11
    OUTPUT = 12
    INTERRUPTED = 130


class ErrorCode(StrEnum):
    """Why an input has no estimate. The names are stable; users filter on them."""

    EMPTY = "empty"
    BAD_HEADER = "bad_header"
    CORRUPT = "corrupt_data"
    PIXEL_LIMIT = "pixel_limit"
    SCAN_LIMIT = "scan_limit"
    UNSUPPORTED_FORMAT = "unsupported_format"
    UNSUPPORTED_SOF = "unsupported_sof"
    TOO_SMALL = "too_small"
    ARCHIVE = "archive"
    ARCHIVE_DEPTH = "archive_depth"
    ARCHIVE_LIMIT = "archive_limit"
    BAD_ARCHIVE = "bad_archive"
    ENCRYPTED = "encrypted"
    UNSUPPORTED_METHOD = "unsupported_method"
    NOT_REGULAR = "not_regular"
    SYMLINK = "symlink"
    NOT_FOUND = "not_found"
    EMPTY_SOURCE = "empty_source"
    OS_ERROR = "os_error"
    CHANGED = "changed"
    MEMORY = "memory"
    WORKER_CRASH = "worker_crash"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


SKIP_CODES = frozenset(
    {
        ErrorCode.UNSUPPORTED_FORMAT,
        ErrorCode.UNSUPPORTED_SOF,
        ErrorCode.TOO_SMALL,
        ErrorCode.ARCHIVE,
        ErrorCode.NOT_REGULAR,
        ErrorCode.SYMLINK,
    }
)
"""Codes whose row says `skipped`: the input is not something jscan claims to read, or stands for its members.

What may hold images and was not looked at, because a limit or a password stops it, is an error."""


ARCHIVE_CODES = frozenset({ErrorCode.ARCHIVE, ErrorCode.ARCHIVE_DEPTH, ErrorCode.ARCHIVE_LIMIT, ErrorCode.BAD_ARCHIVE})
"""Codes of rows that stand for an archive, where they have a digest: no other input can be estimated by them."""


class JscanError(Exception):
    """Anything that jscan says in its own words."""


class InputError(JscanError):
    """One input cannot be estimated; it becomes a row with this code and sentence."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> str:
        """`skipped` or `error`, as the row says it."""
        return "skipped" if self.code in SKIP_CODES else "error"


class SetupError(JscanError):
    """The run cannot start or go on. The message names the flag or the file that mends it."""

    exit_code = ExitCode.USAGE


class UsageError(SetupError):
    """The arguments do not fit together."""


class ResultsError(SetupError):
    """Results that are to be updated are not what their run wrote."""

    exit_code = ExitCode.VERIFY


class OutputError(SetupError):
    """The output cannot be written."""

    exit_code = ExitCode.OUTPUT


class ModelError(SetupError):
    """A model is missing, damaged, or not what its manifest says."""

    exit_code = ExitCode.INTERNAL


class DeviceError(SetupError):
    """The device asked for is not there."""


class EngineError(SetupError):
    """Worker processes cannot be started or kept alive."""

    exit_code = ExitCode.INTERNAL


class LockedError(SetupError):
    """Another run is writing this output."""

    exit_code = ExitCode.LOCKED


def said_by(error: BaseException) -> str:
    """A library's reason as one short line, or what kind of error it is where it gives none."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 160 else text[:157] + "..."
