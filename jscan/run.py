"""A whole run: check where the output goes, scan everything with an engine, write the results.

The parent holds no image and no map: workers write heatmaps and maps themselves and send back one row per input. Rows
go to shard files in `<out>.run/` as they come, and are merged, sorted, into the final file when all are there.
"""

from __future__ import annotations

import contextlib
import heapq
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO

from jscan import __version__, limits, parquet
from jscan.config import ScanConfig
from jscan.discover import discover, display_path
from jscan.engine import Ask, Engine, Outcome
from jscan.engine.local import run as local_engine
from jscan.errors import SKIP_CODES, ErrorCode, LockedError, OutputError, SetupError, UsageError
from jscan.records import ImageRef, ScanRecord, ScanResult

SHARD_ROWS = 1000
"""Rows held in memory before they go to a shard file."""
HEATMAP_SIDE = 1600
"""Longest side of a heatmap in pixels."""
N_TOP = 10
"""How many of the highest scoring images the summary names."""
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "simplejpeg", "pyarrow", "onnxruntime", "onnxruntime-gpu")
"""Distributions whose versions stand in the run manifest."""


class Progress(Protocol):
    """What a run tells its caller while it works. All but `total` are called on the caller's thread."""

    wants_total: bool
    """Whether the inputs are to be counted, which walks the folders a second time, beside the scan."""

    def total(self, inputs: int) -> None:
        """Nothing; told how many inputs there are, once they are counted. Called on another thread."""
        ...

    def device(self, provider: str, workers: int) -> None:
        """Nothing; told, once, on what the models run (`CPU` or `CUDA`), and in how many processes at most."""
        ...

    def row(self, record: ScanRecord) -> None:
        """Nothing; told of every finished input."""
        ...


