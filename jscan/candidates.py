"""Which grid shifts are looked at: the few that a scout names, and a sample that stands for all others.

A first compression shows at one of 64 shifts; what a comb network needs of the others is their mean and, in its
attention, their weight. Shifts that share a row or a column with the last grid look different from the rest, so the
sample is stratified: each sampled shift counts for those of its kind that are not looked at themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SHIFTS = 64
CLAIM = 0.15
"""Posterior of a window beyond which it speaks for a shift.

In tiles of 32 x 32 windows with a pasted part of 64 x 64 pixels, the part's shift was among the tile's first three
in 0.75 of cases; with 3 / 64, three times chance, in 0.56.
"""
LEAST = 0.1
"""What windows must say beyond that, together, for a shift to be looked at."""

TELLING = 49_152
"""Windows of an image that are as good as certain of a shift: with a part of them, as many times as many are looked at.
Of pieces of 768 x 768 pixels, 2,304 windows, whose first quality was above the last one by 2 to 4, the right shift was
the first or second in 4 of 10, and among 16 in 8. With 2 for all of them the accuracy of Q1 fell short of that with all
64 shifts by 0.015 (CLIC, QF2 = 80), with 16 by 0.006."""

FLOOR = 0.01
"""Added to posteriors before their logs are summed up over windows."""


@dataclass(frozen=True)
class Strata:
    """Kinds of shifts, and how many of each are taken into the sample."""

    members: tuple[tuple[int, ...], ...]
    """The shifts of each kind, in the order in which they are taken into the sample."""
    sampled: tuple[int, ...]
    """Size of the sample of each kind; 0 for one that is looked at in any case."""
    of_image: tuple[int, int]
    """Least and most shifts that are looked at because the whole image speaks for them."""


def _spaced(shifts: Iterable[int], *first: int) -> tuple[int, ...]:
    """The shifts, those named first before the others."""
    return (*first, *(s for s in shifts if s not in first))


GRID_KNOWN = Strata(
    (
        (0,),
        _spaced(range(1, 8), 3, 5, 1, 7),
        _spaced(range(8, 64, 8), 24, 40, 8, 56),
        _spaced((s for s in range(9, 64) if s % 8), 29, 50, 12, 43, 22, 57, 38),
    ),
    (0, 1, 1, 3),
    (2, 16),
)
"""Where the last grid is known: itself, the shifts in its rows, in its columns, and those apart from both."""
GRID_UNKNOWN = Strata((_spaced(range(SHIFTS), 29, 2, 48, 11, 39, 22, 57, 5, 32, 60),), (5,), (2, 2))
"""Where it is not, all shifts are alike, and the last compression's grid shows in every window."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The shifts that are looked at in some part of an image."""

    place: npt.NDArray[np.int64]
    """(S,) shifts, dy * 8 + dx; those of the sample last."""
    stands_for: npt.NDArray[np.float32]
    """(S,) how many of the 64 shifts each counts for; they add up to 64."""
    strata: Strata

    def spread(self, shift: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(n, 64) log-posterior of all shifts from that of the ones looked at, (n, S).

        What a sampled shift got is shared out evenly among those that it stands for.
        """
        each = shift - np.log(self.stands_for)
        out = np.empty((len(shift), SHIFTS), np.float32)
        place, stands_for = self.place.tolist(), self.stands_for.tolist()
        for members in self.strata.members:
            unseen = [s for s in members if s not in place]
            if unseen:
                mine = [k for k, s in enumerate(place) if s in members and stands_for[k] != 1]
                out[:, unseen] = np.logaddexp.reduce(each[:, mine], axis=1, keepdims=True) - np.float32(
                    np.log(len(mine))
                )
        out[:, self.place] = each
        return out


ALL = Candidates(np.arange(SHIFTS), np.ones(SHIFTS, np.float32), GRID_UNKNOWN)
"""All shifts, each for itself."""


def shifts_of_image(windows: int, strata: Strata) -> int:
    """How many shifts are looked at because an image of so many windows speaks for them."""
    least, most = strata.of_image
    return min(max(TELLING // max(windows, 1), least), most)


def choose(ranked: Iterable[int], most: int, strata: Strata) -> Candidates:
    """The first `most` of the shifts named, the kinds that are looked at in any case, and a sample of the others."""
    always = [s for members, size in zip(strata.members, strata.sampled, strict=True) if size == 0 for s in members]
    picked = always + [s for s in dict.fromkeys(int(s) for s in ranked) if s not in always][:most]
    place, stands_for = list(picked), [1.0] * len(picked)
    for members, size in zip(strata.members, strata.sampled, strict=True):
        others = [s for s in members if s not in picked]
        taken = others[:size]
        place += taken
        stands_for += [len(others) / max(len(taken), 1)] * len(taken)
    return Candidates(np.array(place, np.int64), np.array(stands_for, np.float32), strata)


def votes(shift: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(64,) how much windows (n, 64) speak for each shift: what their posteriors, as logs, give it beyond CLAIM."""
    total: npt.NDArray[np.float64] = np.maximum(np.exp(shift) - CLAIM, 0).sum(axis=0, dtype=np.float64)
    return total


def evidence(shift: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(64,) the log-likelihood of each shift if all windows (n, 64) shared it; none can veto one."""
    total: npt.NDArray[np.float64] = np.log(np.exp(shift) + FLOOR).sum(axis=0, dtype=np.float64)
    return total
