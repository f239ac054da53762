from __future__ import annotations

import errno
import io
import os
import socket
from pathlib import Path

import pytest
from packing import zip_of

from jscan import reading
from jscan.discover import discover, discover_list
from jscan.errors import UsageError


def _names(root: Path, *sources: Path, **options: object) -> list[str]:
    return [os.fsdecode(r.path_bytes)[len(str(root)) + 1 :] for r in discover(sources, **options)]  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/b.jpg", "a/c/d.PNG", "a/c/e.txt", "a.jpg", "a0", "z/deep/er/f.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_order_is_that_of_whole_paths(tree: Path) -> None:
    names = _names(tree, tree)
    assert names == sorted(names, key=os.fsencode)
    # "." sorts before "/", and "/" before "0": a folder's files stand between its neighbours of like names.
    assert names == ["a.jpg", "a/b.jpg", "a/c/d.PNG", "a/c/e.txt", "a0", "z/deep/er/f.jpg"]


def test_each_file_once_whatever_the_sources(tree: Path) -> None:
    everything = set(_names(tree, tree))
    sources = [tree / "a", tree, tree / "a" / "c" / "d.PNG", tree / "a", tree / "z" / ".." / "a.jpg"]
    for order in (sources, sources[::-1]):
        refs = list(discover(order))
        real = [os.path.realpath(r.path_bytes) for r in refs]
        assert len(real) == len(set(real)) == len(everything)


def test_a_named_file_survives_the_folders_patterns(tree: Path) -> None:
    # a/c/e.txt is excluded as "c/*" below a, but is its own source under its bare name.
    assert _names(tree, tree / "a", tree / "a/c/e.txt", exclude=["c/*"]) == ["a/b.jpg", "a/c/e.txt"]


def test_include_and_exclude(tree: Path) -> None:
    assert _names(tree, tree, include=["*.jpg"]) == ["a.jpg", "a/b.jpg", "z/deep/er/f.jpg"]
    assert _names(tree, tree, include=["*.png"]) == []  # upper and lower case differ
    assert _names(tree, tree, include=["a/*"], exclude=["*.txt"]) == ["a/b.jpg", "a/c/d.PNG"]
    assert _names(tree, tree, exclude=["z", "c"]) == ["a.jpg", "a/b.jpg", "a0"]


def test_limit_and_leave_out(tree: Path) -> None:
    assert _names(tree, tree, limit=2) == ["a.jpg", "a/b.jpg"]
    left = frozenset({os.fsencode(os.path.realpath(tree / "a")), os.fsencode(os.path.realpath(tree / "a0"))})
    assert _names(tree, tree, leave_out=left) == ["a.jpg", "z/deep/er/f.jpg"]
    assert _names(tree, tree / "a0", leave_out=left) == []


