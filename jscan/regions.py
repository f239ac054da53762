"""From the suspicion map to regions: connected parts of the image, each with the history found in it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan import doubts
from jscan.clipping import Colours
from jscan.history import Background
from jscan.jpegtables import N_COEFS, Q1_OFFSET, nearest_qf
from jscan.kept import Left
from jscan.records import Region, WindowPosteriors
from jscan.score import probability, smooth
from jscan.tiling import BLOCK, WINDOW, nearest_window

SUSPICIOUS = 0.0
"""Smoothed logit from which a cell may belong to a region."""
SMALLEST = 9
"""Cells of the smallest region that is looked at: 24 x 24 pixels."""
MOST_WINDOWS = 4000
"""Windows whose posteriors are averaged for one region; more would take memory and change nothing."""
NOTHING = -8.0
"""Smoothed logit of cells that hold no information."""
UNNAMED = -0.7
"""Smoothed logit, at most, of parts that differ from the background in nothing that can be named; they count as doubt
and are not regions: on photographs as cameras wrote them these were all that scored high."""
NOT_NAMED = 0.45
"""Score, at most, of an image in which no part can be named that is likely by itself: nobody is accused without being
told of what. Of 865 forgeries that were found all had one; of 7,072 pristine pictures with odd tones or frames the
three that had none, but weak parts that came to 0.5 and 0.6 together, were false alarms."""
SURROUND = 2
"""Cells around a region that count for its score, so that a small one is not judged by its size alone."""
LACKING = "no_background_trace"
"""Kind of a part that is too small for a window of its own, and of which nothing is known but that the trace of the
background's first compression is missing there."""
BY_CHANCE = 1e-5
"""Number of places of 24 x 24 pixels in an image where so much may speak against the background by chance. It is so
small because blocks are not independent: where colours were clipped between two compressions, many lack the trace."""
ALONE = 2.0
"""Times that as much speaks against the background in such a part as anywhere among the cells that are not suspicious,
at least: a picture with clipped colours has many places without the trace."""
SUREST = 3.0
"""Log-odds, at most, of a place that is suspicious for nothing else, which makes a score of 0.7 to 0.9: of 832 pristine
images, a third of them with clipped colours, 5 had one."""
NO_WINDOW = WINDOW // 2 // BLOCK
"""Cells from a part's edge to its middle at which a window of 64 x 64 pixels lies inside it."""
CLIPPED = 0.5
"""Mean share of pixels with a clipped colour from which a part is but a doubt: of pristine pictures whose tone
was changed between two compressions four of five false regions had more, of forgeries one region of twenty."""
GREY_AGAINST = 400.0
"""Nats that the blocks of a part speak against the background's first compression, at least, if the image has no
colours and the part is said to lack it: of parts that were pasted into grey photographs those of a twentieth of the
image and more had 420 to 8,900, of 84 photographs that were made grey the two for which it was said had 140 and 290."""
PRESENT, ABSENT = 0.6, 0.4
"""Mean probability of the compression above and below which a region counts as having, or lacking, it."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """What the consistency model found in an image."""

    suspicion: npt.NDArray[np.float32]
    """(ceil(H / 8), ceil(W / 8)) smoothed probability of another history."""
    regions: tuple[Region, ...]
    """The strongest first."""
    score: float
    """Calibrated probability that the image holds such a region."""
    kept: Left | None = None
    """What is left of the background's first compression, where that was asked and can be told."""
    strongest: float = 0.0
    """Score of the strongest part, whether it counts or was set aside."""
    incomparable: float = 0.0
    """Share of the cells that are in parts which would be regions, had the rest anything to compare them with."""


