"""When a suspicious part is but a doubt: reasons to think that it and the rest of the image have the same history.

The consistency model and the windows say what looks different; here is asked whether the same compression shows in
both all the same. Whoever is accused by a part that is called a region has a right to these questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from jscan import clipping
from jscan.clipping import Colours
from jscan.history import Background, summed
from jscan.jpegtables import Q1_MAX, Q1_OFFSET, nearest_qf
from jscan.kept import ENOUGH_WEIGHT, Left
from jscan.likelihood import Likelihood
from jscan.records import Agreement, WindowPosteriors
from jscan.tiling import BLOCK, centre_cells

Edges = Callable[[npt.NDArray[np.bool_], tuple[int, int]], tuple[float, float]]
"""Tells what `blockedges.stand_out` does of a part (ceil(H / 8), ceil(W / 8)) and a grid."""
Mosaic = Callable[[npt.NDArray[np.bool_], tuple[int, int]], bool]
"""Tells what `blockedges.is_mosaic` does of a part and a grid."""
Lacks = Callable[[npt.NDArray[np.bool_]], float]
"""Tells by how many standard deviations a part (ceil(H / 8), ceil(W / 8)) falls short of the background's trace."""
Told = Callable[["History", npt.NDArray[np.bool_]], "History"]
"""Tells the history of a part with the first table that its cells tell together, see `firsttable`."""
Agrees = Callable[["History", npt.NDArray[np.bool_]], float | None]
"""Tells how well the blocks of a part of decoded pixels lie on the multiples of the table that its windows tell, in
nats a coefficient; None where too little tells it."""
InFrame = Callable[[npt.NDArray[np.bool_]], float]
"""Tells which share of a part's cells lie in a frame around the image, see `clipping.in_frame`."""
AGREES = -0.8
"""Nats a coefficient, in the mean, from which a part of decoded pixels agrees with the background's last compression:
parts that only looked odd, mostly of clipped colours, had -0.35 to 0.9, pasted ones -2.8 to -1.6."""
ENOUGH_COEFS = 30
"""Coefficients of which that mean must be."""
AROUND = 9
"""Blocks along a side of what tells of a cell whether it agrees: about a window."""
_OF_LAST = ("uncompressed_in_jpeg", "other_qf", "other_shift")
"""Kinds of parts of decoded pixels whose last compression is not the background's."""
TELLING, SETTLED = 6, 0.5
"""Coefficients of a block that tell something together, and nats for each, in the median of the blocks, from which the
last compression of decoded pixels is the last thing that was done to them. Pictures with pasted parts have more than
0.8, nearly all; those that were made noisy, vignetted or given to another codec since mostly say nothing, or less."""
NEARLY_ALL, PLAIN = 5, 0.15
"""Percentile of the blocks that takes the place of the median where it is known which have clipped colours, and the
share that must have none. Of 59 pictures with pasted parts 57 have 0.8 and more there; of 9 denoised ones 7 have less
than 0.5, and of the two others fewer blocks are left."""
LIES = 0.25
"""Nats a coefficient that the best fifth of the blocks of a part have at least, if the part alone shows a compression
of decoded pixels: of 86 that were pasted in one had 0.45, three told too little, and the others had 0.8 and more; of
four in denoised pictures of which that was wrongly said two had less than 0."""
SHORT = 2.0
"""Standard deviations by which a part falls short of the background's trace, at least, if it is said to have none. Of
11 parts of which that was wrongly said in 600 pristine images one did; of 134 in forged ones all but 7."""
OTHER = ("no_first_compression", "other_q1", "other_shift")
"""Kinds of parts in which the background's first compression is not to be found."""
ONLY_THERE = ("first_compression", "jpeg_in_uncompressed")
"""Kinds of parts that were compressed where the background was not. Of 109 that were pasted in, 1 had no grid that is
sure; of those in JPEGs that were warped after a compression, so that it begins elsewhere in every window, most."""
SHOWN, SHOWN_EACH = 3.0, 0.1
"""Nats by which the blocks of a part speak more for the background's first compression than for that table on another
grid, at least, if it is said to be there, altogether and a cell. Pasted parts had up to 0.09 a cell, from their edges,
those of pristine pictures 0.11 to 1.7."""
AGAINST = 10.0
"""Nats that the blocks of a part speak against the background's first compression, at least, if it falls short of the
background's trace by less than SHORT. Of 26 parts of noisy and vignetted pictures 14 had neither, of 58 pasted ones
2."""
UNSURE = 0.85
"""Score of a part, as if it were all of the image, below which its blocks must speak against the background's first
compression by AGAINST, and it must fall short of its trace by SHORT, if it is said not to have it. Of 4,420 pictures
saved twice that no rule here was chosen by 18 were accused, most of them where the two qualities were nearly the same:
17 by such parts, of which none had 5 nats. Of 614 pictures with pasted parts that were found 6 were found by nothing
surer."""
SURELY_SHORT = 5.0
"""Standard deviations by which a part falls short of the background's trace from which its blocks need not speak
against it as well: of 13 of those 17 parts, the others being of pictures without a trace, none had more than 4.6."""
MOST_FRAME, SURELY_INSIDE = 0.2, 0.95
"""Share of a part's cells that lie in a frame around the picture from which its score, as if it were all of the image,
must be so high: windows there see nothing but the frame's edge. Of 1,768 pictures that were compressed, framed in
white, grey or black and saved, 18 were accused of such parts, with 0.90 at most."""
UNTOLD = 0.93
"""Such a score of a part of decoded pixels below which its blocks must tell something of the last compression, if
another one is said of it: of 442 pictures saved twice and then as PNG 3 were accused by softer parts. Of 171 found ones
with parts from other JPEGs one had less than 0.95."""
SURELY_AGAINST = 50.0
"""Nats against it from which even a part with clipped colours lacks it: four vividly coloured pasted squares had 290 to
1,350, brightened pictures 0 and less."""
FAR_SHORT = 4.5
"""Standard deviations by which a part falls short of the background's trace from which that is not believed: it holds
much of the background besides what was pasted in."""
BELIEVED = 0.98
"""Score of a part, as if it were all of the image, from which its windows are believed and nothing else is asked: of 31
parts of 750 pristine images that the questions here would have called doubt none was so sure, of 19 of 450 forged ones
8."""
ALIKE, NEXT = 3.0, 1
"""Difference of two first qualities, and of where two grids begin, in pixels, up to which a part's history may be the
background's, mistaken: where content is soft, or there is little of it, its neighbours look much like it."""
AS_WELL, MOST_OF_ALL = 0.6, 0.4
"""Nats a window by which the windows far from a part prefer its grid from which they share its compression: where the
background had none it was at most 0.5, where its first quality was above the last one 1 to 1.6. And those from which
they share it if they prefer no other as much, but for the last one's: of 40 parts that were pasted in one had so many,
of two in pictures saved twice of which that was wrongly said both."""
EDGES = 3.3
"""Standard deviations by which the edges of the background's blocks stand out in a part, down and across, from which it
is not said to have been no JPEG: of 22 pasted ones 2 had more, of 43 in pictures that were noisy, blurred or otherwise
processed as a whole 25."""
KEPT = 0.7
"""Share of a part's first compression from which it is believed that nothing was done to the part after it but the
last one. Of 66 parts that were pasted in one had 0.68, the others 0.71 and more."""
KEPT_BY_REST, DEVIATES = 0.87, 1.9
"""The same for the rest of an image, less what the share may deviate by: so much by the root of what tells it. Of 253
pictures in which a pasted part was found 3 had less; of 9 denoised ones (of 96) in which a part was taken for another
history 5, of which 1 had less than 0.7."""
TOLD = 0.8
"""That share from which the first compression's table is told. Of 123 double JPEGs 2, of one picture, had less; of 74
that were sharpened or given another tone in between, and of which another quality was told than they had, 58 had."""
ELSEWHERE = 0.7
"""How many windows, for each one in a part, may surely show a compression far from any part, if it is to be the part's
alone: of 109 parts that were pasted in 2 had more, of the strongest parts of 22 pictures that were warped 20."""
DRIFTS = 0.25
"""How many windows, for each that surely shows the grid of a part which alone has one, may show a grid one pixel from
it: of 460 parts that were pasted in none had more than 0.22, of 19 in pictures that were warped as a whole 13."""
COARSEST = 10.0
"""Quality below which what a part alone shows is taken for a mosaic: nobody saves pictures at that. Of 40 mosaics in
PNG files three were not told by their squares, as the part held more than these, and seemed to be of quality 6."""
FEW_TOLD, NOT_SHARED = 8.0, 0.7
"""Weight from which the share of a part's compression that is in the rest is asked for, and what it must be less than,
with what it may deviate by (DEVIATES), where the rest has no sure grid of its own. Of 13 pasted parts with another
table that were found in such pictures 9 had 0.63 and less, and of the others the rest tells too little; of 7 in
screenshots that were saved twice, of which that was wrongly said, none had less than 0.77."""
NEVER_MISTAKEN = 0.99
"""Score of a part, as if it were all of the image, from which it is believed though the rest tells too little. Of 8
drawings that were saved twice none had such a part with more than 0.98; of those four pasted ones two had 0.995."""
FAR = 6
"""Cells from a part at which windows hold next to nothing of it."""


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a part's history."""

    kind: str
    qf1: float | None = None
    q1: tuple[int, ...] | None = None
    grid_shift: tuple[int, int] | None = None

    @property
    def is_unclear(self) -> bool:
        """Whether it cannot be named, whatever else is known of it."""
        return self.kind == UNCLEAR.kind


