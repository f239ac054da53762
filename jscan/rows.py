"""Rows of inputs that no scanner gave a row, and rows as JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jscan import __version__
from jscan.engine import Outcome
from jscan.errors import SKIP_CODES, ErrorCode, SetupError
from jscan.records import Evidence, ImageRef, ScanRecord
from jscan.worker import OutOfMemoryError, Receipt


def fault(outcome: Outcome[ImageRef, Receipt]) -> ScanRecord:
    """The row of an input whose worker died or raised. Raises the error itself where it concerns the whole run."""
    if isinstance(outcome.error, OutOfMemoryError):
        receipt: Receipt = outcome.error.args[0]
        return receipt.record
    if isinstance(outcome.error, SetupError):
        raise outcome.error
    code, sentence = ErrorCode.INTERNAL, outcome.message
    if outcome.kind == "crashed":
        code = ErrorCode.WORKER_CRASH
    elif outcome.kind == "timed_out":
        code, sentence = ErrorCode.TIMEOUT, f"{sentence}; a longer --timeout may help"
    elif isinstance(outcome.error, MemoryError):
        code = ErrorCode.MEMORY
    record = failed(outcome.item, code, sentence)
    evidence = outcome.asked
    if isinstance(evidence, Evidence):
        # The worker had read the bytes before it came to grief.
        record = replace(
            record, size=evidence.size, mtime=evidence.mtime, sha256=evidence.sha256, warnings=evidence.warnings
        )
    return record


def failed(ref: ImageRef, code: str, sentence: str) -> ScanRecord:
    """The row of an input that no worker has read."""
    return ScanRecord(
        path=ref.path,
        path_bytes=ref.path_bytes,
        container=ref.container,
        member=ref.member,
        container_sha256=ref.container_sha256,
        size=ref.evidence.size if ref.evidence else None,
        mtime=ref.evidence.mtime if ref.evidence else None,
        sha256=ref.evidence.sha256 if ref.evidence else None,
        warnings=ref.evidence.warnings if ref.evidence else (),
        status="skipped" if code in SKIP_CODES else "error",
        error_code=str(code),
        error=sentence,
        jscan_version=__version__,
    )


def json_row(record: ScanRecord, *, brief: bool = False) -> dict[str, Any]:
    """The row as values that JSON knows: times in ISO 8601, bytes in hexadecimal. `brief` leaves out long columns."""
    if brief:
        keep = ("path", "sha256", "status", "error_code", "error", "warnings", "width", "height", "n_regions", "score")
        return {name: getattr(record, name) for name in (*keep, "decode_ms", "estimate_ms")}
    row = record.as_dict()
    row["path_bytes"] = record.path_bytes.hex()
    row["mtime"] = record.mtime.isoformat() if record.mtime else None
    return row
