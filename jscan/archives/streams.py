"""Decompressed bytes, one bounded piece after another."""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from typing import Protocol

from jscan.archives import Budget, Reader, Source
from jscan.errors import ErrorCode, InputError, said_by

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK = 1 << 16
"""Compressed bytes taken at a time."""
MAX_BARREN = 1000
"""Empty streams one behind another, which cost time and give nothing."""
MAX_WINDOW_LOG = 27
"""Of Zstandard: 128 MiB of history, as the zstd tool itself allows without being told otherwise."""
MAX_LZMA_BYTES = 256 << 20
"""Memory of an LZMA decoder; `xz -9` asks for 65 MiB."""

_ERRORS = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError, ValueError)


class Decompressor(Protocol):
    """What bz2, lzma and zstd share."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Zlib:
    """zlib with the manners of the others."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)
        self._stalled = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        # Output may wait inside even where all input was taken; only an empty answer tells.
        return not self._inner.unconsumed_tail and self._stalled

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._stalled = not out
        return out


def decompressor(method: str, properties: bytes = b"") -> Decompressor:
    """A decompressor for `deflate`, `gzip`, `bzip2`, `xz`, `Zstandard` or the `lzma` of a zip (with its properties).

    Raises InputError `bad_archive` for properties that cannot be.
    """
    if method == "deflate":
        return _Zlib(-zlib.MAX_WBITS)
    if method == "gzip":
        return _Zlib(16 + zlib.MAX_WBITS)
    if method == "bzip2":
        return bz2.BZ2Decompressor()
    if method == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_LZMA_BYTES)
    if method == "lzma":
        return _zip_lzma(properties)
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})


def _zip_lzma(properties: bytes) -> Decompressor:
    """By APPNOTE 5.8.8: five bytes, of which the first packs lc, lp and pb and the others are the dictionary's size."""
    if len(properties) != 5 or properties[0] >= 225:
        raise damaged("the properties of its LZMA data are wrong")
    rest, lc = divmod(properties[0], 9)
    pb, lp = divmod(rest, 5)
    size = int.from_bytes(properties[1:], "little")
    if lc + lp > 4:
        raise damaged("the properties of its LZMA data are wrong")
    if size > MAX_LZMA_BYTES:
        raise InputError(
            ErrorCode.ARCHIVE_LIMIT,
            f"Its LZMA data ask for {size:,} bytes of memory; {MAX_LZMA_BYTES:,} are given. Extract it with another "
            "tool and scan the file.",
        )
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": max(size, 4096), "lc": lc, "lp": lp, "pb": pb}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)


def damaged(what: str) -> InputError:
    """An error that says that the archive is damaged, and how."""
    return InputError(ErrorCode.BAD_ARCHIVE, f"The archive is damaged: {what}. Look for an undamaged copy.")


class Slice:
    """A part of a source as a Reader; it says `bad_archive` where the source ends before it."""

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self._source = source
        self.at = start
        self._stop = stop

    def read(self, count: int) -> bytes:
        """The next bytes."""
        count = min(count, self._stop - self.at)
        if count <= 0:
            return b""
        data = self._source.pread(count, self.at)
        if not data:
            raise damaged("it ends in the middle of a member")
        self.at += len(data)
        return data

    def skip(self, count: int) -> int:
        """How many bytes were passed over without reading them: `count`, or what is left."""
        count = max(0, min(count, self._stop - self.at))
        self.at += count
        return count


class Inflated:
    """What comes out of compressed data, of several streams one behind another where `joined`.

    All that comes out is taken from the budget. After an error every further `read` raises it again, for a decoder that
    has failed must not be asked for more.
    """

    def __init__(self, packed: Reader, method: str, budget: Budget, *, joined: bool, properties: bytes = b"") -> None:
        self._packed = packed
        self._method = method
        self._budget = budget
        self._joined = joined
        self._decoder = decompressor(method, properties)
        self._waiting = b""  # compressed bytes not yet given to the decoder
        self._ended = False
        self._barren = 0
        self._failed: InputError | None = None
        self.taken = 0
        """Compressed bytes that were used."""

    def read(self, count: int) -> bytes:
        """The next bytes, at most `count`. Raises InputError `bad_archive` and `archive_limit`."""
        if self._failed is not None:
            raise self._failed
        try:
            out = self._next(count)
            self._budget.spend(len(out))
        except InputError as error:
            self._failed = error
            raise
        return out

    def skip(self, count: int) -> int:
        """How many of the next bytes were passed over; fewer at the end."""
        left = count
        while left and (data := self.read(min(left, 1 << 20))):
            left -= len(data)
        return count - left

    def _next(self, count: int) -> bytes:
        while not self._ended:
            if self._decoder.eof:
                self._begin_again()
                continue
            if self._decoder.needs_input and not self._waiting:
                self._waiting = self._packed.read(CHUNK)
                self.taken += len(self._waiting)
                if not self._waiting:
                    raise damaged("its compressed data end early")
            data, self._waiting = self._waiting, b""
            try:
                out = self._decoder.decompress(data, count)
            except _ERRORS as error:
                raise damaged(f"its {self._method} data cannot be decompressed ({said_by(error)})") from error
            if out:
                self._barren = 0
                return out
        return b""

    def _begin_again(self) -> None:
        """Nothing; after the end of a stream, goes on with the next one if there is one."""
        rest = self._decoder.unused_data
        if self._joined:
            self._barren += 1
            if self._barren > MAX_BARREN:
                raise damaged(f"it holds more than {MAX_BARREN:,} empty streams in a row")
            # Padding by zeros may follow (tapes, blocks of xz), and so may another stream.
            rest = rest.lstrip(b"\0")
            while not rest:
                rest = self._packed.read(CHUNK)
                if not rest:
                    self._ended = True
                    return
                self.taken += len(rest)
                rest = rest.lstrip(b"\0")
            if rest[:1] in _FIRST.get(self._method, b""):
                self._decoder, self._waiting = decompressor(self._method), rest
                return
        self.taken -= len(rest)
        self._ended = True


_FIRST = {"gzip": b"\x1f", "bzip2": b"B", "xz": b"\xfd", "Zstandard": b"\x28\x50\x51\x52\x53\x54\x55\x56\x57\x58\x59"}


def read_exactly(reader: Reader, count: int) -> bytes:
    """The next `count` bytes; fewer at the end."""
    parts = []
    while count > 0:
        part = reader.read(count)
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
