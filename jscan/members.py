"""What lies in an archive file, as references: one for every member, at any depth, and one for the archive itself.

An archive is read once and in order, and every member's bytes are handed along with its reference. A worker could open
a zip by itself, but would have to decompress a whole tar.gz for each member; one way for both is simpler, and
decompressing costs a hundredth of what estimating does. References are drawn one at a time as workers become free, so
no more members are in memory than there are workers.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from jscan import archives, filetypes, reading
from jscan.archives import Budget, Entry, Findings, Member, Source, streams, tars, zips
from jscan.errors import ErrorCode, InputError
from jscan.names import display_path
from jscan.reading import EvidenceFile
from jscan.records import ArchiveFile, Evidence, ImageRef

CHUNK = 1 << 20
"""Bytes of a member read at a time."""

References = Generator[ImageRef, None, None]


class Choice(Protocol):
    """Which members of an archive are wanted."""

    def takes(self, member: bytes) -> bool:
        """Whether a member of this name is to be scanned."""
        ...

    def enters(self, member: bytes) -> bool:
        """Whether a member of this name is looked into, if it is an archive."""
        ...

    def within(self, member: bytes) -> Choice:
        """The same for the members of an archive inside this one."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """An archive, as its members name it."""

    path: str
    """Display path, in which `!` stands between an archive and its member and nowhere else."""
    path_bytes: bytes
    digest: Callable[[], str | None]
    """Its SHA-256, computed when it is first wanted; None where it cannot be read to its end."""


class _FileDigest:
    """The SHA-256 of an archive file: one pass over it, and only if some row will hold it."""

    def __init__(self, file: EvidenceFile) -> None:
        self._file = file
        self._known: str | None = None
        self.trouble: InputError | None = None

    def __call__(self) -> str | None:
        if self._known is None and self.trouble is None:
            try:
                self._known = self._file.digest()
            except InputError as error:
                self.trouble = error
        return self._known


class Held:
    """Bytes in memory as a Source."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def pread(self, count: int, offset: int) -> bytes:
        """The `count` bytes from `offset` on; fewer at the end."""
        return self._data[offset : offset + count] if offset >= 0 else b""


def archive_kind(head: bytes, source: Callable[[], Source]) -> str | None:
    """The type of archive that begins with these bytes, or None; `source` is called where a look inside is needed."""
    kind = filetypes.sniff(head)
    if kind in filetypes.ARCHIVES:
        return kind
    if kind not in filetypes.COMPRESSED:
        return None
    held = source()
    stream = streams.Inflated(streams.Slice(held, 0, held.size), kind, Budget.of(held.size), joined=True)
    try:
        start = streams.read_exactly(stream, filetypes.HEAD_BYTES)
    except InputError:
        return kind  # what cannot be decompressed is a damaged archive rather than no archive
    return kind if filetypes.is_tar(start) else None


Reading = Generator[ImageRef, None, tuple[bool, bool]]
"""References, none where the file is no archive; returned is whether it is one, or cannot be read, and whether the look
at it changed its access time."""


class ReadArchive(Protocol):
    """A way to read what may be an archive, here or elsewhere."""

    def __call__(self, path: bytes, choice: Choice, wanted: Callable[[ImageRef], bool]) -> Reading:
        """The references of a regular file that is an archive; see `read_archive`."""
        ...


def may_be_archive(path: bytes) -> tuple[bool, bool]:
    """Whether the file's first bytes are of an archive, and whether the look changed its access time.

    Raises InputError where they cannot be read.
    """
    with EvidenceFile(path) as file:
        kind = filetypes.sniff(file.pread(filetypes.HEAD_BYTES, 0))
        return kind in filetypes.ARCHIVES | filetypes.COMPRESSED, file.touched()


def unread(path: bytes, error: InputError) -> ImageRef:
    """The reference of a file whose first bytes cannot be read: nobody can say that it is no archive."""
    return ImageRef(display_path(path), path, refused=_said(error))


def read_archive(
    path: bytes,
    choice: Choice,
    wanted: Callable[[ImageRef], bool],
    *,
    alive: Callable[[], None] = archives.silent,
    touched: bool = False,
) -> Reading:
    """References to the chosen members of an archive file, and at the end one to itself; none where it is no archive.

    One that cannot be opened or begun has one reference, which says why: it may hold what is wanted.

    `alive` is called often while it is read. `touched` says that an earlier look changed its access time.
    """
    try:
        file = EvidenceFile(path, alive=alive)
    except InputError as error:
        yield unread(path, error)
        return True, touched
    try:
        kind = archive_kind(file.pread(filetypes.HEAD_BYTES, 0), lambda: file)
        touched = touched or file.touched()
    except InputError as error:
        file.close()
        yield unread(path, error)
        return True, touched
    if kind is None:
        file.close()
        return False, touched
    yield from references(path, file, kind, choice, wanted, touched=touched, alive=alive)
    return True, touched