def find(
    logits: npt.NDArray[np.float32],
    found: WindowPosteriors,
    base: Background,
    calibration: Mapping[str, Any],
    texture: npt.NDArray[np.floating[Any]],
    ask: doubts.Witnesses = doubts.NOBODY,
    *,
    least: float = 0.5,
) -> Consistency:
    """Suspicion, score, and the regions whose score is at least `least`.

    `logits` (ceil(H / 8), ceil(W / 8)) are the consistency model's answers at the cells of the image; `texture` (R,
    C) is the standard deviation of the pixels of each window; `ask` of any part that may be named.
    """
    smoothed = smooth(logits)
    missing = None if ask.likely is None else ask.likely.around_cells(least_missing(smoothed.size))
    if missing is not None:
        _raise_where_alone(smoothed, missing)
    labels, parts = _parts(smoothed)
    of_any = labels > 0
    deviation = _over_cells(texture, found)
    silent, incomparable, strongest = np.zeros(smoothed.shape, bool), 0, 0.0
    named = []
    left = None
    settled = functools.cache(lambda: doubts.settled(ask.agreement, ask.colours, found.size, of_any))
    kept, colours = ask.kept, ask.colours
    rest = functools.cache(lambda: None if kept is None else kept_by_rest(kept, of_any, found, base, colours))
    for part in parts:
        here = labels == part.label
        own = _strength(part, labels, smoothed, smoothed.size, calibration)
        strongest = max(strongest, own)
        if not _comparable(here, labels, deviation):
            silent |= here
            incomparable += int(here.sum()) if own >= least else 0
            continue
        if ask.agreement is not None and doubts.agrees(here, smoothed, ask.agreement):
            smoothed[here] = NOTHING
            continue
        if ask.since is not None and doubts.changed_since(here, smoothed, ask.since):
            smoothed[here] = np.minimum(smoothed[here], UNNAMED)
            continue
        alone = _strength(part, labels, smoothed, 1, calibration)
        case = doubts.Case(here, of_any, alone, smoothed, found, base, ask, settled)
        history = _history(found, base, part.box, here[part.box])
        if history.is_unclear:
            history = _history(found, base, part.box, doubts.surer_half(here, smoothed)[part.box])
        history = doubts.reconsidered(history, case)
        if history.is_unclear and ask.shared and missing is not None:
            lacking = _lacks_trace(here[part.box], here, labels, missing)
            there = lacking and ask.lacks is not None and ask.lacks(here) < doubts.SHORT
            history = doubts.History(LACKING) if lacking and not there else history
        if history.kind in (*doubts.OTHER, LACKING):
            left = rest()
            history = doubts.UNCLEAR if doubts.worn(left) else history
        if history.is_unclear or _hidden(history, case):
            smoothed[here] = np.minimum(smoothed[here], UNNAMED)
        else:
            named.append((part, history if ask.told is None else ask.told(history, here)))
    smoothed[silent] = NOTHING
    score = probability(smoothed, smoothed.size, calibration)
    regions = []
    for part, history in named:
        strength = _strength(part, labels, smoothed, smoothed.size, calibration)
        if strength >= least:
            regions.append(_region(part, labels, history, strength, found.size))
    regions.sort(key=lambda r: (-r.score, -r.area, r.y, r.x))
    if not regions:
        score = min(score, NOT_NAMED)
    suspicion = (1 / (1 + np.exp(-smoothed))).astype(np.float32)
    suspicion[silent] = np.nan
    return Consistency(suspicion, tuple(regions), score, left, strongest, incomparable / smoothed.size)


def kept_by_rest(
    kept: doubts.Kept,
    parts: npt.NDArray[np.bool_],
    found: WindowPosteriors,
    base: Background,
    colours: Colours | None,
) -> Left | None:
    """What is left of the background's first compression outside of all parts.

    Of what surely shows it, if that is enough: more may have been pasted in than is suspicious. Where little is left,
    what has no clipped `colours` is asked again, if that is enough: they take as much of it as a filter does.
    """
    away = doubts.far_from(parts, SURROUND)
    shown = _over_cells(doubts.shows(found, base.shift), found)
    left = kept(None, away & shown) or kept(None, away)
    clipped = None if left is None or left.share >= doubts.KEPT_BY_REST or colours is None else colours.clipped()
    if clipped is None or not clipped.any():
        return left
    away &= doubts.far_from(clipped > 0, 1)
    return kept(None, away & shown) or kept(None, away) or left


