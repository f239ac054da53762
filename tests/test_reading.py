"""Evidence is read once, whole, and without a trace."""

from __future__ import annotations

import errno
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jscan.errors import InputError
from jscan.reading import read
from jscan.records import Evidence, ImageRef


def ref(path: Path) -> ImageRef:
    return ImageRef(str(path), os.fsencode(path))


def read_error(path: Path) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        read(ref(path))
    return caught.value.code.value, str(caught.value)


def test_read(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 1_700_000_000_123_456_789))
    data, evidence = read(ref(path))
    assert data == content and evidence.size == 100_000
    assert evidence.sha256 == hashlib.sha256(content).hexdigest()
    assert evidence.mtime == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert path.stat().st_atime_ns == 10**18 or evidence.warnings == ("atime_changed",)
    (tmp_path / "empty").write_bytes(b"")
    assert read(ref(tmp_path / "empty"))[0] == b""


@pytest.mark.skipif(not hasattr(os, "O_NOATIME"), reason="this system has no O_NOATIME")
def test_access_time_when_it_cannot_be_spared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"content")
    real = os.open

    def refuse(name: bytes, flags: int, *rest: int) -> int:
        if flags & os.O_NOATIME:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(name, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    os.utime(path, ns=(10**18, 10**18))
    data, evidence = read(ref(path))
    changed = path.stat().st_atime_ns != 10**18
    assert data == b"content" and evidence.warnings == (("atime_changed",) if changed else ())


def test_what_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert read_error(tmp_path / "link")[0] == "symlink"
    assert read_error(tmp_path)[0] == "not_regular"
    assert read_error(tmp_path / "gone")[0] == "not_found"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert read_error(tmp_path / "pipe")[0] == "not_regular"
    refused = ImageRef("x", b"x", refused=("symlink", "It is a link."))
    with pytest.raises(InputError, match="It is a link") as caught:
        read(refused)
    assert caught.value.status == "skipped"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_errors_of_the_system_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", fail)
    found, message = read_error(path)
    assert found == "os_error" and errno.errorcode[code] in message


def test_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(10_000))
    real = os.fstat
    calls = []

    def grow(handle: int) -> os.stat_result:
        calls.append(handle)
        if len(calls) == 2:
            with open(path, "ab") as stream:
                stream.write(b"more")
        return real(handle)

    monkeypatch.setattr(os, "fstat", grow)
    assert read_error(path)[0] == "changed"


def test_huge_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jscan.reading.MAX_UNREAD_BYTES", 1000)
    monkeypatch.setattr("jscan.reading.MAX_FILE_BYTES", 100_000)
    film, photo = tmp_path / "film", tmp_path / "photo"
    film.write_bytes(b"\0\0\0\x18ftypqt  " + bytes(5000))
    photo.write_bytes(b"BM" + bytes(12) + b"(\0\0\0" + bytes(140_000))
    assert read_error(film)[0] == "unsupported_format"
    code, message = read_error(photo)
    assert code == "memory" and "100,000" in message


@pytest.mark.skipif(not hasattr(os, "O_NOATIME"), reason="this system has no O_NOATIME")
def test_how_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"content")
    real = os.open
    seen = []

    def note(name: bytes, flags: int, *rest: int) -> int:
        seen.append(flags)
        return real(name, flags, *rest)

    monkeypatch.setattr(os, "open", note)
    read(ref(tmp_path / "x"))
    assert seen == [os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC]


def test_a_file_that_becomes_a_link_or_another_file_between_look_and_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "x", tmp_path / "other"
    real = os.open
    swaps = [(lambda: path.symlink_to(other), "symlink"), (lambda: os.replace(other, path), "changed")]
    if hasattr(os, "mkfifo"):
        swaps.append((lambda: os.mkfifo(path), "not_regular"))  # which nobody writes to: opened plainly, it hangs
    for swap, code in swaps:
        path.unlink(missing_ok=True)
        path.write_bytes(b"as it was")
        other.write_bytes(b"something else")

        def late(name: bytes, flags: int, *rest: int, swap: object = swap) -> int:
            path.unlink()
            swap()  # type: ignore[operator]
            return real(name, flags, *rest)

        monkeypatch.setattr(os, "open", late)
        assert read_error(path)[0] == code
        monkeypatch.setattr(os, "open", real)


def test_what_an_archive_gave_is_not_read_again(tmp_path: Path) -> None:
    evidence = Evidence(3, None, hashlib.sha256(b"abc").hexdigest(), ("bad_crc",))
    member = ImageRef("a.zip!x", b"a.zip!x", "a.zip", 0, content=b"abc", evidence=evidence)
    assert read(member) == (b"abc", evidence)


def test_a_look_that_changed_the_access_time_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    seen = ImageRef("x", os.fsencode(tmp_path / "x"), touched=True)
    assert read(seen)[1].warnings == ("atime_changed",)
