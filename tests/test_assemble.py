"""The results made of the shards: in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import hashlib, resource, sys
from datetime import UTC, datetime
from pathlib import Path
from jscan import parquet
from jscan.assemble import assemble
from jscan.journal import Header, Journal
from jscan.ledger import Ledger, Place
from jscan.records import Region, ScanRecord

base, rows, shard = Path(sys.argv[1]), 20_000, 1000
journal, ledger = Journal(base), Ledger(base / "ledger")
header = Header("run", "2026-01-01T00:00:00+00:00", "0", {}, {})
region = Region(8, 16, 24, 32, 500, 0.9, 75.0, (4,) * 15, (1, 2), "other_q1")

def record(i):
    digest = hashlib.sha256(b"%d" % i).hexdigest()
    tables = {"q2_luma": (i % 90,) * 64, "q2_chroma": (i % 80,) * 64, "q1_background": (i % 70,) * 15}
    return ScanRecord(f"/in/{i:06}.jpg", b"/in/%06d.jpg" % i, sha256=digest, score=0.9, regions=(region,) * 3, **tables)

for first in range(0, rows, shard):
    # Neighbouring inputs lie in two shards, as may be where several workers make the rows.
    begin, odd = divmod(first // shard, 2)
    made = [record(2 * (begin * shard + i) + odd) for i in range(shard)]
    journal.commit(header, [(r, False) for r in made], ["CPU"])
    for i, r in enumerate(made):
        ledger.finish((r.path_bytes, None, None), Place(first // shard, i))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shards = {s.number: s.path for s in journal.shards}
tally, _ = assemble(base / "out", ledger, shards, None, datetime.now(UTC), lambda t, i: {}, overwrite=True)
print(tally.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """The promise for the parent of a run over 20,000 inputs is 50 MB; the scan itself takes 2 or 3 of them."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows, growth = map(int, done.stdout.split())
    assert rows == 20_000
    assert growth < 40 * 1024, f"{growth / 1024:.0f} MiB"
