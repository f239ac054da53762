"""The models of a scan: which there are, where they run, and what looks at the windows of an image with them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jscan import candidates, comb, context, limits, papermap, q1map, qfmap, suspicion, tiling, weights
from jscan.config import devices
from jscan.errors import DeviceError, UsageError
from jscan.fastwindows import FastWindows, InFull
from jscan.stages import stage
from jscan.windows import AllShifts, tile_side


@dataclass(frozen=True, slots=True)
class Kind:
    """The models of one kind of estimate, and what is known of its grid."""

    model: str
    scout: str
    reader: str
    strata: candidates.Strata


Q1 = Kind(q1map.MODEL, q1map.SCOUT, q1map.READER, candidates.GRID_KNOWN)
QF = Kind(qfmap.MODEL, qfmap.SCOUT, qfmap.READER, candidates.GRID_UNKNOWN)
TILED = frozenset(name for kind in (Q1, QF) for name in (kind.model, kind.scout, kind.reader))
"""Models that run tile by tile, and may share a tile out to several threads."""
FEW_WINDOWS = 64
"""Windows of an image below which the fast way gains nothing: its choice of shifts wants many."""


class ModelSet:
    """Checks all models of a scan at once, and opens each when an image first wants it.

    `provider` says what they run on, `labels` names them with their digests, `papers` are the DenseNets of the papers
    where these are asked for. The rest is as for `scan.Scanner`.
    """

    def __init__(self, *, device: str, threads: int, estimator: str, thorough: bool, batch: int, sharing: int) -> None:
        if len(devices(device)) > 1:
            raise UsageError(f"--device {device} names several GPUs; a scanner works on one")
        self.provider = weights.resolve_device(device)
        self._gpu = weights.gpu_number(device)
        self._threads = threads
        self.papers = papermap.check() if estimator == "paper" else ()
        self._fast = False
        if self.papers:
            self._names: tuple[str, ...] = (*(p.name for p in self.papers), papermap.UCHIDA)
        else:
            # On a GPU the plain way is fast enough, and all of it is one graph.
            self._fast = self.provider == "CPU" and not thorough
            looks = ((k.scout, k.reader) if self._fast else (k.model,) for k in (Q1, QF))
            self._names = (*itertools.chain(*looks), context.MODEL, suspicion.JPEG_MODEL, suspicion.PIXEL_MODEL)
        for name in self._names:
            weights.check(name)
        self.labels = tuple(weights.label(name) for name in self._names)
        judging = () if self.papers else (suspicion.JPEG_MODEL, suspicion.PIXEL_MODEL)
        self.calibrations = {n: weights.calibration(n) for n in judging}
        self._loaded: dict[str, weights.Model] = {}
        self._looks: dict[Kind, FastWindows] = {}
        if self.provider != "CPU":
            # A driver that answers is no proof that CUDA's libraries are there: one session is opened to find out now.
            try:
                self(self._names[0])
            except DeviceError:
                if device != "auto":
                    raise
                self.provider = "CPU"
        self._side = tiling.TILE
        if self.provider != "CPU" and not self.papers:
            self._side = tile_side(batch, None if batch else weights.free_memory(self._gpu), sharing)

    def __call__(self, name: str) -> weights.Model:
        """The model, opened when it is first wanted: a run over photographs never needs those for pixels."""
        if name not in self._loaded:
            # The consistency models take milliseconds; moving their maps to a GPU would cost more, and so would sharing
            # them out to several threads.
            tiled = name in TILED or bool(self.papers)
            provider, threads = (self.provider, self._threads) if tiled else ("CPU", 1)
            with stage("start"), limits.uncounted():
                self._loaded[name] = weights.load(
                    name,
                    provider=provider,
                    gpu=self._gpu,
                    threads=threads,
                    arena=tiled or name == context.MODEL,
                    inside=bool(self.papers),
                )
        return self._loaded[name]

    def windows(self, kind: Kind, luma: npt.NDArray[np.uint8]) -> AllShifts | InFull | FastWindows:
        """What looks at the windows of these pixels: the fast way, unless they are few or it is not wanted."""
        if not self._fast:
            return AllShifts(self(kind.model), self._side)
        rows, cols = (max(0, s - tiling.WINDOW) // tiling.STRIDE + 1 for s in luma.shape)
        if kind not in self._looks:
            scout, reader = self(kind.scout), self(kind.reader)
            bands = (comb.from_manifest(weights.manifest(name)) for name in (kind.scout, kind.reader))
            with stage("start"), limits.uncounted():  # its tables belong to the models
                self._looks[kind] = FastWindows(scout, next(bands), reader, next(bands), kind.strata)
        look = self._looks[kind]
        return InFull(look) if rows * cols < FEW_WINDOWS else look
