"""One image from its bytes to its row and maps: the only place where the order of the stages is written."""

from __future__ import annotations

import functools
import hashlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan import (
    __version__,
    blockedges,
    candidates,
    clipping,
    comb,
    context,
    decode,
    filetypes,
    history,
    lastjpeg,
    likelihood,
    limits,
    papermap,
    q1map,
    qfmap,
    reading,
    regions,
    rescaled,
    score,
    suspicion,
    tiling,
    trace,
    weights,
)
from jscan.config import DEFAULT_MAX_PIXELS, devices
from jscan.errors import DeviceError, ErrorCode, InputError, SetupError, UsageError
from jscan.history import Background
from jscan.jpegtables import N_COEFS, Q1_OFFSET, nearest_qf
from jscan.likelihood import Clipped
from jscan.names import display_path
from jscan.records import (
    NOT_LUMA,
    DecodedImage,
    Evidence,
    ImageRef,
    LastCompression,
    Maps,
    ScanRecord,
    ScanResult,
    WindowPosteriors,
)
from jscan.regions import Consistency
from jscan.stages import stage
from jscan.windows import AllShifts, tile_side

if TYPE_CHECKING:
    from jscan.fastwindows import FastWindows

TOO_LARGE = "There was not enough memory for this image; scan it with fewer --workers or lower --max-pixels."
NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "Insufficient memory", "out of memory", "STATUS_ALLOC_FAILED")
"""How ONNX Runtime, CUDA and OpenCV, which have exceptions of their own, say that memory ran out."""
MAX_ENLARGED = 60_000_000
"""Pixels up to which an image is brought back to the scale that its block edges speak of."""
FINE_SCALES = (1.0, 0.9985, 1.0015, 0.997, 1.003, 0.9955, 1.0045, 0.9925, 1.0075)
"""Factors tried around the scale of a candidate: over a window an error of 1 % blurs the comb."""
PHASES = ((0.0, 0.0), (0.5, 0.5), (0.5, 0.0), (0.0, 0.5))
"""Fractions of a pixel, down and across, tried with each factor: blocks that begin between pixels show no comb."""
FAINTEST_RESIZED = 95.0
"""Quality factor up to which a compression is believed to show through a resize: combs of step 1 do not."""
PAPER_COST = 8
"""Times that a pixel counts for the papers' networks, when it is told how long an image will take."""
PAPER_NOTE = "The papers' networks give maps only: no regions are drawn from them and no score is calibrated."
FEIGNED = {
    "other_codec": "Another lossy codec made these pixels, and its blocks look like a JPEG's. Nothing was estimated.",
    "few_colours": "The colours were reduced to a palette, which hides and feigns compression. Nothing was estimated.",
}
"""Warnings of traces that the estimators have not learned to tell from a JPEG's, and what the row says: of photographs
that were saved so a third to a half scored 0.5 or more."""
MOST_COLOURED = 64_000_000
"""Pixels up to which the colours of an image are decoded where parts of it are suspicious; they take 192 MB then."""
FINE_SEARCH = 16_000_000
"""Pixels that are looked at for one candidate; in a large image fewer of the factors and phases are tried."""
CONFIDENT = 0.5
"""Coverage from which a cell counts as one on which the estimators were confident."""

Source = ImageRef | str | Path | bytes | npt.NDArray[np.uint8]


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
CONFIRMED = 0.4
"""Score from which what the fast way found is looked at again with all shifts and windows: nobody is accused by it."""
DOUBTED = 0.3
"""Suspicion from which a cell is among what is looked at again."""
AROUND = 4
"""Cells around these that are, too."""
FEW_WINDOWS = 64
"""Windows of an image below which the fast way gains nothing: its choice of shifts wants many."""


@dataclass(frozen=True, slots=True)
class _Estimate:
    """What was found in one image, before it is written into a row."""

    consistency: Consistency
    maps: Maps
    notes: tuple[str, ...] = ()
    q1: tuple[int, ...] | None = None
    grid_shift: tuple[int, int] | None = None
    double_fraction: float | None = None
    last: LastCompression | None = None


