"""What of an image is worth a look: its tiles, the grid shifts of each, and the windows that are.

A scout looks at every second window down and across, at all shifts, with a few numbers each (`kernels.scout_sums`);
they cover every pixel four times. Its answers name the shifts at which a tile is looked at closely (`candidates`), and
its glance tells where that would find nothing (`sparse`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from jscan import candidates, kernels, sparse, tiling
from jscan.candidates import Candidates, Strata
from jscan.comb import Band
from jscan.jpegtables import dct_basis
from jscan.layout import Layout, Room, blocks, cut
from jscan.stages import stage
from jscan.tiling import BLOCK, STRIDE
from jscan.weights import Model

FloatArray = npt.NDArray[np.float32]

TILE = 32
"""Windows along a side of a tile: the shifts looked at are chosen tile by tile. It is even."""
STRIP = 8 * TILE
"""Windows across that the scout looks at together."""
SCOUTED = 256
"""Windows that the scout is asked about at a time: what it computes of so many stays in a core's cache."""
OF_TILE = 3
"""Shifts that are looked at because a tile speaks for them, besides the image's, the last grid's own and the sample."""
STANDS_FOR = 4
"""Windows for which each that the scout looks at speaks."""
CELL = 32
"""Pixels along a side of the cells that the windows looked at first are made of, two by two."""


