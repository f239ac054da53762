"""Where a run may write, and where not: nothing that jscan did not make is replaced, added to or removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jscan import outputs
from jscan.errors import OutputError


def test_a_log_that_cannot_be_written_to_the_end(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "log"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write_both() -> None:
        with outputs.json_log(path) as log:
            log("first", {})
            # As on a full disk, a part of the next line still goes, and nothing when the log is closed.
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
            log("second", {})

    try:
        with pytest.raises(OutputError, match="--json-log .*log cannot be written") as caught:
            write_both()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 12
    first, rest = path.read_bytes().split(b"\n")
    assert json.loads(first)["event"] == "first" and len(rest) == 10
