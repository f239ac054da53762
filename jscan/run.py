"""A whole run: check where the output goes, scan everything with an engine, write the results.

The parent holds no image and no map: workers write heatmaps and maps themselves and send back one row per input. Rows
go to shards in `<out>.run/` as they come, and are merged, sorted, into the final file when all are there. What is in a
shard is not computed again, whatever ends the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from jscan import __version__, limits, manifest, outputs, parquet, weights
from jscan.assemble import assemble, group_source
from jscan.atomic import remove_leftovers
from jscan.config import FREE, FREE_IN_UPDATES, STDIN, ScanConfig
from jscan.discover import discover, discover_list
from jscan.engine import Ask, Engine, MoreTime, Outcome
from jscan.engine.local import run as local_engine
from jscan.errors import ARCHIVE_CODES, SKIP_CODES, ErrorCode, OutputError, SetupError, UsageError
from jscan.journal import Header, Journal, Shard, locked, run_folder
from jscan.ledger import Before, Containers, Key, Ledger, Place
from jscan.members import ReadArchive
from jscan.outputs import Log
from jscan.records import Evidence, ImageRef, ScanRecord, ScanResult, travels
from jscan.tally import Finding, Tally
from jscan.unpack import Unpacker

SHARD_ROWS = 1000
"""Rows held in memory before they are committed."""
SHARD_SECONDS = 60.0
"""Rows are committed after this time as well, so that a killed run over large images does not lose hours."""
PIXELS_A_TIMEOUT = 16_000_000
"""Larger images get as many timeouts as they have times this: a core takes about 20 s for so many."""
COUNT_SECONDS = 5.0
"""How long the end of a run waits for the count of the inputs, which nobody needs any more."""
HEATMAP_SIDE = 1600
"""Longest side of a heatmap in pixels."""
TRY_AGAIN = frozenset(
    {
        ErrorCode.NOT_FOUND,
        ErrorCode.OS_ERROR,
        ErrorCode.CHANGED,
        ErrorCode.MEMORY,
        ErrorCode.WORKER_CRASH,
        ErrorCode.TIMEOUT,
        ErrorCode.INTERNAL,
    }
)
"""Codes that speak of circumstances as much as of the input: an update scans it again, changed or not."""


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
        """Nothing; told of every input that was finished now."""
        ...

    def kept(self) -> None:
        """Nothing; told of every input whose row was there already."""
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

    def kept(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run came to."""

    out: Path
    heatmaps: Path | None
    maps: Path | None
    rows: int
    """Of all inputs."""
    scanned: int
    """Inputs whose row was made now; the others had theirs."""
    vanished: int
    """Inputs of earlier runs that are not there any more."""
    duplicates: int
    """Inputs with the bytes of another one."""
    by_status: Mapping[str, int]
    """Rows for each of `ok`, `skipped`, `error`."""
    by_code: Mapping[str, int]
    """Rows for each error code."""
    top: tuple[Finding, ...]
    """The images with the highest scores, the highest first."""
    pixels: int
    """Pixels of the images that were estimated now."""
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


def run_scan(
    config: ScanConfig,
    *,
    progress: Progress | None = None,
    engine: Engine = local_engine,
    read: ReadArchive | None = None,
) -> RunSummary:
    """What the run came to; `config.out` and the folders hold the results when it returns.

    A run with the same output and options that was killed is gone on with. Raises OutputError, before any image is
    opened, where an output cannot be written or exists already; UsageError for a source that does not exist, an output
    inside a source, or a run to go on with that had other options; ModelError and DeviceError from the workers;
    LockedError where another run is writing the same output. After any of these, and after KeyboardInterrupt, nothing
    new stands under the name `config.out`; finished rows wait in `<out>.run/`. Heatmaps and maps stay. Archives are
    read by `read`: by default in a process of their own.
    """
    progress = progress or Silent()
    unpacker = Unpacker(config.timeout or None)
    # Finished members are not read again; who has finished is known once the run below has begun.
    refs = _references(config, read or unpacker, wanted=lambda ref: run.wants(ref))
    outputs.check(config)
    with contextlib.closing(unpacker), locked(config.out) as journal:
        for written in (config.out, manifest.beside(config.out)):
            remove_leftovers(written)
        header = _header(config)
        if config.restart:
            journal.clear()
        found = journal.header()
        if found is not None:
            if _is_finished(config.out, found):
                journal.clear()
                if not header.differences(found, FREE):
                    return _finished(config)
            else:
                _refuse_others(header, found, "the unfinished run that is to be gone on with", FREE)
                if found.previous != header.previous:
                    raise UsageError(
                        f"{config.out} is not what it was when the run began; add --restart to begin again"
                    )
                header = found
        if not (config.overwrite or config.update) and os.path.lexists(config.out):
            raise OutputError(
                f"--out {config.out} exists already; name another file, or add --overwrite to replace it, or --update "
                "to scan what is new or changed"
            )
        with (
            contextlib.closing(Ledger(journal.folder / "ledger")) as ledger,
            outputs.json_log(config.json_log) as log,
            _counting(config, progress, read),
        ):
            run = _Run(config, header, journal, ledger, progress, log)
            return run.over(refs, engine)


