"""The journal of an unfinished run: shards of finished rows in `<out>.run/`, and the lock that keeps others out.

A shard is committed whole: temporary file, close, fsync, rename, fsync of the folder. Its footer says which run it is
of. Nothing else is believed: a shard without a whole footer is thrown away, as is one whose pages are not what their
checksums say, and its inputs are scanned again. One that the system does not give is no such shard: it stays, and the
run ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from jscan import parquet
from jscan.errors import LockedError, OutputError, UsageError
from jscan.records import ScanRecord

LOCK = "lock"
_SHARD = re.compile(r"[0-9]{8,}\.parquet")
_OURS = re.compile(rf"{LOCK}|ledger(-\w+)?|{_SHARD.pattern}|\.{_SHARD.pattern}\.[0-9]+\.tmp|\.nfs\w+")
"""The names of what a run puts into its folder, and of what NFS makes of a file that is removed while it is open."""


@dataclass(frozen=True, slots=True)
class Header:
    """What makes a run this run; a run goes on only where all of it but the identifier and the time is the same."""

    run_id: str
    started: str
    """UTC, ISO 8601."""
    version: str
    """Of jscan."""
    models: Mapping[str, str]
    """SHA-256 of each model, by name."""
    options: Mapping[str, Any]
    """As `ScanConfig.options` gives them."""
    folder: str | None = None
    """Where relative paths begin, or None where there are none among the sources."""
    previous: str | None = None
    """Identifier of the finished run that this one updates, or None."""

    def differences(self, other: Header, free: frozenset[str]) -> list[str]:
        """Words for what was otherwise in the other run, options in `free` apart; empty where rows fit together."""
        found = []
        if self.version != other.version:
            found.append(f"jscan was {other.version} and is {self.version}")
        names = sorted({*self.models, *other.models})
        found += [f"the model {n} is another one" for n in names if self.models.get(n) != other.models.get(n)]
        for name in sorted({*self.options, *other.options} - free):
            before, now = other.options.get(name), self.options.get(name)
            if before != now:
                found.append(f"--{name.replace('_', '-')} was {_words(before)} and is {_words(now)}")
        if self.folder != other.folder:
            found.append(f"relative paths began in {other.folder or 'no folder'} and begin in {self.folder}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(found: object) -> Header | None:
        """The header that was stored, or None where it is none."""
        if not isinstance(found, Mapping):
            return None
        values: dict[str, Any] = {f.name: found.get(f.name) for f in fields(Header)}
        header = Header(**values)
        texts = (header.run_id, header.started, header.version)
        tables = (header.models, header.options)
        perhaps = (header.folder, header.previous)
        fits = all(isinstance(v, str) for v in texts) and all(isinstance(v, Mapping) for v in tables)
        return header if fits and all(v is None or isinstance(v, str) for v in perhaps) else None


@dataclass(frozen=True, slots=True)
class Shard:
    """One committed shard."""

    path: Path
    number: int
    rows: int
    sha256: str
    """Of the file."""
    header: Header
    providers: tuple[str, ...]
    """What models of this shard ran on."""


@dataclass(slots=True)
class Journal:
    """The shards of one run, in the order in which they were committed."""

    folder: Path
    shards: list[Shard] = field(default_factory=list)

    def load(self) -> None:
        """Nothing; reads the footers of all shards. Damaged ones, and half-written files, are removed.

        Raises OutputError where one cannot be read.
        """
        self.shards = []
        for path in self._files():
            shard = _load(path) if _SHARD.fullmatch(path.name) else None
            if shard is None:
                with contextlib.suppress(OSError):
                    path.unlink()
            else:
                self.shards.append(shard)

    def header(self) -> Header | None:
        """That of the run whose shards these are, or None where there are none. Raises UsageError for two runs."""
        if len({s.header.run_id for s in self.shards}) > 1:
            raise UsageError(f"{self.folder} holds shards of several runs; add --restart to begin again")
        return self.shards[0].header if self.shards else None

    def commit(
        self,
        header: Header,
        rows: Sequence[tuple[ScanRecord, bool]],
        providers: Sequence[str],
    ) -> Shard:
        """The shard of these rows, each with whether it is a mere copy, on the disk. Raises OutputError."""
        number = self.shards[-1].number + 1 if self.shards else 0
        path = self.folder / f"{number:08d}.parquet"
        about = {"header": header.as_dict(), "providers": list(providers)}
        parquet.write_shard(path, [r for r, _ in rows], [c for _, c in rows], about)
        shard = Shard(path, number, len(rows), digest(path), header, tuple(providers))
        self.shards.append(shard)
        return shard

    def read(self, shard: Shard, names: Sequence[str]) -> list[dict[str, Any]] | None:
        """The rows of these columns; None where the shard, in whatever column, is damaged: then it is gone.

        Raises OutputError where it cannot be read.
        """
        try:
            return parquet.read_shard(_read(shard.path), names)
        except parquet.DamagedError:
            _remove(shard.path)
            self.shards.remove(shard)
            return None

    def clear(self) -> None:
        """Nothing; no shard is left. Raises OutputError."""
        for path in self._files():
            _remove(path)
        self.shards = []

    def leave(self) -> None:
        """Nothing; shards are left, and what is not jscan's; where there is neither, the folder is gone."""
        with contextlib.suppress(OSError, OutputError):
            for path in self._files():
                if not _SHARD.fullmatch(path.name):
                    path.unlink()
            if os.listdir(self.folder) == [LOCK]:
                (self.folder / LOCK).unlink()
                self.folder.rmdir()

    def _files(self) -> list[Path]:
        """All files of the run but its lock, in the order of their names."""
        try:
            return sorted(p for p in self.folder.iterdir() if _OURS.fullmatch(p.name) and p.name != LOCK)
        except OSError as error:
            raise _unreadable(self.folder, error) from error


