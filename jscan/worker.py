"""What runs in the worker processes of a scan: the scanner they open, and one input from its reference to its receipt.

It is apart from the run so that a worker imports nothing that only the parent needs, PyArrow first of all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jscan import limits, stages
from jscan.config import devices
from jscan.engine import Ask, MoreTime, place
from jscan.errors import ErrorCode
from jscan.records import Evidence, ImageRef, ScanRecord, ScanResult, travels
from jscan.stages import Times, stage

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
    times: Times = field(default_factory=dict)
    """What was spent in the stages; empty where nobody asked."""


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


def open_scanner(
    device: str,
    max_pixels: int,
    threads: int,
    *,
    estimator: str = "comb",
    thorough: bool = False,
    batch: int = 0,
    sharing: int = 1,
) -> ScannerLike:
    """A scanner, its models checked; each is loaded when it is first wanted. Raises ModelError and DeviceError.

    This process belongs to it alone: OpenCV, which would take as many threads as there are cores in every worker, gets
    one.
    """
    import cv2

    from jscan.scan import Scanner

    cv2.setNumThreads(1)
    return Scanner(
        device=device,
        max_pixels=max_pixels,
        threads=threads,
        estimator=estimator,
        thorough=thorough,
        batch=batch,
        sharing=sharing,
    )


def open_in_worker(
    device: str,
    max_pixels: int,
    threads: int,
    max_memory: int,
    estimator: str = "comb",
    thorough: bool = False,
    batch: int = 0,
    sharing: int = 1,
) -> ScannerLike:
    """The scanner of a worker process, whose stderr goes nowhere and whose memory is limited from here on.

    Where `device` names several GPUs, the workers share them out: the third takes the first again where there are two.
    So many workers are `sharing` each.
    `max_memory` is in MiB; 0 sets no limit. A worker on a GPU has none: CUDA reserves address space as it likes.
    """
    limits.forbid_core_dumps()
    limits.collect_garbage_rarely()
    named = devices(device)
    scanner = open_scanner(
        named[place() % len(named)],
        max_pixels,
        threads,
        estimator=estimator,
        thorough=thorough,
        batch=batch,
        sharing=sharing,
    )
    if max_memory and scanner.provider == "CPU":
        further = (threads - 1) * limits.PER_TILE  # of tiles computed at the same time
        limits.limit_memory(max_memory * limits.MIB + threads * limits.PER_THREAD + further)
    # What C libraries print about bad files (libtiff does) would land in the middle of the progress bar.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    return scanner


class OutOfMemoryError(MemoryError):
    """One input took more memory than there was; its first argument is the receipt."""


def scan_one(
    heatmaps: Path | None, maps: Path | None, profile: bool, scanner: ScannerLike, ref: ImageRef, ask: Ask
) -> Receipt:
    """The receipt of one input, its heatmap and maps written; with `profile` the stages are measured.

    Raises OutputError where those cannot be, and OutOfMemoryError, so that the engine tries it in a fresh process.
    """
    with stages.measuring(profile) as times:
        result = _scan(heatmaps, maps, scanner, ref, ask)
    receipt = Receipt(result.record, result.known, scanner.provider, scanner.models, times)
    if result.record.error_code == ErrorCode.MEMORY:
        raise OutOfMemoryError(receipt)
    return receipt


def _scan(heatmaps: Path | None, maps: Path | None, scanner: ScannerLike, ref: ImageRef, ask: Ask) -> ScanResult:
    """What the scanner says of one input, its heatmap and maps written."""

    def sized(pixels: int) -> None:
        if pixels > PIXELS_A_TIMEOUT:
            ask(MoreTime(pixels / PIXELS_A_TIMEOUT))

    result = scanner.scan(ref, rgb=heatmaps is not None, known=ask, sized=sized)
    record = result.record
    if record.sha256 and result.maps is not None and result.image is not None and (heatmaps or maps):
        from jscan import heatmap

        with stage("write"):
            if heatmaps is not None:
                drawn = heatmap.draw(result.image, result.maps, record, max_side=HEATMAP_SIDE)
                heatmap.write_png(heatmaps / f"{record.sha256}.png", drawn)
            if maps is not None:
                heatmap.write_maps(maps / f"{record.sha256}.npz", result.maps)
    return result
