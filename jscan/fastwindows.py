"""The posteriors of all windows of an image by way of a scout: the default on a CPU.

`windows.AllShifts` computes every feature at all 64 grid shifts. Here a scout looks at all shifts with a few numbers
each; the features of a tile are then computed at the shifts that it names, and at a sample of the others
(`candidates`), and a reader, which is the same network with the same weights, takes them from there.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from jscan import candidates, comb, kernels, sparse, tiling
from jscan.candidates import Candidates, Strata
from jscan.comb import Band
from jscan.inparallel import in_order
from jscan.jpegtables import Q1_OFFSET, ZIGZAG, dct_basis
from jscan.records import WindowPosteriors
from jscan.stages import stage
from jscan.tiling import BLOCK, STRIDE, WINDOW
from jscan.weights import Model
from jscan.windows import LOWEST

FloatArray = npt.NDArray[np.float32]
Look = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], dict[str, Any]]
"""(n,) rows and columns of windows -> `logp` (n, K), `shift` (n, 64) and `present` (n,)."""

CELLS = WINDOW // STRIDE
"""Cells along a side of a window."""
TILE = 32
"""Windows along a side of a tile: the shifts looked at are chosen tile by tile."""
FULL_TILE = 12
"""The same where all shifts are looked at: the features of a tile are 13 MB then."""
STRIP = 8 * TILE
"""Windows across that the scout looks at together."""
SCOUTED = 256
"""Windows that the scout is asked about at a time: what it computes of so many stays in a core's cache."""
MOST = 5
"""Shifts of a tile that are looked at, besides the last grid's own and the sample."""
STANDS_OUT = 0.3
"""Posterior, by the scout, of another shift than the image's from which a window is looked at in any case."""
OF_IMAGE = 2
"""How many of them are those that the whole image speaks for."""


