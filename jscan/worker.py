"""What runs in a worker process: the scanner, opened once, and the work on one input."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jscan import limits
from jscan.engine import Ask, MoreTime
from jscan.errors import ErrorCode
from jscan.records import Evidence, ImageRef, ScanRecord, ScanResult, travels

PIXELS_A_TIMEOUT = 16_000_000
"""Larger images get as many timeouts as they have times this: a core takes about 20 s for so many."""
HEATMAP_SIDE = 1600
"""Longest side of a heatmap in pixels."""


@travels
@dataclass(frozen=True, slots=True)
class Receipt:
    """What comes back from a worker for one input: the row, and no pixels."""

    record: ScanRecord
    copy: bool
    """Whether the row only identifies the bytes, because their content is known."""
    provider: str
    models: tuple[str, ...]


class ScannerLike(Protocol):
    """What a run needs of a scanner."""

    provider: str
    models: tuple[str, ...]

    def scan(
        self,
        source: ImageRef | Path,
        *,
        rgb: bool = False,
        known: Callable[[Evidence], bool] | None = None,
        sized: Callable[[int], None] | None = None,
    ) -> ScanResult:
        """The row, the maps and the image of one input; never raises for a bad one."""
        ...


def open_scanner(device: str, max_pixels: int, threads: int, *, estimator: str = "comb") -> ScannerLike:
    """A scanner, its models loaded. Raises ModelError and DeviceError."""
    from jscan.scan import Scanner

    return Scanner(device=device, max_pixels=max_pixels, threads=threads, estimator=estimator)


def open_in_worker(device: str, max_pixels: int, threads: int, max_memory: int, estimator: str = "comb") -> ScannerLike:
    """The scanner of a worker process, whose stderr goes nowhere and whose memory is limited from here on.

    `max_memory` is in MiB; 0 sets no limit. A worker on a GPU has none: CUDA reserves address space as it likes.
    """
    limits.forbid_core_dumps()
    scanner = open_scanner(device, max_pixels, threads, estimator=estimator)
    if max_memory and scanner.provider == "CPU":
        limits.limit_memory(max_memory * limits.MIB + threads * limits.PER_THREAD)
    # What C libraries print about bad files (libtiff does) would land in the middle of the progress bar.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    return scanner


class OutOfMemoryError(MemoryError):
    """One input took more memory than there was; its first argument is the receipt."""


def scan_one(heatmaps: Path | None, maps: Path | None, scanner: ScannerLike, ref: ImageRef, ask: Ask) -> Receipt:
    """The receipt of one input, its heatmap and maps written.

    Raises OutputError where those cannot be, and OutOfMemoryError, so that the engine tries it in a fresh process.
    """

    def sized(pixels: int) -> None:
        if pixels > PIXELS_A_TIMEOUT:
            ask(MoreTime(pixels / PIXELS_A_TIMEOUT))

    result = scanner.scan(ref, rgb=heatmaps is not None, known=ask, sized=sized)
    record = result.record
    if record.sha256 and result.maps is not None and result.image is not None and (heatmaps or maps):
        from jscan import heatmap

        if heatmaps is not None:
            drawn = heatmap.draw(result.image, result.maps, record, max_side=HEATMAP_SIDE)
            heatmap.write_png(heatmaps / f"{record.sha256}.png", drawn)
        if maps is not None:
            heatmap.write_maps(maps / f"{record.sha256}.npz", result.maps)
    receipt = Receipt(record, result.known, scanner.provider, scanner.models)
    if record.error_code == ErrorCode.MEMORY:
        raise OutOfMemoryError(receipt)
    return receipt