def _hidden(history: doubts.History, case: doubts.Case) -> bool:
    """Whether what is missing in a part may be hidden there, by clipped colours or by a frame around the picture."""
    return _hidden_by_grey(history, case) or doubts.framed(case) or _hidden_by_clipping(history, case)


def _hidden_by_clipping(history: doubts.History, case: doubts.Case) -> bool:
    """Whether so many colours of a part are clipped that whatever is missing there says nothing.

    Unless blocks without clipped colours alone are sure that it lacks the background's compression. Clipping hides a
    compression; it does not make one where the background has none.
    """
    likely, colours = case.ask.likely, case.ask.colours
    if history.kind in doubts.ONLY_THERE:
        return False
    surely = history.kind in doubts.OTHER and likely is not None and likely.against(case.here) >= doubts.SURELY_AGAINST
    share = None if surely or colours is None else colours.clipped()
    return share is not None and float(share[case.here].mean()) >= CLIPPED


def _hidden_by_grey(history: doubts.History, case: doubts.Case) -> bool:
    """Whether a part that lacks the background's compression may have had clipped colours before the image was grey."""
    likely, colours = case.ask.likely, case.ask.colours
    if history.kind not in (LACKING, "no_first_compression") or colours is None or not colours.grey():
        return False
    return history.kind == LACKING or likely is None or likely.against(case.here) < GREY_AGAINST


@dataclass(frozen=True, slots=True)
class _Part:
    """A connected part of suspicious cells."""

    label: int
    box: tuple[slice, slice]


def _strength(
    part: _Part,
    labels: npt.NDArray[np.int32],
    smoothed: npt.NDArray[np.float32],
    cells: int,
    calibration: Mapping[str, Any],
) -> float:
    """The score of a part, with what is around it, in an image of so many cells."""
    around = tuple(slice(max(s.start - SURROUND, 0), s.stop + SURROUND) for s in part.box)
    own = (labels[around] == part.label) | (labels[around] == 0)
    return probability(smoothed[around][own], cells, calibration)


def _parts(smoothed: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], list[_Part]]:
    """Labels (R, C) of the connected suspicious cells, and the parts that are large enough to look at."""
    suspicious = (smoothed > SUSPICIOUS).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(suspicious, connectivity=8)
    parts = []
    for label in range(1, count):
        left, top, across, down, area = (int(v) for v in stats[label])
        if area >= SMALLEST:
            parts.append(_Part(label, (slice(top, top + down), slice(left, left + across))))
    return np.asarray(labels, np.int32), parts


def _over_cells(windows: npt.NDArray[Any], found: WindowPosteriors) -> npt.NDArray[Any]:
    """What is known of windows (R, C), at the cells of the image."""
    rows = nearest_window(found.size[0], found.present.shape[0], found.origin[0])
    cols = nearest_window(found.size[1], found.present.shape[1], found.origin[1])
    return windows[np.ix_(rows, cols)]


def _comparable(
    here: npt.NDArray[np.bool_], labels: npt.NDArray[np.int32], deviation: npt.NDArray[np.floating[Any]]
) -> bool:
    """Whether the rest of the image holds anything that a suspicious part can be compared with.

    A textured object before a plain sky shows its history where the sky shows none, though both have the same. A part
    counts only if cells outside of it, at least half as many as inside, have at least half of its texture.
    """
    least = float(np.median(deviation[here])) / 2
    return int(((deviation >= least) & (labels == 0)).sum()) >= int(here.sum()) / 2


def least_missing(cells: int) -> float:
    """Nats that must speak against the background in one of so many cells, if it is not to be by chance."""
    return float(np.log(cells / BY_CHANCE))


