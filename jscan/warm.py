"""What a worker imports, for those that are started early; see `jscan.engine.local.started_early`."""

from __future__ import annotations

import contextlib

from jscan.worker import lighten

lighten()

import numpy as np  # noqa: E402

from jscan import kernels, scan  # noqa: E402, F401

# The first loop that is loaded takes Numba ten times as long as a further one.
with contextlib.suppress(Exception):  # whoever scans will say what is wrong
    kernels.some_window_sums(
        np.zeros((4, 4, 1, 1), np.float32), 4, np.zeros(1, np.int64), np.zeros(1, np.int64), np.float32(1),
        np.zeros((1, 1, 1), np.float32),
    )  # fmt: skip
