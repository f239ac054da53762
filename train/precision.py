"""Whether to multiply in bfloat16: some processors have instructions for it, on others it is several times slower."""

from __future__ import annotations

import time
from collections.abc import Callable


def narrow_is_faster(step: Callable[[bool], object], tries: int = 3) -> bool:
    """Whether `step(True)`, in bfloat16, takes less time on this machine than `step(False)`, in float32."""

    def seconds(narrow: bool) -> float:
        begun = time.perf_counter()
        step(narrow)
        return time.perf_counter() - begun

    wide = min(seconds(False) for _ in range(tries))
    narrow = seconds(True)
    if narrow > 3 * wide:
        return False  # the first one of a kind takes a little longer, but not so much
    return min(narrow, *(seconds(True) for _ in range(tries - 1))) < wide
