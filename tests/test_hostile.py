"""Every bad input of the table in the specification, scanned by a run with the real models: one row each, as promised.

What can only be shown by standing in for the system (EIO, ESTALE, a file that changes) is in test_reading.py; the
formats one by one in test_decode.py, archives in test_archives.py, faults of workers in test_engine_local.py.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import socket
import struct
import sys
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from material import file_of, photo
from packing import one_member, overlapping_zip, patched, tar_of, zip_of
from PIL import Image

from jscan.config import ScanConfig
from jscan.jpegheader import MAX_SCANS
from jscan.run import RunSummary, run_scan
from jscan.verify import verify

resource = pytest.importorskip("resource", reason="the inputs are those of a POSIX file system")

PICTURE = photo()[100:220, 50:210]  # 120 x 160
HOSTILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "hostile.zip"
DEADLINE = 120.0
"""Seconds that one input may take."""
WORKER_BYTES = 2 << 30
"""Memory that one worker may take."""


def jpeg(**options: Any) -> bytes:
    return file_of(PICTURE, **options)


def corrupt_entropy() -> bytes:
    data = jpeg(restart_marker_rows=1)
    return patched(data, (data.index(b"\xff\xd3"), b"\xff\xd5"))


def arithmetic() -> bytes:
    """A header that announces arithmetic coding, and bytes: to such a decoder any bytes are an image."""
    data = jpeg(subsampling=0)
    sof, sos = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    huffman = data.index(b"\xff\xc4")
    header = data[:sof] + b"\xff\xc9" + data[sof + 2 : huffman] + data[sos : sos + 14]
    return header + bytes(random.Random(0).choices(range(1, 255), k=50)) + b"\xff\xd9"


def many_scans() -> bytes:
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (MAX_SCANS + 1) + b"\xff\xd9"


def with_sof(code: int, precision: int = 8) -> bytes:
    data = jpeg()
    at = data.index(b"\xff\xc0")
    return patched(data, (at + 1, bytes([code])), (at + 4, bytes([precision])))


def with_size(height: int, width: int) -> bytes:
    data = jpeg()
    return patched(data, (data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width)))


def four_inks(transform: int) -> bytes:
    data = file_of(PICTURE, "CMYK", quality=95)
    return patched(data, (data.index(b"Adobe") + 11, bytes([transform])))


def app1_segments() -> bytes:
    data = jpeg()
    return data[:2] + (b"\xff\xe1\xff\xff" + bytes(65_533)) * 400 + data[2:]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def inflating_png() -> bytes:
    plain, bomb = file_of(PICTURE, "PNG"), zlib.compress(bytes(300 << 20), 9)
    chunks = [(b"iCCP", b"x\0\0" + bomb), (b"zTXt", b"k\0\0" + bomb), (b"iTXt", b"k\0\1\0\0\0" + bomb * 5)]
    return plain[:33] + b"".join(png_chunk(*c) for c in chunks) + plain[33:]


def large_png() -> bytes:
    plain = bytearray(file_of(PICTURE, "PNG"))
    plain[16:24] = struct.pack(">II", 13_000, 13_000)
    return bytes(plain)


def many_frames(kind: str) -> bytes:
    first, *more = (Image.fromarray(PICTURE).rotate(90 * i).resize((160, 120)) for i in range(3))
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=more)
    return out.getvalue()


def tiff_loop() -> bytes:
    data = bytearray(file_of(PICTURE, "TIFF"))
    (ifd,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, ifd)
    struct.pack_into("<I", data, ifd + 2 + 12 * count, ifd)
    return bytes(data)


def nested() -> bytes:
    data = zip_of({"deep.jpg": jpeg()})
    for _ in range(3):
        data = zip_of({"in.zip": data})
    return data


OK, SKIPPED, ERROR = "ok", "skipped", "error"
Expected = tuple[str, str | None, set[str]]

FILES: dict[bytes, tuple[Callable[[], bytes], Expected]] = {
    b"sound.jpg": (jpeg, (OK, None, set())),
    b"corrupt_entropy.jpg": (corrupt_entropy, (OK, None, {"corrupt_data"})),
    b"truncated.jpg": (lambda: jpeg()[: len(jpeg()) * 4 // 5], (OK, None, {"truncated"})),
    b"no_eoi.jpg": (lambda: jpeg()[:-2], (OK, None, {"truncated"})),
    b"arithmetic.jpg": (arithmetic, (OK, None, set())),
    b"scans.jpg": (many_scans, (ERROR, "scan_limit", set())),
    b"twelve_bits.jpg": (lambda: with_sof(0xC1, 12), (SKIPPED, "unsupported_sof", set())),
    b"lossless.jpg": (lambda: with_sof(0xC3), (SKIPPED, "unsupported_sof", set())),
    b"cmyk.jpg": (lambda: four_inks(0), (OK, None, {"cmyk", "adobe_transform_0"})),
    b"ycck.jpg": (lambda: four_inks(2), (OK, None, {"cmyk", "adobe_transform_2"})),
    b"small.jpg": (lambda: file_of(PICTURE[:63]), (SKIPPED, "too_small", set())),
    b"height_0.jpg": (lambda: with_size(0, 160), (ERROR, "bad_header", set())),
    b"65535.jpg": (lambda: with_size(65_535, 65_535), (ERROR, "pixel_limit", set())),
    b"169_mp.png": (large_png, (ERROR, "pixel_limit", set())),
    b"app1.jpg": (app1_segments, (OK, None, {"metadata_limit"})),
    b"inflating.png": (inflating_png, (OK, None, {"metadata_limit"})),
    b"empty.jpg": (bytes, (ERROR, "empty", set())),
    b"soi.jpg": (lambda: b"\xff\xd8", (ERROR, "bad_header", set())),
    b"png_in_name_only.png": (jpeg, (OK, None, {"wrong_suffix"})),
    b"UPPER.JPG": (jpeg, (OK, None, set())),
    b"trailing.jpg": (lambda: jpeg() + b"more", (OK, None, {"trailing_bytes"})),
    b"two.mpo": (lambda: many_frames("MPO"), (OK, None, set())),
    b"three.gif": (lambda: many_frames("GIF"), (OK, None, {"few_colours"})),
    b"three.tif": (lambda: many_frames("TIFF"), (OK, None, set())),
    b"three.webp": (lambda: many_frames("WEBP"), (OK, None, {"alpha_dropped", "other_codec"})),
    b"loop.tif": (tiff_loop, (OK, None, set())),
    b"x.heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(99), (SKIPPED, "unsupported_format", set())),
    b"x.avif": (lambda: b"\0\0\0\x18ftypavif" + bytes(99), (SKIPPED, "unsupported_format", set())),
    b"x.cr2": (lambda: b"II*\0\x10\0\0\0CR\2\0" + bytes(99), (SKIPPED, "unsupported_format", set())),
    b"x.psd": (lambda: b"8BPS\0\1" + bytes(99), (SKIPPED, "unsupported_format", set())),
    b"x.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%touch here) (w) file", (SKIPPED, "unsupported_format", set())),
    b"x.pdf": (lambda: b"%PDF-1.7\n" + bytes(99), (SKIPPED, "unsupported_format", set())),
    b"new\nline.jpg": (jpeg, (OK, None, set())),
    b"caf\xe9.jpg": (jpeg, (OK, None, set())),
    b"bomb.zip": (
        lambda: zip_of({"bomb.bmp": b"BM" + bytes(12) + b"(" + bytes(268 << 20)}),
        (SKIPPED, "archive", set()),
    ),
    b"bomb.zip!bomb.bmp": (bytes, (ERROR, "archive_limit", set())),
    b"size.zip": (lambda: wrong_size(), (SKIPPED, "archive", set())),
    b"size.zip!a.jpg": (bytes, (OK, None, {"wrong_size"})),
    b"overlap.zip": (lambda: overlapping_zip(jpeg(), 2), (SKIPPED, "archive", set())),
    b"overlap.zip!0": (bytes, (ERROR, "bad_archive", set())),
    b"overlap.zip!1": (bytes, (ERROR, "bad_archive", set())),
    b"secret.zip": (lambda: one_member(b"a.jpg", jpeg(), flags=1), (SKIPPED, "archive", set())),
    b"secret.zip!a.jpg": (bytes, (ERROR, "encrypted", set())),
    b"method.zip": (lambda: one_member(b"a.jpg", jpeg(), method=98), (SKIPPED, "archive", set())),
    b"method.zip!a.jpg": (bytes, (ERROR, "unsupported_method", set())),
    b"slip.tar": (lambda: tar_of({"../../slip.jpg": jpeg()}), (SKIPPED, "archive", set())),
    b"slip.tar!../../slip.jpg": (bytes, (OK, None, set())),
    b"nested.zip": (nested, (SKIPPED, "archive", set())),
    b"nested.zip!in.zip": (bytes, (SKIPPED, "archive", set())),
    b"nested.zip!in.zip!in.zip": (bytes, (SKIPPED, "archive", set())),
    b"nested.zip!in.zip!in.zip!in.zip": (bytes, (ERROR, "archive_depth", set())),
    b"cut.tar": (
        lambda: tar_of({"a.jpg": jpeg(), "b.jpg": jpeg()})[: 1536 + len(jpeg()) * 9 // 5],
        (ERROR, "bad_archive", set()),
    ),
    b"cut.tar!a.jpg": (bytes, (OK, None, set())),
    b"cut.tar!b.jpg": (bytes, (OK, None, {"member_cut", "truncated"})),
    b"link.jpg": (bytes, (SKIPPED, "symlink", set())),
    b"folder/loop": (bytes, (SKIPPED, "symlink", set())),
    b"pipe.jpg": (bytes, (SKIPPED, "not_regular", set())),
    b"socket.jpg": (bytes, (SKIPPED, "not_regular", set())),
}
"""What each input is made of (nothing where a special file or an archive brings it), and what its row must say."""
FRAMES = {b"two.mpo": 3, b"three.gif": 3, b"three.tif": 3, b"three.webp": 3, b"loop.tif": 1}


def wrong_size() -> bytes:
    data = one_member(b"a.jpg", jpeg())
    at = data.index(b"PK\1\2")
    return patched(data, (at + 24, struct.pack("<I", 1 << 31)))


def scan(out: Path, *sources: Path, **options: Any) -> tuple[RunSummary, list[dict[str, Any]]]:
    run = run_scan(ScanConfig(sources, out, workers=2, device="cpu", **options))
    found: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return run, found


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bytes, dict[str, Any]]]:
    """Path below the folder of bad inputs -> its row."""
    base = tmp_path_factory.mktemp("hostile")
    folder = os.fsencode(base / "in")
    os.makedirs(folder + b"/folder")
    special = {b"link.jpg", b"folder/loop", b"pipe.jpg", b"socket.jpg"}
    for name, (make, _) in FILES.items():
        if b"!" not in name and name not in special:
            with open(folder + b"/" + name, "wb") as stream:
                stream.write(make())
    os.symlink(b"sound.jpg", folder + b"/link.jpg")
    os.symlink(b"..", folder + b"/folder/loop")
    os.mkfifo(folder + b"/pipe.jpg")
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket may have 107 bytes
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(b"socket.jpg")
    finally:
        os.chdir(here)
    before = snapshot(base / "in")
    start = time.monotonic()
    run, found = scan(base / "out.parquet", base / "in")
    assert time.monotonic() - start < DEADLINE, "one of the inputs held up the run"
    assert run.rows == len(found) == len({(r["path_bytes"], r["container"], r["member"]) for r in found})
    assert run.errors > 0
    assert snapshot(base / "in") == before, "the evidence was touched"
    beside = ["in", "out.parquet", "out.parquet.manifest.json"]
    assert sorted(p.name for p in base.iterdir()) == beside, "something was written beside the results"
    assert verify(base / "out.parquet").troubles == []
    yield {r["path_bytes"].removeprefix(folder + b"/"): r for r in found}
    listener.close()


def snapshot(folder: Path) -> list[tuple[Any, ...]]:
    """What must not change: names, contents' sizes, and all three times of every file."""
    found = []
    for name in sorted(os.listdir(os.fsencode(folder))):
        facts = os.lstat(os.path.join(os.fsencode(folder), name))
        access = facts.st_atime_ns if facts.st_uid == os.geteuid() else 0
        found.append((name, facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, access))
    return found


