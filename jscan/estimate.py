"""From the pixels of an image to its maps, its regions and its score: the order of the estimators is written here."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jscan import (
    blockedges,
    blockperiod,
    cellmaps,
    clipping,
    context,
    doubts,
    firsttable,
    history,
    kept,
    lastjpeg,
    likelihood,
    papermap,
    q1map,
    qfmap,
    regions,
    rescaled,
    suspicion,
    tiling,
    trace,
    warped,
)
from jscan.cellmaps import Cells, windows_in
from jscan.clipping import Colours
from jscan.fastwindows import FastWindows
from jscan.firsttable import FirstSteps
from jscan.history import Background
from jscan.jpegtables import N_COEFS, Q1_OFFSET, nearest_qf, standard_table
from jscan.modelset import Q1, QF, ModelSet
from jscan.records import NOT_LUMA, Agreement, DecodedImage, LastCompression, Maps, Region, WindowPosteriors
from jscan.regions import Consistency
from jscan.stages import stage

MAX_ENLARGED = 60_000_000
"""Pixels up to which an image is brought back to the scale that its block edges speak of."""
FAINTEST_RESIZED = 95.0
"""Quality factor up to which a compression is believed to show through a resize: combs of step 1 do not."""
FINE_SEARCH = 16_000_000
"""Pixels that are looked at for what shows at other scales than a part; in a large image fewer of them are tried."""
CONFIRMED = 0.4
"""Score from which what the fast way found is looked at again with all shifts and windows: nobody is accused by it."""
DOUBTED = 0.3
"""Suspicion from which a cell is among what is looked at again."""
TELLING = 0.3
"""Mean sureness of the windows from which they tell whether there was a first compression, and the share that surely
shows one if more than half are said to. JPEGs that were saved once have 0.13 to 0.35 and 0.02 to 0.3 at qualities of 45
to 60, those that were saved at 55 before the last 75, or above, 0.8 and more."""

NO_ONE_GRID = (
    "Most of the image was compressed before, but no one grid is shared by most of it, as where it was warped or put "
    "together from several pictures: its parts cannot be compared with the rest."
)
INCOMPARABLE = (
    "{:.1%} of the image looks unlike the rest, which holds too little of its kind to be compared with: nothing is "
    "said of the history of that part."
)
WORN = (
    "Of the first compression's trace {:.2f} is left of what the last one alone would have left, as where something "
    "else was done to the picture in between{}: {}."
)
UNKNOWN_TABLE = ", or its table is none that is known"
UNTOLD = "its table is not told"
NO_SIGN = "that it is missing in parts is not taken for a sign of another history"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was found in one image, before it is written into a row."""

    consistency: Consistency
    maps: Maps
    notes: tuple[str, ...] = ()
    q1: tuple[int, ...] | None = None
    grid_shift: tuple[int, int] | None = None
    double_fraction: float | None = None
    last: LastCompression | None = None