def _lacks_trace(
    inside: npt.NDArray[np.bool_],
    here: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int32],
    missing: npt.NDArray[np.float32],
) -> bool:
    """Whether the background's trace is missing in a part that holds no window, and nowhere else as clearly.

    By Markov's inequality a log-likelihood ratio of s or more comes by chance with probability exp(-s) at most; times
    the number of places this is the number of false alarms to be expected (Desolneux, Moisan and Morel 2000).
    """
    if float(_depth(inside).max()) >= NO_WINDOW:
        return False
    free = doubts.far_from(labels > 0, SURROUND)
    if not free.any():
        return False
    most, elsewhere = float(missing[here].max()), float(missing[free].max())
    return most >= least_missing(missing.size) and most >= ALONE * elsewhere


def _raise_where_alone(smoothed: npt.NDArray[np.float32], missing: npt.NDArray[np.float32]) -> None:
    """Nothing; the one small place that lacks the background's trace as no other does is suspicious, if there is one.

    The consistency model has seen few parts so small. What speaks against the background there, less the logarithm of
    the places over BY_CHANCE, is the log-odds of a part that BY_CHANCE images in one have: `smoothed` is at least that,
    out to where half as much speaks against the background.
    """
    peak = np.unravel_index(int(missing.argmax()), missing.shape)
    most = float(missing[peak])
    odds = most - least_missing(missing.size)
    if odds < 0:
        return
    _, labels = cv2.connectedComponents((missing >= most / 2).astype(np.uint8), connectivity=8)
    here = labels == labels[peak]
    here[tuple(slice(max(k - 1, 0), k + 2) for k in peak)] = True  # what was summed up there
    rest = doubts.far_from(here | (smoothed > SUSPICIOUS), SURROUND)
    alone = rest.any() and most >= ALONE * float(missing[rest].max())
    if alone and float(_depth(here).max()) < NO_WINDOW:
        smoothed[here] = np.maximum(smoothed[here], np.float32(min(odds, SUREST)))


def _region(
    part: _Part, labels: npt.NDArray[np.int32], history: doubts.History, strength: float, size: tuple[int, int]
) -> Region:
    """The region in pixels of an image of `size` (H, W)."""
    (rows, cols), (height, width) = part.box, size
    y, x = rows.start * BLOCK, cols.start * BLOCK
    return Region(
        y=y,
        x=x,
        height=min(rows.stop * BLOCK, height) - y,
        width=min(cols.stop * BLOCK, width) - x,
        area=_area(labels[part.box] == part.label, y, x, height, width),
        score=strength,
        qf1=history.qf1,
        q1=history.q1,
        grid_shift=history.grid_shift,
        kind=history.kind,
    )