def test_nothing_is_lost_and_nothing_is_made_up(rows: dict[bytes, dict[str, Any]]) -> None:
    assert set(rows) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_what_the_row_says(rows: dict[bytes, dict[str, Any]], name: bytes) -> None:
    row, (status, code, warnings) = rows[name], FILES[name][1]
    assert (row["status"], row["error_code"]) == (status, code), row["error"]
    assert set(row["warnings"]) == warnings
    if code is not None:
        assert row["error"].endswith(".") and "\n" not in row["error"]
    if status == OK:
        assert row["width"] == 160 and len(row["sha256"]) == 64
        # What another codec or a palette did to the pixels would be taken for a JPEG's traces.
        assert (row["score"] is None) == bool(warnings & {"other_codec", "few_colours"})
    if name in FRAMES:
        assert row["frames"] == FRAMES[name]
    if row["container"] is not None:
        assert row["container"] == rows[name.rpartition(b"!")[0]]["path"]
        assert row["container_sha256"] == rows[name.rpartition(b"!")[0]]["sha256"]


def test_the_missing_part_of_an_image_is_not_estimated(rows: dict[bytes, dict[str, Any]]) -> None:
    assert any("rows could be decoded" in reason for reason in rows[b"truncated.jpg"]["reasons"])
    assert rows[b"truncated.jpg"]["coverage"] < 1


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here answers with EIO")
def test_an_error_of_the_disk_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    run, (first, second) = scan(tmp_path / "out", Path("/proc/self/mem"), tmp_path / "a.jpg")
    assert run.errors == 1
    assert (first["error_code"], second["status"]) == ("os_error", "ok") and "EIO" in first["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept by Linux")
