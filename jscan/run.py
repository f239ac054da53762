"""A whole run: check where the output goes, scan everything with an engine, write the results.

The parent holds no image and no map: workers write heatmaps and maps themselves and send back one row per input. Rows
go to shards in `<out>.run/` as they come, and are merged, sorted, into the final file when all are there. What is in a
shard is not computed again, whatever ends the run.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from jscan import __version__, filetypes, manifest, outputs, parquet, stages
from jscan.assemble import assemble
from jscan.atomic import remove_leftovers
from jscan.config import FREE, FREE_IN_UPDATES, ScanConfig, devices
from jscan.engine import Engine, Outcome
from jscan.errors import ErrorCode, OutputError, ResultsError, UsageError
from jscan.inputs import counting, references
from jscan.installed import model_digests
from jscan.journal import Header, Journal, Shard, locked
from jscan.known import Known
from jscan.ledger import Ledger
from jscan.limits import usable_cores
from jscan.members import ReadArchive
from jscan.outputs import Log
from jscan.records import ImageRef, ScanRecord
from jscan.rows import failed, fault, json_row
from jscan.stages import Times, stage
from jscan.tally import Finding, Tally
from jscan.unpack import Unpacker
from jscan.worker import Receipt, open_in_worker, scan_one
from jscan.workplace import Workplace, workplace

SHARD_ROWS = 1000
"""Rows held in memory before they are committed."""
SHARD_SECONDS = 60.0
"""Rows are committed after this time as well, so that a killed run over large images does not lose hours."""


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
    missed: tuple[str, ...]
    """Sentences on sources that were found empty now, and were not in the run before."""
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
    times: Times
    """Time of all processes by stage; empty unless `profile_stages`."""

    @property
    def errors(self) -> int:
        """How many rows say `error`."""
        return self.by_status.get("error", 0)

    @property
    def max_score(self) -> float | None:
        """The highest score, or None where nothing was estimated."""
        return self.top[0].score if self.top else None


def run_scan(
    config: ScanConfig,
    *,
    progress: Progress | None = None,
    engine: Engine | None = None,
    read: ReadArchive | None = None,
) -> RunSummary:
    """What the run came to; `config.out` and the folders hold the results when it returns.

    A run with the same output and options that was killed is gone on with. Raises OutputError, before any image is
    opened, where an output cannot be written or exists already; UsageError for a source that does not exist, an output
    inside a source, or a run to go on with that had other options; ModelError and DeviceError from the workers;
    LockedError where another run is writing the same output. After any of these, and after KeyboardInterrupt, nothing
    new stands under the name `config.out`; finished rows wait in `<out>.run/`. Heatmaps and maps stay. Inputs are
    scanned by `engine`, by default the one of `config.ray` or of this machine; archives are read by `read`, by default
    in a process of their own.
    """
    progress = progress or Silent()
    unpacker = Unpacker(config.timeout or None)
    # Finished members are not read again; who has finished is known once the run below has begun.
    refs = references(config, read or unpacker, wanted=lambda ref: run.known.wants(ref))
    outputs.check(config)
    with contextlib.closing(unpacker), locked(config.out) as journal:
        for written in (config.out, manifest.beside(config.out)):
            remove_leftovers(written)
        header = _header(config)
        if config.restart:
            journal.clear()
        else:
            journal.load()
        found = journal.header()
        if found is not None:
            if _is_finished(config.out, found):
                manifest.write_beside(config.out, parquet.read_metadata(config.out))
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
        if header.previous is not None:
            _refuse_tampered(config.out)
        if not (config.overwrite or config.update) and os.path.lexists(config.out):
            raise OutputError(
                f"--out {config.out} exists already; name another file, or add --overwrite to replace it, or --update "
                "to scan what is new or changed"
            )
        with (
            contextlib.closing(Ledger(journal.folder / "ledger")) as ledger,
            outputs.json_log(config.json_log) as log,
            workplace(config, engine) as place,
            counting(config, read, progress.total if progress.wants_total else None),
        ):
            run = _Run(config, header, journal, ledger, progress, log, place)
            return run.over(refs)


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
    if not config.update or config.restart or not os.path.exists(config.out):
        return now
    try:
        before = manifest.header_of(parquet.read_metadata(config.out))
    except UsageError as error:
        raise UsageError(f"{error}; add --restart to scan everything anew") from error
    if before is None:
        raise UsageError(
            f"{config.out} says too little of its run to be updated; add --restart to scan everything anew"
        )
    _refuse_others(now, before, f"the run that wrote {config.out}", FREE_IN_UPDATES)
    return replace(now, previous=before.run_id)


def _refuse_tampered(out: Path) -> None:
    """Nothing. Raises ResultsError where results are not what their manifest says: an update would vouch for them."""
    found = manifest.mismatches(out, parquet.read_metadata(out))
    if found:
        raise ResultsError(
            f"{out} cannot be updated: {found[0][-1]} See `jscan verify`; put back the results and their manifest as "
            "their run wrote them, or add --restart to scan everything anew"
        )


def _refuse_others(now: Header, then: Header, what: str, free: frozenset[str]) -> None:
    """Nothing. Raises UsageError where rows of the two runs do not belong together."""
    differences = now.differences(then, free)
    if differences:
        raise UsageError(f"{what} was another one: {'; '.join(differences)}. Add --restart to begin again")


def _is_finished(out: Path, header: Header) -> bool:
    """Whether the results are those of this run, which then was killed while it tidied up."""
    if not os.path.isfile(out):
        return False
    with contextlib.suppress(UsageError):
        return parquet.read_metadata(out).get("run_id") == header.run_id
    return False


def _finished(config: ScanConfig) -> RunSummary:
    """The summary of a run of which only the end was missing."""
    started = time.monotonic()
    tally = Tally()
    with parquet.reader(config.out) as stored:
        for group in range(stored.metadata.num_row_groups):
            tally.add(stored.read_row_group(group))
    seconds = time.monotonic() - started
    return _summary(config, tally, scanned=0, missed=(), pixels=0, seconds=seconds, provider=None, workers=0, times={})


class _Run:
    """One run from its walk over the sources to its results."""

    def __init__(
        self,
        config: ScanConfig,
        header: Header,
        journal: Journal,
        ledger: Ledger,
        progress: Progress,
        log: Log,
        place: Workplace,
    ) -> None:
        self._config = config
        self._header = header
        self._journal = journal
        self._ledger = ledger
        self.known = Known(config, header, journal, ledger)
        self._progress = progress
        self._log = log
        self._place = place
        self._rows: list[tuple[ScanRecord, bool]] = []
        self._since = time.monotonic()
        self._providers: set[str] = set()
        self._scanned = 0
        self._pixels = 0
        self._missed: list[str] = []
        self._times: Times = {}

    def over(self, refs: Iterable[ImageRef]) -> RunSummary:
        """The summary; the results are written."""
        config, place, clock = self._config, self._place, time.monotonic()
        cores = place.slots or usable_cores()
        workers = _most_workers(config, config.workers or cores)
        # So that all cores have work, and none has twice as much; where each worker is given its own, it has that one.
        threads = 1 if place.slots else max(1, cores // workers)
        # Of a cluster of GPUs each slot is one; here the workers take turns with those that are named.
        sharing = -(-workers // (place.slots or len(devices(place.device))))
        how = (place.device, config.max_pixels, threads, config.max_memory, config.estimator, config.thorough)
        init = partial(open_in_worker, *how, config.batch, sharing)
        task = partial(scan_one, config.heatmaps, config.maps, config.profile_stages)
        self.known.remember()
        about: dict[str, Any] = {"arguments": config.options(), "jscan": __version__, "run_id": self._header.run_id}
        about["engine"] = place.about()
        self._log("run_started", {**about, "rows_there": sum(s.rows for s in self._journal.shards)})
        outcomes = place.engine(
            task,
            self._needed(refs),
            init=init,
            workers=workers,
            timeout=config.timeout or None,
            answer=self.known.is_known,
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
        except Exception:
            self._commit()
            raise
        with self._writing():
            tally = self._write(workers)
        if config.profile_stages:
            self._log("stages", stages.shares(self._times))
        return _summary(
            config,
            tally,
            scanned=self._scanned,
            missed=self._missed,
            pixels=self._pixels,
            seconds=time.monotonic() - clock,
            provider="+".join(sorted(self._providers)) or None,
            workers=workers,
            times=self._times,
        )

    # --- what is to be done -------------------------------------------------------------------------------------------

    def _needed(self, refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
        """The references that a worker is needed for; the others become rows in passing, or have theirs."""
        for ref in chain(refs, self.known.missed(self._config.sources)):
            key = ref.path_bytes, ref.container, ref.member
            if not self._ledger.meet(key):
                self._progress.kept()
            elif (place := self.known.unchanged(ref, key)) is not None:
                self._ledger.finish(key, place)
                self._progress.kept()
            elif ref.refused is not None:
                self._take(failed(ref, *ref.refused))
            else:
                yield ref

    # --- what was done ------------------------------------------------------------------------------------------------

    def _settle(self, outcome: Outcome[ImageRef, Receipt], workers: int) -> None:
        """Nothing; the outcome is a row."""
        receipt = outcome.value
        if receipt is None:
            self._take(fault(outcome))
            return
        if not self._providers:
            self._progress.device(receipt.provider, workers)
            self._log("device", {"provider": receipt.provider, "models": receipt.models, "workers": workers})
        self._providers.add(receipt.provider)
        self._add(receipt.times)
        self._take(receipt.record, copy=receipt.copy)

    def _take(self, record: ScanRecord, *, copy: bool = False) -> None:
        self._rows.append((record, copy))
        self._scanned += 1
        if record.error_code == ErrorCode.EMPTY_SOURCE:
            self._missed.append(f"{record.path}: {record.error}")
        if record.status == "ok" and not copy:
            self._pixels += (record.width or 0) * (record.height or 0)
        self._progress.row(record)
        self._log("row", {**json_row(record, brief=True), "copy": copy})
        self.known.note_unlisted(record.path_bytes, record.error_code)
        if len(self._rows) >= SHARD_ROWS or time.monotonic() - self._since > SHARD_SECONDS:
            self._commit()

    def _add(self, times: Times) -> None:
        """Nothing; the run's times are these more."""
        self._times = stages.total((self._times, times))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A context in which this process, which otherwise waits for the workers, writes."""
        with stages.measuring(self._config.profile_stages) as times, stage("write"):
            yield
        self._add({name: spent for name, spent in times.items() if name == "write"})

    def _commit(self) -> None:
        """Nothing; the rows are on the disk, and the ledger knows where."""
        with self._writing():
            self._commit_rows()

    def _commit_rows(self) -> None:
        if self._rows:
            shard: Shard = self._journal.commit(self._header, self._rows, sorted(self._providers))
            self.known.add(shard.number, self._rows)
            self._rows = []
        self._since = time.monotonic()

    def _write(self, workers: int) -> Tally:
        """The counts of the results, which are written, and the journal is empty."""
        config, header, journal = self._config, self._header, self._journal
        if not journal.shards:
            # Without a row: where the run is killed between its results and their manifest, the next one knows it.
            journal.commit(header, (), ())
        shards = journal.shards
        if config.files_from is not None:
            self._ledger.forget_unmet()  # a list may be another one than that which the run began with
        left = self._ledger.unfinished()
        if left is not None:
            raise OutputError(f"{config.out} was not written: there is no row for {os.fsdecode(left[0])}")
        self._ledger.add_vanished(self.known.unlisted)
        tally, made = assemble(
            config.out,
            self._ledger,
            {shard.number: shard.path for shard in shards},
            None if header.previous is None else config.out,
            datetime.fromisoformat(header.started),
            lambda tally, inputs: manifest.build(
                config,
                header,
                tally,
                inputs,
                [shard for shard in shards if shard.rows],
                workers=workers,
                engine=self._place.about(),
            ),
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
    missed: Sequence[str],
    pixels: int,
    seconds: float,
    provider: str | None,
    workers: int,
    times: Times,
) -> RunSummary:
    return RunSummary(
        out=config.out,
        heatmaps=config.heatmaps,
        maps=config.maps,
        rows=tally.rows,
        scanned=scanned,
        vanished=tally.vanished,
        missed=tuple(missed),
        duplicates=tally.duplicates,
        by_status=dict(sorted(tally.by_status.items())),
        by_code=dict(sorted(tally.by_code.items())),
        top=tally.top,
        pixels=pixels,
        seconds=seconds,
        provider=provider,
        workers=workers,
        times=times,
    )


def _most_workers(config: ScanConfig, wanted: int) -> int:
    """So many workers, or fewer where it is easily known that there are fewer inputs.

    That is so with `--limit`, and where only files are named and none is an archive, as their names have it: a look
    into them could change their access times before anybody asks for these.
    """
    wanted = min(wanted, config.limit or wanted)
    if config.files_from is not None or len(config.sources) >= wanted:
        return wanted
    if any(os.path.isdir(s) or not filetypes.no_archive_by_name(os.fsencode(s)) for s in config.sources):
        return wanted
    return len(config.sources)
