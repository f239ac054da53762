"""Times as they stand in rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def utc(nanoseconds: int) -> datetime | None:
    """The time so long after 1970 began, to the microsecond, or None where no calendar has it."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None