UNCLEAR = History("unclear")


class Kept(Protocol):
    """Tells what is left of a first compression's trace in cells (ceil(H / 8), ceil(W / 8)), see `kept.share`."""

    def __call__(
        self, part: History | None, where: npt.NDArray[np.bool_], /, *, least: float = ENOUGH_WEIGHT
    ) -> Left | None:
        """Of the compression of a part, or, for None, of the background's."""


@dataclass(frozen=True, slots=True)
class Witnesses:
    """What can be asked about the parts of an image; None, or nothing, of what is not known of it."""

    likely: Likelihood | None = None
    """Says what speaks against the background's first compression, where it has one."""
    lacks: Lacks | None = None
    """Of a part that may lack the background's trace; None where what is taken for the background may be a part."""
    agreement: Agreement | None = None
    """Of decoded pixels with their last compression, where it is known."""
    since: Agreement | None = None
    """The same, where what was before that compression is asked."""
    colours: Colours | None = None
    """Asked for once there is a part to be named."""
    edges: Edges | None = None
    """Of the background's blocks in a part of decoded pixels."""
    lies: Agrees | None = None
    """Of the blocks of a part of decoded pixels that alone shows a compression."""
    in_frame: InFrame | None = None
    """Of any part."""
    mosaic: Mosaic | None = None
    """Of a part that was compressed alone."""
    kept: Kept | None = None
    """Of a part that has, or lacks, a first compression."""
    told: Told | None = None
    """Of the table of a part that is named."""
    q2: tuple[int, ...] | None = None
    """The table of the last compression, of a JPEG."""
    restored: bool = False
    """The image was brought to a scale, which is a little off: no grid in it is sure."""
    shared: bool = True
    """Most of the image shares the background's grid; else no part is said to lack what the rest has."""


