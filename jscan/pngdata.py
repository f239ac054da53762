"""Whether the compressed data of a PNG hold all of its rows: a decoder may be silent about those that are missing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of one pixel, by the type of its colours
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row and steps of the passes of an interlaced image."""
_PIECE = 1 << 14  # bytes inflated at a time; at most 16 MiB come out of them


def inflated_size(header: bytes) -> int:
    """Bytes of all rows, each with its filter in front, by the body of an IHDR. Raises KeyError for unknown colours."""
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _SAMPLES[colours]
    total = 0
    for left, top, across, down in _ADAM7 if interlaced else _WHOLE:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def holds(parts: Iterable[memoryview], size: int) -> bool:
    """Whether so many bytes come out of the zlib stream that lies in these parts. Raises zlib.error."""
    stream = zlib.decompressobj()
    for part in parts:
        for at in range(0, len(part), _PIECE):
            size -= len(stream.decompress(part[at : at + _PIECE]))
            if size <= 0:
                return True
    return False


def last_row(header: bytes) -> int:
    """The row that is decoded last of all: the last one, or that of the last pass."""
    height, interlaced = int.from_bytes(header[4:8], "big"), header[12]
    return (height - 2) | 1 if interlaced else height - 1