def test_an_image_for_which_the_memory_does_not_suffice_is_one_row(tmp_path: Path) -> None:
    """144 MP, more than a worker may take: neither a crash nor a retry that takes the neighbour with it."""
    (tmp_path / "large.png").write_bytes(file_of(np.zeros((12_000, 12_000), np.uint8), "PNG"))
    (tmp_path / "small.jpg").write_bytes(jpeg())
    run, (large, small) = scan(tmp_path / "out", tmp_path / "large.png", tmp_path / "small.jpg", max_memory=220)
    assert (large["status"], large["error_code"], small["status"]) == ("error", "memory", "ok")
    assert len(large["sha256"]) == 64 and "memory" in large["error"] and run.errors == 1


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no device that never ends")
def test_a_device_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    run, (device, picture) = scan(tmp_path / "out", Path("/dev/zero"), tmp_path / "a.jpg", timeout=30.0)
    assert (device["status"], device["error_code"], picture["status"]) == ("skipped", "not_regular", "ok")
    assert "a device" in device["error"] and run.errors == 0


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "a.jpg").chmod(0)
    _, (row,) = scan(tmp_path / "out", tmp_path / "a.jpg")
    assert row["error_code"] == "os_error" and "EACCES" in row["error"]


# --- the collection of hostile files --------------------------------------------------------------------------------


