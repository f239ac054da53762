"""What a worker imports, for those that are started early; see `jscan.engine.local.started_early`."""

from __future__ import annotations

import contextlib

from jscan import limits

limits.collect_garbage_rarely()

import numpy as np  # noqa: E402
import numpy.ma  # noqa: E402 - the first median imports it
import onnxruntime  # noqa: E402, F401

from jscan import kernels, scan, worker  # noqa: E402, F401

# With the first loop LLVM is loaded.
with contextlib.suppress(Exception):  # whoever scans will say what is wrong
    kernels.planes(np.zeros((1, 1, 1), np.uint16), kernels.VALUE, np.zeros((1, 1, 1), np.float32))
