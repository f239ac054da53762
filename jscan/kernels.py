"""Compiled loops of the comb features, for the CPU; each is described where it is written, in `jscan.loops`.

They compute what the models' own graphs compute (`train/graphs.py`), with two differences that make them some ten
times faster there: nothing that was looked up is written to memory before it is added up, and full features are
computed at a few grid shifts only. A loop is called with what its description names before its room, which is made
here: a loop that made its own would need Numba's library to run. They are compiled when they are first called, and
kept on disk; see `jscan.looplibrary`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from jscan.looplibrary import Library

MOST_ROWS = 8
"""Rows of zeros at the end of a table: as many as the functions of a coefficient fill at most."""
SCOUT_SIZE = 8
"""Numbers that the scout adds up for each shift; in 16 bits each, one register of SSE or NEON holds them."""
AT_A_TIME = 256
"""Pixels of a row that `scout_sums` works on together: what that takes stays in the nearest cache."""
TOGETHER = 7
"""Coefficients whose rows of the table `scout_sums` adds up before it writes to memory; the scouts read 28."""
BLOCKS_AT_A_TIME = 32
"""Blocks side by side that `comb_sums` works on together, for the same reason."""
LANES = 16
"""Numbers that loops over blocks side by side go through at a time, whole registers of them: of so many in every case,
compilers make fewer instructions than of up to so many."""
SIDE_BY_SIDE = 64
"""Blocks of a row whose coefficients are computed together, for the same reason."""

LINE = 64
"""Bytes of a line of the cache."""


def of_half(function: Any) -> npt.NDArray[np.float32]:
    """(65536,) float32 `function` of every number in half precision, in the order of its bits.

    Posteriors are kept in half precision, which compiled loops cannot read; they look up what they need of them.
    """
    with np.errstate(all="ignore"):
        values: npt.NDArray[np.float32] = function(
            np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
        )
    return values


VALUE, EXP = of_half(lambda x: x), of_half(np.exp)


def _room(*shape: int, of: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """An array of this shape that nothing is written to yet, and that begins where a line of the cache does.

    Elsewhere every second register of AVX is read from two lines, which costs a twentieth.
    """
    size = math.prod(shape) * np.dtype(of).itemsize
    memory = np.empty(size + LINE, np.uint8)
    first = -memory.__array_interface__["data"][0] % LINE
    return memory[first : first + size].view(of).reshape(shape)


def aligned(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that begins where a line of the cache does, so that none of its rows lies in more lines than it fills."""
    out = _room(*values.shape, of=values.dtype)
    out[:] = values
    return out


def _of_scout_sums(*args: Any) -> Iterable[Any]:
    n, table = len(args[4]), args[7]
    columns, halves = _room(8 * (AT_A_TIME + LANES)), _room(8 * AT_A_TIME)
    where = _room(-(-n // TOGETHER) * TOGETHER * AT_A_TIME, of=np.uint32)
    return table.reshape(-1), columns, halves, where, _room(AT_A_TIME * SCOUT_SIZE, of=table.dtype)


def _of_comb_sums(*args: Any) -> Iterable[Any]:
    n, table, side, many = len(args[6]), args[12], args[13], BLOCKS_AT_A_TIME
    blocks, columns, where = _room(64 * many), _room(64 * many), _room(side * n * many, of=np.uint32)
    some, outside = _room(args[14].size, of=np.int64), _room(many, of=np.int64)
    out, into = args[15].reshape(-1), _room(many, of=np.uint64)
    return table.reshape(-1), blocks, columns, where, _room(n, many), some, outside, out, into


def _of_step_likelihoods(values: npt.NDArray[np.float32], *_: Any) -> Iterable[Any]:
    return _room(int(values.max(initial=0)) + 4), *_room(3, (values.shape[1] + 7) // 8 * 8)


def _of_blocks(*_: Any) -> Iterable[Any]:
    return *_room(2, 8, 8, SIDE_BY_SIDE), _room(64, SIDE_BY_SIDE), _room(SIDE_BY_SIDE)


_LOOPS = Library("jscan.loops", "jscan.kernels", "jscan.comb", "jscan.compiler")

scout_sums = _LOOPS.loop("scout_sums", _of_scout_sums)
comb_sums = _LOOPS.loop("comb_sums", _of_comb_sums)
window_means = _LOOPS.loop("window_means", lambda cells, *_: [_room(cells.shape[2])])
some_window_sums = _LOOPS.loop("some_window_sums")
means_between = _LOOPS.loop("means_between", lambda p, *_: _room(3, p.shape[2]))
weighted_sums = _LOOPS.loop("weighted_sums", lambda bits, *_: [_room(bits.shape[2])])
q1_facts = _LOOPS.loop("q1_facts", lambda bits, *_: _room(2, bits.shape[2]))
q1_steps = _LOOPS.loop("q1_steps")
planes = _LOOPS.loop("planes")
cell_sums = _LOOPS.loop("cell_sums", lambda pixels, *_: _room(3, pixels.shape[1], of=np.int32))
cosine_sums = _LOOPS.loop("cosine_sums", _of_blocks)
step_cosines = _LOOPS.loop("step_cosines")
step_likelihoods = _LOOPS.loop("step_likelihoods", _of_step_likelihoods)
lattice_likelihoods = _LOOPS.loop("lattice_likelihoods", lambda places, *_: _room(2, places.shape[1], of=np.float64))
ratios = _LOOPS.loop("ratios", _of_blocks)
comb_facts = _LOOPS.loop("comb_facts", _of_blocks)
comb_ratios = _LOOPS.loop("comb_ratios", _of_blocks)