NOBODY = Witnesses()
"""Of whom nothing can be asked."""


@dataclass(frozen=True, slots=True)
class Case:
    """A part of an image that looks different, and all that is asked for before it is said to be."""

    here: npt.NDArray[np.bool_]
    """(ceil(H / 8), ceil(W / 8)) its cells."""
    parts: npt.NDArray[np.bool_]
    """Its cells and those of all other parts."""
    score: float
    """That of the part as if it were all of the image: a larger one has more places to be mistaken about, but what is
    asked here is about this one."""
    smoothed: npt.NDArray[np.float32]
    """Logits of suspicion of all cells."""
    found: WindowPosteriors
    base: Background
    ask: Witnesses
    settled: Callable[[], bool]
    """Tells what the function of this name does."""


def reconsidered(history: History, case: Case) -> History:
    """What can be said of a part that seems to have this history: the same, less, or that it is unclear."""
    here, ask = case.here, case.ask
    if _is_pixelated(history, here, ask.mosaic) or (not ask.shared and _nowhere(history)):
        return UNCLEAR
    if _is_last(history, ask.q2, case.found.origin):
        if history.kind != "other_q1":
            return UNCLEAR
        history = History("no_first_compression")
    if case.score < BELIEVED and _mistaken(history, case):
        return UNCLEAR
    return UNCLEAR if _unsupported(history, case) or _alike(history, case) else history


