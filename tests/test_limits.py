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


UNCOUNTED = """
import numpy as np
from jscan import limits

def taken(mib):
    try:
        return np.ones(mib * limits.MIB, np.uint8)
    except MemoryError:
        return None

with limits.uncounted():
    before = taken(300)  # there is no limit yet
assert limits.limit_memory(200 * limits.MIB)
with limits.uncounted(), limits.uncounted():
    model, passing = taken(400), taken(400)
    assert model is not None and passing is not None
    del passing
first = taken(150)
print(first is not None, taken(150) is not None)
try:
    with limits.uncounted():
        raise ValueError
except ValueError:
    print(taken(150) is not None)
"""


def said(code: str) -> str:
    root = Path(__file__).parent.parent
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True).stdout


def test_memory_beyond_the_limit_is_refused() -> None:
    assert said(CODE) == "refused 0\n"


def test_what_is_uncounted_comes_on_top_of_the_limit() -> None:
    assert said(UNCOUNTED) == "True False\nFalse\n"