def test_missing_source_is_said_before_anything_is_yielded(tree: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        discover([tree, tree / "nowhere"])
    with pytest.raises(UsageError, match=r"b\.jpg/x"):
        discover([tree / "a" / "b.jpg" / "x"])
    with pytest.raises(UsageError):
        discover([Path("nul\0name")])


def test_links_are_not_followed(tree: Path) -> None:
    (tree / "a" / "loop").symlink_to(tree)
    (tree / "a" / "to_file").symlink_to(tree / "a0")
    (tree / "a" / "nowhere").symlink_to(tree / "absent")
    refs = {os.path.basename(r.path_bytes): r for r in discover([tree / "a"])}
    for name in (b"loop", b"to_file", b"nowhere"):
        refused = refs[name].refused
        assert refused is not None and refused[0] == "symlink"
    assert len(refs) == 6
    (ref,) = discover([tree / "a" / "loop"])
    assert ref.refused is not None and ref.refused[0] == "symlink"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_fifo_and_socket(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tree / "a" / "pipe")
    monkeypatch.chdir(tree / "a")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        refs = {os.path.basename(r.path_bytes): r.refused for r in discover([tree / "a", Path("/dev/null")])}
    for name in (b"pipe", b"sock", b"null"):
        refused = refs[name]
        assert refused is not None and refused[0] == "not_regular"


def test_folder_that_cannot_be_listed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = reading.folder

    def folder(path: bytes) -> object:
        if path.endswith(b"/c"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(reading, "folder", folder)
    refs = list(discover([tree], include=["*.jpg"]))
    (bad,) = [r for r in refs if r.refused]
    assert bad.refused is not None
    assert bad.refused[0] == "os_error" and "EACCES" in bad.refused[1] and bad.path.endswith("/a/c")
    assert len(refs) == 4


@pytest.mark.skipif(not hasattr(os, "O_NOATIME"), reason="this system has no O_NOATIME")
def test_access_times_of_folders_and_files_are_spared(tree: Path) -> None:
    everything = [tree, *tree.rglob("*")]
    for path in everything:
        os.utime(path, ns=(10**18, 10**18 + 1))
    assert len(list(discover([tree]))) == 6
    assert {p.stat().st_atime_ns for p in everything} == {10**18}


def test_names_that_are_not_text(tmp_path: Path) -> None:
    names = [b"caf\xe9.jpg", b"new\nline", "ünï\u202e.jpg".encode(), b"tab\there"]
    for name in names:
        try:
            Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"x")
        except OSError:
            pytest.skip("this file system refuses such names")
    refs = list(discover([tmp_path]))
    assert [os.path.basename(r.path_bytes) for r in refs] == sorted(names)
    shown = [r.path.rpartition("/")[2] for r in refs]
    assert shown == ["caf\\xe9.jpg", "new\\nline", "tab\\there", "ünï\\u202e.jpg"]


def _listed(text: bytes, **options: object) -> list[tuple[str, str | None]]:
    refs = discover_list(io.BytesIO(text), **options)  # type: ignore[arg-type]
    return [(os.path.basename(r.path), r.refused[0] if r.refused else None) for r in refs]


def test_list_of_files(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    (tree / "new\nline").write_bytes(b"x")
    (tree / "link").symlink_to("a0")
    text = b"a0\n\na.jpg\n./a.jpg\na/../a0\na\ngone\nlink\n%s/z/deep/er/f.jpg" % os.fsencode(tree)
    expected = [
        ("a0", None), ("a.jpg", None), ("a", "not_regular"), ("gone", "not_found"), ("link", "symlink"),
        ("f.jpg", None),
    ]  # fmt: skip
    assert _listed(text) == expected
    assert _listed(text.replace(b"\n", b"\0") + b"\0new\nline\0", null=True) == [*expected, ("new\\nline", None)]
    assert _listed(text, include=["*.jpg"]) == [("a.jpg", None), ("f.jpg", None)]
    assert _listed(text, limit=2) == expected[:2]
    real = {os.fsencode(os.path.realpath(tree / name)) for name in ("a0", "z/deep/er/f.jpg")}
    assert _listed(text, leave_out=real.__contains__) == expected[1:-1]
    assert _listed(b"") == []


def test_list_as_some_editors_write_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    (tree / "odd\r").write_bytes(b"x")
    text = b"\xef\xbb\xbfa0\r\na.jpg\r\ngone\r\nodd\r\n\r\n"
    assert [name for name, _ in _listed(text)] == ["a0", "a.jpg", "gone\\r", "odd\\r"]
    assert _listed(text)[2][1] == "not_found"
    # Names that end in NUL bytes stand as they are.
    assert [code for _, code in _listed(text.replace(b"\n", b"\0"), null=True)][:2] == ["not_found"] * 2
    for utf16 in ("utf-16-le", "utf-16-be"):
        with pytest.raises(UsageError, match="UTF-8"):
            _listed("\ufeffa0\n".encode(utf16))


def test_list_that_is_none() -> None:
    with pytest.raises(UsageError, match="--null"):
        _listed(b"a\0b\0")
    with pytest.raises(UsageError, match="no list"):
        _listed(b"x" * 1_200_000)
    assert _listed(b"x" * 100_000)[0][1] == "os_error"


def test_list_with_an_archive(tree: Path) -> None:
    (tree / "x.zip").write_bytes(zip_of({"m.jpg": b"1"}))
    assert _listed(os.fsencode(tree / "x.zip")) == [("x.zip!m.jpg", None), ("x.zip", "archive")]


def test_deep_tree(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(300):
        folder = folder / "d"
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(b"")
    assert len(list(discover([tmp_path]))) == 1


def test_a_list_that_cannot_be_read_to_its_end() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(UsageError, match="cannot be read: Input/output error"):
        list(discover_list(Broken()))