class Silent:
    """A Progress that shows nothing."""

    wants_total = False

    def total(self, inputs: int) -> None:
        """Nothing."""

    def device(self, provider: str, workers: int) -> None:
        """Nothing."""

    def row(self, record: ScanRecord) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One image that the summary names."""

    path: str
    score: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run came to."""

    out: Path
    heatmaps: Path | None
    maps: Path | None
    rows: int
    by_status: Mapping[str, int]
    """Rows for each of `ok`, `skipped`, `error`."""
    by_code: Mapping[str, int]
    """Rows for each error code."""
    top: tuple[Finding, ...]
    """The images with the highest scores, the highest first."""
    pixels: int
    """Pixels of all images with status `ok`."""
    seconds: float
    provider: str | None
    """`CPU` or `CUDA`; None where no input needed a model."""
    workers: int
    """Processes at most."""

    @property
    def errors(self) -> int:
        """How many rows say `error`."""
        return self.by_status.get("error", 0)

    @property
    def max_score(self) -> float | None:
        """The highest score, or None where nothing was estimated."""
        return self.top[0].score if self.top else None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What comes back from a worker for one input: the row, and no pixels."""

    record: ScanRecord
    provider: str
    models: tuple[str, ...]


class ScannerLike(Protocol):
    """What a run needs of a scanner."""

    provider: str
    models: tuple[str, ...]

    def scan(self, source: ImageRef | Path, *, rgb: bool = False) -> ScanResult:
        """The row, the maps and the image of one input; never raises for a bad one."""
        ...


def run_scan(config: ScanConfig, *, progress: Progress | None = None, engine: Engine = local_engine) -> RunSummary:
    """What the run came to; `config.out` and the folders hold the results when it returns.

    Raises OutputError, before any image is opened, where an output cannot be written or exists already; UsageError for
    a source that does not exist or an output inside a source; ModelError and DeviceError from the workers; LockedError
    where another run is writing the same output. After any of these, and after KeyboardInterrupt, nothing new stands
    under the name `config.out`, and `<out>.run/` is gone. Heatmaps and maps that were already written stay.
    """
    progress = progress or Silent()
    refs = discover(config.sources, include=config.include, exclude=config.exclude, limit=config.limit)
    _check_outputs(config)
    started, clock = datetime.now(UTC), time.monotonic()
    cores = usable_cores()
    workers = config.workers or cores
    # More than one process already keeps every core busy; a lone one may use them all.
    init = partial(open_in_worker, config.device, config.max_pixels, cores if workers == 1 else 1, config.max_memory)
    task = partial(scan_one, config.heatmaps, config.maps)
    tally = _Tally()
    with _workspace(config) as folder, _json_log(config.json_log) as log, _counting(config, progress):
        log("run_started", {"arguments": _arguments(config), "jscan": __version__})
        shards = _Shards(folder)

        def take(record: ScanRecord) -> None:
            tally.add(record)
            shards.add(record)
            progress.row(record)
            log("row", json_row(record, brief=True))

        def readable() -> Iterator[ImageRef]:
            """The references that a worker is needed for; the others become rows in passing."""
            for ref in refs:
                if ref.refused is None:
                    yield ref
                else:
                    take(_failed(ref, *ref.refused))

        engaged = engine(task, readable(), init=init, workers=workers, timeout=config.timeout or None)
        with contextlib.closing(engaged) as outcomes:
            for outcome in outcomes:
                receipt = outcome.value
                if receipt is None:
                    take(_fault(outcome))
                    continue
                if not tally.providers:
                    progress.device(receipt.provider, workers)
                    log("device", {"provider": receipt.provider, "models": receipt.models, "workers": workers})
                tally.providers.add(receipt.provider)
                tally.models.update(receipt.models)
                take(receipt.record)
        shards.flush()
        manifest = _manifest(config, tally, started, workers)
        parquet.merge(shards.paths, config.out, manifest, overwrite=config.overwrite)
        log("run_finished", manifest)
    return RunSummary(
        out=config.out,
        heatmaps=config.heatmaps,
        maps=config.maps,
        rows=tally.rows,
        by_status=dict(sorted(tally.by_status.items())),
        by_code=dict(sorted(tally.by_code.items())),
        top=tally.top(),
        pixels=tally.pixels,
        seconds=time.monotonic() - clock,
        provider="+".join(sorted(tally.providers)) or None,
        workers=workers,
    )


def usable_cores() -> int:
    """How many cores this process may run on, which is fewer than the machine has where it was confined."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def json_row(record: ScanRecord, *, brief: bool = False) -> dict[str, Any]:
    """The row as values that JSON knows: times in ISO 8601, bytes in hexadecimal. `brief` leaves out long columns."""
    row = record.as_dict()
    row["path_bytes"] = record.path_bytes.hex()
    row["mtime"] = record.mtime.isoformat() if record.mtime else None
    if brief:
        keep = ("path", "sha256", "status", "error_code", "error", "warnings", "width", "height", "n_regions", "score")
        row = {key: row[key] for key in (*keep, "decode_ms", "estimate_ms")}
    return row


# --- in the workers ---------------------------------------------------------------------------------------------------


def open_scanner(device: str, max_pixels: int, threads: int) -> ScannerLike:
    """A scanner, its models loaded. Raises ModelError and DeviceError."""
    from jscan.scan import Scanner

    return Scanner(device=device, max_pixels=max_pixels, threads=threads)


def open_in_worker(device: str, max_pixels: int, threads: int, max_memory: int) -> ScannerLike:
    """The scanner of a worker process, whose stderr goes nowhere and whose memory is limited from here on.

    `max_memory` is in MiB; 0 sets no limit. A worker on a GPU has none: CUDA reserves address space as it likes.
    """
    limits.forbid_core_dumps()
    scanner = open_scanner(device, max_pixels, threads)
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
    result = scanner.scan(ref, rgb=heatmaps is not None)
    record = result.record
    if record.sha256 and result.maps is not None and result.image is not None and (heatmaps or maps):
        from jscan import heatmap

        if heatmaps is not None:
            drawn = heatmap.draw(result.image, result.maps, record, max_side=HEATMAP_SIDE)
            heatmap.write_png(heatmaps / f"{record.sha256}.png", drawn)
        if maps is not None:
            heatmap.write_maps(maps / f"{record.sha256}.npz", result.maps)
    receipt = Receipt(record, scanner.provider, scanner.models)
    if record.error_code == ErrorCode.MEMORY:
        raise OutOfMemoryError(receipt)
    return receipt


