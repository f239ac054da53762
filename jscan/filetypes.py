"""What type of file it is, by its first bytes and never by its name."""

from __future__ import annotations

from jscan.errors import ErrorCode, InputError

HEAD_BYTES = 512
"""So many first bytes tell every type that is known here."""
IMAGES = frozenset({"jpeg", "png", "tiff", "bmp", "webp", "gif"})
"""The types that are decoded."""
READABLE = "jscan reads JPEG, PNG, TIFF, BMP, WebP and GIF"
COMPRESSED = frozenset({"gzip", "bzip2", "xz", "Zstandard"})
"""Types that may hold a tar archive, which only a look inside tells."""
ARCHIVES = frozenset({"zip archive", "tar archive"})
"""Types that are looked into."""

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (8, b"CR", "Canon CR2 raw"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"MM\0+", "tiff"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"\0\0\1\0", "icon (ICO)"),
    (0, b"\0\0\2\0", "cursor (CUR)"),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm raw"),
    (0, b"IIRO", "Olympus raw"),
    (0, b"IIRS", "Olympus raw"),
    (0, b"MMOR", "Olympus raw"),
    (0, b"IIU\0", "Panasonic raw"),
    (0, b"II\x1a\0\0\0HEAPCCDR", "Canon CRW raw"),
    (0, b"FOVb", "Sigma raw"),
    (0, b"\0MRM", "Minolta raw"),
    (0, b"DDS ", "DDS"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"qoif", "QOI"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"gimp xcf", "GIMP (XCF)"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"PK\3\4", "zip archive"),
    (0, b"PK\5\6", "zip archive"),
    (0, b"PK\7\x08", "zip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip archive"),
    (0, b"Rar!\x1a\x07", "RAR archive"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\xfd7zXZ\0", "xz"),
    (4, b"1AY&SY", "bzip2"),
    (4, b"\x17rE8P\x90", "bzip2"),  # of nothing
    (0, b"\x28\xb5\x2f\xfd", "Zstandard"),
    (257, b"ustar", "tar archive"),
    (0, b"\x1aE\xdf\xa3", "Matroska film"),
    (0, b"<?xml", "XML"),
    (0, b"<svg", "SVG"),
    (0, b"<!DOCTYPE", "HTML"),
    (0, b"<html", "HTML"),
)

_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC",
    b"hevc": "HEIC", b"hevx": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"crx ": "Canon CR3 raw",
}  # fmt: skip

_CLOSED = frozenset({"7-Zip archive", "RAR archive"})
"""Types that may well hold images and are not looked into."""
_RAW_BY_TIFF = frozenset({"Canon CR2 raw"})
_DIB_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def sniff(data: bytes) -> str | None:
    """The type by the first bytes, or None.

    `jpeg`, `png`, `tiff`, `bmp`, `webp` and `gif` are decoded; any other answer is a name for people to read.
    """
    if is_tar(data):
        return "tar archive"  # asked first, because such a file begins with a name, which may be "BZhang.jpg" or "P1 a"
    for offset, magic, name in _SIGNATURES:
        if data.startswith(magic, offset):
            if name in _RAW_BY_TIFF and not data.startswith((b"II*\0", b"MM\0*")):
                continue
            if name == "bzip2" and not data.startswith(b"BZh"):
                continue
            return name
    if data.startswith(b"RIFF") and len(data) >= 12:
        return "webp" if data.startswith(b"WEBP", 8) else "RIFF (film or sound)"
    if data.startswith(b"ftyp", 4):
        brand = data[8:12]
        return _BRANDS.get(brand, "MP4 or QuickTime film")
    if data.startswith(b"BM") and len(data) >= 18 and int.from_bytes(data[14:18], "little") in _DIB_HEADERS:
        return "bmp"
    if len(data) > 2 and data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return "netpbm (PBM, PGM, PPM)"
    return None


_SUFFIXES = {
    "jpg": "jpeg", "jpeg": "jpeg", "jpe": "jpeg", "jfif": "jpeg", "mpo": "jpeg", "png": "png", "apng": "png",
    "gif": "gif", "tif": "tiff", "tiff": "tiff", "bmp": "bmp", "dib": "bmp", "webp": "webp", "heic": "HEIC",
    "avif": "AVIF", "psd": "Photoshop (PSD)", "pdf": "PDF",
}  # fmt: skip


def contradicts(name: bytes, found: str) -> bool:
    """Whether the suffix of a file's name, upper or lower case, is that of another type than was found."""
    return _SUFFIXES.get(_suffix(name), found) != found


def no_archive_by_name(name: bytes) -> bool:
    """Whether the suffix of a file's name is that of a type that is no archive, whatever the file is."""
    return _suffix(name) in _SUFFIXES


def _suffix(name: bytes) -> str:
    return name.rpartition(b".")[2].decode("latin-1").lower()


def is_tar(data: bytes) -> bool:
    """Whether the first 512 bytes are a tar header whose checksum holds; tar before POSIX has no other mark."""
    if len(data) < 512:
        return False
    try:
        stated = int(data[148:156].split(b"\0")[0].strip() or b"x", 8)
    except ValueError:
        return False
    return stated == sum(data[:512]) - sum(data[148:156]) + 8 * 32


def image_type(data: bytes) -> str:
    """The type of an image that can be decoded, by its first bytes. Raises InputError.

    Codes: `empty`, `unsupported_format`, and `unsupported_method` of archives that are not looked into.
    """
    if not data:
        raise InputError(ErrorCode.EMPTY, "It is empty (0 bytes). Fetch it again from where it came from.")
    name = sniff(data)
    if name in IMAGES:
        return name
    if name in ARCHIVES:
        raise InputError(ErrorCode.UNSUPPORTED_FORMAT, f"It is a {name}, not an image; `jscan scan` looks into it.")
    if name in COMPRESSED:
        raise InputError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"It is compressed with {name}. `jscan scan` looks into it if it holds a tar archive; if not, decompress "
            "it and scan what comes out.",
        )
    if name in _CLOSED:
        raise InputError(
            ErrorCode.UNSUPPORTED_METHOD,
            f"It is a {name}, which jscan does not open. Extract it and scan what comes out.",
        )
    if name is not None:
        raise InputError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"It is a file of type {name}. {READABLE}; convert it losslessly, or leave such files out with --exclude.",
        )
    what = "text" if _is_text(data[:512]) else "no type of image that jscan knows"
    raise InputError(
        ErrorCode.UNSUPPORTED_FORMAT,
        f"By its first bytes ({data[:8].hex(' ')}) it is {what}. {READABLE}; leave such files out with --exclude.",
    )


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as exc:
        if exc.start < len(head) - 3:
            return False
        text = head[: exc.start].decode("utf-8")
    return all(c.isprintable() or c in "\t\r\n\f" for c in text)