def surer_half(here: npt.NDArray[np.bool_], smoothed: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """The more suspicious half of a part's cells: what is at its edge may be the background's own, or tell nothing."""
    return here & (smoothed >= np.median(smoothed[here]))


def agrees(here: npt.NDArray[np.bool_], smoothed: npt.NDArray[np.float32], agreement: Agreement) -> bool:
    """Whether the more suspicious half of a part lies on the multiples of the background's last table."""
    nats, count = _of_half(here, smoothed, agreement)
    return count >= ENOUGH_COEFS and nats >= AGREES * count


def changed_since(here: npt.NDArray[np.bool_], smoothed: npt.NDArray[np.float32], agreement: Agreement) -> bool:
    """Whether that half of a part lies off these multiples, so that nothing can be said of what was before them.

    6 parts of pictures with vignettes had -1.8 to -4.8 nats a coefficient, 47 that were pasted in before the last
    compression -0.2 and more; 4 of the former pictures and 45 of the latter are `settled`.
    """
    nats, count = _of_half(here, smoothed, agreement)
    return count >= ENOUGH_COEFS and nats < AGREES * count


def _of_half(
    here: npt.NDArray[np.bool_], smoothed: npt.NDArray[np.float32], agreement: Agreement
) -> tuple[float, float]:
    """Nats and coefficients of the more suspicious half of a part."""
    rows, cols = _nearest_blocks(np.nonzero(surer_half(here, smoothed)), agreement)
    return float(agreement.nats[rows, cols].sum()), float(agreement.count[rows, cols].sum())


def agreeing(agreement: Agreement, shape: tuple[int, ...], *, silent: bool) -> npt.NDArray[np.bool_]:
    """(R, C) cells, of so many, around which the blocks speak for the multiples of the image's last table.

    Or, if these are taken for agreeing, are `silent` about them.
    """
    around = cv2.boxFilter(agreement.nats, -1, (AROUND, AROUND), normalize=False, borderType=cv2.BORDER_CONSTANT)
    speak = around >= 0 if silent else around > 0
    return np.asarray(speak[np.ix_(*_nearest_blocks([np.arange(n) for n in shape], agreement))])


def _nearest_blocks(cells: Sequence[npt.NDArray[np.int64]], agreement: Agreement) -> list[npt.NDArray[np.int64]]:
    """Rows and columns of the blocks whose centres are nearest to those of cells, of which these are the same."""
    return [
        np.clip(np.rint(at - first / BLOCK - 1e-9), 0, size - 1).astype(np.int64)
        for at, first, size in zip(cells, agreement.origin, agreement.nats.shape, strict=True)
    ]


def settled(
    agreement: Agreement | None,
    colours: Colours | None,
    size: tuple[int, int],
    parts: npt.NDArray[np.bool_] | None = None,
) -> bool:
    """Whether decoded pixels lie on the multiples of their last table, as they do until they are processed as a whole.

    After that what was estimated of their last compression differs with the content alone. Blocks in or beside
    suspected `parts` (ceil(H / 8), ceil(W / 8)) of an image of `size` (H, W) are not asked: they may have another
    table. Where it is known which of its `colours` are clipped, nearly all of the other blocks must lie there: a filter
    that keeps edges leaves many as they were.
    """
    if agreement is None:
        return False
    tell = agreement.count >= TELLING
    if parts is not None:
        rows, cols = (
            np.clip((np.arange(n) * BLOCK + o + BLOCK // 2) // BLOCK, 0, m - 1)
            for n, o, m in zip(tell.shape, agreement.origin, parts.shape, strict=True)
        )
        tell = tell & far_from(parts, 1)[np.ix_(rows, cols)]
    share = None if colours is None else colours.clipped()
    if share is not None:
        plain = tell & ~clipping.blocks(share, size, agreement.origin)
        tell = plain if plain.sum() >= PLAIN * tell.sum() else tell
    most = 50 if share is None else NEARLY_ALL
    return bool(tell.any()) and float(np.percentile(agreement.nats[tell] / agreement.count[tell], most)) >= SETTLED


def worn(left: Left | None) -> bool:
    """Whether so little is left of a first compression that something else was done after it; not if it is not known.

    What was done to a whole image is not the same everywhere, and that a part lacks the compression tells nothing.
    """
    return left is not None and left.share < KEPT_BY_REST - DEVIATES / left.weight**0.5


def untold(left: Left | None) -> bool:
    """Whether so little is left of a first compression that what looks like its table may be another's."""
    return worn(left) or (left is not None and left.share < TOLD)


def _mistaken(history: History, case: Case) -> bool:
    """Whether a part and the rest may well have the same history, whatever the windows say."""
    here, base, found, ask = case.here, case.base, case.found, case.ask
    if history.kind in ONLY_THERE and not ask.restored and _elsewhere_too(here, found, case.parts):
        return True
    if history.kind == "first_compression":
        return _shared(history, here, found)
    if history.kind in ("other_q1", "other_qf") and history.grid_shift == _place(base, found.origin):
        # Of parts that are pasted anywhere one in 64 has the grid by chance. What was brightened here and there, or
        # filtered, keeps it, and its steps look like others.
        return True
    return ask.lacks is not None and _may_be(history, base, found.origin) and ask.lacks(here) < SHORT


def _nowhere(history: History) -> bool:
    """Whether a part of an image whose own grid is not sure differs from it in what only a grid could tell.

    That goes for another table without a grid as well: where a picture was straightened or warped as a whole, blocks
    begin elsewhere in every window, and soft windows show the table, others nothing. Of 5 pictures with such a part,
    all straightened, none was a forgery; of 164 parts of forgeries with another table 3 had no grid, and
    the grid of the rest was sure.
    """
    return history.kind in ("no_first_compression", "other_shift") or (
        history.kind == "other_q1" and history.grid_shift is None
    )


def framed(case: Case) -> bool:
    """Whether a part may be seen for nothing but an edge between a frame and the picture."""
    in_frame = case.ask.in_frame
    return case.score < SURELY_INSIDE and in_frame is not None and in_frame(case.here) > MOST_FRAME


def _unsupported(history: History, case: Case) -> bool:
    """Whether neither the windows of a part nor its blocks are sure that it lacks what the rest has."""
    here, score, ask = case.here, case.score, case.ask
    if ask.agreement is not None and history.kind in ("other_qf", "other_shift"):
        return score < UNTOLD and _of_half(here, case.smoothed, ask.agreement)[1] < ENOUGH_COEFS
    if ask.likely is None or history.kind not in OTHER or score >= UNSURE:
        return False
    short = None if ask.lacks is None else ask.lacks(here)
    if short is not None and short >= SURELY_SHORT:
        return False
    return ask.likely.against(here) < AGAINST or (short is not None and short < SHORT)


def _alike(history: History, case: Case) -> bool:
    """Whether a part and the rest may share a compression after all, however sure the part's windows are."""
    here, base, found, ask = case.here, case.base, case.found, case.ask
    if history.kind in ONLY_THERE and not ask.restored and history.grid_shift is None:
        return True
    alone = history.kind in ONLY_THERE or (history.kind == "other_q1" and ask.lacks is None)
    if alone and not ask.restored and _drifts(history, base, found):
        return True
    if history.kind == "first_compression":
        return ask.kept is not None and _worked_on(history, here, found, ask.kept)
    if history.kind == "jpeg_in_uncompressed":
        return _shared(history, here, found) or (not ask.restored and _worked_on_since(history, here, ask.lies))
    if history.kind in _OF_LAST and found.logp.shape[2] != Q1_OFFSET[-1] and not case.settled():
        return True
    if history.kind == "uncompressed_in_jpeg" and ask.edges is not None:
        return min(ask.edges(here, _place(base, found.origin))) >= EDGES
    # Without `lacks` it is not sure that what is taken for the background is not the part itself.
    if history.kind == "other_q1" and ask.lacks is None and ask.kept is not None:
        return _may_be_the_rest_s(history, case, ask.kept)
    if ask.likely is None or ask.lacks is None or history.kind not in OTHER:
        return False
    # On the last grid the rounding of the last compression is no noise: what its blocks seem to lack tells nothing.
    aligned = _place(base, found.origin) == _last_grid(found.origin)
    none = history.kind == "no_first_compression"
    if none and (aligned or ask.lacks(here) < SHORT) and ask.likely.against(here) < AGAINST:
        return True  # neither way do its blocks lack anything: it may be soft, or the trace be drowned in noise
    return _shown(here, ask.likely, ask.lacks)


def _is_pixelated(history: History, here: npt.NDArray[np.bool_], mosaic: Mosaic | None) -> bool:
    """Whether the compression that a part alone is said to show is a mosaic's, which somebody hid something with."""
    if mosaic is None or history.kind not in ONLY_THERE:
        return False
    coarse = history.qf1 is not None and history.qf1 < COARSEST
    return coarse or (history.grid_shift is not None and mosaic(here, history.grid_shift))


def _is_last(history: History, q2: tuple[int, ...] | None, origin: tuple[int, int]) -> bool:
    """Whether what a part is said to show is the last compression itself, with table `q2` and blocks from `origin` on.

    Twice the same on one grid leaves no trace: where pixels were brightened, one compression has looked like it.
    """
    if q2 is None or history.q1 is None or history.grid_shift != _last_grid(origin):
        return False
    return all(abs(q - min(last, most)) <= 1 for q, last, most in zip(history.q1, q2, Q1_MAX, strict=False))


def _worked_on(history: History, here: npt.NDArray[np.bool_], found: WindowPosteriors, kept: Kept) -> bool:
    """Whether a part's compression shows less than it would if the part had been pasted in and nothing else been done.

    What another codec left of a picture, or a warp that moves nothing in its middle, may look like a compression there.
    On the last grid, where all that those codecs leave lies and what is pasted in by chance, it has to be shown. The
    cells at the edge of a part are not looked at, as they hold much of what is around it.
    """
    left = kept(history, cv2.erode(here.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    if left is None:
        return history.grid_shift == _last_grid(found.origin)
    return left.share < KEPT  # at the edges of what was pasted in less may be left, however much tells it


def _may_be_the_rest_s(history: History, case: Case, kept: Kept) -> bool:
    """Whether a part's compression may be that of the rest, of which no window is sure.

    Drawings and screenshots are flat but for some edges and letters, which alone tell what they were compressed with.
    A share far below 0 tells nothing: such pixels, drawn at the same distances, lie anywhere but by chance.
    """
    left = kept(history, far_from(case.parts), least=FEW_TOLD)
    deviation = 0.0 if left is None else DEVIATES / left.weight**0.5
    if left is None or left.share < -2 * deviation:
        return case.score < NEVER_MISTAKEN
    return bool(left.share + deviation >= NOT_SHARED)


def _worked_on_since(history: History, here: npt.NDArray[np.bool_], lies: Agrees | None) -> bool:
    """Whether the blocks of a part that alone is said to show a compression of decoded pixels lie off its multiples.

    See LIES.
    """
    if lies is None or history.qf1 is None or history.grid_shift is None:
        return False
    nats = lies(history, here)
    return nats is not None and nats < LIES


def surely_shown(found: WindowPosteriors) -> npt.NDArray[np.bool_]:
    """(R, C) windows that surely show a compression, and where its blocks begin."""
    sure: npt.NDArray[np.bool_] = (found.present > 0.5) & (found.shift.max(axis=2) > np.log(0.3))
    return sure


def shows(found: WindowPosteriors, shift: int) -> npt.NDArray[np.bool_]:
    """(R, C) windows that surely show a compression of which the blocks begin at `shift`, seen from their origin."""
    there: npt.NDArray[np.bool_] = (found.present > 0.5) & (found.shift[..., shift] > np.log(0.5))
    return there


def _drifts(history: History, base: Background, found: WindowPosteriors) -> bool:
    """Whether so many windows show the grids next to that of a part that the grid moves from place to place.

    What is pasted in has one grid, and may lie next to the background's, if that has any. See DRIFTS.
    """
    if history.grid_shift is None:
        return False
    down, across = ((s - o) % BLOCK for s, o in zip(history.grid_shift, found.origin, strict=True))
    likeliest = found.shift.argmax(axis=2)
    y, x = divmod(likeliest, BLOCK)
    off = np.maximum(*(np.minimum((a - b) % BLOCK, (b - a) % BLOCK) for a, b in ((y, down), (x, across))))
    sure, counts = surely_shown(found), off == 1
    if history.kind == "other_q1":
        counts &= likeliest != base.shift
    next_to_it = int((sure & counts).sum())
    return next_to_it > 0 and next_to_it >= DRIFTS * int((sure & (off == 0)).sum())


def _elsewhere_too(here: npt.NDArray[np.bool_], found: WindowPosteriors, parts: npt.NDArray[np.bool_]) -> bool:
    """Whether windows far from all parts show a compression as surely as those of a part, on whatever grid.

    After a warp the grid is another one in each place, and where it is between pixels nothing is seen of it.
    """
    sure, away = surely_shown(found), far_from(parts)
    index = np.ix_(*(centre_cells(*axis) for axis in zip(found.size, found.present.shape, found.origin, strict=True)))
    elsewhere = int((sure & away[index]).sum())
    return elsewhere > 0 and elsewhere >= ELSEWHERE * int((sure & here[index]).sum())


def far_from(parts: npt.NDArray[np.bool_], reach: int = FAR) -> npt.NDArray[np.bool_]:
    """The cells farther than `reach` from these; by default those whose windows hold next to nothing of them."""
    side = 2 * reach + 1
    return np.asarray(cv2.dilate(parts.astype(np.uint8), np.ones((side, side), np.uint8)) == 0)


def _place(base: Background, origin: tuple[int, int]) -> tuple[int, int]:
    """Row and column, 0 to 7, at which the background's blocks begin."""
    down, across = ((s + o) % BLOCK for s, o in zip(divmod(base.shift, BLOCK), origin, strict=True))
    return down, across


def _last_grid(origin: tuple[int, int]) -> tuple[int, int]:
    """Row and column, 0 to 7, at which the blocks of the last compression begin, as windows do."""
    return origin[0] % BLOCK, origin[1] % BLOCK


def _shown(here: npt.NDArray[np.bool_], likely: Likelihood, lacks: Lacks) -> bool:
    """Whether the background's first compression shows in a part, whatever the windows say."""
    most = max(SHOWN, SHOWN_EACH * int(here.sum()))
    return likely.shows(here) >= most and lacks(here) < FAR_SHORT


def _may_be(history: History, base: Background, origin: tuple[int, int]) -> bool:
    """Whether the background's history could be mistaken for that of a part: for none, or for one much like it."""
    if history.kind == "no_first_compression":
        return True
    if history.kind not in ("other_q1", "other_shift"):
        return False
    if history.qf1 is not None and abs(history.qf1 - nearest_qf(base.table)) > ALIKE:
        return False
    if history.grid_shift is None:
        return True
    off = [(a - b) % BLOCK for a, b in zip(history.grid_shift, _place(base, origin), strict=True)]
    return max(min(d, BLOCK - d) for d in off) <= NEXT


def _shared(history: History, here: npt.NDArray[np.bool_], found: WindowPosteriors) -> bool:
    """Whether the rest of an image shows the grid of a part as well, though no window of it does so surely."""
    of_last = _last_grid(found.origin)
    if history.grid_shift is None or (history.kind == "first_compression" and history.grid_shift == of_last):
        return False  # the last grid's own shows everywhere
    away = far_from(here)
    index = [centre_cells(*axis) for axis in zip(found.size, found.present.shape, found.origin, strict=True)]
    weight = away[np.ix_(*index)].astype(np.float32)
    count = float(weight.sum())
    if count == 0:
        return False
    likely = summed(found.shift, weight) / count
    dy, dx = ((s - o) % BLOCK for s, o in zip(history.grid_shift, found.origin, strict=True))
    lead = likely - np.median(likely)
    own, others = lead[dy * BLOCK + dx], np.delete(lead, [0, dy * BLOCK + dx])
    return bool(own >= AS_WELL or (own >= MOST_OF_ALL and own > others.max()))