class Scanner:
    """Scans any number of images; checks all of its models at once, and opens each when an image first wants it.

    `provider` says what the models run on, `CPU` or `CUDA`; `models` names them with their digests. Images of more than
    `max_pixels` become error rows. So many `threads` compute parts of the same image on the CPU; its row is the same
    with any number. Raises UsageError where `device` is not the name of one device, ModelError where a model is missing
    or damaged, and DeviceError where `device="cuda"` and there is no GPU. With `estimator` "paper" the models are the
    papers' own networks (`papermap`), which give maps but neither regions nor a score. On the CPU a scout chooses what
    is looked at (`fastwindows`), unless `thorough`. A GPU looks at so many windows at a time as `batch` says; 0 chooses
    them from its free memory, of which each of the scanners `sharing` it takes a part.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        threads: int = 1,
        estimator: str = "comb",
        thorough: bool = False,
        batch: int = 0,
        sharing: int = 1,
    ) -> None:
        if len(devices(device)) > 1:
            raise UsageError(f"--device {device} names several GPUs; a scanner works on one")
        self.provider = weights.resolve_device(device)
        self._gpu = weights.gpu_number(device)
        self.max_pixels = max_pixels
        self._threads = threads
        self._papers = papermap.check() if estimator == "paper" else ()
        if self._papers:
            self._names: tuple[str, ...] = (*(p.name for p in self._papers), papermap.UCHIDA)
        else:
            self._names = (q1map.MODEL, context.MODEL, qfmap.MODEL, suspicion.JPEG_MODEL, suspicion.PIXEL_MODEL)
            # On a GPU the plain way is fast enough, and all of it is one graph.
            if self.provider == "CPU" and not thorough:
                self._names += (Q1.scout, Q1.reader, QF.scout, QF.reader)
        self._fast = Q1.scout in self._names
        self._thorough = thorough
        for name in self._names:
            weights.check(name)
        self.models = tuple(weights.label(name) for name in self._names)
        judging = () if self._papers else (suspicion.JPEG_MODEL, suspicion.PIXEL_MODEL)
        self._calibrations = {n: weights.calibration(n) for n in judging}
        self._loaded: dict[str, weights.Model] = {}
        self._looks: dict[Kind, FastWindows] = {}
        if self.provider != "CPU":
            # A driver that answers is no proof that CUDA's libraries are there: one session is opened to find out now.
            try:
                self._model(self._names[0])
            except DeviceError:
                if device != "auto":
                    raise
                self.provider = "CPU"
        self._side = tiling.TILE
        if self.provider != "CPU" and not self._papers:
            self._side = tile_side(batch, None if batch else weights.free_memory(self._gpu), sharing)

    def _model(self, name: str) -> weights.Model:
        """The model, opened when it is first wanted: a run over photographs never needs those for pixels."""
        if name not in self._loaded:
            # The consistency models take milliseconds; moving their maps to a GPU would cost more, and so would sharing
            # them out to several threads.
            tiled = name in TILED or bool(self._papers)
            provider, threads = (self.provider, self._threads) if tiled else ("CPU", 1)
            with stage("start"), limits.uncounted():
                self._loaded[name] = weights.load(
                    name, provider=provider, gpu=self._gpu, threads=threads, arena=tiled, inside=bool(self._papers)
                )
        return self._loaded[name]

    def windows(self, kind: Kind, luma: npt.NDArray[np.uint8], *, fast: bool = True) -> AllShifts | FastWindows:
        """What looks at the windows of these pixels: the fast way, unless they are few or it is not wanted."""
        rows, cols = (max(0, s - tiling.WINDOW) // tiling.STRIDE + 1 for s in luma.shape)
        if not fast or not self._fast or rows * cols < FEW_WINDOWS:
            return AllShifts(self._model(kind.model), self._side)
        if kind not in self._looks:
            from jscan.fastwindows import FastWindows  # its compiler takes half a second to import

            scout, reader = self._model(kind.scout), self._model(kind.reader)
            bands = (comb.from_manifest(weights.manifest(name)) for name in (kind.scout, kind.reader))
            self._looks[kind] = FastWindows(scout, next(bands), reader, next(bands), kind.strata)
        return self._looks[kind]

    def scan(
        self,
        source: Source,
        *,
        rgb: bool = False,
        known: Callable[[Evidence], bool] | None = None,
        sized: Callable[[int], None] | None = None,
    ) -> ScanResult:
        """The row of an image, its maps, and the decoded image.

        `source` is a path, a reference, the bytes of a file, or pixels: (H, W) or (H, W, 3) uint8, RGB. With `rgb` the
        colours are decoded as well, for drawing. Where `known` answers that it knows the bytes by their digest, nothing
        is decoded, and the result says so; `sized` is told the number of pixels before they are estimated. An input
        that cannot be estimated gives a row that says why; only a source of another type raises (UsageError).
        """
        ref = _reference(source)
        row = ScanRecord(
            path=ref.path,
            path_bytes=ref.path_bytes,
            container=ref.container,
            member=ref.member,
            container_sha256=ref.container_sha256,
            models=self.models,
            jscan_version=__version__,
        )
        started = time.perf_counter()
        try:
            data, evidence = self._read(source, ref)
            row = _with_evidence(row, evidence)
            if known is not None and known(evidence):
                return ScanResult(row, None, None, known=True)
            with stage("decode"):
                if data is None:
                    image = decode.from_array(np.asarray(source), rgb=rgb or bool(self._papers))
                else:
                    image = decode.decode(data, max_pixels=self.max_pixels, rgb=rgb or bool(self._papers))
            clipped = self._clipped(image, np.asarray(source) if data is None else data)
            del data  # the file of a huge image need not lie in memory while its pixels are estimated
            if sized is not None:
                sized(image.width * image.height * (PAPER_COST if self._papers else 1))
            row = _with_facts(row, image)
            if filetypes.contradicts(ref.path_bytes, image.format):
                row = replace(row, warnings=(*row.warnings, "wrong_suffix"))
            decoded = time.perf_counter()
            row = replace(row, decode_ms=1000 * (decoded - started))
            feigned = [said for warning, said in FEIGNED.items() if warning in image.warnings]
            if feigned and not self._papers:
                return ScanResult(replace(row, reasons=tuple(feigned)), None, image)
            with stage("estimate"):
                estimate = self._estimate(image, clipped)
            if estimate is None:
                too_few = f"Fewer than {tiling.WINDOW} rows of the image could be decoded; nothing was estimated."
                return ScanResult(replace(row, reasons=(too_few,)), None, image)
            row = _with_estimate(row, image, estimate)
            if self._papers:
                row = replace(row, n_regions=None, regions=None, score=None, reasons=(*estimate.notes, PAPER_NOTE))
            row = replace(row, estimate_ms=1000 * (time.perf_counter() - decoded))
            return ScanResult(row, estimate.maps, image, last=estimate.last)
        except InputError as error:
            return _refused(row, error)
        except MemoryError:
            return _refused(row, InputError(ErrorCode.MEMORY, TOO_LARGE))
        except SetupError:
            raise  # another kind of source, or a model that cannot be opened: no image is to blame
        except Exception as error:  # the one place where an unforeseen fault becomes a row, so that a run goes on
            if any(words in str(error) for words in NO_MEMORY):
                return _refused(row, InputError(ErrorCode.MEMORY, TOO_LARGE))
            said = f"jscan failed on this image ({type(error).__name__}: {error}); please report it with the file."
            return _refused(row, InputError(ErrorCode.INTERNAL, said))

    def _read(self, source: Source, ref: ImageRef) -> tuple[bytes | None, Evidence]:
        """The bytes to decode (None for an array), and what identifies them."""
        if isinstance(source, np.ndarray):
            digest = hashlib.sha256(np.ascontiguousarray(source).data).hexdigest()
            return None, Evidence(size=source.nbytes, mtime=None, sha256=digest)
        if isinstance(source, bytes):
            return source, Evidence(len(source), None, hashlib.sha256(source).hexdigest())
        return reading.read(ref)

    def _clipped(self, image: DecodedImage, source: bytes | npt.NDArray[np.uint8]) -> Clipped | None:
        """What tells where the colours of an image were clipped, which few images are ever asked; None for huge ones.

        Colours are not decoded with the luma, which alone is estimated from: they would take as long again.
        """
        if image.width * image.height > MOST_COLOURED:
            return None

        @functools.cache  # an image that is looked at again asks again
        def share() -> npt.NDArray[np.float32] | None:
            coloured = image
            if image.rgb is None and isinstance(source, bytes):
                coloured = decode.decode(source, max_pixels=self.max_pixels, rgb=True)
            elif image.rgb is None:
                coloured = decode.from_array(np.asarray(source), rgb=True)
            rows = image.luma.shape[0] if image.valid_rows is None else image.valid_rows
            return None if coloured.rgb is None else clipping.share(coloured.rgb[:rows])

        return share

    def _estimate(self, image: DecodedImage, clipped: Clipped | None) -> _Estimate | None:
        luma = image.luma if image.valid_rows is None else image.luma[: image.valid_rows]
        if luma.shape[0] < tiling.WINDOW:
            return None
        if self._papers:
            estimate = self._by_papers(image, luma)
        elif image.jpeg is not None and not NOT_LUMA & set(image.warnings):
            estimate = self._jpeg(luma, image.jpeg.q2_luma, clipped=clipped)
        else:
            estimate = self._pixels(luma, clipped)
        return estimate if luma is image.luma else replace(estimate, maps=_extend(estimate.maps, image))

    def _by_papers(self, image: DecodedImage, luma: npt.NDArray[np.uint8]) -> _Estimate:
        """Estimates of the papers' networks: of the first table for a JPEG, else of QF and flag."""
        assert image.rgb is not None
        rgb = np.ascontiguousarray(image.rgb[: luma.shape[0]].transpose(2, 0, 1))
        notes: tuple[str, ...] = ()
        table = None
        if image.jpeg is not None and not NOT_LUMA & set(image.warnings):
            qf2 = nearest_qf(np.maximum(image.jpeg.q2_luma, 1))
            choice = papermap.nearest(self._papers, qf2)
            found = papermap.estimate(self._model(choice.name), luma[None] if choice.reads == "luma" else rgb)
            maps, table = papermap.jpeg_maps(found, luma.shape, qf2), papermap.held_by_most(found)
            if abs(choice.qf2 - qf2) > papermap.FAR:
                said = f"{choice.name} was trained on a last quality of {choice.qf2:g}; this file's is {qf2:g}"
                notes = (f"{said}, so its steps may be wrong.",)
        else:
            maps = papermap.pixel_maps(*papermap.flag_maps(self._model(papermap.UCHIDA), rgb))
        nothing = Consistency(maps.suspicion, (), 0.0)  # neither is written into the row
        return _Estimate(nothing, maps, notes, q1=table)

    def _jpeg(
        self,
        luma: npt.NDArray[np.uint8],
        q2: tuple[int, ...],
        origin: tuple[int, int] = (0, 0),
        *,
        everywhere: bool = False,
        clipped: Clipped | None = None,
    ) -> _Estimate:
        """Estimates from the double compression of a JPEG whose blocks begin at `origin`.

        The fast way settles images in which it finds nothing; what it may have found is looked at closely there, or
        `everywhere`.
        """
        look = self.windows(Q1, luma)
        found = q1map.estimate(look, luma, q2, origin)
        estimate = self._of_jpeg(found, luma, q2, clipped)
        if isinstance(look, AllShifts) or estimate.consistency.score < CONFIRMED:
            return estimate
        where = np.ones(found.present.shape, bool) if everywhere else _doubted(estimate.consistency, found)
        return self._of_jpeg(q1map.again(look, found, where, luma, q2), luma, q2, clipped)

    def _of_jpeg(
        self, found: WindowPosteriors, luma: npt.NDArray[np.uint8], q2: tuple[int, ...], clipped: Clipped | None
    ) -> _Estimate:
        """Estimates from what is known of the windows of a JPEG."""
        pixels = history.content(luma, found)
        base = history.background(found)
        left = trace.measure(luma, found, base.table, base.shift, all_rows=self._thorough)
        seen = trace.blocks(luma, left)
        channels = history.jpeg_channels(found, base, q2, pixels, trace.around_windows(seen, found))
        likely = likelihood.Likelihood(luma, left, clipped) if base.fraction > 0.5 else None
        mute = history.mute(pixels)
        # Where most of the evidence is for no place, what is taken for the background may be a part of it.
        lacks = functools.partial(trace.lacking, luma, left) if _background_facts(found, base, mute)[1] else None
        consistency = self._compare(
            suspicion.JPEG_MODEL, found, base, channels, pixels, mute, likely=likely, clipped=clipped, lacks=lacks
        )
        # For the maps only: a consistency model trained on refined posteriors did worse than one on the raw ones.
        refiner = self._model(context.MODEL)
        found = context.refine(refiner, found, q2, pixels.texture, pixels.saturated, everywhere=self._thorough)
        decoded, sure = q1map.decode_surely(found.logp)
        covered = np.where(mute, 0, _q1_coverage(found, sure))
        cells = _Cells(found)
        steps = decoded.astype(np.float32)
        steps[mute] = np.nan
        double = np.where(mute, np.nan, found.present).astype(np.float32)
        shift, placed = _shifts(found, mute)
        size = consistency.suspicion.shape
        maps = Maps(
            suspicion=np.where(cells(mute), np.nan, consistency.suspicion).astype(np.float32),
            qf=np.full(size, nearest_qf(np.maximum(q2, 1)), np.float32),
            flag=np.ones(size, np.float32),
            q1=np.ascontiguousarray(cells(steps).transpose(2, 0, 1)),
            double=cells(double),
            coverage=cells(covered.astype(np.float32)),
            shift=np.ascontiguousarray(cells(shift).transpose(2, 0, 1)),
            shift_confidence=cells(placed),
        )
        table, place = _background_facts(found, base, mute)
        return _Estimate(consistency, maps, q1=table, grid_shift=place, double_fraction=base.fraction)

    def _look(self, luma: npt.NDArray[np.uint8], *, fast: bool = False, clipped: Clipped | None = None) -> _Look:
        """What the last compression of decoded pixels says.

        Not the fast way where it decides: judged by it, some photographs without any compression scored above 0.5.
        """
        found = qfmap.estimate(self.windows(QF, luma, fast=fast), luma)
        pixels, base = history.content(luma, found), history.background(found)
        channels = history.pixel_channels(found, base, pixels)
        last = lastjpeg.estimate(luma, found, base.shift) if base.fraction > 0.5 and not fast else None
        agreement = lastjpeg.agreement(luma, last) if last is not None else None
        mute = history.mute(pixels)
        consistency = self._compare(
            suspicion.PIXEL_MODEL,
            found,
            base,
            channels,
            pixels,
            mute,
            agreement=agreement,
            # Clipping hides a compression; it does not make one where the background has none.
            clipped=clipped if base.fraction > 0.5 else None,
            edges=functools.partial(blockedges.stand_out, luma),
        )
        return _Look(found, base, mute, consistency, last)

    def _compare(
        self,
        name: str,
        found: WindowPosteriors,
        base: Background,
        channels: npt.NDArray[np.floating[Any]],
        pixels: history.Content,
        mute: npt.NDArray[np.bool_],
        **more: Any,
    ) -> Consistency:
        """What the consistency model `name` finds in the windows that are not `mute` (R, C).

        With `more` for `regions.find`.
        """
        answers = suspicion.estimate(self._model(name), channels)
        logits = suspicion.to_cells(answers, found.size, found.origin)
        logits[_Cells(found)(mute)] = np.nan
        texture = history.deviation(pixels)
        with stage("regions"):
            return regions.find(logits, found, base, self._calibrations[name], texture, **more)

    def _pixels(self, luma: npt.NDArray[np.uint8], clipped: Clipped | None) -> _Estimate:
        """Estimates from decoded pixels; where these were once a JPEG, also from its double compression."""
        look = self._look(luma, clipped=clipped)
        estimate, consistency, fraction, last = _pixel_estimate(look), look.consistency, look.base.fraction, look.last
        del look  # its posteriors are as large as those that follow
        if fraction <= 0.5:
            return estimate if consistency.regions else self._resized(luma, estimate)
        if last is None or min(luma.shape[0] - last.origin[0], luma.shape[1] - last.origin[1]) < tiling.WINDOW:
            return replace(estimate, last=last)
        # The pixels were a JPEG: estimate what came before it, on its grid and with its table.
        # Its table is an estimate: looked at again only in part, 2 of 40 photographs scored above 0.5, and else none.
        before = self._jpeg(luma, last.table, last.origin, everywhere=True, clipped=clipped)
        note = f"The pixels show JPEG compression of quality about {last.qf} with blocks from x {last.origin[1]}, "
        note += f"y {last.origin[0]}; the file's own format does not keep its table, which was estimated."
        deeper = consistency.score < 0.5 and before.consistency.score > consistency.score
        maps = replace(
            estimate.maps,
            q1=before.maps.q1,
            double=before.maps.double,
            shift=before.maps.shift,
            shift_confidence=before.maps.shift_confidence,
        )
        if deeper:
            maps = replace(maps, suspicion=before.maps.suspicion)
        chosen = before.consistency if deeper else consistency
        return replace(before, consistency=chosen, maps=maps, notes=(note,), last=last)

    def _resized(self, luma: npt.NDArray[np.uint8], estimate: _Estimate) -> _Estimate:
        """The estimate, or a stronger one if the pixels, or a part of them, were resized after a compression."""
        height, width = luma.shape
        for period in rescaled.candidates(luma):
            best: tuple[float, float, tuple[float, float]] | None = None
            tries = itertools.product(FINE_SCALES, PHASES)
            for fine, phase in itertools.islice(tries, max(1, FINE_SEARCH // luma.size)):
                factor = tiling.BLOCK / period * fine
                size = rescaled.size(luma, factor)
                if min(size) < tiling.WINDOW:
                    continue
                if size[0] * size[1] > MAX_ENLARGED or max(size) > rescaled.LONGEST:
                    return replace(estimate, notes=("The image is too large to look for parts that were resized.",))
                shown = _found(self._look(rescaled.restore(luma, factor, phase), fast=True))
                if best is None or shown > best[0]:
                    best = shown, factor, phase
            if best is None:
                continue
            _, factor, phase = best
            look = self._look(rescaled.restore(luma, factor, phase))
            said = f"compressed as JPEG and then resized to {100 / factor:.0f} %"
            if look.base.fraction > 0.5:
                return replace(estimate, notes=(f"The image was {said}; regions of other scales are not looked for.",))
            qualities = [r.qf1 for r in look.consistency.regions if r.qf1 is not None]
            if look.consistency.score >= 0.5 and qualities and min(qualities) <= FAINTEST_RESIZED:
                consistency = regions.rescale(look.consistency, factor, (height, width))
                seen = regions.resample(look.found.present, consistency.suspicion.shape)
                flag = np.maximum(estimate.maps.flag, np.where(consistency.suspicion > 0.5, seen, 0))
                silent = np.isnan(estimate.maps.flag)  # what holds no information holds none at any scale
                suspected = np.where(silent, np.nan, consistency.suspicion).astype(np.float32)
                maps = replace(estimate.maps, suspicion=suspected, flag=flag.astype(np.float32))
                return replace(estimate, consistency=consistency, maps=maps, notes=(f"The region was {said}.",))
        return estimate


def _doubted(consistency: Consistency, found: WindowPosteriors) -> npt.NDArray[np.bool_]:
    """(R, C) windows that lie in or near cells that may belong to another history."""
    side = 2 * AROUND + 1
    doubt = cv2.dilate((consistency.suspicion > DOUBTED).astype(np.uint8), np.ones((side, side), np.uint8))
    index = [tiling.centre_cells(*axis) for axis in zip(found.size, found.present.shape, found.origin, strict=True)]
    return np.asarray(doubt[np.ix_(*index)] > 0)


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at decoded pixels gave."""

    found: WindowPosteriors
    base: Background
    mute: npt.NDArray[np.bool_]
    consistency: Consistency
    last: LastCompression | None
    """None where there was none, or it could not be told."""


def _found(look: _Look) -> float:
    """How much of an image shows compression, in windows; what a scale is chosen by."""
    return float(np.maximum(look.found.present - 0.5, 0).sum())


def _pixel_estimate(look: _Look) -> _Estimate:
    """The maps of decoded pixels."""
    found, mute, cells = look.found, look.mute, _Cells(look.found)
    quality, sure = qfmap.quality(found)
    covered = history.sureness(found) * np.where(found.present > 0.5, sure, 1)
    shift, placed = _shifts(found, mute)
    size = look.consistency.suspicion.shape
    maps = Maps(
        suspicion=np.where(cells(mute), np.nan, look.consistency.suspicion).astype(np.float32),
        qf=cells(np.where(mute | (found.present < 0.5), np.nan, quality).astype(np.float32)),
        flag=cells(np.where(mute, np.nan, found.present).astype(np.float32)),
        q1=np.full((N_COEFS, *size), np.nan, np.float32),
        double=np.full(size, np.nan, np.float32),
        coverage=cells(np.where(mute, 0, covered).astype(np.float32)),
        shift=np.ascontiguousarray(cells(shift).transpose(2, 0, 1)),
        shift_confidence=cells(placed),
    )
    return _Estimate(look.consistency, maps)


def _shifts(
    found: WindowPosteriors, mute: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(R, C, 2) likeliest (dy, dx) of each window seen from the image's corner, and (R, C) how probable it is.

    The probability is that of the compression times that of the shift, which the posterior gives for the case that
    there was one. NaN where the window holds no information.
    """
    best = found.shift.argmax(axis=2)
    p = np.exp(np.take_along_axis(found.shift, best[..., None], axis=2)[..., 0].astype(np.float32))
    shift = np.stack([(at + first) % 8 for at, first in zip(np.divmod(best, 8), found.origin, strict=True)], axis=2)
    # In half precision the log of a sum of one may lie a little above zero.
    sure = np.where(mute, np.nan, found.present * np.minimum(p, 1))
    return np.where(mute[..., None], np.nan, shift).astype(np.float32), sure.astype(np.float32)


class _Cells:
    """Spreads what was found for windows over the cells of the image."""

    def __init__(self, found: WindowPosteriors) -> None:
        rows = tiling.nearest_window(found.size[0], found.present.shape[0], found.origin[0])
        cols = tiling.nearest_window(found.size[1], found.present.shape[1], found.origin[1])
        self._index = np.ix_(rows, cols)

    def __call__(self, windows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return windows[self._index]


def _reference(source: Source) -> ImageRef:
    if isinstance(source, ImageRef):
        return source
    if isinstance(source, (str, Path)):
        raw = str(source).encode("utf-8", "surrogateescape")
        return ImageRef(display_path(raw), raw)
    if isinstance(source, bytes):
        return ImageRef("<bytes>", b"<bytes>")
    if isinstance(source, np.ndarray):
        return ImageRef("<array>", b"<array>")
    raise UsageError(f"an image is a path, bytes or an array, not {type(source).__name__}")


def _refused(row: ScanRecord, error: InputError) -> ScanResult:
    """The result of an input that was not estimated: its row so far, and why."""
    return ScanResult(replace(row, status=error.status, error_code=str(error.code), error=str(error)), None, None)


def _with_evidence(row: ScanRecord, evidence: Evidence) -> ScanRecord:
    """The row with what identifies the bytes, which holds even where they are no image."""
    return replace(row, size=evidence.size, mtime=evidence.mtime, sha256=evidence.sha256, warnings=evidence.warnings)


def _with_facts(row: ScanRecord, image: DecodedImage) -> ScanRecord:
    """The row with what is known from the header."""
    jpeg, said = image.jpeg, image.metadata
    row = replace(
        row,
        warnings=row.warnings + image.warnings,
        format=image.format,
        frames=image.frames,
        width=image.width,
        height=image.height,
        components=image.components,
        camera_make=said.camera_make,
        camera_model=said.camera_model,
        software=said.software,
        capture_time=said.capture_time,
        has_thumbnail=said.has_thumbnail,
        thumbnail_differs=said.thumbnail_differs,
    )
    if jpeg is None:
        return row
    return replace(
        row,
        subsampling=jpeg.subsampling,
        progressive=jpeg.progressive,
        q2_luma=jpeg.q2_luma,
        q2_chroma=jpeg.q2_chroma,
        qf2=nearest_qf(np.maximum(jpeg.q2_luma, 1)),
        encoder=jpeg.encoder,
    )


def _with_estimate(row: ScanRecord, image: DecodedImage, found: _Estimate) -> ScanRecord:
    """The row with what was estimated."""
    maps, consistency = found.maps, found.consistency
    quality = maps.qf[np.isfinite(maps.qf)]
    flags = maps.flag[np.isfinite(maps.flag)]
    coverage = float((maps.coverage >= CONFIDENT).mean())
    notes = found.notes
    if image.valid_rows is not None:
        notes += (f"Only the first {image.valid_rows} of {image.height} rows could be decoded.",)
    mean, low, high = (None, None, None)
    if quality.size:
        mean, low, high = (float(v) for v in (quality.mean(), *np.percentile(quality, (10, 90))))
    return replace(
        row,
        qf_mean=mean,
        qf_p10=low,
        qf_p90=high,
        compressed_fraction=float((flags > 0.5).mean()) if flags.size else None,
        q1_background=found.q1,
        qf1_background=nearest_qf(found.q1) if found.q1 is not None else None,
        double_fraction=found.double_fraction,
        grid_shift=found.grid_shift,
        n_regions=len(consistency.regions),
        regions=consistency.regions,
        score=consistency.score,
        reasons=score.reasons(consistency.regions, consistency.score, coverage) + notes,
        coverage=coverage,
    )


def _q1_coverage(found: WindowPosteriors, sure: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(R, C) how sure the Q1 network is of its answer: of the steps where there was a first compression, or of none.

    `sure` (R, C) is the mean probability of the steps.
    """
    none = np.maximum(0, 1 - 2 * found.present)
    covered: npt.NDArray[np.float32] = found.present * sure + (1 - found.present) * none
    return covered


def _background_facts(
    found: WindowPosteriors, base: Background, mute: npt.NDArray[np.bool_]
) -> tuple[tuple[int, ...] | None, tuple[int, int] | None]:
    """The background's table and grid shift on the image, each None unless most of the evidence is for it."""
    weight = np.where(mute, 0, found.present)
    total = float(weight.sum())
    if base.fraction <= 0.5 or total < 1e-3:
        return None, None
    chosen = [a + q - 1 for a, q in zip(Q1_OFFSET, base.table, strict=False)]
    held = float((np.exp(found.logp[..., chosen].astype(np.float32)).mean(axis=2) * weight).sum()) / total
    placed = float((np.exp(found.shift[..., base.shift].astype(np.float32)) * weight).sum()) / total
    dy, dx = divmod(base.shift, 8)
    place = ((dy + found.origin[0]) % 8, (dx + found.origin[1]) % 8)
    if placed <= 0.3:
        return None, None  # steps of 1 "fit" an image that shows no first compression; a grid does not fit by chance
    return (base.table if held > 0.3 else None), place


def _extend(maps: Maps, image: DecodedImage) -> Maps:
    """Maps of a truncated image with NaN (no coverage) where nothing was decoded."""
    rows, cols = tiling.cells(image.height), tiling.cells(image.width)

    def grown(x: npt.NDArray[np.float32], fill: float) -> npt.NDArray[np.float32]:
        out = np.full((*x.shape[:-2], rows, cols), fill, np.float32)
        out[..., : x.shape[-2], :] = x
        return out

    nan = float("nan")
    return Maps(
        suspicion=grown(maps.suspicion, nan),
        qf=grown(maps.qf, nan),
        flag=grown(maps.flag, nan),
        q1=grown(maps.q1, nan),
        double=grown(maps.double, nan),
        coverage=grown(maps.coverage, 0.0),
        shift=grown(maps.shift, nan),
        shift_confidence=grown(maps.shift_confidence, nan),
    )


def scan_image(
    source: Source, *, device: str = "auto", max_pixels: int = DEFAULT_MAX_PIXELS, rgb: bool = False
) -> ScanResult:
    """The row, the maps and the decoded image of one image; see `Scanner.scan`.

    Opens the models each time: for many images make a `Scanner` once. Raises ModelError and DeviceError as that does.
    """
    return Scanner(device=device, max_pixels=max_pixels, threads=limits.usable_cores()).scan(source, rgb=rgb)
