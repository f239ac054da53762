"""Posteriors of windows in the light of their neighbours, which mostly share a table and a grid.

A small convolutional network over the grid of windows (`train/networks/context.py`) adds what the neighbours say to
each window's own log-posteriors. It was trained on pristine images and forgeries, so that it knows where not to.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from jscan.jpegtables import N_COEFS
from jscan.records import WindowPosteriors
from jscan.weights import Model

MODEL = "q1-context"
REACH = 7
"""Windows by which an answer depends on its neighbours, to each side."""
SIDE = 64
"""Rows and columns of windows that are refined together: what the network computes of so many is 30 MB, and as much for
an image of any size."""
SHOWN = 0.5
"""Probability from which a window shows a first compression."""
FEW = 0.03
"""Share of the windows of a tile that must: else there is next to nothing that neighbours could say to each other."""
UNSURE = 0.26
"""Mean of that probability in a tile from which they are heard in any case: below a last quality of about 85 hardly a
window says surely that there was no first compression, and what they say together costs a fifth less square error."""
LOWEST = -30.0
"""Log-posteriors below this are cut off, as those of the windows are."""


Span = tuple[slice, slice, slice]
"""What is read along an axis, what is answered, and where this lies in what is read."""


def _spans(count: int) -> list[Span]:
    """Pieces of an axis of so many windows, about as long as each other."""
    pieces = -(-count // SIDE)
    ends = [count * k // pieces for k in range(pieces + 1)]
    out = []
    for begin, end in itertools.pairwise(ends):
        first, last = max(0, begin - REACH), min(count, end + REACH)
        out.append((slice(first, last), slice(begin, end), slice(begin - first, end - first)))
    return out


def refine(
    model: Model,
    found: WindowPosteriors,
    q2: tuple[int, ...],
    texture: npt.NDArray[np.float32],
    saturated: npt.NDArray[np.float32],
    *,
    everywhere: bool = False,
) -> WindowPosteriors:
    """The Q1 posteriors of an image's windows, refined; `texture` and `saturated` (R, C) tell what the windows show.

    Tiles in which FEW windows show a first compression, and the others show that there was none, are left as they are,
    unless `everywhere` is asked for.

    Works through the image tile by tile, so that memory stays bounded: the answers are a second copy of the posteriors,
    in half precision, and nothing else grows with the image.
    """
    table = np.array([q2[:N_COEFS]], np.float32)
    logp, shift, present = np.empty_like(found.logp), np.empty_like(found.shift), np.empty_like(found.present)
    rows, cols = (_spans(n) for n in present.shape)
    for down, across in itertools.product(rows, cols):
        read, answered, inside = zip(down, across, strict=True)
        seen = found.present[read]
        if not everywhere and (seen > SHOWN).mean() < FEW and seen.mean() < UNSURE:
            logp[answered], shift[answered] = found.logp[answered], found.shift[answered]
            present[answered] = found.present[answered]
            continue
        feed: dict[str, npt.NDArray[Any]] = {
            "logp": found.logp[read][None].astype(np.float32),
            "shift": found.shift[read][None].astype(np.float32),
            "present": seen[None],
            "texture": texture[read][None],
            "saturated": saturated[read][None],
        }
        out = model(**feed, q2=table)
        logp[answered] = np.maximum(out["refined_logp"][0][inside], LOWEST)
        shift[answered] = np.maximum(out["refined_shift"][0][inside], LOWEST)
        present[answered] = out["refined_present"][0][inside]
    return WindowPosteriors(logp, shift, present, found.origin, found.size)