def alone(check: Callable[..., None], *arguments: Any) -> None:
    """Runs a check in a process of its own, whose largest child is then a worker of its scans and of no other test."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(check, *arguments).result()


def check_collection(tmp_path: Path, every: int) -> None:
    """Scans every so-many-th file of the collection as an archive and as a folder, and compares."""
    files, chosen = tmp_path / "files", tmp_path / "chosen.zip"
    with zipfile.ZipFile(HOSTILE) as archive, zipfile.ZipFile(chosen, "w", zipfile.ZIP_DEFLATED) as part:
        names = [n for n in archive.namelist() if not n.endswith("/")][::every]
        for name in names:
            archive.extract(name, files)
            part.writestr(name, archive.read(name))
    source = HOSTILE if every == 1 else chosen
    kept = []
    for number, path in enumerate((source, files)):
        start = time.monotonic()
        run, found = scan(tmp_path / f"{number}.parquet", path, max_pixels=20_000_000)
        print(f"{path.name}: {run.rows} rows, {dict(run.by_code)}, {time.monotonic() - start:.0f} s")
        members = [r for r in found if r["error_code"] != "archive"]
        assert len(members) == len(names) and run.rows == len(names) + (path is source)
        assert not {"internal", "worker_crash", "timeout"} & set(run.by_code)
        slow = max((r["decode_ms"] or 0) + (r["estimate_ms"] or 0) for r in found)
        assert slow < 1000 * DEADLINE
        told = [(r["sha256"], r["status"], r["error_code"], r["format"], r["score"]) for r in members]
        kept.append(Counter(told))
    assert kept[0] == kept[1]
    # Kilobytes on Linux; the largest of all children that this process has waited for.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < WORKER_BYTES


@pytest.mark.skipif(not HOSTILE.exists(), reason="the collection of hostile files is not here")
def test_a_part_of_the_collection(tmp_path: Path) -> None:
    alone(check_collection, tmp_path, 16)


@pytest.mark.full
@pytest.mark.skipif(not HOSTILE.exists(), reason="the collection of hostile files is not here")
def test_the_whole_collection(tmp_path: Path) -> None:
    alone(check_collection, tmp_path, 1)
