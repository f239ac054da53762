"""What a JPEG's markers say, read with bounds and without decoding a pixel (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from jscan.errors import ErrorCode, InputError
from jscan.jpegtables import standard_table

MAX_SCANS = 100
"""More SOS markers than this and the file is refused: decoding costs one pass over the image for each of them."""
MAX_METADATA_BYTES = 16 << 20
"""Bytes of APPn and COM segments that are looked into; what follows is passed over with a warning."""
MAX_METADATA_SEGMENTS = 300
"""Likewise their number. A 16-bit length bounds each; photographs have fewer than fifty."""
MAX_SEGMENTS = 50_000
"""Segments of any kind; a file with more is refused, because each costs a step of a slow loop."""
MAX_FRAMES = 1000
"""A multi-picture index that claims more images than this is not believed."""

_SOI, _EOI, _SOS, _DQT, _DRI, _DHT, _DAC, _DHP = 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xC4, 0xCC, 0xDE
_SOF = frozenset(range(0xC0, 0xD0)) - {_DHT, _DAC, 0xC8}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_DECODABLE = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_SOF_NAMES = {0xC3: "lossless", 0xC7: "lossless", 0xCB: "lossless", 0xCF: "lossless"}
# RSTn, TEM, SOI and EOI stand alone; every other marker is followed by a length.
_NO_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01, _SOI, _EOI}
# Inside entropy-coded data 0xFF is followed by 0 (stuffing) or by RSTn; fill bytes (0xFF) may precede a marker.
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_ANY_MARKER = re.compile(rb"\xff[\x01-\xfe]")

_EDITORS = (
    "acdsee", "adobe", "affinity", "capture one", "corel", "darktable", "faststone", "gimp", "imagemagick",
    "instagram", "irfanview", "lightroom", "luminar", "microsoft", "on1 ", "paint", "photo editor", "photoscape",
    "photoshop", "picasa", "pixelmator", "pixlr", "polarr", "rawtherapee", "snapseed", "vsco", "windows photo",
    "xnview",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Component:
    """One colour component, as the frame header declares it."""

    id: int
    """Its name in the file, 0 to 255."""
    h: int
    """Horizontal sampling factor, 1 to 4."""
    v: int
    """Vertical sampling factor, 1 to 4."""
    table: tuple[int, ...]
    """Its quantisation table when its first scan begins: 64 steps in zigzag order, 1 to 65,535."""


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The facts of a JPEG's first image. Offsets are in bytes from the start of the file."""

    sof: int
    """Second byte of the frame marker: 0xC0 baseline, 0xC2 progressive, 0xC9 arithmetic, ..."""
    precision: int
    """Bits per sample: 8 or 12."""
    height: int
    """Rows of pixels."""
    width: int
    """Columns of pixels."""
    components: tuple[Component, ...]
    """1 to 4 of them, in frame order."""
    tables: tuple[tuple[int, tuple[int, ...]], ...]
    """Every quantisation table in file order: (bits of its values, 8 or 16; 64 steps in zigzag order)."""
    scans: int
    """Number of SOS markers."""
    luma_complete: bool
    """Whether the scans begun so far send every bit of every coefficient of the first component."""
    restart_interval: int
    """In MCUs; 0 for none."""
    jfif: bool
    """Whether there is a JFIF APP0 segment."""
    adobe_transform: int | None
    """Colour transform of the Adobe APP14 segment (0 none, 1 YCbCr, 2 YCCK), or None without the segment."""
    photoshop: bool
    """Whether Photoshop's own segments are there (APP13 `Photoshop 3.0`, or APP12 `Ducky`)."""
    exif: tuple[int, int] | None
    """(start, stop) of the TIFF structure inside the first Exif APP1 segment, or None."""
    frames: int
    """Images in the file, by its multi-picture (MPF) index; else 1."""
    markers: tuple[int, ...]
    """Marker codes from the first segment up to and with the first SOS."""
    data_start: int
    """Offset of the first scan's own data."""
    data_end: int
    """Where the entropy-coded data of the last scan ends."""
    has_eoi: bool
    """Whether the image ends in an EOI marker."""
    end: int
    """First byte after the image; the length of the file if it has no EOI."""
    trailing: int
    """Bytes after the image, the further images of an MPF file included."""
    warnings: tuple[str, ...]
    """`metadata_limit`, or nothing."""

    @property
    def progressive(self) -> bool:
        """Whether the frame is progressive."""
        return self.sof in _PROGRESSIVE

    @property
    def arithmetic(self) -> bool:
        """Whether the entropy coding is arithmetic."""
        return self.sof >= 0xC9

    @property
    def colours(self) -> str:
        """`gray`, `ycbcr`, `rgb`, `cmyk` or `ycck`, decided as libjpeg does (default_decompress_parms)."""
        ids = tuple(c.id for c in self.components)
        if len(ids) == 1:
            return "gray"
        if len(ids) == 4:
            return "ycck" if self.adobe_transform == 2 else "cmyk"
        if self.jfif:
            return "ycbcr"
        if self.adobe_transform is not None:
            return "rgb" if self.adobe_transform == 0 else "ycbcr"
        return "rgb" if ids == (0x52, 0x47, 0x42) else "ycbcr"

    @property
    def subsampling(self) -> str:
        """`gray`, J:a:b such as `4:2:0`, or every component's factors such as `2x2,2x1,1x2` where there is no name."""
        if len(self.components) == 1:
            return "gray"
        luma, *rest = self.components[:3]
        if len({(c.h, c.v) for c in rest}) == 1 and luma.h % rest[0].h == 0 and luma.v % rest[0].v == 0:
            names = {
                (1, 1): "4:4:4",
                (2, 1): "4:2:2",
                (2, 2): "4:2:0",
                (1, 2): "4:4:0",
                (4, 1): "4:1:1",
                (4, 2): "4:1:0",
                (1, 4): "4:4:1",
            }
            name = names.get((luma.h // rest[0].h, luma.v // rest[0].v))
            if name:
                return name
        return ",".join(f"{c.h}x{c.v}" for c in self.components)

    @property
    def luma_full_size(self) -> bool:
        """Whether the first component is stored at the image's own resolution."""
        luma = self.components[0]
        if len(self.components) == 1:
            return True  # one component alone is never scaled, whatever its factors say
        return luma.h == max(c.h for c in self.components) and luma.v == max(c.v for c in self.components)


def parse(data: bytes) -> JpegHeader:
    """The header facts of the first image in `data`.

    Raises InputError and nothing else: `bad_header` where the structure is not that of a JPEG, `scan_limit` for
    more than 100 scans, `unsupported_sof` for lossless and hierarchical frames and for 12 bits per sample.
    Time grows with the number of segments, which is limited, and with the file's length at the speed of a
    search for the next marker.
    """
    if not data.startswith(b"\xff\xd8"):
        raise _bad("it does not begin with the SOI marker")
    return _Parser(data).run()


def guess_encoder(header: JpegHeader, make: str | None = None, software: str | None = None) -> str:
    """`ijg`, `photoshop`, `camera` or `unknown`: which kind of program wrote the file.

    `ijg`: a JFIF segment first, then tables, frame, Huffman tables and scan in the order in which libjpeg writes them,
    one table to a segment, and both tables the standard ones of one quality factor. `photoshop`: an Adobe
    segment and one of Photoshop's. `camera`: Exif `make` is given and `software` names no known editor.
    """
    if _is_ijg(header):
        return "ijg"
    if header.adobe_transform is not None and header.photoshop:
        return "photoshop"
    if make and not any(name in (software or "").lower() for name in _EDITORS):
        return "camera"
    return "unknown"


def _is_ijg(header: JpegHeader) -> bool:
    codes = header.markers
    if not codes or codes[0] != 0xE0 or not header.jfif:
        return False
    body = [m for m in codes if not (0xE0 <= m <= 0xEF or m == 0xFE)]
    order = "".join(
        {_DQT: "q", _DHT: "h", _DRI: "r", _SOS: "s"}.get(m, "f" if m in (0xC0, 0xC1, 0xC2) else "?") for m in body
    )
    if not re.fullmatch("q+fh*r?s", order) or order.count("q") != len(header.tables):
        return False
    luma = header.components[0].table
    chroma = header.components[1].table if len(header.components) == 3 else None
    for qf in range(1, 101):
        if tuple(standard_table(qf).tolist()) == luma:
            return chroma is None or chroma == tuple(standard_table(qf, "chroma").tolist())
    return False


def _bad(what: str) -> InputError:
    return InputError(ErrorCode.BAD_HEADER, f"It is not a sound JPEG file: {what}. Look for an undamaged copy.")


@dataclass(frozen=True, slots=True)
class _Frame:
    sof: int
    precision: int
    height: int
    width: int
    components: tuple[tuple[int, int, int, int], ...]  # (id, h, v, table slot)


class _Parser:
    """One pass over the markers. State lives here so that each segment's reading is a short method."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.frame: _Frame | None = None
        self.slots: dict[int, tuple[int, ...]] = {}
        self.latched: dict[int, tuple[int, ...]] = {}  # component index -> table, fixed when its first scan begins
        self.tables: list[tuple[int, tuple[int, ...]]] = []
        self.scans = 0
        self.data_start = 0
        self.missing_bits = [14] * 64  # of the first component's coefficients; a scan's Al says how many remain
        self.restart_interval = 0
        self.jfif = False
        self.adobe: int | None = None
        self.photoshop = False
        self.exif: tuple[int, int] | None = None
        self.frames = 1
        self.markers: list[int] = []
        self.metadata = [0, 0]  # segments, bytes
        self.warnings: list[str] = []

    def run(self) -> JpegHeader:
        data, pos = self.data, 2
        data_end, end, has_eoi = len(data), len(data), False
        for _ in range(MAX_SEGMENTS):
            found = _ANY_MARKER.search(data, pos)
            if found is None:
                break
            code, pos = data[found.end() - 1], found.end()
            if self.scans == 0:
                self.markers.append(code)
            if code == _EOI:
                end, has_eoi = pos, True
                break
            if code in _NO_LENGTH:
                if code == _SOI:
                    if self.scans:  # the image was cut off and another one follows
                        end = pos - 2
                        break
                    raise _bad("a second image begins before the first one's data")
                continue
            if pos + 2 > len(data):
                break
            stop = pos + int.from_bytes(data[pos : pos + 2], "big")
            if stop < pos + 2 or stop > len(data):
                if self.scans == 0:
                    raise _bad(f"segment {code:#04x} at byte {found.start()} does not fit into the file")
                break
            self.segment(code, pos + 2, stop)
            pos = stop
            if code == _SOS:
                self.data_start = self.data_start or stop
                following = _NEXT_MARKER.search(data, pos)
                pos = data_end = following.start() if following else len(data)
        else:
            raise _bad(f"it holds more than {MAX_SEGMENTS:,} segments")
        return self.header(data_end, has_eoi, end)

    def header(self, data_end: int, has_eoi: bool, end: int) -> JpegHeader:
        if self.frame is None:
            raise _bad("it ends before its size is stated")
        if self.scans == 0:
            raise _bad("it holds no image data")
        components = tuple(
            Component(cid, h, v, self.table_of(index)) for index, (cid, h, v, _) in enumerate(self.frame.components)
        )
        return JpegHeader(
            sof=self.frame.sof,
            precision=self.frame.precision,
            height=self.frame.height,
            width=self.frame.width,
            components=components,
            tables=tuple(self.tables),
            scans=self.scans,
            luma_complete=not any(self.missing_bits),
            restart_interval=self.restart_interval,
            jfif=self.jfif,
            adobe_transform=self.adobe,
            photoshop=self.photoshop,
            exif=self.exif,
            frames=self.frames,
            markers=tuple(self.markers[: MAX_METADATA_SEGMENTS * 2]),
            data_start=self.data_start,
            data_end=data_end,
            has_eoi=has_eoi,
            end=end,
            trailing=len(self.data) - end,
            warnings=tuple(self.warnings),
        )

    def table_of(self, index: int) -> tuple[int, ...]:
        assert self.frame is not None
        slot = self.frame.components[index][3]
        table = self.latched.get(index) or self.slots.get(slot)
        if table is None:
            raise _bad(f"its component {index} uses quantisation table {slot}, which it does not hold")
        if 0 in table:
            raise _bad(f"quantisation table {slot} has a step of 0")
        return table

    def segment(self, code: int, start: int, stop: int) -> None:
        if code == _SOS:
            self.sos(start, stop)
        elif code in _SOF:
            self.sof(code, start, stop)
        elif code == _DHP:
            raise _unsupported("hierarchical")
        elif code == _DQT:
            self.dqt(start, stop)
        elif code == _DRI and stop - start >= 2:
            self.restart_interval = int.from_bytes(self.data[start : start + 2], "big")
        elif 0xE0 <= code <= 0xEF or code == 0xFE:
            self.application(code, start, stop)

    def sof(self, code: int, start: int, stop: int) -> None:
        if self.frame is not None:
            raise _bad("it has two frame headers")
        body = self.data[start:stop]
        if len(body) < 6 or len(body) < 6 + 3 * body[5]:
            raise _bad("its frame header is too short")
        precision, height, width, count = struct.unpack_from(">BHHB", body)
        if code not in _DECODABLE:
            raise _unsupported(_SOF_NAMES.get(code, "hierarchical"))
        if precision == 12:
            raise _unsupported("12-bit")
        if precision != 8:
            raise _bad(f"its samples are stated to have {precision} bits")
        if width == 0 or height == 0:
            raise _bad(f"its size is stated as {width} x {height}")
        if count not in (1, 3, 4):
            raise InputError(
                ErrorCode.UNSUPPORTED_SOF,
                f"It is a JPEG of {count} components; those of 1, 3 and 4 are read. Convert it with its own program.",
            )
        parts = []
        for i in range(count):
            cid, factors, slot = body[6 + 3 * i : 9 + 3 * i]
            h, v = factors >> 4, factors & 15
            if not (1 <= h <= 4 and 1 <= v <= 4 and slot <= 3):
                raise _bad(f"component {i} has sampling {h}x{v} and table {slot}")
            parts.append((cid, h, v, slot))
        self.frame = _Frame(code, precision, height, width, tuple(parts))

    def dqt(self, start: int, stop: int) -> None:
        pos = start
        while pos < stop:
            wide, slot = self.data[pos] >> 4, self.data[pos] & 15
            size = 128 if wide else 64
            if wide > 1 or slot > 3 or pos + 1 + size > stop:
                if self.scans:  # of no use to what is decoded already
                    return
                raise _bad("a quantisation table is damaged")
            table = struct.unpack_from(">64H" if wide else ">64B", self.data, pos + 1)
            self.slots[slot] = table
            if len(self.tables) < 64:
                self.tables.append((16 if wide else 8, table))
            pos += 1 + size

    def sos(self, start: int, stop: int) -> None:
        self.scans += 1
        if self.scans > MAX_SCANS:
            raise InputError(
                ErrorCode.SCAN_LIMIT,
                f"It has more than {MAX_SCANS} scans, far beyond what encoders write; decoding would take excessive "
                "time. If you trust it, save it anew with fewer scans (losslessly, with jpegtran).",
            )
        if self.frame is None:
            raise _bad("its image data come before its size")
        body = self.data[start:stop]
        if not body or not 1 <= body[0] <= 4 or len(body) < 4 + 2 * body[0]:
            if self.scans > 1:
                return
            raise _bad("its scan header is damaged")
        ids = [part[0] for part in self.frame.components]
        first, last, low = body[-3], body[-2], body[-1] & 15
        for cid in body[1 : 1 + 2 * body[0] : 2]:
            if cid not in ids:
                continue
            index = ids.index(cid)
            slot = self.frame.components[index][3]
            if index not in self.latched and slot in self.slots:
                self.latched[index] = self.slots[slot]
            if index == 0:
                if self.frame.sof not in _PROGRESSIVE:
                    first, last, low = 0, 63, 0
                for k in range(first, min(last, 63) + 1):
                    self.missing_bits[k] = low

    def application(self, code: int, start: int, stop: int) -> None:
        self.metadata[0] += 1
        self.metadata[1] += stop - start
        if self.metadata[0] > MAX_METADATA_SEGMENTS or self.metadata[1] > MAX_METADATA_BYTES:
            if not self.warnings:
                self.warnings.append("metadata_limit")
            return
        body = self.data[start : min(stop, start + 32)]
        if code == 0xE0 and body.startswith(b"JFIF\0") and stop - start >= 14:
            self.jfif = True
        elif code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            self.adobe = body[11]
        elif (code == 0xED and body.startswith(b"Photoshop 3.0\0")) or (code == 0xEC and body.startswith(b"Ducky")):
            self.photoshop = True
        elif code == 0xE1 and body.startswith((b"Exif\0\0", b"Exif\0\xff")) and self.exif is None:
            self.exif = (start + 6, stop)
        elif code == 0xE2 and body.startswith(b"MPF\0"):
            self.frames = max(self.frames, _mpf_images(self.data[start + 4 : stop]))


def _unsupported(kind: str) -> InputError:
    return InputError(
        ErrorCode.UNSUPPORTED_SOF,
        f"It is a {kind} JPEG; baseline and progressive ones of 8 bits are read. "
        "Nothing can be said about its history.",
    )


def _mpf_images(body: bytes) -> int:
    """Number of images by a multi-picture index (CIPA DC-007), 1 where it cannot be read."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(body[:4])
    if order is None or len(body) < 10:
        return 1
    (offset,) = struct.unpack_from(f"{order}I", body, 4)
    if offset + 2 > len(body):
        return 1
    (count,) = struct.unpack_from(f"{order}H", body, offset)
    for i in range(min(count, 32)):
        at = offset + 2 + 12 * i
        if at + 12 > len(body):
            break
        tag, _, _, value = struct.unpack_from(f"{order}HHII", body, at)
        if tag == 0xB001:
            return value if 1 <= value <= MAX_FRAMES else 1
    return 1