def archive_path(path: bytes) -> str:
    """The display path of an archive, or the name of a member, in which no `!` stands: it separates the two."""
    return display_path(path).replace("!", r"\x21")


def references(
    path: bytes,
    file: EvidenceFile,
    kind: str,
    choice: Choice,
    wanted: Callable[[ImageRef], bool],
    *,
    touched: bool,
    alive: Callable[[], None] = archives.silent,
) -> References:
    """References to the chosen members of an open archive file, and at the end one to the archive itself.

    A member's reference holds its bytes where `wanted` says so of the reference without them. A member that cannot be
    read has a reference that says why in `refused`, and so has the archive itself: `archive` if all is well. Nothing
    is raised for a bad archive. The file is closed at the end.
    """
    with file:
        path_text = archive_path(path)
        budget = Budget.of(file.size, alive)
        digest = _FileDigest(file)
        evidence = None
        verdict = _healthy(kind, 0)
        warnings: tuple[str, ...] = ()
        try:
            if file.size > archives.MAX_ARCHIVE_BYTES:
                raise InputError(
                    ErrorCode.ARCHIVE_LIMIT,
                    f"It has {file.size:,} bytes; archives of up to {archives.MAX_ARCHIVE_BYTES:,} are looked into. "
                    "Extract it with another tool and scan the folder.",
                )
            walk = _Walk(budget, wanted, ArchiveFile(path, file.size, file.mtime))
            verdict, warnings = yield from walk.members(file, kind, _Place(path_text, path, digest), choice, depth=1)
            own = digest() if wanted(ImageRef(path_text, path)) else None
            if digest.trouble is not None:
                verdict = digest.trouble
            file.check_unchanged()
            if touched or file.touched():
                warnings = (reading.ATIME_CHANGED, *warnings)
            evidence = None if own is None else Evidence(file.size, file.mtime, own, warnings)
        except InputError as error:
            verdict = error
        yield ImageRef(path_text, path, refused=_said(verdict), evidence=evidence)


@dataclass(frozen=True, slots=True)
class _Walk:
    """The reading of one archive file and of all archives inside it."""

    budget: Budget
    wanted: Callable[[ImageRef], bool]
    file: ArchiveFile

    def members(
        self, source: Source, kind: str, place: _Place, choice: Choice, *, depth: int, held: int = 0
    ) -> Generator[ImageRef, None, tuple[InputError, tuple[str, ...]]]:
        """References to the members; returned is what is to be said of the archive, and its warnings.

        `held` bytes of archives around this one are in memory already.
        """
        findings = Findings()
        count = 0
        inner: set[bytes] = set()  # names of archives, for two of one name are told apart by their index
        try:
            with closing(self._entries(source, kind, findings)) as found:
                for entry in found:
                    for ref in self._member(entry, place, choice, inner, depth, held):
                        count += ref.container == place.path
                        yield ref
            self.budget.spend(0)  # says so where it is spent
        except InputError as error:
            findings.trouble = findings.trouble or error
        except MemoryError:
            findings.trouble = InputError(ErrorCode.MEMORY, "There was not enough memory to read the archive further.")
        except Exception as error:  # a fault of these readers must cost one archive, and not the run
            findings.trouble = InputError(
                ErrorCode.INTERNAL,
                f"jscan failed on this archive ({type(error).__name__}: {error}); please report it with the file.",
            )
        return findings.trouble or _healthy(kind, count), tuple(dict.fromkeys(findings.warnings))

    def _entries(self, source: Source, kind: str, findings: Findings) -> Generator[Entry, None, None]:
        if kind == "zip archive":
            yield from zips.entries(source, self.budget, findings)
            return
        stream: tars.Stream = streams.Slice(source, 0, source.size)
        if kind != "tar archive":
            stream = streams.Inflated(stream, kind, self.budget, joined=True)
        yield from tars.entries(stream, self.budget, findings)

    def _member(
        self, entry: Entry, place: _Place, choice: Choice, inner: set[bytes], depth: int, held: int
    ) -> References:
        """The references that one member gives: none, one, or those of an archive and of the members inside it."""
        takes, enters = choice.takes(entry.name), choice.enters(entry.name)
        if not (takes or enters):
            return
        ref = ImageRef(
            path=f"{place.path}!{archive_path(entry.name)}",
            path_bytes=place.path_bytes + b"!" + entry.name,
            container=place.path,
            member=entry.index,
            archive=self.file,
        )
        wanted = self.wanted(ref)
        if wanted:
            ref = replace(ref, container_sha256=place.digest())
        if entry.refused is not None:
            if takes:
                yield replace(ref, refused=_said(entry.refused))
            return
        try:
            room = archives.MAX_MEMBER_BYTES - held
            intake = _Intake(entry, room)
            intake.upto(filetypes.HEAD_BYTES)
            kind = archive_kind(intake.start(), lambda: Held(intake.all())) if enters else None
            if kind is None and (not takes or not wanted):
                if takes:
                    yield ref
                return
            if kind is None and filetypes.sniff(intake.start()) not in filetypes.IMAGES:
                intake.room = min(intake.room, reading.MAX_UNREAD_BYTES)
            data = intake.all()
        except (InputError, MemoryError) as error:
            if isinstance(error, MemoryError):
                error = InputError(
                    ErrorCode.MEMORY, "There was not enough memory to hold it. Free some, and scan it again."
                )
            if takes:
                yield replace(ref, refused=_said(error))
            return
        warnings = tuple(dict.fromkeys(intake.member.warnings))
        evidence = Evidence(len(data), entry.mtime, hashlib.sha256(data).hexdigest(), warnings)
        if kind is None:
            yield replace(ref, content=data, evidence=evidence)
            return
        if depth >= archives.MAX_DEPTH:
            deep = InputError(
                ErrorCode.ARCHIVE_DEPTH,
                f"It is a {_words(kind)} inside {archives.MAX_DEPTH} others, which is not looked into. Extract it and "
                "scan it by itself.",
            )
            yield replace(ref, refused=_said(deep), evidence=evidence)
            return
        if entry.name in inner:
            ref = replace(ref, path=f"{ref.path}#{entry.index}")
        inner.add(entry.name)
        below = _Place(ref.path, ref.path_bytes, lambda: evidence.sha256)
        verdict, more = yield from self.members(
            Held(data), kind, below, choice.within(entry.name), depth=depth + 1, held=held + len(data)
        )
        yield replace(ref, refused=_said(verdict), evidence=replace(evidence, warnings=warnings + more))


