"""Whether to multiply in bfloat16: some processors have instructions for it, on others it is several times slower."""

from __future__ import annotations

import time
from collections.abc import Callable


def narrow_is_faster(step: Callable[[bool], object], tries: int = 3) -> bool:
    """Whether `step(True)`, in bfloat16, takes less time on this machine than `step(False)`, in float32."""
    took = {}
    for narrow in (False, True):
        times = []
        for _ in range(tries):
            begun = time.perf_counter()
            step(narrow)
            times.append(time.perf_counter() - begun)
        took[narrow] = min(times)
    return took[True] < took[False]
