"""The posteriors of all windows of an image by way of a scout: the default on a CPU.

`windows.AllShifts` computes every feature at all 64 grid shifts. Here a scout looks at all shifts with a few numbers
each; the features of a tile are then computed at the shifts that it names, and at a sample of the others
(`candidates`), and a reader, which is the same network with the same weights, takes them from there.
"""

from __future__ import annotations

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
"""The same where all shifts are looked at: the features of a tile are 26 MB then."""
STRIP = 8 * TILE
"""Windows across that the scout looks at together."""
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
        """`begin`, `padded`, `place`, `again` and `table`; begin and padded count rows of eight."""
        begin, padded, place, again, tables, row, feature = [], [], [], [], [], 0, 0
        for band in self.bands:
            wide = comb.padded(band)
            table = np.pad(band.table(), ((0, 0), (0, wide - band.size))).reshape(-1, comb.REGISTER)
            for k in range(len(band.coefs)):
                begin.append(row)
                padded.append(wide // comb.REGISTER)
                place.append(feature)
                again.append(k > 0)
            tables.append(table)
            row += len(table)
            feature += band.size
        tables.append(np.zeros((kernels.MOST_ROWS, comb.REGISTER), np.float32))
        return (*(np.array(x, np.int64) for x in (begin, padded, place)), np.array(again), np.concatenate(tables))

    @property
    def width(self) -> int:
        """Numbers of a row of features, with the padding."""
        return sum(b.size for b in self.bands) + comb.padding(self.bands)


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
            "sums": np.zeros((1, 64, kernels.SCOUT_SIZE), np.float32),
            "blocks": np.ones((1, 64), np.float32),
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

        def answer(job: tuple[tiling.Tile, Candidates, npt.NDArray[np.bool_]]) -> dict[str, Any]:
            tile, picked, unusual = job
            return _between(tile.shape, self._reads(luma, origin, tile, picked, inputs), unusual)

        answers = in_order(answer, iter(chosen), self._reader.threads)
        for tile, _, _ in chosen:
            here = (slice(tile.row, tile.row_end), slice(tile.col, tile.col_end))
            out = next(answers)
            if logp is None:
                logp = np.empty((rows, cols, out["logp"].shape[2]), np.float16)
            logp[here] = np.maximum(out["logp"], LOWEST)
            shift[here] = np.maximum(out["shift"], LOWEST)
            present[here] = out["present"]
        assert logp is not None
        return WindowPosteriors(logp, shift, present, origin, (height, width))

    def again(
        self, found: WindowPosteriors, where: npt.NDArray[np.bool_], luma: npt.NDArray[np.uint8], **inputs: FloatArray
    ) -> WindowPosteriors:
        """What was `found` in an image, with each of the windows `where` (R, C) looked at once more at all shifts."""
        logp, shift, present = found.logp.copy(), found.shift.copy(), found.present.copy()
        chosen = []
        for tile in tiling.tiles(where.shape[0], where.shape[1], FULL_TILE):
            rows, cols = np.nonzero(where[tile.row : tile.row_end, tile.col : tile.col_end])
            if len(rows):
                chosen.append((tile, rows, cols))

        def answer(job: tuple[tiling.Tile, npt.NDArray[np.int64], npt.NDArray[np.int64]]) -> dict[str, Any]:
            tile, rows, cols = job
            return self._reads(luma, found.origin, tile, candidates.ALL, inputs)(rows, cols)

        for (tile, rows, cols), out in zip(chosen, in_order(answer, iter(chosen), self._reader.threads), strict=True):
            here = (tile.row + rows, tile.col + cols)
            logp[here], shift[here] = np.maximum(out["logp"], LOWEST), np.maximum(out["shift"], LOWEST)
            present[here] = out["present"]
        return replace(found, logp=logp, shift=shift, present=present)

    def _choose(
        self, luma: npt.NDArray[np.uint8], origin: tuple[int, int], rows: int, cols: int, inputs: dict[str, FloatArray]
    ) -> Iterator[tuple[tiling.Tile, Candidates, npt.NDArray[np.bool_]]]:
        """Every tile with the shifts that are worth a look there, and its windows that stand out."""
        found: list[tuple[tiling.Tile, npt.NDArray[np.float64], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]] = []
        of_image = np.zeros(64)
        for strip in tiling.tiles(rows, cols, TILE, STRIP):
            pixels, valid = _cut(luma, strip, origin)
            across = strip.shape[1] + CELLS - 1
            down = strip.shape[0] + CELLS - 1
            sums = np.zeros((down, BLOCK, across, BLOCK, kernels.SCOUT_SIZE), np.float32)
            kernels.scout_sums(pixels, *valid, self._basis, *self._few.frequencies, self._begin, self._table, sums)
            cells = np.ascontiguousarray(sums.transpose(0, 2, 1, 3, 4)).reshape(down, across, -1)
            windows = np.empty((*strip.shape, cells.shape[2]), np.float32)
            kernels.window_sums(cells, 1, windows)
            blocks = _blocks(strip, valid, np.arange(64))
            for tile in tiling.tiles(*strip.shape, TILE):
                here = (slice(tile.row, tile.row_end), slice(tile.col, tile.col_end))
                with stage("network"):
                    shift = self._scout(
                        sums=np.ascontiguousarray(windows[here]).reshape(-1, 64, kernels.SCOUT_SIZE),
                        blocks=np.ascontiguousarray(blocks[here]).reshape(-1, 64),
                        **inputs,
                    )["shift"]
                moved = tiling.Tile(strip.row, strip.col + tile.col, strip.row_end, strip.col + tile.col_end)
                best, sure = shift.argmax(axis=1).astype(np.uint8), shift.max(axis=1) > np.log(STANDS_OUT)
                found.append((moved, candidates.votes(shift), best, sure))
                of_image += candidates.evidence(shift)
        whole = np.argsort(-of_image, kind="stable")[:OF_IMAGE]
        for tile, of_tile, best, sure in found:
            ranked = [*whole, *(k for k in np.argsort(-of_tile, kind="stable") if of_tile[k] > candidates.LEAST)]
            unusual = (sure & (best != whole[0])).reshape(tile.shape)
            yield tile, candidates.choose(ranked, MOST, self._strata), unusual

    def _reads(
        self,
        luma: npt.NDArray[np.uint8],
        origin: tuple[int, int],
        tile: tiling.Tile,
        picked: Candidates,
        inputs: dict[str, FloatArray],
    ) -> Look:
        """What answers for the windows of a tile, by their rows and columns in it."""
        pixels, valid = _cut(luma, tile, origin)
        down, across = (n + CELLS - 1 for n in tile.shape)
        shifts, layout = len(picked.place), self._layout
        features = np.empty((down, across, shifts, layout.width), np.float32)
        level = np.empty((down, shifts, len(layout.coefs), across), np.float32)
        down_of, along_of = layout.frequencies
        begin, padded, place, again, table = layout.rows
        with stage("features"):
            kernels.comb_sums(
                pixels, valid[0], valid[1], self._basis, picked.place,
                down_of, along_of, begin, padded, place, again, table, features, level,
            )  # fmt: skip
        loud = np.ascontiguousarray(np.einsum("rskc,s->rck", level, picked.stands_for))
        blocks = _blocks(tile, valid, picked.place)
        cells = features.reshape(down, across, -1)

        def look(r: npt.NDArray[np.int64], c: npt.NDArray[np.int64]) -> dict[str, Any]:
            sums, levels = np.empty((len(r), cells.shape[2]), np.float32), np.empty((len(r), loud.shape[2]), np.float32)
            kernels.some_window_sums(cells, r, c, sums)
            kernels.some_window_sums(loud, r, c, levels)
            here = blocks[r, c]
            levels /= (here @ picked.stands_for)[:, None]
            with stage("network"):
                out = self._reader(
                    features=sums.reshape(len(r), shifts, -1),
                    blocks=here,
                    place=picked.place,
                    stands_for=picked.stands_for,
                    level=levels,
                    **inputs,
                )
            return {**out, "shift": picked.spread(out["shift"])}

        return look


def _between(shape: tuple[int, int], look: Look, unusual: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """What `look` says of every second window, and of those between that it must be asked about; else their mean.

    `unusual` (rows, cols) are windows that must be asked about in any case.
    """
    rows, cols = (sparse.axis(n) for n in shape)
    first = np.ix_(rows, cols)
    r, c = (x.ravel() for x in np.meshgrid(rows, cols, indexing="ij"))
    seen = {k: v.reshape(len(rows), len(cols), *v.shape[1:]) for k, v in look(r, c).items()}
    groups = Q1_OFFSET if seen["logp"].shape[2] == Q1_OFFSET[-1] else (0, seen["logp"].shape[2])
    square = sparse.disagreement(seen["logp"], seen["shift"], seen["present"], groups)
    (above, below), (left, right) = sparse.between(shape[0]), sparse.between(shape[1])
    # A window on a line between two of the first ones lies in two squares, one of which is enough.
    ask = square[np.ix_(above, left)] | square[np.ix_(np.maximum(below - 1, 0), np.maximum(right - 1, 0))] | unusual
    ask[first] = False
    out = {}
    for name, values in seen.items():
        p = values if name == "present" else np.exp(values)
        mean = p[above][:, left] + p[above][:, right] + p[below][:, left] + p[below][:, right]
        mean *= np.float32(0.25)
        out[name] = mean if name == "present" else np.log(np.maximum(mean, np.float32(np.exp(LOWEST))))
        out[name][first] = values
    r, c = np.nonzero(ask)
    if len(r):
        for name, values in look(r, c).items():
            out[name][r, c] = values
    return out


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