class _Intake:
    """A member's bytes on their way into memory, as many as there is room for."""

    def __init__(self, entry: Entry, room: int) -> None:
        self.member: Member = entry.open()
        self.room = room
        self._packed = entry.packed
        self._parts: list[bytes] = []
        self._count = 0
        self._ended = False
        self._deadline = time.monotonic() + archives.MAX_MEMBER_SECONDS

    def start(self) -> bytes:
        """What was read so far."""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0] if self._parts else b""

    def all(self) -> bytes:
        """The whole member. Raises InputError `archive_limit` where it is too large, too slow, or like a bomb."""
        while not self._ended:
            self.upto(self._count + CHUNK)
        return self.start()

    def upto(self, count: int) -> None:
        """Nothing; reads on until there are so many bytes, or all.

        What a damaged archive gives of a member is kept, with the warning `member_cut`: a photograph may begin well.
        """
        while not self._ended and self._count < count:
            try:
                part = self.member.read(min(CHUNK, max(count - self._count, 1)))
            except InputError as error:
                if error.code is not ErrorCode.BAD_ARCHIVE or not self._count:
                    raise
                self.member.warnings.append("member_cut")
                part = b""
            self._ended = not part
            self._parts.append(part)
            self._count += len(part)
            self._check()

    def _check(self) -> None:
        if self._count > self.room:
            if filetypes.sniff(self.start()) not in filetypes.COMPRESSED | filetypes.ARCHIVES:
                filetypes.image_type(self.start())  # which says what it is, if it is no image
            raise _too_much(f"It has more than {self.room:,} bytes, for which there is no room")
        ratio = self._packed is not None and self._count > archives.MAX_RATIO * self._packed
        if ratio and self._count > archives.FREE_MEMBER_BYTES:
            raise _too_much(f"More than {archives.MAX_RATIO} times its packed size came out of it, as of a bomb")
        if time.monotonic() > self._deadline:
            raise _too_much(f"Reading it took more than {archives.MAX_MEMBER_SECONDS:.0f} s")


def _too_much(what: str) -> InputError:
    return InputError(ErrorCode.ARCHIVE_LIMIT, f"{what}. Extract it with another tool and scan the file.")


def _said(error: InputError) -> tuple[str, str]:
    return error.code.value, str(error)


def _words(kind: str) -> str:
    return kind if kind in filetypes.ARCHIVES else f"tar archive compressed with {kind}"


def _healthy(kind: str, members: int) -> InputError:
    rows = "1 member has a row of its own" if members == 1 else f"{members:,} members have rows of their own"
    return InputError(ErrorCode.ARCHIVE, f"It is a {_words(kind)}; its {rows}.")
