"""Counts over rows, whose size does not grow with the number of rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

N_TOP = 10
"""How many of the highest scoring images are named."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One image that the summary names."""

    path: str
    score: float
    reasons: tuple[str, ...]


class Tally:
    """What the rows of the results come to. Inputs that vanished are counted, and otherwise passed over."""

    def __init__(self) -> None:
        self.rows = 0
        """Of inputs that were there."""
        self.vanished = 0
        self.duplicates = 0
        self.pixels = 0
        """Of all images with status `ok`."""
        self.models: set[str] = set()
        """As rows name them, those of vanished inputs too."""
        self.by_status: Counter[str] = Counter()
        self.by_code: Counter[str] = Counter()
        self.top: tuple[Finding, ...] = ()
        """The highest scoring images, the highest first."""

    def add(self, table: Any) -> None:
        """Nothing; counts the rows of an Arrow table with the columns of the results."""
        there = table.filter(pc.is_null(table["vanished"]))
        self.models.update(pc.unique(pc.list_flatten(table["models"])).to_pylist())
        self.vanished += table.num_rows - there.num_rows
        self.rows += there.num_rows
        self.duplicates += there.num_rows - there["duplicate_of"].null_count
        _count(self.by_status, there["status"])
        _count(self.by_code, there["error_code"])
        seen = there.filter(pc.equal(there["status"], "ok"))
        area = pc.multiply(seen["width"].cast(pa.int64()), seen["height"].cast(pa.int64()))
        self.pixels += pc.sum(area).as_py() or 0
        scored = there.filter(pc.is_valid(there["score"])).select(["path", "score", "reasons"])
        best = scored.take(pc.sort_indices(scored, sort_keys=[("score", "descending"), ("path", "ascending")])[:N_TOP])
        found = [Finding(r["path"], _shortest(r["score"]), tuple(r["reasons"] or ())) for r in best.to_pylist()]
        self.top = tuple(sorted((*self.top, *found), key=lambda f: (-f.score, f.path))[:N_TOP])


def _shortest(value: float) -> float:
    """The number that a person would write for a 32-bit float: 0.9, and not 0.8999999761581421."""
    return float(str(np.float32(value)))


def _count(counter: Counter[str], column: Any) -> None:
    for pair in pc.value_counts(column.drop_null()).to_pylist():
        counter[pair["values"]] += pair["counts"]
