"""A scanner that does what the file's text says, so that tests of the run need no model. Workers import it by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from jscan import __version__, filetypes, reading, worker
from jscan.errors import DeviceError, InputError, ModelError
from jscan.records import DecodedImage, Evidence, ImageRef, Maps, Region, ScanRecord, ScanResult
from jscan.rows import failed


class FakeScanner:
    """Reads `ok 0.9`, `error`, `skipped`, `kill`, `raise`, `memory`, `count`, `hang`, `slow 2`, `meet 2 0`."""

    provider = "CPU"
    models: tuple[str, ...] = ("fake@000000000000",)

    def scan(
        self,
        source: ImageRef | Path,
        *,
        rgb: bool = False,
        known: Callable[[Evidence], bool] | None = None,
        sized: Callable[[int], None] | None = None,
    ) -> ScanResult:
        """What the file asks for."""
        if not isinstance(source, ImageRef):
            source = ImageRef(str(source), os.fsencode(source))
        try:
            content, evidence = reading.read(source)
        except InputError as found:
            return ScanResult(failed(source, found.code, str(found)), None, None)
        verb, _, argument = content.decode("latin-1").partition(" ")
        base = ScanRecord(
            source.path,
            source.path_bytes,
            source.container,
            source.member,
            source.container_sha256,
            size=evidence.size,
            mtime=evidence.mtime,
            sha256=evidence.sha256,
            warnings=evidence.warnings,
            jscan_version=__version__,
            models=self.models,
        )
        if known is not None and known(evidence):
            return ScanResult(base, None, None, known=True)
        match verb:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "raise":
                raise RuntimeError("not foreseen")
            case "memory":
                raise MemoryError
            case "count":
                # Beside the folder of inputs, which nobody writes to.
                tally = Path(os.fsdecode(source.path_bytes)).parent.parent / "done.counted"
                tally.write_text(str(int(tally.read_text()) + 1 if tally.exists() else 1))
            case "hang":
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
                time.sleep(3600)
            case "meet":
                # `meet 3 0`: waits until so many inputs are at work, and leaves a mark of its own beside their folder.
                count, _, own = argument.partition(" ")
                place = Path(os.fsdecode(source.path_bytes)).parent.parent
                (place / f"{own}.met").touch()
                while len(list(place.glob("*.met"))) < int(count):
                    time.sleep(0.01)
            case "slow":
                time.sleep(float(argument))
            case "error":
                return ScanResult(replace(base, status="error", error_code="corrupt_data", error="broken"), None, None)
            case "skipped":
                return ScanResult(
                    replace(base, status="skipped", error_code="unsupported_format", error="no image"), None, None
                )
        score = float(argument) if verb == "ok" else 0.1
        regions = (Region(8, 16, 24, 32, 500, score, 75.0, (4,) * 15, (1, 2), "other_q1"),) if score >= 0.5 else ()
        record = replace(
            base,
            format="png",
            warnings=base.warnings + (("wrong_suffix",) if filetypes.contradicts(base.path_bytes, "png") else ()),
            width=64,
            height=48,
            components=3,
            qf_mean=90.0,
            n_regions=len(regions),
            regions=regions,
            score=score,
            coverage=0.5,
            reasons=("a region has another history",) if regions else (),
        )
        plane = np.zeros((6, 8), np.float32)
        q1, shift = np.zeros((15, 6, 8), np.float32), np.zeros((2, 6, 8), np.float32)
        maps = Maps(plane, plane, plane, q1, plane, plane, shift, plane)
        pixels = np.full((48, 64), 128, np.uint8)
        image = DecodedImage(pixels, np.stack([pixels] * 3, -1) if rgb else None, "png", 3)
        return ScanResult(record, maps, image)


def open_fake(device: str, *_: object, **__: object) -> FakeScanner:
    """In place of `open_scanner` and `open_in_worker` of `jscan.worker`."""
    if device.startswith("cuda"):
        raise DeviceError("--device cuda: no GPU can be used here")
    return FakeScanner()


def open_noting(
    folder: Path,
    device: str,
    max_pixels: int,
    threads: int,
    max_memory: int = 0,
    estimator: str = "comb",
    thorough: bool = False,
    batch: int = 0,
    sharing: int = 1,
) -> worker.ScannerLike:
    """What `jscan.worker.open_in_worker` makes of the device: it is written to `<process>.device` in the folder.

    What is said of the windows that are looked at together lies beside it, in `<process>.batch`.
    """

    def noted(device: str, *_: object, **given: object) -> FakeScanner:
        (folder / f"{os.getpid()}.device").write_text(device)
        (folder / f"{os.getpid()}.batch").write_text(f"{given['batch']} {given['sharing']}")
        return FakeScanner()

    worker.open_scanner = noted
    return worker.open_in_worker(device, max_pixels, threads, max_memory, estimator, thorough, batch, sharing)


def open_broken(*_: object, **__: object) -> FakeScanner:
    """A scanner whose model is damaged."""
    raise ModelError("weights/fake/model.onnx is damaged")


def make_inputs(folder: Path, **contents: str) -> Path:
    """The folder, holding one file for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.jpg").write_text(content)
    return folder