class Estimator:
    """Estimates any number of images with the `models` of one set; `thorough` turns shortcuts off."""

    def __init__(self, models: ModelSet, *, thorough: bool) -> None:
        self.models, self._thorough = models, thorough

    def __call__(self, image: DecodedImage, colours: Colours | None) -> Estimate | None:
        """What an image tells; None where too few of its rows could be decoded.

        `colours` tells of its colours what is asked. For the papers' networks the image holds its colours.
        """
        luma = image.luma if image.valid_rows is None else image.luma[: image.valid_rows]
        if luma.shape[0] < tiling.WINDOW:
            return None
        if self.models.papers:
            estimate = self._by_papers(image, luma)
        elif image.jpeg is not None and not NOT_LUMA & set(image.warnings):
            estimate = self.jpeg(luma, image.jpeg.q2_luma, colours=colours)
        else:
            estimate = self._pixels(luma, colours)
        return (
            estimate
            if luma is image.luma
            else replace(estimate, maps=cellmaps.extended(estimate.maps, image.height, image.width))
        )

    def _by_papers(self, image: DecodedImage, luma: npt.NDArray[np.uint8]) -> Estimate:
        """Estimates of the papers' networks: of the first table for a JPEG, else of QF and flag."""
        assert image.rgb is not None
        rgb = np.ascontiguousarray(image.rgb[: luma.shape[0]].transpose(2, 0, 1))
        notes: tuple[str, ...] = ()
        table = None
        if image.jpeg is not None and not NOT_LUMA & set(image.warnings):
            qf2 = nearest_qf(np.maximum(image.jpeg.q2_luma, 1))
            choice = papermap.nearest(self.models.papers, qf2)
            found = papermap.estimate(self.models(choice.name), luma[None] if choice.reads == "luma" else rgb)
            maps, table = papermap.jpeg_maps(found, luma.shape, qf2), papermap.held_by_most(found)
            if abs(choice.qf2 - qf2) > papermap.FAR:
                said = f"{choice.name} was trained on a last quality of {choice.qf2:g}; this file's is {qf2:g}"
                notes = (f"{said}, so its steps may be wrong.",)
        else:
            maps = papermap.pixel_maps(*papermap.flag_maps(self.models(papermap.UCHIDA), rgb))
        nothing = Consistency(maps.suspicion, (), 0.0)  # neither is written into the row
        return Estimate(nothing, maps, notes, q1=table)

    def jpeg(
        self,
        luma: npt.NDArray[np.uint8],
        q2: tuple[int, ...],
        origin: tuple[int, int] = (0, 0),
        *,
        everywhere: bool = False,
        since: Agreement | None = None,
        colours: Colours | None = None,
        parts: npt.NDArray[np.bool_] | None = None,
    ) -> Estimate:
        """Estimates from the double compression of a JPEG whose blocks begin at `origin`.

        The fast way settles images in which it finds nothing; what it may have found is looked at closely there, or
        `everywhere`. For decoded pixels `since` tells how they agree with the compression that `q2` is the table of,
        and `parts` (ceil(H / 8), ceil(W / 8)) are cells that do not belong to the background.
        """
        look = self.models.windows(Q1, luma)
        found = q1map.estimate(look, luma, q2, origin)
        without = None if parts is None else windows_in(parts, found)
        judge = functools.partial(self._of_jpeg, luma=luma, q2=q2, since=since, colours=colours, without=without)
        estimate = judge(found)
        if not isinstance(look, FastWindows) or estimate.consistency.score < CONFIRMED:
            return estimate
        where = (
            np.ones(found.present.shape, bool)
            if everywhere
            else windows_in(estimate.consistency.suspicion > DOUBTED, found)
        )
        return judge(q1map.again(look, found, where, luma, q2))

    def _of_jpeg(
        self,
        found: WindowPosteriors,
        *,
        luma: npt.NDArray[np.uint8],
        q2: tuple[int, ...],
        since: Agreement | None,
        colours: Colours | None,
        without: npt.NDArray[np.bool_] | None,
    ) -> Estimate:
        """Estimates from the windows of a JPEG; the background is that `without` some of them (R, C)."""
        pixels = history.content(luma, found)
        base = history.background(found, without)
        known = firsttable.estimate(luma, found, base, q2, without) if base.fraction > 0.5 else firsttable.NOTHING
        steps = trace.whole_table(known.merged(base.table), known.steps)
        left = trace.measure(luma, found, steps, base.shift, all_rows=self._thorough)
        seen = trace.blocks(luma, left)
        channels = history.jpeg_channels(found, base, q2, pixels, trace.around_windows(seen, found))
        likely = (
            likelihood.Likelihood(luma, left, None if colours is None else colours.clipped)
            if base.fraction > 0.5
            else None
        )
        mute = history.mute(pixels)
        silent = mute if without is None else mute | without
        # Where most of the evidence is for no place, what is taken for the background may be a part of it.
        placed = _background_facts(found, base, silent, known)[1]
        lacks = functools.partial(trace.lacking, luma, left) if placed else None
        origin = (found.origin[0] % tiling.BLOCK, found.origin[1] % tiling.BLOCK)
        fraction, shown = _double_fraction(found, base, silent)

        def share_kept(
            part: doubts.History | None, where: npt.NDArray[np.bool_], *, least: float = kept.ENOUGH_WEIGHT
        ) -> kept.Left | None:
            if part is None:
                return kept.share(luma, left.steps, left.first, q2, origin, where, least=least)
            if part.q1 is None or part.grid_shift is None:
                return None
            own = _steps_of(part, where, luma, found, q2)
            steps = trace.whole_table(own.merged(part.q1), own.steps)
            return kept.share(luma, steps, part.grid_shift, q2, origin, where, least=least)

        def told(part: doubts.History, where: npt.NDArray[np.bool_]) -> doubts.History:
            if part.q1 is None or part.grid_shift is None:
                return part
            table = _steps_of(part, where, luma, found, q2).merged(part.q1)
            return replace(part, q1=table, qf1=nearest_qf(table))

        ask = doubts.Witnesses(
            likely=likely,
            lacks=lacks,
            since=since,
            colours=colours,
            in_frame=functools.partial(clipping.in_frame, luma),
            mosaic=functools.partial(blockedges.is_mosaic, luma),
            kept=share_kept,
            told=told,
            q2=q2,
            shared=lacks is not None,
        )
        consistency = self._compare(suspicion.JPEG_MODEL, found, base, channels, pixels, mute, ask)
        # For the maps only: a consistency model trained on refined posteriors did worse than one on the raw ones.
        refiner = self.models(context.MODEL)
        everywhere = self._thorough
        refined = context.refine(refiner, found, q2, pixels.texture, pixels.saturated, everywhere=everywhere)
        table, place = _background_facts(refined, base, silent, known)
        still = consistency.kept
        notes: tuple[str, ...] = ()
        if still is None and table is not None:
            still = regions.kept_by_rest(share_kept, consistency.suspicion > 0.5, found, base, colours)
        if doubts.untold(still):
            said = [UNTOLD] * (table is not None) + [NO_SIGN] * doubts.worn(consistency.kept)
            maybe = "" if known.sure else UNKNOWN_TABLE
            notes = (WORN.format(max(still.share if still else 0.0, 0.0), maybe, ", and ".join(said)),) if said else ()
            table = None
        if place is None and shown > 0.5 and not consistency.regions:
            notes = (NO_ONE_GRID,)
        notes += _incomparable(consistency)
        steps_of_all = known if table is not None else firsttable.NOTHING
        maps = cellmaps.of_jpeg(refined, consistency.suspicion, mute, q2, base, steps_of_all)
        return Estimate(consistency, maps, notes, q1=table, grid_shift=place, double_fraction=fraction)

    def _look(self, luma: npt.NDArray[np.uint8], colours: Colours | None) -> _Look:
        """What the last compression of decoded pixels says.

        As of a JPEG, the fast way settles those in which it finds nothing. All of the others is looked at closely:
        judged by the fast way, some photographs without any compression scored above 0.5. So are those of which single
        windows tell another quality than all of their blocks do together, as it may be below 50.
        """
        look = self.models.windows(QF, luma)
        judge = functools.partial(self._of_pixels, luma=luma, colours=colours)
        seen = judge(qfmap.estimate(look, luma))
        settled = max(seen.consistency.score, seen.consistency.strongest) < CONFIRMED and not _contradicted(seen)
        if not isinstance(look, FastWindows) or settled:
            return seen
        return judge(qfmap.again(look, seen.found, luma))

    def _look_restored(self, luma: npt.NDArray[np.uint8]) -> _Look:
        """The same of pixels that were brought back to a scale at which some of them show a compression.

        Closely, unless most of them do at a glance: there a pasted part of 24 windows scored 0.17 instead of 0.99.
        """
        look = self.models.windows(QF, luma)
        found = qfmap.estimate(look, luma)
        if isinstance(look, FastWindows) and history.background(found).fraction <= 0.5:
            found = qfmap.again(look, found, luma)
        return self._of_pixels(found, luma=luma, colours=None, restored=True)

    def _of_pixels(
        self,
        found: WindowPosteriors,
        *,
        luma: npt.NDArray[np.uint8],
        colours: Colours | None,
        restored: bool = False,
    ) -> _Look:
        """The same from the windows of decoded pixels, or of those that were `restored` to a scale."""
        pixels, base = history.content(luma, found), history.background(found)
        channels = history.pixel_channels(found, base, pixels)
        clipped = None if colours is None else colours.clipped
        last = lastjpeg.estimate(luma, found, base.shift, clipped) if base.fraction > 0.5 else None
        agreement = lastjpeg.agreement(luma, last) if last is not None else None
        mute = history.mute(pixels)

        def lies(part: doubts.History, where: npt.NDArray[np.bool_]) -> float | None:
            assert part.qf1 is not None and part.grid_shift is not None
            return lastjpeg.of_part(luma, where, part.qf1, part.grid_shift)

        ask = doubts.Witnesses(
            agreement=agreement,
            # Clipping hides a compression; it does not make one where the background has none.
            colours=colours if base.fraction > 0.5 else None,
            edges=functools.partial(blockedges.stand_out, luma),
            lies=lies,
            in_frame=functools.partial(clipping.in_frame, luma),
            mosaic=functools.partial(blockedges.is_mosaic, luma),
            restored=restored,
        )
        consistency = self._compare(suspicion.PIXEL_MODEL, found, base, channels, pixels, mute, ask)
        return _Look(found, base, mute, consistency, last, agreement)

    def _compare(
        self,
        name: str,
        found: WindowPosteriors,
        base: Background,
        channels: npt.NDArray[np.floating[Any]],
        pixels: history.Content,
        mute: npt.NDArray[np.bool_],
        ask: doubts.Witnesses,
    ) -> Consistency:
        """What the consistency model `name` finds in the windows that are not `mute` (R, C)."""
        answers = suspicion.estimate(self.models(name), channels)
        logits = suspicion.to_cells(answers, found.size, found.origin)
        logits[Cells(found)(mute)] = np.nan
        texture = history.deviation(pixels)
        with stage("regions"):
            return regions.find(logits, found, base, self.models.calibrations[name], texture, ask)

    def _pixels(self, luma: npt.NDArray[np.uint8], colours: Colours | None) -> Estimate:
        """Estimates from decoded pixels; where these were once a JPEG, also from its double compression."""
        look = self._look(luma, colours)
        estimate, consistency, fraction, last = _pixel_estimate(look), look.consistency, look.base.fraction, look.last
        agreement = look.agreement
        del look  # its posteriors are as large as those that follow
        if fraction <= 0.5:
            return estimate if consistency.regions else self._resized(luma, estimate)
        if last is None or min(luma.shape[0] - last.origin[0], luma.shape[1] - last.origin[1]) < tiling.WINDOW:
            return replace(estimate, last=last)
        # The pixels were a JPEG: estimate what came before it, on its grid and with its table.
        # Its table is an estimate: looked at again only in part, 2 of 40 photographs scored above 0.5, and else none.
        # A part that was pasted in since had no such compression, and what it had is not the background's.
        parts = consistency.suspicion > 0.5 if consistency.regions else None
        before = self.jpeg(
            luma, last.table, last.origin, everywhere=True, since=agreement, colours=colours, parts=parts
        )
        note = f"The pixels show JPEG compression of quality about {last.qf} with blocks from x {last.origin[1]}, "
        note += f"y {last.origin[0]}; the file's own format does not keep its table, which was estimated."
        consistency = regions.without(consistency, tuple(r for r in consistency.regions if _is_first(r, before)))
        # Before a compression that the pixels no longer show, regions would be of the content's making.
        deeper = before.consistency.score > consistency.score and consistency.score < 0.5
        deeper = deeper and doubts.settled(agreement, colours, (luma.shape[0], luma.shape[1]))
        maps = replace(
            estimate.maps,
            suspicion=np.minimum(estimate.maps.suspicion, consistency.suspicion),
            q1=before.maps.q1,
            double=before.maps.double,
            shift=before.maps.shift,
            shift_confidence=before.maps.shift_confidence,
        )
        if deeper:
            maps = replace(maps, suspicion=before.maps.suspicion)
        chosen = before.consistency if deeper else consistency
        notes = dict.fromkeys((note, *estimate.notes, *before.notes))
        return replace(before, consistency=chosen, maps=maps, notes=tuple(notes), last=last)

    def _resized(self, luma: npt.NDArray[np.uint8], estimate: Estimate) -> Estimate:
        """The estimate, or a stronger one if the pixels, or a part of them, were resized after a compression."""

        def noted(sentence: str, **more: Any) -> Estimate:
            return replace(estimate, notes=(*estimate.notes, sentence), **more)

        for candidate in blockperiod.candidates(luma):
            whole = rescaled.size(luma, max(s.factor for s in rescaled.around(candidate)))
            if whole[0] * whole[1] > MAX_ENLARGED or max(whole) > rescaled.LONGEST:
                return noted("The image is too large to look for parts that were resized.")
            scale = rescaled.find(luma, candidate, lambda pixels: _found(self._quickly(pixels)))
            if scale is None:
                continue
            factor = scale.factor
            restored = rescaled.restore(luma, scale)
            look = self._look_restored(restored)
            said = f"compressed as JPEG and then resized to {100 / factor:.0f} %"
            if look.base.fraction > 0.5:
                return noted(f"The image was {said}; regions of other scales are not looked for.")
            qualities = [r.qf1 for r in look.consistency.regions if r.qf1 is not None]
            if look.consistency.score >= 0.5 and qualities and min(qualities) <= FAINTEST_RESIZED:
                consistency = regions.rescale(look.consistency, factor, (luma.shape[0], luma.shape[1]))
                goes_on = warped.goes_on(restored, look.consistency.suspicion > 0.5)
                if goes_on or warped.fits_elsewhere(consistency.suspicion > 0.5, self._anywhere(luma, candidate)):
                    said = "The image was compressed as JPEG, and its parts resized by different factors since"
                    return noted(f"{said}, as when it is warped as a whole: no region is named.")
                seen = regions.resample(look.found.present, consistency.suspicion.shape)
                flag = np.maximum(estimate.maps.flag, np.where(consistency.suspicion > 0.5, seen, 0))
                silent = np.isnan(estimate.maps.flag)  # what holds no information holds none at any scale
                suspected = np.where(silent, np.nan, consistency.suspicion).astype(np.float32)
                maps = replace(estimate.maps, suspicion=suspected, flag=flag.astype(np.float32))
                return noted(f"The region was {said}.", consistency=consistency, maps=maps)
        return estimate

    def _quickly(self, luma: npt.NDArray[np.uint8]) -> WindowPosteriors:
        """What windows of decoded pixels show at a glance."""
        return qfmap.estimate(self.models.windows(QF, luma), luma)

    def _anywhere(self, luma: npt.NDArray[np.uint8], candidate: blockperiod.Candidate) -> npt.NDArray[np.bool_]:
        """(R, C) cells that surely show a compression at any of the scales that may be a candidate's."""
        shape = (tiling.cells(luma.shape[0]), tiling.cells(luma.shape[1]))
        anywhere = np.zeros(shape, bool)
        for scale in rescaled.around(candidate)[: max(1, FINE_SEARCH // luma.size)]:
            tried = self._quickly(rescaled.restore(luma, scale))
            sure = Cells(tried)(doubts.surely_shown(tried)).astype(np.float32)
            anywhere |= regions.resample(sure, shape) > 0.5
        return anywhere


def _steps_of(
    part: doubts.History,
    where: npt.NDArray[np.bool_],
    luma: npt.NDArray[np.uint8],
    found: WindowPosteriors,
    q2: tuple[int, ...],
) -> FirstSteps:
    """What the cells of a part, of which windows tell table and grid, tell of its table together."""
    assert part.q1 is not None and part.grid_shift is not None
    index = [tiling.centre_cells(*axis) for axis in zip(found.size, found.present.shape, found.origin, strict=True)]
    dy, dx = ((first - begin) % tiling.BLOCK for first, begin in zip(part.grid_shift, found.origin, strict=True))
    own = Background(part.q1, tiling.BLOCK * dy + dx, 1.0)
    return firsttable.estimate(luma, found, own, q2, ~where[np.ix_(*index)])


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at decoded pixels gave."""

    found: WindowPosteriors
    base: Background
    mute: npt.NDArray[np.bool_]
    consistency: Consistency
    last: LastCompression | None
    """None where there was none, or it could not be told."""
    agreement: Agreement | None
    """How well the pixels agree with it, as they do until something else is done to them."""


def _contradicted(look: _Look) -> bool:
    """Whether the windows of an image tell another quality than its blocks do together."""
    return look.last is not None and abs(look.last.qf - look.base.table[0]) > 2 * qfmap.NEAR


def _quality_of_all(look: _Look) -> int | None:
    """The quality factor of the last compression, where the image as a whole tells a standard table.

    Of a coarse compression single windows tell it less surely, and flat ones least.
    """
    last = look.last
    if last is None or _contradicted(look):
        return None
    other = float(np.mean(np.array(last.table) != standard_table(last.qf)))
    return last.qf if other <= lastjpeg.UNEXPLAINED else None


def _found(found: WindowPosteriors) -> float:
    """How much of an image shows compression, in windows; what a scale is chosen by."""
    return float(np.maximum(found.present - 0.5, 0).sum())


def _is_first(region: Region, before: Estimate) -> bool:
    """Whether the compression that a region of decoded pixels is said to show is the first one of all of them.

    In soft places a coarse first compression leaves so little that the last one hardly shows.
    """
    if region.kind not in ("other_qf", "other_shift") or region.grid_shift is None:
        return False
    same = before.q1 is None or region.qf1 is None or abs(region.qf1 - nearest_qf(before.q1)) <= 2 * qfmap.NEAR
    return region.grid_shift == before.grid_shift and same


def _pixel_estimate(look: _Look) -> Estimate:
    """What one look at decoded pixels tells."""
    suspected = look.consistency.suspicion
    maps = cellmaps.of_pixels(look.found, suspected, look.mute)
    if look.agreement is not None and (told := _quality_of_all(look)) is not None:
        coarse = bool(np.median(standard_table(told)[:N_COEFS]) >= lastjpeg.LEAST_STEP)
        own = Cells(look.found)(look.found.shift.argmax(axis=2) == look.base.shift) & ~(suspected > 0.5)
        own &= ~np.isnan(maps.qf) & doubts.agreeing(look.agreement, suspected.shape, silent=coarse)
        maps = replace(maps, qf=np.where(own, np.float32(told), maps.qf))
    return Estimate(look.consistency, maps, _incomparable(look.consistency))


def _incomparable(found: Consistency) -> tuple[str, ...]:
    """What is said where parts cannot be compared with the rest."""
    return (INCOMPARABLE.format(found.incomparable),) if found.incomparable > 0 else ()


def _double_fraction(
    found: WindowPosteriors, base: Background, mute: npt.NDArray[np.bool_]
) -> tuple[float | None, float]:
    """The share of the windows that show a first compression, None where they tell too little; and that surely do.

    The latter is of all windows. Below a last quality of about 65 few of them are sure of anything.
    """
    if mute.all():
        return None, 0.0
    sure = float(history.sureness(found)[~mute].mean())
    shown = doubts.surely_shown(found) & ~mute
    claimed = base.fraction > 0.5 and float(shown[~mute].mean()) < TELLING
    return None if sure < TELLING or claimed else base.fraction, float(shown.mean())


def _background_facts(
    found: WindowPosteriors, base: Background, mute: npt.NDArray[np.bool_], known: FirstSteps
) -> tuple[tuple[int, ...] | None, tuple[int, int] | None]:
    """The background's table and grid shift on the image, each None unless most of the evidence is for it.

    `known` is what the image as a whole tells of the table.
    """
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
    return (known.merged(base.table) if held > 0.3 or known.sure else None), place