def _header(config: ScanConfig) -> Header:
    """The header of a run that begins now. Raises UsageError where it is to update results that do not fit."""
    now = Header(
        run_id=uuid.uuid4().hex,
        started=datetime.now(UTC).isoformat(),
        version=__version__,
        models=model_digests(),
        options=config.options(),
        folder=os.getcwd() if config.files_from is not None or manifest.relative(config.sources) else None,
    )
    if not config.update or config.restart or not config.out.exists():
        return now
    before = manifest.header_of(parquet.read_metadata(config.out))
    if before is None:
        raise UsageError(
            f"{config.out} says too little of its run to be updated; add --restart to scan everything anew"
        )
    _refuse_others(now, before, f"the run that wrote {config.out}", FREE_IN_UPDATES)
    return replace(now, previous=before.run_id)


def _refuse_others(now: Header, then: Header, what: str, free: frozenset[str]) -> None:
    """Nothing. Raises UsageError where rows of the two runs do not belong together."""
    differences = now.differences(then, free)
    if differences:
        raise UsageError(f"{what} was another one: {'; '.join(differences)}. Add --restart to begin again")


def _is_finished(out: Path, header: Header) -> bool:
    """Whether the results are those of this run, which then was killed while it tidied up."""
    if not out.is_file():
        return False
    with contextlib.suppress(UsageError):
        return parquet.read_metadata(out).get("run_id") == header.run_id
    return False


def _finished(config: ScanConfig) -> RunSummary:
    """The summary of a run of which only the end was missing."""
    started = time.monotonic()
    manifest.write_beside(config.out, parquet.read_metadata(config.out))
    tally = Tally()
    with parquet.reader(config.out) as stored:
        for group in range(stored.metadata.num_row_groups):
            tally.add(stored.read_row_group(group))
    return _summary(config, tally, scanned=0, pixels=0, seconds=time.monotonic() - started, provider=None, workers=0)