@contextlib.contextmanager
def locked(out: Path) -> Iterator[Journal]:
    """The journal beside an output, which nobody else can open meanwhile, and of which nothing is loaded yet.

    At the end the folder is removed, unless shards are left in it for the next run. Raises LockedError where another
    run has it, OutputError where it cannot be written, or where the folder is not one that a run made.
    """
    folder = run_folder(out)
    try:
        _refuse_others_files(folder)
        folder.mkdir(exist_ok=True)
        lock = open(folder / LOCK, "ab")  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"--out {out} cannot be written: {folder}: {error.strerror}") from error
    with lock:
        if not _locked(lock.fileno()):
            raise LockedError(f"another run is writing {out}; wait for it, or name another file with --out")
        journal = Journal(folder)
        try:
            yield journal
        finally:
            journal.leave()


def _refuse_others_files(folder: Path) -> None:
    """Nothing. Raises OutputError where the folder holds what no run put there: a run removes what is in it.

    The lock is the first file of a run and the last to go: without it, shards are somebody else's numbered files.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        entries = list(found)
        locked = any(e.name == LOCK for e in entries)
        for entry in entries:
            ours = _OURS.fullmatch(entry.name) and (locked or not _SHARD.fullmatch(entry.name))
            if not ours or not entry.is_file(follow_symlinks=False):
                raise OutputError(
                    f"{folder}, where the rows of a run wait for its end, holds {entry.name}, which is of no run; move "
                    "it, or name another --out"
                )


def run_folder(out: Path) -> Path:
    """Where what a run has finished lies until its results are written."""
    return out.with_name(out.name + ".run")


def digest(path: Path) -> str:
    """SHA-256 of a file, as lower-case hexadecimal digits. Raises OutputError."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise OutputError(f"{path} cannot be read back: {error.strerror}") from error


def _load(path: Path) -> Shard | None:
    """The shard, or None where it is damaged. Raises OutputError where it cannot be read."""
    data = _read(path)
    try:
        about, rows = parquet.read_shard_footer(data)
    except parquet.DamagedError:
        return None
    header, providers = Header.from_dict(about.get("header")), about.get("providers")
    if header is None or not isinstance(providers, list):
        return None
    sha256 = hashlib.sha256(data).hexdigest()
    return Shard(path, int(path.stem), rows, sha256, header, tuple(map(str, providers)))


def _read(path: Path) -> bytes:
    """All of a shard, which is no larger than its rows were in memory. Raises OutputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be read: {error.strerror}; nothing was removed: mend that and run the same again, or add "
        "--restart to begin again"
    )


def _remove(path: Path) -> None:
    """Nothing; the file is gone. Raises OutputError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be removed: {error.strerror}; remove it, and run the same again") from error


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


def _words(value: Any) -> str:
    if value is None or value == []:
        return "not given"
    return " ".join(str(v) for v in value) if isinstance(value, list) else str(value)