@dataclass(frozen=True)
class Plan:
    """What of a tile is looked at."""

    tile: tiling.Tile
    picked: Candidates
    quiet: npt.NDArray[np.bool_]
    """Windows (rows, cols) in which nothing is expected to be found."""

    @cached_property
    def far(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows and columns of which the windows are looked at, quiet or not."""
        rows, cols = (sparse.quiet_axis(n) for n in self.quiet.shape)
        return rows, cols

    @cached_property
    def first(self) -> npt.NDArray[np.bool_]:
        """(r, c) which of the windows that may be looked at first are."""
        windows = ~self.quiet
        windows[np.ix_(*self.far)] = True
        return windows[::2, ::2]

    @cached_property
    def cells(self) -> npt.NDArray[np.bool_]:
        """(r + 1, c + 1) cells of 32 x 32 pixels of which these are made."""
        return made_of(self.first, 2)


def made_of(windows: npt.NDArray[np.bool_], cells: int) -> npt.NDArray[np.bool_]:
    """The cells of which `windows` (rows, columns), one cell apart, are made, `cells` x `cells` each."""
    down, across = windows.shape
    out = np.zeros((down + cells - 1, across + cells - 1), bool)
    for y in range(cells):
        for x in range(cells):
            out[y : y + down, x : x + across] |= windows
    return out


class Scouting:
    """Asks a scout about images. Makes its tables once; keeps nothing of an image."""

    def __init__(self, scout: Model, bands: tuple[Band, ...], strata: Strata) -> None:
        self._scout, self._strata = scout, strata
        self._frequencies = Layout(bands).frequencies
        self._basis = dct_basis().astype(np.float32)
        self._begin, self._table, self._scale = self._functions(bands)

    def _functions(self, bands: tuple[Band, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16], np.float32]:
        """The first row of each coefficient, the scout's functions (rows, 8), and what 1 of them stands for."""
        nothing: dict[str, npt.NDArray[Any]] = {
            "means": np.zeros((1, 64, 2 * kernels.SCOUT_SIZE), np.float32),
            "q2": np.ones((1, 15), np.float32),
        }
        wanted = {i.name for i in self._scout.session.get_inputs()}
        project = self._scout(**{k: v for k, v in nothing.items() if k in wanted})["projection"]
        tables, at, row = [], 0, 0
        begin: list[int] = []
        for band in bands:
            table = band.table() @ project[at : at + band.size]
            at += band.size
            begin += [row] * len(band.coefs)
            tables += [table]
            row += len(table)
        # The functions of a block are added up in 16 bits, whatever its coefficients are.
        most = sum(len(b.coefs) * np.abs(t).max(axis=0) for b, t in zip(bands, tables, strict=True))
        scale = np.float32(32000 / max(float(np.max(most)), 1e-6))
        return np.array(begin, np.int64), np.rint(np.concatenate(tables) * scale).astype(np.int16), 1 / scale

    def __call__(
        self, luma: npt.NDArray[np.uint8], origin: tuple[int, int], rows: int, cols: int, inputs: dict[str, FloatArray]
    ) -> Iterator[Plan]:
        """Every tile with the shifts that are worth a look there, and its windows that are."""
        shape = len(sparse.axis(rows)), len(sparse.axis(cols))
        of_image = np.zeros(64)
        glance: FloatArray | None = None
        votes: list[tuple[tiling.Tile, npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
        for strip, shift, present in self._strips(luma, origin, rows, cols, inputs):
            if present is not None:
                glance = np.empty(shape, np.float32) if glance is None else glance
                glance[_first(strip)] = present
            for tile in tiling.tiles(*strip.shape, TILE):
                likely = shift[_first(tile)].reshape(-1, 64)
                of_all = STANDS_FOR * candidates.votes(likely)
                of_doubtful = of_all
                if present is not None:
                    speaks = (present[_first(tile)] >= sparse.QUIET).ravel()
                    of_doubtful = STANDS_FOR * candidates.votes(likely[speaks])
                moved = tiling.Tile(strip.row, strip.col + tile.col, strip.row_end, strip.col + tile.col_end)
                votes.append((moved, of_all, of_doubtful))
                of_image += candidates.evidence(likely)
        whole = np.argsort(-of_image, kind="stable")[: candidates.shifts_of_image(rows * cols, self._strata)]
        quiet, calm = np.zeros((rows, cols), bool), False
        if glance is not None:
            full = sparse.fill(glance, (rows, cols))
            calm = sparse.calm(full)
            quiet = sparse.quiet(full) if calm else quiet
        for tile, of_all, of_doubtful in votes:
            speak = of_doubtful if calm else of_all
            ranked = [*whole, *(k for k in np.argsort(-speak, kind="stable") if speak[k] > candidates.LEAST)]
            here = (slice(tile.row, tile.row_end), slice(tile.col, tile.col_end))
            yield Plan(tile, candidates.choose(ranked, len(whole) + OF_TILE, self._strata), quiet[here])

    def _strips(
        self, luma: npt.NDArray[np.uint8], origin: tuple[int, int], rows: int, cols: int, inputs: dict[str, FloatArray]
    ) -> Iterator[tuple[tiling.Tile, FloatArray, FloatArray | None]]:
        """Strips of tiles with what the scout says of their first windows: see `_asked`."""
        room = Room()
        above: dict[int, FloatArray] = {}  # the row of cells that the next strip needs, by the column where it begins
        for strip in tiling.tiles(rows, cols, TILE, STRIP):
            down, across = (len(sparse.axis(n)) for n in strip.shape)
            cells = room("cells", (down + 1, across + 1, BLOCK, BLOCK * kernels.SCOUT_SIZE))
            known = above.pop(strip.col, cells[:0])
            cells[: len(known)], cells[len(known) :] = known, 0
            rest = replace(strip, row=strip.row + CELL // STRIDE * len(known))
            pixels, valid = cut(luma, rest, origin, room)
            limits = (min(valid[0], CELL * (down + 1 - len(known))), min(valid[1], CELL * (across + 1)))
            kernels.scout_sums(
                pixels, *limits, self._basis, *self._frequencies, self._begin, self._table, self._scale,
                cells[len(known) :],
            )  # fmt: skip
            if strip.row_end < rows:
                above[strip.col] = cells[-1:].copy()
            windows = room("windows", (down, across, BLOCK * BLOCK, 2 * kernels.SCOUT_SIZE))
            whole = blocks(strip, tiling.block_positions(luma.shape, strip, origin), np.arange(BLOCK * BLOCK))
            count = whole[0][::2, None] * whole[1][None, ::2]
            kernels.window_means(cells.reshape(down + 1, across + 1, -1), count, windows)
            yield (strip, *self._asked(windows, inputs))

    def _asked(self, windows: FloatArray, inputs: dict[str, FloatArray]) -> tuple[FloatArray, FloatArray | None]:
        """What the scout says of `windows` (R, C, 64, 16): log-posteriors (R, C, 64), and its glance (R, C), if any."""
        rows, cols = windows.shape[:2]
        step = max(1, SCOUTED // cols)
        answers = []
        for row in range(0, rows, step):
            means = windows[row : row + step].reshape(-1, *windows.shape[2:])
            with stage("network"):
                answers.append(self._scout(means=means, **inputs))
        shift = np.concatenate([a["shift"] for a in answers]).reshape(rows, cols, -1)
        if "present" not in answers[0]:
            return shift, None
        return shift, np.concatenate([a["present"] for a in answers]).reshape(rows, cols)


def _first(tile: tiling.Tile) -> tuple[slice, slice]:
    """Where the windows of a tile that are looked at first lie among all that are."""
    return slice(tile.row // 2, (tile.row_end + 1) // 2), slice(tile.col // 2, (tile.col_end + 1) // 2)