class _Run:
    """One run from its walk over the sources to its results."""

    def __init__(
        self, config: ScanConfig, header: Header, journal: Journal, ledger: Ledger, progress: Progress, log: Log
    ) -> None:
        self._config = config
        self._header = header
        self._journal = journal
        self._ledger = ledger
        self._progress = progress
        self._log = log
        self._rows: list[tuple[ScanRecord, bool]] = []
        self._since = time.monotonic()
        self._claims: dict[str, Key] = {}  # contents that are being estimated, or whose rows are not committed yet
        self._providers: set[str] = set()
        self._unlisted: list[bytes] = []
        self._scanned = 0
        self._pixels = 0

    def over(self, refs: Iterable[ImageRef], engine: Engine) -> RunSummary:
        """The summary; the results are written."""
        config, clock = self._config, time.monotonic()
        cores = usable_cores()
        workers = config.workers or cores
        # More than one process already keeps every core busy; a lone one may use them all.
        threads = cores if workers == 1 else 1
        init = partial(open_in_worker, config.device, config.max_pixels, threads, config.max_memory, config.estimator)
        task = partial(scan_one, config.heatmaps, config.maps)
        self._remember()
        about = {"arguments": config.options(), "jscan": __version__, "run_id": self._header.run_id}
        self._log("run_started", {**about, "rows_there": sum(s.rows for s in self._journal.shards)})
        outcomes = engine(
            task, self._needed(refs), init=init, workers=workers, timeout=config.timeout or None, answer=self._is_known
        )
        try:
            with contextlib.closing(outcomes):
                for outcome in outcomes:
                    self._settle(outcome, workers)
            self._commit()
        except KeyboardInterrupt:
            self._commit()
            raise KeyboardInterrupt("interrupted; what is finished is kept, and the same command goes on") from None
        except OutputError:
            raise
        except SetupError:
            self._commit()
            raise
        tally = self._write(workers)
        return _summary(
            config,
            tally,
            scanned=self._scanned,
            pixels=self._pixels,
            seconds=time.monotonic() - clock,
            provider="+".join(sorted(self._providers)) or None,
            workers=workers,
        )

    # --- what is there already ----------------------------------------------------------------------------------------

    def _remember(self) -> None:
        """Nothing; the ledger knows the rows of the results that are updated, and of all shards."""
        if self._header.previous is not None:
            self._remember_results()
        copies: list[tuple[str, Key, Place]] = []
        for shard in self._journal.shards:
            table = _columns(shard.path, ["path_bytes", "container", "member", "sha256", "error_code", parquet.COPY])
            for i, row in enumerate(table):
                key, place = _key_of(row), Place(shard.number, i)
                if row[parquet.COPY]:
                    copies.append((row["sha256"], key, place))
                    continue
                self._ledger.finish(key, place)
                self._note_unlisted(row["path_bytes"], row["error_code"])
                self._note_content(row["sha256"], row["error_code"], place)
        for sha256, key, place in copies:
            # Where the run was killed before the row that was to be copied was committed, there is nothing to copy.
            if self._ledger.content(sha256) is not None:
                self._ledger.finish(key, place)
                self._ledger.add_group(sha256)

    def _note_content(self, sha256: str | None, error_code: str | None, place: Place) -> None:
        """Nothing; what has these bytes is estimated by that row, or is an archive of several of one content."""
        if sha256 is None:
            return
        if error_code in ARCHIVE_CODES:
            self._ledger.add_group(sha256)
        else:
            self._ledger.add_content(sha256, place)

    def _remember_results(self) -> None:
        names = ["path", "path_bytes", "container", "member", "container_sha256", "size", "mtime", "sha256"]
        names += ["duplicate_of", "error_code"]
        containers = Containers()
        with parquet.reader(self._config.out) as stored:
            for group in range(stored.metadata.num_row_groups):
                for i, row in enumerate(stored.read_row_group(group, columns=names).to_pylist()):
                    place = Place(group_source(group), i)
                    mtime = None if row["mtime"] is None else _microseconds(row["mtime"])
                    # A run that went on may have members of an archive as it was, and the archive as it is now.
                    fits = containers.fits(row)
                    again = row["error_code"] in TRY_AGAIN
                    size = row["size"] if row["member"] is None else 0  # a member is as old as its archive
                    self._ledger.add_before(_key_of(row), Before(place, size if fits and not again else None, mtime))
                    if row["sha256"] is not None and not again:
                        self._note_content(row["sha256"], row["error_code"], place)
                        if row["duplicate_of"] is not None:
                            self._ledger.add_group(row["sha256"])

    # --- what is to be done -------------------------------------------------------------------------------------------

    def wants(self, ref: ImageRef) -> bool:
        """Whether a member, or an archive, has no row yet, so that it must be read."""
        key = ref.path_bytes, ref.container, ref.member
        return not self._ledger.has_row(key) and self._unchanged(ref, key) is None

    def _needed(self, refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
        """The references that a worker is needed for; the others become rows in passing, or have theirs."""
        for ref in refs:
            key = ref.path_bytes, ref.container, ref.member
            if not self._ledger.meet(key):
                self._progress.kept()
            elif (place := self._unchanged(ref, key)) is not None:
                self._ledger.finish(key, place)
                self._progress.kept()
            elif ref.refused is not None:
                self._take(_failed(ref, *ref.refused))
            else:
                yield ref

    def _unchanged(self, ref: ImageRef, key: Key) -> Place | None:
        """Where the row of an input lies that is as it was in the run before, by the size and time of its file."""
        if self._header.previous is None or self._config.rehash:
            return None
        refused = None if ref.refused is None else ref.refused[0]
        if refused in TRY_AGAIN or (refused is not None and ref.archive is None and refused not in ARCHIVE_CODES):
            return None
        before = self._ledger.before(key)
        if before is None or before.size is None:
            return None
        if ref.archive is not None:
            whole, file = self._ledger.before((ref.archive.path_bytes, None, None)), ref.archive
            if whole is None or whole.size is None or file.mtime is None:
                return None
            same = (file.size, _microseconds(file.mtime)) == (whole.size, whole.mtime)
            return before.place if same else None
        try:
            now = os.lstat(ref.path_bytes)
        except OSError:
            return None
        return before.place if (now.st_size, now.st_mtime_ns // 1000) == (before.size, before.mtime) else None

    def _is_known(self, ref: ImageRef, evidence: Evidence) -> bool:
        """Whether the content has a row, or will have that of the worker that asked first."""
        key = ref.path_bytes, ref.container, ref.member
        owner = self._claims.get(evidence.sha256)
        if owner is None and self._ledger.content(evidence.sha256) is None:
            self._claims[evidence.sha256] = key
            return False
        return owner != key

    # --- what was done ------------------------------------------------------------------------------------------------

    def _settle(self, outcome: Outcome[ImageRef, Receipt], workers: int) -> None:
        """Nothing; the outcome is a row."""
        receipt = outcome.value
        if receipt is None:
            self._take(_fault(outcome))
            return
        if not self._providers:
            self._progress.device(receipt.provider, workers)
            self._log("device", {"provider": receipt.provider, "models": receipt.models, "workers": workers})
        self._providers.add(receipt.provider)
        self._take(receipt.record, copy=receipt.copy)

    def _take(self, record: ScanRecord, *, copy: bool = False) -> None:
        self._rows.append((record, copy))
        self._scanned += 1
        if record.status == "ok" and not copy:
            self._pixels += (record.width or 0) * (record.height or 0)
        self._progress.row(record)
        self._log("row", {**json_row(record, brief=True), "copy": copy})
        self._note_unlisted(record.path_bytes, record.error_code)
        if len(self._rows) >= SHARD_ROWS or time.monotonic() - self._since > SHARD_SECONDS:
            self._commit()

    def _note_unlisted(self, path: bytes, error_code: str | None) -> None:
        """Nothing; what lies in a folder or an archive that could not be looked into is not to count as vanished."""
        if self._header.previous is not None and error_code in TRY_AGAIN - {ErrorCode.NOT_FOUND}:
            self._unlisted.append(path)

    def _commit(self) -> None:
        """Nothing; the rows are on the disk, and the ledger knows where."""
        if self._rows:
            shard: Shard = self._journal.commit(self._header, self._rows, sorted(self._providers))
            for i, (record, copy) in enumerate(self._rows):
                place = Place(shard.number, i)
                self._ledger.finish((record.path_bytes, record.container, record.member), place)
                if record.sha256 is not None and copy:
                    self._ledger.add_group(record.sha256)
                elif record.sha256 is not None:
                    self._note_content(record.sha256, record.error_code, place)
                    self._claims.pop(record.sha256, None)
            self._rows = []
        self._since = time.monotonic()

    def _write(self, workers: int) -> Tally:
        """The counts of the results, which are written, and the journal is empty."""
        config, header, shards = self._config, self._header, self._journal.shards
        if config.files_from is not None:
            self._ledger.forget_unmet()  # a list may be another one than that which the run began with
        left = self._ledger.unfinished()
        if left is not None:
            raise OutputError(f"{config.out} was not written: there is no row for {os.fsdecode(left[0])}")
        self._ledger.add_vanished(self._unlisted)
        tally, made = assemble(
            config.out,
            self._ledger,
            {shard.number: shard.path for shard in shards},
            None if header.previous is None else config.out,
            datetime.fromisoformat(header.started),
            lambda tally, inputs: manifest.build(config, header, tally, inputs, shards, workers=workers),
            overwrite=config.overwrite or config.update,
        )
        manifest.write_beside(config.out, made)
        self._log("run_finished", made)
        self._journal.clear()
        return tally


def _summary(
    config: ScanConfig,
    tally: Tally,
    *,
    scanned: int,
    pixels: int,
    seconds: float,
    provider: str | None,
    workers: int,
) -> RunSummary:
    return RunSummary(
        out=config.out,
        heatmaps=config.heatmaps,
        maps=config.maps,
        rows=tally.rows,
        scanned=scanned,
        vanished=tally.vanished,
        duplicates=tally.duplicates,
        by_status=dict(sorted(tally.by_status.items())),
        by_code=dict(sorted(tally.by_code.items())),
        top=tally.top,
        pixels=pixels,
        seconds=seconds,
        provider=provider,
        workers=workers,
    )


def model_digests() -> dict[str, str]:
    """SHA-256 of each model that is installed, by name, as its manifest states it. Raises ModelError."""
    return {name: str(weights.manifest(name)["digest"]) for name in weights.names()}


def usable_cores() -> int:
    """How many cores this process may run on, which is fewer than the machine has where it was confined."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def json_row(record: ScanRecord, *, brief: bool = False) -> dict[str, Any]:
    """The row as values that JSON knows: times in ISO 8601, bytes in hexadecimal. `brief` leaves out long columns."""
    if brief:
        keep = ("path", "sha256", "status", "error_code", "error", "warnings", "width", "height", "n_regions", "score")
        return {name: getattr(record, name) for name in (*keep, "decode_ms", "estimate_ms")}
    row = record.as_dict()
    row["path_bytes"] = record.path_bytes.hex()
    row["mtime"] = record.mtime.isoformat() if record.mtime else None
    return row


def _references(config: ScanConfig, read: ReadArchive, *, wanted: Callable[[ImageRef], bool]) -> Iterator[ImageRef]:
    """References to all inputs. Raises UsageError, at once, where a source or the list of them is not there."""
    choice: dict[str, Any] = {
        "include": config.include,
        "exclude": config.exclude,
        "limit": config.limit,
        "wanted": wanted,
        "read": read,
    }
    if config.files_from is None:
        return discover(config.sources, **choice)
    made = (
        config.out,
        config.heatmaps,
        config.maps,
        config.json_log,
        manifest.beside(config.out),
        run_folder(config.out),
    )
    leave_out = frozenset(os.fsencode(p.resolve()) for p in made if p is not None)
    return _listed(_open_list(config.files_from), null=config.null, leave_out=leave_out, **choice)


def _open_list(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    if path == STDIN:
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(
            f"--files-from {path} cannot be read: {error.strerror}; check the spelling of the path"
        ) from error


def _listed(opened: contextlib.AbstractContextManager[BinaryIO], **options: Any) -> Iterator[ImageRef]:
    """The references of a list, which is closed at the end."""
    with opened as names:
        yield from discover_list(names, **options)


# --- in the workers ---------------------------------------------------------------------------------------------------


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


# --- in the parent ----------------------------------------------------------------------------------------------------


def _fault(outcome: Outcome[ImageRef, Receipt]) -> ScanRecord:
    """The row of an input whose worker died or raised. Raises the error itself where it concerns the whole run."""
    if isinstance(outcome.error, OutOfMemoryError):
        receipt: Receipt = outcome.error.args[0]
        return receipt.record
    if isinstance(outcome.error, SetupError):
        raise outcome.error
    code, sentence = ErrorCode.INTERNAL, outcome.message
    if outcome.kind == "crashed":
        code = ErrorCode.WORKER_CRASH
    elif outcome.kind == "timed_out":
        code, sentence = ErrorCode.TIMEOUT, f"{sentence}; a longer --timeout may help"
    elif isinstance(outcome.error, MemoryError):
        code = ErrorCode.MEMORY
    record = _failed(outcome.item, code, sentence)
    evidence = outcome.asked
    if isinstance(evidence, Evidence):
        # The worker had read the bytes before it came to grief.
        record = replace(
            record, size=evidence.size, mtime=evidence.mtime, sha256=evidence.sha256, warnings=evidence.warnings
        )
    return record


def _failed(ref: ImageRef, code: str, sentence: str) -> ScanRecord:
    """The row of an input that no worker has read."""
    return ScanRecord(
        path=ref.path,
        path_bytes=ref.path_bytes,
        container=ref.container,
        member=ref.member,
        container_sha256=ref.container_sha256,
        size=ref.evidence.size if ref.evidence else None,
        mtime=ref.evidence.mtime if ref.evidence else None,
        sha256=ref.evidence.sha256 if ref.evidence else None,
        warnings=ref.evidence.warnings if ref.evidence else (),
        status="skipped" if code in SKIP_CODES else "error",
        error_code=str(code),
        error=sentence,
        jscan_version=__version__,
    )


@contextlib.contextmanager
def _counting(config: ScanConfig, progress: Progress, read: ReadArchive | None) -> Iterator[None]:
    """A context beside which the inputs are counted, where the progress wants to know."""
    listed = config.files_from
    if not progress.wants_total or (listed is not None and (listed == STDIN or not listed.is_file())):
        # A list that comes through a pipe can be read once.
        yield
        return
    stop = threading.Event()

    def count() -> None:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as the process of the unpacker is to have it
        inputs = 0
        with contextlib.closing(Unpacker(config.timeout or None)) as unpacker:
            for inputs, _ in enumerate(_references(config, read or unpacker, wanted=lambda ref: False), 1):  # noqa: B007
                if stop.is_set():
                    return
        progress.total(inputs)

    thread = threading.Thread(target=count, name="jscan-count", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(COUNT_SECONDS)  # not for ever: it may be waiting for an archive


def _columns(shard: Path, names: list[str]) -> list[dict[str, Any]]:
    with parquet.reader(shard) as stored:
        found: list[dict[str, Any]] = stored.read(columns=names).to_pylist()
    return found


def _key_of(row: Mapping[str, Any]) -> Key:
    return row["path_bytes"], row["container"], row["member"]


def _microseconds(time_of_change: datetime) -> int:
    """Since 1970 began, exactly."""
    return (time_of_change - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
