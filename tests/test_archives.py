"""Archives: one reference for every member and one for the archive, whatever the archive is like."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from packing import (
    COMPRESSORS,
    central_header,
    end_record,
    local_header,
    overlapping_zip,
    patched,
    tar_of,
    zip_of,
    zstd,
)

from jscan import archives
from jscan.archives import streams
from jscan.discover import discover
from jscan.errors import ErrorCode, InputError
from jscan.reading import EvidenceFile, read
from jscan.records import ImageRef

JPEG = b"\xff\xd8\xff\xe0" + random.Random(0).randbytes(3000)  # begins as one; nothing here decodes it
FILES = {"a.jpg": JPEG, "folder/b.txt": b"text", "folder/c.jpg": JPEG[::-1], "empty": b""}


@pytest.fixture
def unpack(tmp_path: Path) -> Any:
    """The references of an archive with these bytes, and the one for the archive itself, taken off the end."""

    def references(data: bytes, name: str = "x", **options: Any) -> tuple[list[ImageRef], ImageRef]:
        path = tmp_path / name
        path.write_bytes(data)
        *found, own = discover([path], **options)
        assert (own.path_bytes, own.container, own.member) == (os.fsencode(path), None, None)
        assert own.refused is not None
        keys = {(r.path_bytes, r.container, r.member) for r in (*found, own)}
        assert len(keys) == len(found) + 1
        return found, own

    return references


def contents(refs: list[ImageRef]) -> dict[str, bytes | None]:
    """Name inside the archive -> bytes."""
    return {r.path.partition("!")[2]: r.content for r in refs}


def codes(refs: list[ImageRef]) -> list[str | None]:
    """Error code of each, None where it was read."""
    return [r.refused[0] if r.refused else None for r in refs]


def code_of(ref: ImageRef) -> str:
    assert ref.refused is not None
    assert ref.refused[1].endswith(".") and "\n" not in ref.refused[1]
    return ref.refused[0]


# --- sound archives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar(unpack: Any, suffix: str, form: int) -> None:
    data = COMPRESSORS[suffix](tar_of(FILES, form))
    found, own = unpack(data, "named.jpg")  # the suffix decides nothing
    assert contents(found) == FILES
    assert code_of(own) == "archive"
    digest = hashlib.sha256(data).hexdigest()
    assert own.evidence.sha256 == digest and own.evidence.size == len(data)
    assert [r.member for r in found] == [0, 1, 2, 3]
    for ref in found:
        assert ref.container == own.path and ref.container_sha256 == digest and ref.refused is None
        assert ref.evidence.sha256 == hashlib.sha256(ref.content).hexdigest()
        assert ref.evidence.mtime == datetime.fromtimestamp(1_600_000_000, UTC)
        assert ref.evidence.warnings == ()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip(unpack: Any, method: int) -> None:
    data = zip_of({"folder/": b"", **FILES}, method)
    found, own = unpack(data)
    assert contents(found) == FILES
    assert code_of(own) == "archive" and own.evidence.sha256 == hashlib.sha256(data).hexdigest()
    assert [r.member for r in found] == [1, 2, 3, 4], "a folder has no row, but counts"
    assert all(r.evidence.warnings == () and r.evidence.mtime is None for r in found)


@pytest.mark.parametrize(("method", "pack"), [(93, zstd.compress), (95, COMPRESSORS["tar.xz"])])
def test_zip_methods_that_the_standard_library_lacked(unpack: Any, method: int, pack: Any) -> None:
    packed, crc = pack(JPEG), zlib.crc32(JPEG)
    body = local_header(b"a", packed, method=method, crc=crc, size=len(JPEG)) + packed
    directory = central_header(b"a", len(packed), len(JPEG), 0, method=method, crc=crc)
    found, _ = unpack(body + directory + end_record(1, len(directory), len(body)))
    assert contents(found) == {"a": JPEG} and found[0].evidence.warnings == ()


def test_zip64(unpack: Any) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("big", "w", force_zip64=True) as member:
        member.write(JPEG)
    found, own = unpack(out.getvalue())
    assert contents(found) == {"big": JPEG} and code_of(own) == "archive"
    # A whole directory in the wide form: more members than 16 bits count.
    body = local_header(b"a", JPEG) + JPEG
    folders = b"".join(central_header(b"%d/" % i, 0, 0, len(body)) for i in range(65_600))
    directory = folders + central_header(b"a", len(JPEG), len(JPEG), 0, crc=zlib.crc32(JPEG))
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 65_601, 65_601, len(directory), len(body))
    wide += struct.pack("<4sIQI", b"PK\6\7", 0, len(body) + len(directory), 1)
    found, own = unpack(body + directory + wide + end_record(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF))
    assert contents(found) == {"a": JPEG} and code_of(own) == "archive"


def test_zip_with_something_in_front_and_a_comment(unpack: Any) -> None:
    out = io.BytesIO(zip_of(FILES))
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = b"PK\5\6 comment " * 50
    found, own = unpack(out.getvalue())
    assert contents(found) == FILES and code_of(own) == "archive"
    # By its first bytes this is no zip; a second zip behind a first one is, and the last directory counts.
    found, own = unpack(zip_of({"first": b"x"}) + zip_of(FILES))
    assert contents(found) == FILES


def test_zip_times_in_utc_where_the_archive_tells(unpack: Any) -> None:
    extra = struct.pack("<HHBI", 0x5455, 5, 1, 1_600_000_000)
    entry = bytearray(central_header(b"a", 4, 4, 0, crc=zlib.crc32(b"text")))
    struct.pack_into("<H", entry, 30, len(extra))
    body = local_header(b"a", b"text") + b"text"
    directory = bytes(entry) + extra
    found, _ = unpack(body + directory + end_record(1, len(directory), len(body)))
    assert found[0].evidence.mtime == datetime.fromtimestamp(1_600_000_000, UTC)


def test_an_archive_in_a_folder_and_its_neighbours(tmp_path: Path) -> None:
    for name, data in {"a": b"x", "b.JPG": zip_of({"m": b"1"}), "c": b"y"}.items():
        (tmp_path / name).write_bytes(data)
    names = [r.path.rpartition("/")[2] for r in discover([tmp_path])]
    assert names == ["a", "b.JPG!m", "b.JPG", "c"]


def test_long_names_and_pax_attributes(unpack: Any) -> None:
    long = "d/" * 200 + "ü.jpg"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        found, _ = unpack(tar_of({long: JPEG, "short": b"x"}, form))
        assert [r.path_bytes.partition(b"!")[2] for r in found] == [long.encode(), b"short"]
        assert found[0].content == JPEG


def test_old_tar_without_magic(unpack: Any) -> None:
    block = bytearray(tar_of({"a": JPEG}, tarfile.USTAR_FORMAT))
    block[257:512] = bytes(255)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    found, own = unpack(bytes(block))
    assert contents(found) == {"a": JPEG} and code_of(own) == "archive"


def test_a_tar_whose_first_name_looks_like_another_type(unpack: Any) -> None:
    for name in ("BZhang.jpg", "P1 photo.jpg", "GIF89a.gif", "%PDF"):
        found, own = unpack(tar_of({name: JPEG}))
        assert contents(found) == {name: JPEG} and code_of(own) == "archive"


def test_streams_and_archives_behind_one_another(unpack: Any) -> None:
    two = tar_of({"a": JPEG}) + tar_of({"b": b"b"})
    for suffix, pack in COMPRESSORS.items():
        cut = len(two) // 2
        found, own = unpack(pack(two[:cut]) + pack(two[cut:]), suffix)
        assert contents(found) == {"a": JPEG, "b": b"b"}, suffix
        assert code_of(own) == "archive"


@pytest.mark.skipif(sys.platform == "win32", reason="needs the tar and zip of a Unix")
def test_what_the_systems_own_tools_write(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    made = 0
    for number, command in enumerate(("tar -cf {} in", "tar -czf {} in", "tar --format=v7 -cf {} in", "zip -qr {} in")):
        path = tmp_path / f"{number}"
        try:
            subprocess.run(command.format(path).split(), cwd=tmp_path, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        made += 1
        path = path if path.exists() else path.with_name(path.name + ".zip")
        *found, own = discover([path])
        assert {r.path.partition("!in/")[2]: r.content for r in found} == FILES
        assert code_of(own) == "archive"
    if not made:
        pytest.skip("neither tar nor zip is here")


# --- nesting --------------------------------------------------------------------------------------------------------


def test_nested_archives(unpack: Any) -> None:
    inner = tar_of({"deep.jpg": JPEG})
    data = zip_of({"one.tar.gz": COMPRESSORS["tar.gz"](inner), "two.zip": zip_of({"in.tar": inner}), "x": b"x"})
    found, own = unpack(data)
    names = [r.path[len(own.path) :] for r in found]
    assert names == [
        "!one.tar.gz!deep.jpg", "!one.tar.gz", "!two.zip!in.tar!deep.jpg", "!two.zip!in.tar", "!two.zip", "!x",
    ]  # fmt: skip
    assert codes(found) == [None, "archive", None, "archive", "archive", None]
    by_name = dict(zip(names, found, strict=True))
    for name, ref in by_name.items():
        holder = name.rpartition("!")[0]
        above = by_name[holder] if holder else own
        assert ref.container == above.path
        assert ref.container_sha256 == above.evidence.sha256
    assert by_name["!two.zip!in.tar!deep.jpg"].content == JPEG


def test_archives_that_lie_too_deep(unpack: Any) -> None:
    data = b"core"
    for _ in range(archives.MAX_DEPTH + 1):
        data = zip_of({"in": data})
    found, own = unpack(data)
    assert codes(found) == ["archive_depth", "archive", "archive"]
    assert found[0].path.count("!") == archives.MAX_DEPTH
    assert found[0].evidence.size > 0 and code_of(own) == "archive"


def test_names_that_try_to_pass_for_one_another(tmp_path: Path) -> None:
    innermost = zip_of({"x": b"1"})
    out = io.BytesIO()
    inside = [("in", innermost), ("in", innermost), ("in#1", innermost), ("b!c", innermost)]
    inside += [("b", zip_of({"c": innermost})), ("same", b"1"), ("same", b"2")]
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")  # of duplicate names
        for name, data in inside:
            archive.writestr(name, data)
    (tmp_path / "a").write_bytes(out.getvalue())
    (tmp_path / "a!b").write_bytes(zip_of({"c": innermost}))
    (tmp_path / "a!in").write_bytes(innermost)
    refs = list(discover([tmp_path]))
    keys = {(r.path_bytes, r.container, r.member) for r in refs}
    assert len(keys) == len(refs) == 19
    for ref in refs:  # what holds a member has a row under that path
        assert ref.container is None or any(r.path == ref.container for r in refs)


def test_names_are_kept_as_they_are_and_nothing_is_written(unpack: Any, tmp_path: Path) -> None:
    names = ["../../etc/passwd", "/etc/passwd", "C:\\x.jpg", "a/../b", "line\nbreak", "ends in !"]
    before = sorted(p.name for p in tmp_path.iterdir())
    for data in (zip_of(dict.fromkeys(names, JPEG)), tar_of(dict.fromkeys(names, JPEG))):
        found, _ = unpack(data)
        assert [r.path_bytes.partition(b"!")[2].decode() for r in found] == names
        assert all(r.content == JPEG for r in found)
        assert found[4].path.endswith("!line\\nbreak") and found[5].path.endswith("!ends in \\x21")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "x"])


def test_names_that_are_not_text(unpack: Any) -> None:
    entry = central_header(b"caf\xe9.jpg", 1, 1, 0, flags=0x800, crc=zlib.crc32(b"x"))
    body = local_header(b"caf\xe9.jpg", b"x", flags=0x800) + b"x"
    found, own = unpack(body + entry + end_record(1, len(entry), len(body)))
    assert found[0].path_bytes.endswith(b"!caf\xe9.jpg") and found[0].path.endswith("!caf\\xe9.jpg")
    assert found[0].content == b"x" and code_of(own) == "archive"


# --- choosing -------------------------------------------------------------------------------------------------------


def test_include_and_exclude(unpack: Any) -> None:
    data = zip_of({"a.jpg": b"1", "thumbs/b.jpg": b"2", "c.txt": b"3", "in.tar": tar_of({"d.jpg": b"4", "e": b"5"})})

    def chosen(**options: Any) -> list[str]:
        found, own = unpack(data, "x.zip", **options)
        return [r.path[len(own.path) + 1 :] for r in found]

    assert chosen(include=["*.jpg"]) == ["a.jpg", "thumbs/b.jpg", "in.tar!d.jpg", "in.tar"]
    assert chosen(include=["*.jpg"], exclude=["thumbs"]) == ["a.jpg", "in.tar!d.jpg", "in.tar"]
    assert chosen(exclude=["*.jpg", "*.tar"]) == ["c.txt"]
    assert chosen(include=["x.zip!c*"]) == ["c.txt", "in.tar"]


def test_an_archive_that_is_left_out_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of({"a": b"1"}))
    assert list(discover([tmp_path], exclude=["*.zip"])) == []


def test_only_what_is_wanted_is_read(unpack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zip_of({"a": JPEG, "b": JPEG, "in": tar_of({"c": JPEG})})
    found, own = unpack(data, wanted=lambda ref: ref.path.endswith("!b"))
    assert [r.content is not None for r in found] == [False, True, False, False]
    monkeypatch.setattr("jscan.reading.EvidenceFile.digest", lambda _: pytest.fail("no row will hold it"))
    found, own = unpack(data, wanted=lambda ref: False)
    assert len(found) == 4 and own.evidence is None


def test_members_are_read_one_at_a_time(tmp_path: Path) -> None:
    """Memory does not grow with the archive: the next member is read when it is asked for."""
    (tmp_path / "x").write_bytes(COMPRESSORS["tar.gz"](tar_of({f"{i}": os.urandom(100_000) for i in range(50)})))
    read = 0
    real = streams.Inflated.read

    def count(self: streams.Inflated, size: int) -> bytes:
        nonlocal read
        data = real(self, size)
        read += len(data)
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.Inflated, "read", count)
        refs = discover([tmp_path / "x"])
        for _ in range(3):
            next(refs)
        assert 300_000 < read < 500_000


# --- members that are not read --------------------------------------------------------------------------------------


def test_encrypted_and_unknown_methods_cost_one_member(unpack: Any) -> None:
    data = zip_of({"a": b"aaaa", "b": b"bbbb", "c": b"cccc", "d": b"dddd"}, zipfile.ZIP_STORED)
    at = [i for i in range(len(data)) if data.startswith(b"PK\1\2", i)]
    data = patched(data, (at[0] + 8, b"\1\0"), (at[1] + 10, b"\x09\0"), (at[2] + 10, b"\x63\0"))
    found, own = unpack(data)
    assert codes(found) == ["encrypted", "unsupported_method", "encrypted", None]
    assert found[1].refused is not None and "Deflate64" in found[1].refused[1]
    assert all(r.container_sha256 for r in found) and code_of(own) == "archive"


def test_links_devices_and_odd_kinds(unpack: Any) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        kinds = [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"Z", b"0", b"7"]
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"{number}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    found, _ = unpack(out.getvalue())
    assert [r.member for r in found] == [1, 2, 3, 4, 5, 6, 7]
    assert codes(found) == ["symlink", "symlink", "not_regular", "not_regular", "unsupported_method", None, None]
    body = local_header(b"link", b"to") + b"to"
    entry = central_header(b"link", 2, 2, 0, mode=0o120777)
    found, _ = unpack(body + entry + end_record(1, len(entry), len(body)))
    assert codes(found) == ["symlink"]


def test_sparse_files(unpack: Any) -> None:
    data = bytearray(tar_of({"a": b"x" * 512, "b": b"y"}, tarfile.GNU_FORMAT))
    data[156:157], data[482] = b"S", 1
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    more = bytes(504) + b"\1" + bytes(7)
    data[512:512] = more + bytes(512)
    found, _ = unpack(bytes(data))
    assert codes(found) == ["unsupported_method", None] and found[1].content == b"y"


# --- bombs ----------------------------------------------------------------------------------------------------------


def test_overlapping_members_are_not_read(unpack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jscan.archives.zips._open", lambda *_: pytest.fail("it was opened"))
    found, _ = unpack(overlapping_zip(JPEG, 300))
    assert codes(found) == ["bad_archive"] * 300
    # Fifield's form: each member's data hold the next member's header.
    kernel = local_header(b"2", JPEG) + JPEG
    body = local_header(b"1", kernel) + kernel
    directory = central_header(b"1", len(kernel), len(kernel), 0)
    directory += central_header(b"2", len(JPEG), len(JPEG), len(body) - len(kernel))
    found, _ = unpack(body + directory + end_record(2, len(directory), len(body)))
    assert codes(found) == ["bad_archive"] * 2


def test_a_member_like_a_bomb(unpack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_MEMBER_BYTES", 1 << 20)
    data = zip_of({"bomb.bmp": bytes(40 << 20), "a": b"x"})
    assert len(data) < 50_000
    found, own = unpack(data)
    assert codes(found) == ["archive_limit", None] and code_of(own) == "archive"


def test_a_whole_archive_like_a_bomb(unpack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_ARCHIVE_BYTES", 5 << 20)
    files = {f"{i}": bytes(1 << 20) for i in range(20)}
    for data in (zip_of(files), COMPRESSORS["tar.gz"](tar_of(files)), COMPRESSORS["tar.zst"](tar_of(files))):
        found, own = unpack(data)
        assert code_of(own) == "archive_limit"
        assert codes(found)[:4] == [None] * 4
        assert set(codes(found)[6:]) <= {"archive_limit"}
    # Bombs inside bombs draw on the same budget.
    found, own = unpack(zip_of({f"{i}": zip_of({"m": bytes(2 << 20)}) for i in range(9)}))
    assert code_of(own) == "archive_limit"


def test_members_that_are_too_large_too_slow_or_too_many(unpack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zip_of({"a": JPEG, "b": b"small"}, zipfile.ZIP_STORED)
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    found, own = unpack(data)
    assert codes(found) == ["archive_limit", None]
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 10_000)
    monkeypatch.setattr(archives, "MAX_MEMBER_SECONDS", -1.0)
    assert codes(unpack(data)[0]) == ["archive_limit"] * 2
    monkeypatch.setattr(archives, "MAX_MEMBER_SECONDS", 60.0)
    monkeypatch.setattr(archives.Budget, "of", classmethod(lambda cls, size, alive: cls(1 << 30, 1)))
    found, own = unpack(data)
    assert len(found) == 1 and code_of(own) == "archive_limit"


def test_large_members_that_are_no_images(unpack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jscan.reading.MAX_UNREAD_BYTES", 1000)
    film = b"\0\0\0\x18ftypqt  " + bytes(5000)
    found, _ = unpack(tar_of({"film": film, "a": JPEG}))
    assert codes(found) == ["unsupported_format", None]


def test_decoders_that_ask_for_gigabytes(unpack: Any) -> None:
    wide = bytearray(zstd.compress(tar_of({"a": JPEG})))
    # A frame that claims a window of a terabyte: no single segment, window descriptor 0xF8.
    frame = b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(wide[6:])
    found, own = unpack(frame)
    assert found == [] and code_of(own) == "bad_archive"
    head = b"\x09\x14\x05\0\x5d\xff\xff\xff\xff" + bytes(50)
    body = local_header(b"a", head, method=14) + head
    entry = central_header(b"a", len(head), 100, 0, method=14)
    found, own = unpack(body + entry + end_record(1, len(entry), len(body)))
    assert codes(found) == ["archive_limit"]


def test_a_huge_sparse_file_that_begins_as_a_tar(unpack: Any, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.write_bytes(tar_of({"a": JPEG}))
    try:
        os.truncate(path, archives.MAX_ARCHIVE_BYTES + 1)
    except OSError:
        pytest.skip("no sparse files of a terabyte here")
    (own,) = discover([path])
    assert code_of(own) == "archive_limit"
    os.truncate(path, 200 << 20)  # zeros behind the end are passed over quickly
    refs = list(discover([path]))
    assert codes(refs) == [None, "archive"]


# --- damage ---------------------------------------------------------------------------------------------------------


def test_wrong_sizes_and_checksums_are_told(unpack: Any) -> None:
    data = zip_of({"a": JPEG, "b": JPEG}, zipfile.ZIP_DEFLATED)
    at = data.index(b"PK\1\2")
    found, _ = unpack(patched(data, (at + 24, struct.pack("<I", 10**9))))
    assert [r.evidence.warnings for r in found] == [("wrong_size",), ()] and found[0].content == JPEG
    found, _ = unpack(patched(data, (at + 16, b"\0\0\0\0")))
    assert [r.evidence.warnings for r in found] == [("bad_crc",), ()]
    stored = zip_of({"a": JPEG}, zipfile.ZIP_STORED)
    found, _ = unpack(patched(stored, (stored.index(JPEG) + 100, b"changed")))
    assert found[0].evidence.warnings == ("bad_crc",) and found[0].content != JPEG
    found, _ = unpack(patched(stored, (30, b"b")))
    assert found[0].evidence.warnings == ("other_name",)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.75, 0.97])
@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_tar_that_is_cut_off(unpack: Any, suffix: str, part: float) -> None:
    files = {f"{i}": random.Random(i).randbytes(200_000) for i in range(4)}
    data = COMPRESSORS[suffix](tar_of(files))
    found, own = unpack(data[: round(part * len(data))])
    assert code_of(own) == "bad_archive"
    for ref in found[:-1]:
        assert ref.content == files[ref.path[-1]] and ref.evidence.warnings == ()
    if found and found[-1].content is not None:
        last = found[-1]
        assert files[last.path[-1]].startswith(last.content)
        assert last.content == files[last.path[-1]] or last.evidence.warnings == ("member_cut",)
    if part == 0.75 and suffix != "tar.bz2":  # bzip2 gives nothing of a block that is not whole
        assert len(found) >= 3


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_that_is_cut_off(unpack: Any, method: int) -> None:
    files = {f"{i}": random.Random(i).randbytes(20_000) for i in range(4)}
    data = zip_of(files, method)
    found, own = unpack(data[: round(0.6 * len(data))])
    assert code_of(own) == "bad_archive"
    assert [r.content for r in found[:2]] == [files["0"], files["1"]]
    assert found[2].evidence.warnings == ("member_cut",) and files["2"].startswith(found[2].content)
    assert len(found) == 3


def test_a_zip_that_was_streamed_and_then_cut_off(unpack: Any) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    files = {f"{i}": random.Random(i).randbytes(20_000) for i in range(4)}
    out = Pipe()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    whole = out.getvalue()
    assert contents(unpack(whole)[0]) == files
    found, own = unpack(whole[: round(0.6 * len(whole))])
    assert [r.content for r in found[:2]] == [files["0"], files["1"]] and len(found) == 3
    assert found[2].evidence.warnings == ("member_cut",) and code_of(own) == "bad_archive"


def test_a_damaged_directory(unpack: Any) -> None:
    data = zip_of({f"{i}": b"data %d" % i for i in range(5)})
    third = [i for i in range(len(data)) if data.startswith(b"PK\1\2", i)][2]
    found, own = unpack(patched(data, (third, b"XX")))
    assert contents(found) == {"0": b"data 0", "1": b"data 1"} and code_of(own) == "bad_archive"
    at = data.index(b"PK\1\2")
    found, own = unpack(patched(data, (at + 42, struct.pack("<I", 5))))
    assert "bad_archive" in codes(found) and len(found) == 5
    found, own = unpack(patched(data, (0, b"PK\3\4XXXX")))
    assert len(found) == 5


def test_a_damaged_header_costs_one_member(unpack: Any) -> None:
    files = {f"{i}": JPEG for i in range(4)}
    data = tar_of(files, tarfile.USTAR_FORMAT)
    step = 512 + -(-len(JPEG) // 512) * 512
    found, own = unpack(patched(data, (step + 100, b"XXXXXX")))
    assert list(contents(found)) == ["0", "2", "3"] and code_of(own) == "bad_archive"


def test_a_tar_without_its_end(unpack: Any) -> None:
    data = tar_of({"a": JPEG})[: 512 + -(-len(JPEG) // 512) * 512]
    found, own = unpack(data)
    assert contents(found) == {"a": JPEG} and code_of(own) == "bad_archive"


def test_what_follows_the_end_of_a_tar(unpack: Any) -> None:
    _, own = unpack(tar_of({"a": JPEG}) + b"something else" * 100)
    assert code_of(own) == "archive" and own.evidence.warnings == ("trailing_bytes",)


def test_chains_of_headers_and_headers_without_end(unpack: Any) -> None:
    def header(kind: bytes, size: int, data: bytes = b"") -> bytes:
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, size
        return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)

    chain = header(b"L", 5, b"name\0") * 50 + header(b"0", 4, b"data")
    found, own = unpack(chain + bytes(1024))
    assert contents(found) == {"name": b"data"} and code_of(own) == "archive"
    found, own = unpack(header(b"L", 5, b"name\0") * 3000 + bytes(1024))
    assert found == [] and code_of(own) == "bad_archive"
    found, own = unpack(header(b"x", 8 << 30) + bytes(1024))
    assert found == [] and code_of(own) == "bad_archive"
    found, own = unpack(COMPRESSORS["tar.gz"](header(b"x", 300 << 20, bytes(1 << 20)) + bytes(1024)))
    assert found == [] and code_of(own) == "bad_archive"


def test_empty_streams_without_end(unpack: Any) -> None:
    for suffix, pack in COMPRESSORS.items():
        if suffix != "tar":
            data = pack(tar_of({"a": JPEG}))
            assert contents(unpack(pack(b"") * 500 + data)[0]) == {"a": JPEG}, suffix
            _, own = unpack(data + pack(b"") * 5000)
            assert code_of(own) == "bad_archive", suffix


def test_garbage_behind_the_first_bytes(unpack: Any) -> None:
    for magic in (b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08\0", b"BZh91AY&SY", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"):
        _, own = unpack(magic + random.Random(1).randbytes(3000))
        assert code_of(own) == "bad_archive", magic


def test_files_that_only_begin_like_archives_are_none(tmp_path: Path) -> None:
    for number, data in enumerate((b"BZhang wrote this.\n", b"\x1f\x8b" + bytes(600), b"PK", b"0" * 600)):
        (tmp_path / f"{number}").write_bytes(data)
    assert [r.refused for r in discover([tmp_path])] == [None] * 4


def test_compressed_files_that_hold_no_tar_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(COMPRESSORS["tar.gz"](b"a letter " * 100))
    (ref,) = discover([tmp_path])
    assert ref.refused is None and ref.content is None


def test_an_archive_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(tar_of({"a": JPEG, "b": JPEG}))
    refs = discover([path])
    assert next(refs).content == JPEG
    with open(path, "ab") as stream:
        stream.write(bytes(1000))
    assert [code_of(r) for r in list(refs)[-1:]] == ["changed"]


def test_errors_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(zip_of({"a": os.urandom(500_000), "b": b"fine"}, zipfile.ZIP_STORED))
    real = EvidenceFile.pread

    def fail(self: EvidenceFile, count: int, offset: int) -> bytes:
        if offset <= 30_000 < offset + count and count < 600_000:
            raise InputError(ErrorCode.OS_ERROR, "It could not be read: EIO (Input/output error). Mend the disk.")
        return real(self, count, offset)

    monkeypatch.setattr(EvidenceFile, "pread", fail)
    refs = list(discover([path]))
    assert codes(refs) == ["os_error", None, "archive"]


def test_a_fault_of_the_readers_costs_one_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(zip_of({"x": b"x"}))
    (tmp_path / "c").write_bytes(b"c")
    monkeypatch.setattr("jscan.archives.zips._find", lambda _: 1 / 0)
    assert codes(list(discover([tmp_path]))) == ["internal", "internal", None]


@pytest.mark.skipif(not hasattr(os, "O_NOATIME"), reason="this system has no O_NOATIME")
def test_an_archives_access_time_is_spared(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(tar_of(FILES))
    os.utime(path, ns=(10**18, 10**18))
    *_, own = discover([path])
    assert path.stat().st_atime_ns == 10**18 or own.evidence.warnings == ("atime_changed",)  # type: ignore[union-attr]


@pytest.mark.skipif(not hasattr(os, "O_NOATIME"), reason="this system has no O_NOATIME")
def test_an_access_time_that_cannot_be_spared_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(name: bytes, flags: int, *rest: int) -> int:
        if flags & os.O_NOATIME:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(name, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    for name, data in {"a.zip": zip_of(FILES), "b.jpg": JPEG}.items():
        (tmp_path / name).write_bytes(data)
        os.utime(tmp_path / name, ns=(10**18, 10**18 + 1))
    *_, own, plain = discover([tmp_path])
    if (tmp_path / "b.jpg").stat().st_atime_ns == 10**18:
        pytest.skip("this file system keeps no access times")
    assert own.evidence is not None and own.evidence.warnings == ("atime_changed",)
    # The look at the first bytes changed it; the worker that reads the file later could not tell.
    assert read(plain)[1].warnings == ("atime_changed",)