@dataclass(frozen=True)
class Layout:
    """How a kernel finds the functions of each coefficient; see `kernels.comb_sums`."""

    bands: tuple[Band, ...]

    @cached_property
    def coefs(self) -> list[int]:
        """Zigzag indices, band by band."""
        return [i for band in self.bands for i in band.coefs]

    @cached_property
    def frequencies(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Vertical and horizontal frequency of each coefficient."""
        down, along = np.array([ZIGZAG[i] for i in self.coefs], np.int64).T
        return np.ascontiguousarray(down), np.ascontiguousarray(along)

    @cached_property
    def rows(self) -> tuple[Any, ...]:
        """`begin`, `padded`, `place`, `again` and `table` (int16); begin and padded count rows of a register."""
        begin, padded, place, again, tables, row, feature = [], [], [], [], [], 0, 0
        for band in self.bands:
            wide = comb.padded(band)
            table = np.rint(band.table() * comb.SCALE).astype(np.int16)
            table = np.pad(table, ((0, 0), (0, wide - band.size))).reshape(-1, comb.REGISTER)
            for k in range(len(band.coefs)):
                begin.append(row)
                padded.append(wide // comb.REGISTER)
                place.append(feature)
                again.append(k > 0)
            tables.append(table)
            row += len(table)
            feature += band.size
        tables.append(np.zeros((kernels.MOST_ROWS, comb.REGISTER), np.int16))
        return (*(np.array(x, np.int64) for x in (begin, padded, place)), np.array(again), np.concatenate(tables))

    @cached_property
    def width(self) -> int:
        """Numbers of a row of features, with the padding."""
        return self.size + comb.padding(self.bands)

    @cached_property
    def size(self) -> int:
        """The same without the padding."""
        return sum(b.size for b in self.bands)


@dataclass(frozen=True)
class _Scouted:
    """What the scout said of a tile of n windows."""

    tile: tiling.Tile
    of_all: npt.NDArray[np.float64]
    """(64,) votes for each shift."""
    of_doubtful: npt.NDArray[np.float64]
    """The same, of the windows for which the glance does not exclude a compression."""
    best: npt.NDArray[np.uint8]
    """(n,) the likeliest shift."""
    sure: npt.NDArray[np.bool_]
    """(n,) whether the scout is sure of it."""


@dataclass(frozen=True)
class _Plan:
    """What of a tile is looked at."""

    tile: tiling.Tile
    picked: Candidates
    unusual: npt.NDArray[np.bool_]
    """Windows (rows, cols) that are looked at in any case."""
    quiet: npt.NDArray[np.bool_]
    """Others (rows, cols) in which nothing is expected to be found."""

    @cached_property
    def far(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows and columns of which the windows are looked at, quiet or not."""
        rows, cols = (sparse.quiet_axis(n) for n in self.quiet.shape)
        return rows, cols

    @cached_property
    def cells(self) -> npt.NDArray[np.bool_]:
        """(cells down, cells across) of the windows that may be looked at."""
        windows = ~self.quiet
        windows[np.ix_(*self.far)] = True
        down, across = windows.shape
        out = np.zeros((down + CELLS - 1, across + CELLS - 1), bool)
        for y in range(CELLS):
            for x in range(CELLS):
                out[y : y + down, x : x + across] |= windows
        return out


class _Room(threading.local):
    """Memory that each thread uses again for tile after tile: new pages cost as much as filling them."""

    def __init__(self) -> None:
        self._flat: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """An array with anything in it; of one `kind` for each name."""
        size = math.prod(shape)
        if name not in self._flat or len(self._flat[name]) < size:
            self._flat[name] = np.empty(size, kind)
        return self._flat[name][:size].reshape(shape)


class FastWindows:
    """Runs a scout and a reader over images. Makes its tables once; keeps nothing of an image."""

    def __init__(
        self, scout: Model, scout_bands: tuple[Band, ...], reader: Model, bands: tuple[Band, ...], strata: Strata
    ) -> None:
        self._scout, self._reader, self._strata = scout, reader, strata
        self._layout, self._few = Layout(bands), Layout(scout_bands)
        self._basis = dct_basis().astype(np.float32)
        self._table, self._begin = self._scout_table(scout_bands)

    def _scout_table(self, bands: tuple[Band, ...]) -> tuple[FloatArray, npt.NDArray[np.int32]]:
        """The scout's functions (rows, 8), and the first row of each coefficient."""
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
            tables.append(table)
            row += len(table)
        return np.concatenate(tables).astype(np.float32), np.array(begin, np.int32)

    def __call__(
        self, luma: npt.NDArray[np.uint8], origin: tuple[int, int] = (0, 0), **inputs: FloatArray
    ) -> WindowPosteriors:
        """The posteriors of all windows of an image; see `windows.Windows`."""
        height, width = luma.shape
        rows, cols = tiling.window_grid(height - origin[0], width - origin[1])
        with stage("scout"):
            chosen = list(self._choose(luma, origin, rows, cols, inputs))
        logp: npt.NDArray[np.float16] | None = None
        shift, present = np.empty((rows, cols, 64), np.float16), np.empty((rows, cols), np.float32)
        room = _Room()

        def answer(plan: _Plan) -> dict[str, Any]:
            look = self._reads(luma, origin, plan.tile, plan.picked, plan.cells, inputs, room)
            return _between(_first(plan, look), look, plan)

        answers = in_order(answer, iter(chosen), self._reader.threads)
        for plan in chosen:
            tile = plan.tile
            here = (slice(tile.row, tile.row_end), slice(tile.col, tile.col_end))
            out = next(answers)
            if logp is None:
                logp = np.empty((rows, cols, out["logp"].shape[2]), np.float16)
            logp[here], shift[here], present[here] = out["logp"], out["shift"], out["present"]
        assert logp is not None
        return WindowPosteriors(logp, shift, present, origin, (height, width))

    def again(
        self, found: WindowPosteriors, where: npt.NDArray[np.bool_], luma: npt.NDArray[np.uint8], **inputs: FloatArray
    ) -> WindowPosteriors:
        """What was `found` in an image, with each of the windows `where` (R, C) looked at once more at all shifts."""
        logp, shift, present = found.logp.copy(), found.shift.copy(), found.present.copy()
        chosen, room = [], _Room()
        for tile in tiling.tiles(where.shape[0], where.shape[1], FULL_TILE):
            rows, cols = np.nonzero(where[tile.row : tile.row_end, tile.col : tile.col_end])
            if len(rows):
                chosen.append((tile, rows, cols))

        def answer(job: tuple[tiling.Tile, npt.NDArray[np.int64], npt.NDArray[np.int64]]) -> dict[str, Any]:
            tile, rows, cols = job
            cells = np.ones([n + CELLS - 1 for n in tile.shape], bool)
            return self._reads(luma, found.origin, tile, candidates.ALL, cells, inputs, room)(rows, cols)

        for (tile, rows, cols), out in zip(chosen, in_order(answer, iter(chosen), self._reader.threads), strict=True):
            here = (tile.row + rows, tile.col + cols)
            logp[here], shift[here], present[here] = out["logp"], out["shift"], out["present"]
        return replace(found, logp=logp, shift=shift, present=present)

    def _choose(
        self, luma: npt.NDArray[np.uint8], origin: tuple[int, int], rows: int, cols: int, inputs: dict[str, FloatArray]
    ) -> Iterator[_Plan]:
        """Every tile with the shifts that are worth a look there, and its windows that are."""
        glance, of_image = np.ones((rows, cols), np.float32), np.zeros(64)  # without a glance no window is quiet
        found: list[_Scouted] = []
        room = _Room()
        above: dict[int, FloatArray] = {}  # rows of cells that the next strip needs, by the column where it begins
        for strip in tiling.tiles(rows, cols, TILE, STRIP):
            down, across = (n + CELLS - 1 for n in strip.shape)
            cells = room("cells", (down, across, BLOCK, BLOCK, kernels.SCOUT_SIZE))
            known = above.pop(strip.col, cells[:0])
            cells[: len(known)], cells[len(known) :] = known, 0
            rest = replace(strip, row=strip.row + len(known))
            pixels, valid = _cut(luma, rest, origin)
            kernels.scout_sums(
                pixels, *valid, self._basis, *self._few.frequencies, self._begin, self._table, cells[len(known) :]
            )
            if strip.row_end < rows:
                above[strip.col] = cells[-(CELLS - 1) :].copy()
            windows = room("windows", (*strip.shape, BLOCK * BLOCK, 2 * kernels.SCOUT_SIZE))
            blocks = _blocks(strip, tiling.block_positions(luma.shape, strip, origin), np.arange(64))
            kernels.window_means(cells.reshape(down, across, -1), blocks, windows)
            shift, present = self._asked(windows, inputs)
            if present is not None:
                glance[strip.row : strip.row_end, strip.col : strip.col_end] = present
            for tile in tiling.tiles(*strip.shape, TILE):
                here = (slice(tile.row, tile.row_end), slice(tile.col, tile.col_end))
                likely = shift[here].reshape(-1, 64)
                speaks = np.ones(len(likely), bool) if present is None else (present[here] >= sparse.QUIET).ravel()
                best, sure = likely.argmax(axis=1).astype(np.uint8), likely.max(axis=1) > np.log(STANDS_OUT)
                votes = (candidates.votes(likely), candidates.votes(likely[speaks]))
                moved = tiling.Tile(strip.row, strip.col + tile.col, strip.row_end, strip.col + tile.col_end)
                found.append(_Scouted(moved, *votes, best, sure))
                of_image += candidates.evidence(likely)
        whole, calm = np.argsort(-of_image, kind="stable")[:OF_IMAGE], sparse.calm(glance)
        quiet = sparse.quiet(glance) if calm else np.zeros(glance.shape, bool)
        for seen in found:
            tile, speak = seen.tile, seen.of_doubtful if calm else seen.of_all
            ranked = [*whole, *(k for k in np.argsort(-speak, kind="stable") if speak[k] > candidates.LEAST)]
            unusual = (seen.sure & (seen.best != whole[0])).reshape(tile.shape)
            here = (slice(tile.row, tile.row_end), slice(tile.col, tile.col_end))
            yield _Plan(tile, candidates.choose(ranked, MOST, self._strata), unusual & ~quiet[here], quiet[here])

    def _asked(
        self, windows: FloatArray, inputs: dict[str, FloatArray]
    ) -> tuple[FloatArray, npt.NDArray[np.float32] | None]:
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

    def _reads(
        self,
        luma: npt.NDArray[np.uint8],
        origin: tuple[int, int],
        tile: tiling.Tile,
        picked: Candidates,
        wanted: npt.NDArray[np.bool_],
        inputs: dict[str, FloatArray],
        room: _Room,
    ) -> Look:
        """What answers for the windows of a tile whose cells are all `wanted`, by their rows and columns in it.

        Until the `room` is used for another tile.
        """
        pixels, valid = _cut(luma, tile, origin)
        down, across = (n + CELLS - 1 for n in tile.shape)
        shifts, layout = len(picked.place), self._layout
        features = room("features", (down, across, shifts, layout.width), np.int16)
        loud = room("loud", (down, across, 1, len(layout.coefs)))
        down_of, along_of = layout.frequencies
        begin, padded, place, again, table = layout.rows
        with stage("features"):
            kernels.comb_sums(
                pixels, valid[0], valid[1], self._basis, picked.place, picked.stands_for,
                down_of, along_of, begin, padded, place, again, table, wanted, features, loud[:, :, 0],
            )  # fmt: skip
        blocks = _blocks(tile, valid, picked.place)

        def look(r: npt.NDArray[np.int64], c: npt.NDArray[np.int64]) -> dict[str, Any]:
            sums = np.empty((len(r), shifts, layout.size), np.float32)
            levels = np.empty((len(r), 1, len(layout.coefs)), np.float32)
            with stage("features"):
                kernels.some_window_sums(features, r, c, np.float32(1 / comb.SCALE), sums)
                kernels.some_window_sums(loud, r, c, np.float32(1), levels)
            here = blocks[r, c]
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


def _first(plan: _Plan, look: Look) -> dict[str, Any]:
    """What `look` says of every second window down and across, `sparse.axis`; where they are quiet, of few of them.

    What the others would have said is interpolated.
    """
    axes = [sparse.axis(n) for n in plan.quiet.shape]
    row, col = (x.ravel() for x in np.meshgrid(*axes, indexing="ij"))
    far = np.isin(row, plan.far[0]) & np.isin(col, plan.far[1])
    seen = far | ~plan.quiet[row, col]
    answers = look(row[seen], col[seen])
    shape = tuple(len(a) for a in axes)
    if seen.all():
        return {k: v.reshape(*shape, *v.shape[1:]) for k, v in answers.items()}
    # Of the four windows around one that was not looked at, the nearer ones count for more.
    place = np.full(plan.quiet.shape, -1)
    place[row[seen], col[seen]] = np.arange(int(seen.sum()))
    sides = [sparse.around(at[~seen], far) for at, far in zip((row, col), plan.far, strict=True)]
    out = {}
    for name, values in answers.items():
        p = values if name == "present" else np.exp(values)
        mean = np.zeros((int((~seen).sum()), *p.shape[1:]), np.float32)
        for y, down in sides[0]:
            for x, across in sides[1]:
                mean += p[place[y, x]] * (down * across).reshape(-1, *[1] * (p.ndim - 1))
        out[name] = np.empty((len(row), *p.shape[1:]), np.float32)
        out[name][seen], out[name][~seen] = values, mean if name == "present" else _log(mean)
        out[name] = out[name].reshape(*shape, *p.shape[1:])
    return out


def _between(seen: dict[str, Any], look: Look, plan: _Plan) -> dict[str, Any]:
    """What was `seen` of every second window; of those between, their mean, or what `look` says where they differ."""
    shape = plan.quiet.shape
    rows, cols = (sparse.axis(n) for n in shape)
    first = np.ix_(rows, cols)
    (above, below), (left, right) = sparse.between(shape[0]), sparse.between(shape[1])
    ask = np.zeros(shape, bool)
    if not plan.quiet.all():
        groups = Q1_OFFSET if seen["logp"].shape[2] == Q1_OFFSET[-1] else (0, seen["logp"].shape[2])
        square = sparse.disagreement(seen["logp"], seen["shift"], seen["present"], groups)
        # A window on a line between two of the first ones lies in two squares, one of which is enough.
        ask = square[np.ix_(above, left)] | square[np.ix_(np.maximum(below - 1, 0), np.maximum(right - 1, 0))]
        ask = (ask & ~plan.quiet) | plan.unusual
        ask[first] = False
    out = {}
    for name, values in seen.items():
        p = values if name == "present" else np.exp(values)
        both = p[above] + p[below]
        mean = both[:, left] + both[:, right]
        mean *= np.float32(0.25)
        out[name] = mean if name == "present" else _log(mean)
        out[name][first] = values
    r, c = np.nonzero(ask)
    if len(r):
        for name, values in look(r, c).items():
            out[name][r, c] = values
    return out


def _log(p: FloatArray) -> FloatArray:
    """The log of probabilities, none below LOWEST."""
    floored = np.maximum(p, np.float32(np.exp(LOWEST)))
    return np.log(floored, out=floored)


def _cut(luma: npt.NDArray[np.uint8], tile: tiling.Tile, origin: tuple[int, int]) -> tuple[FloatArray, tuple[int, int]]:
    """The pixels of a tile around 0, and how many block positions down and across lie in the image."""
    pixels, valid = tiling.cut_tile(luma, tile, origin)
    return pixels.astype(np.float32) - np.float32(128), (int(valid[0]), int(valid[1]))


def _blocks(tile: tiling.Tile, valid: tuple[int, int], shifts: npt.NDArray[np.int64]) -> FloatArray:
    """(rows, columns, S) whole blocks of each window of a tile at these shifts that lie in the image."""

    def along(windows: int, limit: int, first: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        begin = STRIDE * np.arange(windows)[:, None] + first  # n, S
        inside: npt.NDArray[np.int64] = np.clip(-(-(limit - begin) // BLOCK), 0, WINDOW // BLOCK)
        return inside

    down = along(tile.shape[0], valid[0], shifts // BLOCK)
    across = along(tile.shape[1], valid[1], shifts % BLOCK)
    return np.asarray(np.maximum(down[:, None] * across[None], 1), np.float32)
