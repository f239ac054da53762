"""Limits of a process: set in a process of their own, because they cannot be taken back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept by Linux")

CODE = """
import resource
import numpy as np
from jscan import limits
limits.forbid_core_dumps()
assert limits.limit_memory(200 * limits.MIB)
small = np.ones(50 * limits.MIB, np.uint8)
try:
    large = np.ones(400 * limits.MIB, np.uint8)
except MemoryError:
    print("refused", resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


def test_memory_beyond_the_limit_is_refused() -> None:
    root = Path(__file__).parent.parent
    answer = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=root, check=True)
    assert answer.stdout == "refused 0\n"