# --- in the parent ----------------------------------------------------------------------------------------------------


class _Tally:
    """The counts of a run; its size does not grow with the number of inputs."""

    def __init__(self) -> None:
        self.rows = 0
        self.pixels = 0
        self.by_status: Counter[str] = Counter()
        self.by_code: Counter[str] = Counter()
        self.providers: set[str] = set()
        self.models: set[str] = set()
        self._top: list[tuple[float, int, Finding]] = []

    def add(self, record: ScanRecord) -> None:
        """Nothing; counts the row."""
        self.rows += 1
        self.by_status[record.status] += 1
        if record.error_code is not None:
            self.by_code[record.error_code] += 1
        if record.status == "ok":
            self.pixels += (record.width or 0) * (record.height or 0)
        if record.score is not None:
            finding = Finding(record.path, record.score, record.reasons)
            # The row's number settles ties; without it the heap would compare findings.
            heapq.heappush(self._top, (record.score, -self.rows, finding))
            if len(self._top) > N_TOP:
                heapq.heappop(self._top)

    def top(self) -> tuple[Finding, ...]:
        """The highest scoring images, the highest first."""
        return tuple(sorted((f for _, _, f in self._top), key=lambda f: (-f.score, f.path)))


class _Shards:
    """Rows on their way to the disk."""

    def __init__(self, folder: Path) -> None:
        self.paths: list[Path] = []
        self._folder = folder
        self._rows: list[ScanRecord] = []

    def add(self, record: ScanRecord) -> None:
        """Nothing; writes a shard when it is full."""
        self._rows.append(record)
        if len(self._rows) >= SHARD_ROWS:
            self.flush()

    def flush(self) -> None:
        """Nothing; writes what is left."""
        if self._rows:
            path = self._folder / f"{len(self.paths):08d}.parquet"
            parquet.write_shard(path, self._rows)
            self.paths.append(path)
            self._rows = []


class _Log(Protocol):
    def __call__(self, event: str, facts: Mapping[str, Any]) -> None: ...


def _fault(outcome: Outcome[ImageRef, Receipt]) -> ScanRecord:
    """The row of an input whose worker died or raised. Raises the error itself where it concerns the whole run."""
    if outcome.kind == "crashed":
        return _failed(outcome.item, ErrorCode.WORKER_CRASH, outcome.message)
    if outcome.kind == "timed_out":
        return _failed(outcome.item, ErrorCode.TIMEOUT, f"{outcome.message}; a longer --timeout may help")
    if isinstance(outcome.error, OutOfMemoryError):
        receipt: Receipt = outcome.error.args[0]
        return receipt.record
    if isinstance(outcome.error, SetupError):
        raise outcome.error
    code = ErrorCode.MEMORY if isinstance(outcome.error, MemoryError) else ErrorCode.INTERNAL
    return _failed(outcome.item, code, outcome.message)


def _failed(ref: ImageRef, code: str, sentence: str) -> ScanRecord:
    """The row of an input that no worker has read."""
    return ScanRecord(
        path=ref.path,
        path_bytes=ref.path_bytes,
        container=ref.container,
        member=ref.member,
        status="skipped" if code in SKIP_CODES else "error",
        error_code=str(code),
        error=sentence,
        jscan_version=__version__,
    )


def _check_outputs(config: ScanConfig) -> None:
    """Nothing; makes the folders for heatmaps and maps. Raises where something could not be written later."""
    out = config.out
    named = {"--out": out, "--heatmaps": config.heatmaps, "--maps": config.maps, "--json-log": config.json_log}
    for flag, path in named.items():
        if path is not None:
            _check_outside(flag, path, config.sources)
    if out.is_dir():
        raise OutputError(f"--out {out} is a folder; name a file in it, such as {out / 'results.parquet'}")
    if not config.overwrite and os.path.lexists(out):
        raise OutputError(f"--out {out} exists already; name another file, or add --overwrite to replace it")
    for flag in ("--out", "--json-log"):
        path = named[flag]
        if path is not None and not path.parent.is_dir():
            raise OutputError(f"{flag} {path} cannot be written: there is no folder {path.parent}; make it first")
    for flag in ("--heatmaps", "--maps"):
        folder = named[flag]
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise OutputError(f"{flag} {folder} cannot be written to: {error.strerror}") from error


