"""How findings are worded, wherever people read them: in sentences of a row, legends of heatmaps, and the terminal."""

from __future__ import annotations

from typing import NamedTuple

from jscan.jpegtables import LOWEST_QF1


class Words(NamedTuple):
    """What one kind of region is called."""

    name: str
    """In a table or a legend."""
    sentence: str
    """What is said of such a region, behind its name."""


KINDS = {
    "other_q1": Words("other first quantisation", "was first compressed with another table than the rest"),
    "other_shift": Words(
        "other grid",
        "was first compressed on another block grid than the rest, as a part moved or pasted in would be",
    ),
    "no_first_compression": Words(
        "no first compression", "shows no trace of the first compression that the rest shows"
    ),
    "no_background_trace": Words(
        "without the background's trace",
        "lacks the trace of the first compression that the rest shows; it is too small to say more",
    ),
    "first_compression": Words("compressed before, unlike the rest", "shows a first compression that the rest lacks"),
    "jpeg_in_uncompressed": Words("JPEG in an uncompressed image", "shows JPEG compression, the rest none"),
    "uncompressed_in_jpeg": Words("uncompressed in a JPEG's pixels", "shows no JPEG compression, the rest does"),
    "other_qf": Words("other quality", "was last compressed with another quality than the rest"),
}
"""All kinds of regions, and their words."""


def is_bound(qf: float, *, first: bool) -> bool:
    """Whether this quality factor means at most that: of a first compression, whose table was estimated, no lower one
    than `LOWEST_QF1` is told apart."""
    return first and qf <= LOWEST_QF1


def quality(qf: float, *, first: bool) -> str:
    """A quality factor in words: `about 83`, or `at most 50` of a first compression."""
    return f"{'at most' if is_bound(qf, first=first) else 'about'} {qf:.0f}"
