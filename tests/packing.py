"""Archives, sound and hostile, for tests."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": zstd.compress,
}
"""Of the bytes of a tar, by the suffix that people give the result."""


def zip_of(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive; names that end in `/` are folders."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tar_of(files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A plain tar archive, every file changed at 1,600,000,000 s."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_600_000_000
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def local_header(name: bytes, data: bytes, *, method: int = 0, flags: int = 0, crc: int = 0, size: int = -1) -> bytes:
    """The header that stands before a zip member's data, which are not in it."""
    sizes = (len(data), len(data) if size < 0 else size)
    return struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, flags, method, 0, 0, crc, *sizes, len(name), 0) + name


def central_header(
    name: bytes, packed: int, size: int, offset: int, *, method: int = 0, flags: int = 0, crc: int = 0, mode: int = 0
) -> bytes:
    """An entry of a zip's directory."""
    fields = (0x0314, 20, flags, method, 0, 0, crc, packed, size, len(name), 0, 0, 0, 0, mode << 16, offset)
    return struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *fields) + name


def end_record(entries: int, size: int, offset: int) -> bytes:
    """The end of a zip."""
    return struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, entries, entries, size, offset, 0)


def overlapping_zip(data: bytes, members: int) -> bytes:
    """A zip whose members all have the same stored data (CVE-2024-0450 in its plainest form)."""
    body = local_header(b"a", data) + data
    directory = b"".join(central_header(b"%d" % i, len(data), len(data), 0) for i in range(members))
    return body + directory + end_record(members, len(directory), len(body))


def patched(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    """The bytes with others in some places."""
    out = bytearray(data)
    for at, new in changes:
        out[at : at + len(new)] = new
    return bytes(out)


def one_member(name: bytes, data: bytes, **header: Any) -> bytes:
    """A zip archive of one stored member, whose header in the directory says something else besides."""
    entry = central_header(name, len(data), len(data), 0, crc=zlib.crc32(data), **header)
    body = local_header(name, data) + data
    return body + entry + end_record(1, len(entry), len(body))
