"""The options of a scan, validated once and frozen."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jscan.errors import UsageError

DEVICES = ("auto", "cpu", "cuda")
"""The devices without a number; GPUs may be named by theirs as well, see `devices`."""
ESTIMATORS = ("comb", "paper")
DEFAULT_MAX_PIXELS = 150_000_000
DEFAULT_TIMEOUT = 120.0
DEFAULT_MAX_MEMORY = 4096
STDIN = Path("-")
"""The name under which a list of files is read from standard input."""


@dataclass(frozen=True, slots=True)
class ScanConfig:
    """Everything that a run was asked to do. Raises UsageError where values do not fit together."""

    sources: tuple[Path, ...]
    """Files and folders to scan, in the order given; empty where `files_from` names them."""
    out: Path
    """The Parquet file to write."""
    heatmaps: Path | None = None
    """Folder for `<sha256>.png`, or None."""
    maps: Path | None = None
    """Folder for `<sha256>.npz`, or None."""
    workers: int = 0
    """Processes; 0 chooses one per core, on a Ray cluster one per CPU, or per GPU where these compute."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, or GPUs by their numbers, such as `cuda:0,1`."""
    estimator: str = "comb"
    """`comb`, jscan's own networks, or `paper`, the baselines."""
    thorough: bool = False
    """Whether the CPU takes no shortcut: all grid shifts and all windows are looked at, as on a GPU."""
    batch: int = 0
    """Windows that a GPU looks at together; 0 chooses them from its free memory. A CPU has tiles of its own."""
    include: tuple[str, ...] = ()
    """Glob patterns of which one must match the path below its source; empty takes all."""
    exclude: tuple[str, ...] = ()
    """Glob patterns that leave a path out; stronger than `include`."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Images with more pixels than this, by their header, become an error row."""
    timeout: float = DEFAULT_TIMEOUT
    """Seconds that one input may take; 0 sets no limit."""
    max_memory: int = DEFAULT_MAX_MEMORY
    """MiB of address space that a worker may take beyond what its models and libraries need; 0 sets no limit."""
    limit: int | None = None
    """At most this many inputs, or None."""
    files_from: Path | None = None
    """A list of files to scan in place of `sources`, `-` for standard input, or None."""
    null: bool = False
    """Whether the names in that list end in NUL bytes rather than lines."""
    overwrite: bool = False
    """Whether an existing output may be replaced."""
    restart: bool = False
    """Whether what an unfinished run left, and with `update` what the last one found, is to be done again."""
    update: bool = False
    """Whether rows of the existing output are kept where their input did not change."""
    rehash: bool = False
    """Whether an update tells by content what changed, and not by size and time."""
    json_log: Path | None = None
    """File to which events are appended, one JSON object a line, or None."""
    profile_stages: bool = False
    """Whether it is measured which stage of the work takes how long."""
    ray: str | None = None
    """Address of the Ray cluster that the workers work on: `auto`, `local`, host:port or `ray://host:port`; or None."""

    def __post_init__(self) -> None:
        if not self.sources and self.files_from is None:
            raise UsageError("nothing to scan: name at least one file or folder, or a list of files with --files-from")
        if self.sources and self.files_from is not None:
            raise UsageError("name files and folders, or a list of them with --files-from, but not both")
        if self.null and self.files_from is None:
            raise UsageError("--null says how the names in the list of --files-from end; name that list too")
        if not self.out.name:
            raise UsageError(f"--out names the Parquet file to write, not {str(self.out)!r}")
        devices(self.device)
        if self.estimator not in ESTIMATORS:
            raise UsageError(f"--estimator is one of {', '.join(ESTIMATORS)}, not {self.estimator!r}")
        if self.thorough and self.estimator != "comb":
            raise UsageError(f"--thorough is for --estimator comb; {self.estimator} knows no shortcuts")
        if self.batch < 0:
            raise UsageError(
                f"--batch is 0 (chosen from the GPU's free memory) or a number of windows, not {self.batch}"
            )
        if self.batch and self.estimator != "comb":
            raise UsageError(f"--batch is for --estimator comb; {self.estimator} looks at tiles of a fixed size")
        if self.workers < 0:
            raise UsageError(f"--workers is 0 (one per core) or more, not {self.workers}")
        if self.max_pixels < 1:
            raise UsageError(f"--max-pixels is at least 1, not {self.max_pixels}")
        if not 0 <= self.timeout < float("inf"):
            raise UsageError(f"--timeout is 0 (none) or a number of seconds, not {self.timeout}")
        if not 0 <= self.max_memory <= sys.maxsize >> 21:
            raise UsageError(f"--max-memory is 0 (none) or a number of MiB, not {self.max_memory}")
        if self.rehash and not self.update:
            raise UsageError("--rehash says how --update is to compare; add --update")
        if self.update and self.limit is not None:
            raise UsageError(
                "--limit does not go with --update: what is beyond it would count as vanished; leave one out"
            )
        if self.limit is not None and not 1 <= self.limit <= sys.maxsize:
            raise UsageError(f"--limit is at least 1 and at most {sys.maxsize}, not {self.limit}")

    def options(self) -> dict[str, Any]:
        """All options as values that JSON knows; paths as text, bytes that are not UTF-8 escaped."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def devices(text: str) -> tuple[str, ...]:
    """The single devices that `--device` names: itself, or `cuda:0` and `cuda:1` for `cuda:0,1`. Raises UsageError."""
    if text in DEVICES:
        return (text,)
    kind, _, listed = text.partition(":")
    numbers = listed.split(",")
    if kind != "cuda" or not all(n.isascii() and n.isdigit() for n in numbers):
        raise UsageError(
            f"--device is one of {', '.join(DEVICES)}, or GPUs by their numbers from 0 on, such as cuda:0 or cuda:0,1, "
            f"not {text!r}"
        )
    named = tuple(f"cuda:{int(n)}" for n in numbers)
    if len(set(named)) < len(named):
        raise UsageError(f"--device {text} names a GPU twice; more --workers share one")
    return named


FREE = frozenset(
    {"out", "workers", "batch", "overwrite", "restart", "update", "rehash", "json_log", "profile_stages", "ray"}
)
"""Options that may differ between a run and the one that goes on where it was killed: no row depends on them, but for
the last bits of what a GPU computes."""
FREE_IN_UPDATES = FREE | {"timeout", "max_memory"}
"""The same for an update of a finished run: inputs that failed are scanned again anyway."""


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return os.fsencode(value).decode("utf-8", "backslashreplace") if isinstance(value, Path) else value