def _check_outside(flag: str, path: Path, sources: Iterable[Path]) -> None:
    """Nothing. Raises UsageError where the path is a source, or lies inside one: evidence is never written to."""
    real = path.resolve()
    for source in sources:
        real_source = source.resolve()
        if real == real_source:
            raise UsageError(f"{flag} {path} is itself to be scanned; name another place")
        if real_source in real.parents and real_source.is_dir():
            raise UsageError(
                f"{flag} {path} lies inside {source}, which is scanned and never written to; name a place outside"
            )


@contextlib.contextmanager
def _workspace(config: ScanConfig) -> Iterator[Path]:
    """The folder for the shards, locked against a second run and removed at the end, however that comes."""
    folder = config.out.with_name(config.out.name + ".run")
    try:
        folder.mkdir(exist_ok=True)
        lock = open(folder / "lock", "ab")  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"--out {config.out} cannot be written: {folder}: {error.strerror}") from error
    with lock:
        if not _locked(lock.fileno()):
            raise LockedError(f"another run is writing {config.out}; wait for it, or name another file with --out")
        try:
            # Only a run that was killed leaves shards behind.
            for stale in folder.glob("*.parquet"):
                stale.unlink()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _locked(descriptor: int) -> bool:
    """Whether this process now holds the lock; it falls by itself when the process ends, however that comes."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock, and the last one to finish wins
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems know no locks
        return True
    # The run before may have removed the file between our opening it and our locking it.
    return os.fstat(descriptor).st_nlink > 0


@contextlib.contextmanager
def _json_log(path: Path | None) -> Iterator[_Log]:
    """A function that appends one event as a line of JSON; it does nothing where there is no path."""
    if path is None:
        yield lambda event, facts: None
        return
    try:
        stream: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"--json-log {path} cannot be written: {error.strerror}") from error

    def log(event: str, facts: Mapping[str, Any]) -> None:
        line = {"time": datetime.now(UTC).isoformat(), "event": event, **facts}
        try:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
        except OSError as error:
            raise OutputError(f"--json-log {path} cannot be written: {error.strerror}") from error

    with stream:
        yield log


@contextlib.contextmanager
def _counting(config: ScanConfig, progress: Progress) -> Iterator[None]:
    """A context beside which the inputs are counted, where the progress wants to know."""
    if not progress.wants_total:
        yield
        return
    stop = threading.Event()

    def count() -> None:
        inputs = 0
        refs = discover(config.sources, include=config.include, exclude=config.exclude, limit=config.limit)
        for inputs, _ in enumerate(refs, 1):  # noqa: B007
            if stop.is_set():
                return
        progress.total(inputs)

    thread = threading.Thread(target=count, name="jscan-count", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _arguments(config: ScanConfig) -> dict[str, Any]:
    """The options as values that JSON knows."""
    plain: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(config)}
    return {
        key: [_plain(v) for v in value] if isinstance(value, tuple) else _plain(value) for key, value in plain.items()
    }


def _plain(value: Any) -> Any:
    return display_path(os.fsencode(value)) if isinstance(value, Path) else value


def _manifest(config: ScanConfig, tally: _Tally, started: datetime, workers: int) -> dict[str, Any]:
    """What the run was: versions, models, device, host, times, arguments, limits, counts."""
    return {
        "jscan": __version__,
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
        "models": sorted(tally.models),
        "device": config.device,
        "provider": sorted(tally.providers),
        "host": platform.node(),
        "platform": platform.platform(),
        "started": started.isoformat(),
        "ended": datetime.now(UTC).isoformat(),
        "arguments": _arguments(config),
        "fingerprint": config.fingerprint(),
        "limits": {
            "max_pixels": config.max_pixels,
            "timeout": config.timeout,
            "max_memory": config.max_memory,
            "limit": config.limit,
        },
        "workers": workers,
        "rows": tally.rows,
        "by_status": dict(sorted(tally.by_status.items())),
        "by_error_code": dict(sorted(tally.by_code.items())),
    }


def _version(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
