"""The posteriors of all windows of an image by way of a scout: the default on a CPU.

`windows.AllShifts` computes every feature at all 64 grid shifts. Here a scout names the shifts of each tile that are
worth it (`scouting`); the features are then computed at these, and at a sample of the others, and a reader, which is
the same network with the same weights, takes them from there. It is asked about every second window down and across
first, and about those between where these do not agree (`sparse`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jscan import candidates, comb, kernels, sparse, tiling
from jscan.candidates import Candidates, Strata
from jscan.comb import Band
from jscan.inparallel import in_order
from jscan.jpegtables import Q1_OFFSET, dct_basis
from jscan.layout import Layout, Room, blocks, cut
from jscan.records import WindowPosteriors
from jscan.scouting import CELL, Plan, Scouting, made_of
from jscan.stages import stage
from jscan.tiling import BLOCK, STRIDE, WINDOW
from jscan.weights import Model
from jscan.windows import LOWEST

FloatArray = npt.NDArray[np.float32]
Look = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], dict[str, Any]]
"""(n,) rows and columns of windows -> `logp` (n, K), `shift` (n, 64) and `present` (n,)."""

CELLS = WINDOW // STRIDE
"""Cells along a side of a window, where any window may be asked about."""
FULL_TILE = 12
"""Windows along a side of a tile of which all shifts are looked at: its features are 13 MB."""


class FastWindows:
    """Runs a scout and a reader over images. Makes its tables once; keeps nothing of an image."""

    def __init__(
        self, scout: Model, scout_bands: tuple[Band, ...], reader: Model, bands: tuple[Band, ...], strata: Strata
    ) -> None:
        self.scouting = Scouting(scout, scout_bands, strata)
        self._reader, self._layout = reader, Layout(bands)
        self._basis = dct_basis().astype(np.float32)
        self.steps = next(int(o.shape[1]) for o in reader.session.get_outputs() if o.name == "logp")

    def __call__(
        self, luma: npt.NDArray[np.uint8], origin: tuple[int, int] = (0, 0), **inputs: FloatArray
    ) -> WindowPosteriors:
        """The posteriors of all windows of an image; see `windows.Windows`."""
        height, width = luma.shape
        rows, cols = tiling.window_grid(height - origin[0], width - origin[1])
        with stage("scout"):
            plans = list(self.scouting(luma, origin, rows, cols, inputs))
        whole, room = _Posteriors.room(rows, cols, self.steps), Room()

        def look(plan: Plan, cells: npt.NDArray[np.bool_], side: int) -> Look:
            return self._reads(luma, origin, plan.tile, plan.picked, cells, side, inputs, room)

        def first(plan: Plan) -> dict[str, Any]:
            return _first(plan, look(plan, plan.cells, CELL))

        for plan, seen in zip(plans, in_order(first, iter(plans), self._reader.threads), strict=True):
            whole.put_first(plan.tile, seen)

        def between(plan: Plan) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[str, Any]]:
            ask = whole.fill(plan)
            r, c = np.nonzero(ask)
            return r, c, look(plan, made_of(ask, CELLS), STRIDE)(r, c) if len(r) else {}

        for plan, (r, c, more) in zip(plans, in_order(between, iter(plans), self._reader.threads), strict=True):
            whole.put(plan.tile.row + r, plan.tile.col + c, more)
        return WindowPosteriors(whole.logp, whole.shift, whole.present, origin, (height, width))

    def again(
        self, found: WindowPosteriors, where: npt.NDArray[np.bool_], luma: npt.NDArray[np.uint8], **inputs: FloatArray
    ) -> WindowPosteriors:
        """What was `found` in an image, with each of the windows `where` (R, C) looked at once more at all shifts."""
        logp, shift, present = found.logp.copy(), found.shift.copy(), found.present.copy()
        chosen, room = [], Room()
        for tile in tiling.tiles(where.shape[0], where.shape[1], FULL_TILE):
            ask = where[tile.row : tile.row_end, tile.col : tile.col_end]
            if ask.any():
                chosen.append((tile, ask))

        def answer(job: tuple[tiling.Tile, npt.NDArray[np.bool_]]) -> dict[str, Any]:
            tile, ask = job
            look = self._reads(
                luma, found.origin, tile, candidates.ALL, made_of(ask, CELLS), STRIDE, inputs, room
            )  # fmt: skip
            return look(*np.nonzero(ask))

        for (tile, ask), out in zip(chosen, in_order(answer, iter(chosen), self._reader.threads), strict=True):
            rows, cols = np.nonzero(ask)
            here = (tile.row + rows, tile.col + cols)
            logp[here], shift[here], present[here] = out["logp"], out["shift"], out["present"]
        return replace(found, logp=logp, shift=shift, present=present)

    def _reads(
        self,
        luma: npt.NDArray[np.uint8],
        origin: tuple[int, int],
        tile: tiling.Tile,
        picked: Candidates,
        wanted: npt.NDArray[np.bool_],
        side: int,
        inputs: dict[str, FloatArray],
        room: Room,
    ) -> Look:
        """What answers for the windows of a tile whose cells are all `wanted`, by their rows and columns in it.

        Cells are `side` x `side` pixels, and so are the places where windows may begin. Until the `room` is used for
        another tile.
        """
        pixels, valid = cut(luma, tile, origin, room)
        shifts, layout = len(picked.place), self._layout
        features = room("features", (*wanted.shape, shifts, layout.width), np.int16)
        loud = room("loud", (*wanted.shape, 1, len(layout.coefs)))
        down_of, along_of = layout.frequencies
        begin, padded, place, again, table = layout.rows
        with stage("features"):
            kernels.comb_sums(
                pixels, valid[0], valid[1], self._basis, picked.place, picked.stands_for, down_of, along_of, begin,
                padded, place, again, table, side // BLOCK, wanted, features, loud[:, :, 0],
            )  # fmt: skip
        (down, across), step, cells = blocks(tile, valid, picked.place), side // STRIDE, WINDOW // side

        def look(r: npt.NDArray[np.int64], c: npt.NDArray[np.int64]) -> dict[str, Any]:
            sums = np.empty((len(r), shifts, layout.size), np.float32)
            levels = np.empty((len(r), 1, len(layout.coefs)), np.float32)
            with stage("features"):
                at = (r // step, c // step)
                kernels.some_window_sums(features, cells, *at, np.float32(1 / comb.SCALE), sums)
                kernels.some_window_sums(loud, cells, *at, np.float32(1), levels)
            here = down[r] * across[c]
            with stage("network"):
                out = self._reader(
                    features=sums,
                    blocks=here,
                    place=picked.place,
                    stands_for=picked.stands_for,
                    level=levels[:, 0] / (here @ picked.stands_for)[:, None],
                    **inputs,
                )
            return {
                "logp": np.maximum(out["logp"], np.float32(LOWEST)),
                "shift": np.maximum(picked.spread(out["shift"]), np.float32(LOWEST)),
                "present": out["present"],
            }

        return look


class InFull:
    """Asks about all windows of an image, at all shifts, by what a fast way would look again with: for small images.

    The answers are those of `windows.AllShifts`, which computes them in one graph: that takes 0.3 s to be opened.
    """

    def __init__(self, look: FastWindows) -> None:
        self._look = look

    def __call__(
        self, luma: npt.NDArray[np.uint8], origin: tuple[int, int] = (0, 0), **inputs: FloatArray
    ) -> WindowPosteriors:
        """The posteriors of all windows of an image; see `windows.Windows`."""
        height, width = luma.shape
        rows, cols = tiling.window_grid(height - origin[0], width - origin[1])
        room = _Posteriors.room(rows, cols, self._look.steps)
        nothing = WindowPosteriors(room.logp, room.shift, room.present, origin, (height, width))
        return self._look.again(nothing, np.ones((rows, cols), bool), luma, **inputs)


@dataclass(frozen=True, slots=True)
class _Posteriors:
    """The posteriors of all windows of an image while they come in."""

    logp: npt.NDArray[np.float16]
    """(rows, cols, K)."""
    shift: npt.NDArray[np.float16]
    """(rows, cols, 64)."""
    present: npt.NDArray[np.float32]
    """(rows, cols)."""

    @classmethod
    def room(cls, rows: int, cols: int, steps: int) -> _Posteriors:
        """For so many windows, with anything in it."""
        logp, shift = (np.empty((rows, cols, n), np.float16) for n in (steps, 64))
        return cls(logp, shift, np.empty((rows, cols), np.float32))

    def put_first(self, tile: tiling.Tile, seen: dict[str, Any]) -> None:
        """Writes what was `seen` of the windows of a tile that are looked at first, (r, c)."""
        here = (slice(tile.row, tile.row_end, 2), slice(tile.col, tile.col_end, 2))
        self.logp[here], self.shift[here], self.present[here] = seen["logp"], seen["shift"], seen["present"]

    def put(self, rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64], seen: dict[str, Any]) -> None:
        """Writes what was `seen` of the windows (n,) at these `rows` and `cols`."""
        if len(rows):
            self.logp[rows, cols], self.shift[rows, cols] = seen["logp"], seen["shift"]
            self.present[rows, cols] = seen["present"]

    def fill(self, plan: Plan) -> npt.NDArray[np.bool_]:
        """Interpolates the windows of a tile between those looked at first, and tells which want a look of their own.

        These (rows, cols) are not quiet, and those around them disagree. The first windows of the tiles below and to
        the right, between which and its own the last ones of a tile lie, must be there.
        """
        tile, least = plan.tile, np.float32(np.exp(LOWEST))
        end = (min(tile.row_end + 1, self.present.shape[0]), min(tile.col_end + 1, self.present.shape[1]))
        first = (slice(tile.row, end[0], 2), slice(tile.col, end[1], 2))
        p, shift = (np.exp(x[first].astype(np.float32)) for x in (self.logp, self.shift))
        present = self.present[first].copy()
        down, across = tile.shape
        shape = (end[0] - tile.row, end[1] - tile.col)
        lines = [index[:n] for k, n in enumerate(tile.shape) for index in sparse.between(shape[k])]
        for values, whole in ((p, self.logp), (shift, self.shift)):
            kernels.means_between(values, *lines, least, tile.row, tile.col, whole.view(np.uint16))
        self.present[tile.row : tile.row_end, tile.col : tile.col_end] = sparse.fill(present, shape)[:down, :across]
        if plan.quiet.all():
            return np.zeros(tile.shape, bool)
        groups = Q1_OFFSET if p.shape[2] == Q1_OFFSET[-1] else (0, p.shape[2])
        square = sparse.disagreement(p, shift, present, groups)
        # A window on a line between two of the first ones lies in two squares, one of which is enough.
        above, below, left, right = lines
        ask: npt.NDArray[np.bool_] = square[np.ix_(above, left)]
        ask |= square[np.ix_(np.maximum(below - 1, 0), np.maximum(right - 1, 0))]
        # Behind the last of the first ones there may be one more at the image's edge, which lies between no two.
        if shape[0] % 2 == 0:
            ask[-1] = True
        if shape[1] % 2 == 0:
            ask[:, -1] = True
        ask &= ~plan.quiet
        ask[::2, ::2] = False
        return ask


def _first(plan: Plan, look: Look) -> dict[str, Any]:
    """What `look` says of every second window down and across, (r, c); where they are quiet, of few of them.

    What the others would have said is interpolated.
    """
    seen = plan.first
    row, col = 2 * np.stack(np.nonzero(np.ones_like(seen)))
    asked = seen.ravel()
    answers = look(row[asked], col[asked])
    if asked.all():
        return {k: v.reshape(*seen.shape, *v.shape[1:]) for k, v in answers.items()}
    out = {}
    for name, values in answers.items():
        means = _interpolated(plan, values if name == "present" else np.exp(values), row, col)
        every = np.empty((len(asked), *values.shape[1:]), np.float32)
        every[asked], every[~asked] = values, means if name == "present" else _log(means)
        out[name] = every.reshape(*seen.shape, *values.shape[1:])
    return out


def _interpolated(
    plan: Plan, p: FloatArray, row: npt.NDArray[np.int64], col: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """(m, ...) probabilities of the first windows that were not looked at, from those `p` (n, ...) of the others.

    The windows lie at `row` and `col`. Of the four around one, the nearer ones count for more.
    """
    asked = plan.first.ravel()
    place = np.full(plan.quiet.shape, -1)
    place[row[asked], col[asked]] = np.arange(int(asked.sum()))
    sides = [sparse.around(at[~asked], far) for at, far in zip((row, col), plan.far, strict=True)]
    mean = np.zeros((int((~asked).sum()), *p.shape[1:]), np.float32)
    for y, down in sides[0]:
        for x, across in sides[1]:
            mean += p[place[y, x]] * (down * across).reshape(-1, *[1] * (p.ndim - 1))
    return mean


def _log(p: FloatArray) -> FloatArray:
    """The log of probabilities, none below LOWEST."""
    floored = np.maximum(p, np.float32(np.exp(LOWEST)))
    return np.log(floored, out=floored)