def resample(values: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The map (R, C) stretched to another number of cells."""
    return np.asarray(cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def without(found: Consistency, dropped: tuple[Region, ...]) -> Consistency:
    """What was found in an image but for some of its regions, which turned out to be doubt."""
    if not dropped:
        return found
    kept = tuple(r for r in found.regions if r not in dropped)
    suspicion = found.suspicion.copy()
    doubt = np.float32(1 / (1 + np.exp(-UNNAMED)))
    for r in dropped:
        box = (slice(r.y // BLOCK, -(-(r.y + r.height) // BLOCK)), slice(r.x // BLOCK, -(-(r.x + r.width) // BLOCK)))
        suspicion[box] = np.minimum(suspicion[box], doubt)  # NaN where nothing is known stays
    return replace(found, suspicion=suspicion, regions=kept, score=kept[0].score if kept else NOT_NAMED)


def rescale(found: Consistency, factor: float, size: tuple[int, int]) -> Consistency:
    """What was found in an image enlarged by `factor`, in the cells and pixels of the image of `size` (H, W) itself.

    Tables and shifts of the regions hold for the enlarged image only and are left out.
    """
    shape = (-(-size[0] // BLOCK), -(-size[1] // BLOCK))
    moved = []
    for region in found.regions:
        y, x = round(region.y / factor), round(region.x / factor)
        down, across = min(round(region.height / factor), size[0] - y), min(round(region.width / factor), size[1] - x)
        moved.append(
            replace(
                region,
                y=y,
                x=x,
                height=down,
                width=across,
                area=min(round(region.area / factor**2), down * across),
                q1=None,
                grid_shift=None,
            )
        )
    return Consistency(resample(found.suspicion, shape), tuple(moved), found.score)


def _area(inside: npt.NDArray[np.bool_], y: int, x: int, height: int, width: int) -> int:
    """Pixels of the cells that lie inside the image."""
    rows = np.minimum(BLOCK, height - y - BLOCK * np.arange(inside.shape[0]))
    cols = np.minimum(BLOCK, width - x - BLOCK * np.arange(inside.shape[1]))
    return int((inside * rows[:, None] * cols[None, :]).sum())


def _depth(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """(R, C) cells from each cell of a part to the nearest outside of it; 0 outside."""
    padded = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)
    return np.asarray(padded[1:-1, 1:-1], np.float32)


def _history(
    found: WindowPosteriors, base: Background, box: tuple[slice, slice], inside: npt.NDArray[np.bool_]
) -> doubts.History:
    """Kind, QF, table and grid shift of a region, from the windows whose centres lie deepest inside it."""
    depth = _depth(inside)
    core = depth >= min(3.0, float(depth.max()))
    rows = nearest_window(found.size[0], found.present.shape[0], found.origin[0])[box[0]]
    cols = nearest_window(found.size[1], found.present.shape[1], found.origin[1])[box[1]]
    cell_y, cell_x = np.nonzero(core)
    windows = np.unique(rows[cell_y] * found.present.shape[1] + cols[cell_x])
    if len(windows) > MOST_WINDOWS:
        windows = windows[np.linspace(0, len(windows) - 1, MOST_WINDOWS).astype(np.int64)]
    r, c = np.divmod(windows, found.present.shape[1])
    present = float(found.present[r, c].mean())
    is_q1 = found.logp.shape[2] == Q1_OFFSET[-1]
    has_base = base.fraction > 0.5
    if present < ABSENT:
        kind = ("no_first_compression" if is_q1 else "uncompressed_in_jpeg") if has_base else "unclear"
        return doubts.History(kind)
    logp = np.log(np.exp(found.logp[r, c].astype(np.float32)) + 0.01).mean(axis=0)
    shift = np.log(np.exp(found.shift[r, c].astype(np.float32)) + 0.01).mean(axis=0)
    best_shift = int(np.argmax(shift))
    shift_is_sure = bool(shift[best_shift] > np.log(0.3))
    place = None
    if shift_is_sure:
        dy, dx = divmod(best_shift, 8)
        place = ((dy + found.origin[0]) % 8, (dx + found.origin[1]) % 8)
    if is_q1:
        table = tuple(int(np.argmax(logp[a:b])) + 1 for a, b in pairwise(Q1_OFFSET))
        sure = float(np.mean([logp[a:b].max() for a, b in pairwise(Q1_OFFSET)])) > np.log(0.3)
        differs = sum(abs(q - b) > b // 12 for q, b in zip(table, base.table, strict=True)) > N_COEFS // 4
        qf1 = nearest_qf(table)
    else:
        table, sure = None, bool(logp.max() > np.log(0.05))
        qf1 = float(np.argmax(logp) + 1)
        differs = abs(qf1 - base.table[0]) > 5
    if not has_base:
        kind = "first_compression" if is_q1 else "jpeg_in_uncompressed"
        kind = kind if present > PRESENT else "unclear"
    elif sure and differs:
        kind = "other_q1" if is_q1 else "other_qf"
    elif shift_is_sure and best_shift != base.shift:
        kind = "other_shift"
    else:
        kind = "no_first_compression" if is_q1 and present < PRESENT and not (sure and shift_is_sure) else "unclear"
    return doubts.History(kind, qf1 if sure else None, table if sure else None, place)
