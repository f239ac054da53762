"""Bytes of one image to pixels and header facts; the type is told by the first bytes, never by the name.

Pixels lie as the file has them, on its own grid: no format is rotated by Exif. Luma of a JPEG is its first component:
no profile, no trip through colours. JPEGs whose components are not Y, Cb, Cr, and all other formats, are turned into
luma by one rule, that of ITU-R BT.601 at full range as libjpeg rounds it: (19595 R + 38470 G + 7471 B + 32768) >> 16.
CMYK becomes R = (255 - C) (255 - K) / 255 and so on, with the values taken as inverted where a JPEG has an
Adobe segment.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from jscan import filetypes, jpegheader, pngdata
from jscan.errors import ErrorCode, InputError, UsageError, said_by
from jscan.records import DecodedImage, JpegFacts, Metadata, Pixels

MIN_SIDE = 64
"""Pixels. A smaller image does not hold one window of the estimators."""
MAX_JPEG_SIDE = 65_500
"""Pixels. libjpeg reads no longer side, though the format has room for 65,535."""
MAX_EXIF_BYTES = 1 << 20
"""Exif beyond this, possible outside of JPEG only, is not looked at."""
MAX_THUMBNAIL_PIXELS = 4_000_000
"""A larger embedded thumbnail is not compared with the image."""
THUMBNAIL_CORRELATION = 0.7
"""A thumbnail differs when its best normalised correlation with the scaled image stays below this."""

_STRIP = 256  # rows converted at a time, so that no second full-size copy is held
_TAIL = 4096  # bytes of made-up data appended in `_decoded_rows`
_LOST = bytes(512)  # a sector that was not read: no picture of which a decoder complains has as much of nothing
_MAX_CHUNKS = 200_000
_MAX_PAGES = 1000
_MAX_GIF_BLOCKS = 2_000_000
_ANMF_HEADER = 16  # bytes of a WebP's frame before its own chunks

# What Pillow's readers raise for damaged files (found by running them over fuzzers' corpora).
_PILLOW_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    SyntaxError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# --- decoding -----------------------------------------------------------------------------------------------


def decode(data: bytes, *, max_pixels: int, rgb: bool) -> DecodedImage:
    """The image in `data`: luma (H, W) uint8, with `rgb` also colours (H, W, 3) uint8; both arrays are read-only.

    What was odd but did not prevent an estimate stands in `warnings`:

    - `truncated`: a JPEG ends early, and `valid_rows` says how many rows are there in full; or a PNG ends behind its
      pixels and before its end chunk
    - `corrupt_data`: libjpeg complained, and decoded all the same; or a chunk of a PNG has another checksum
    - `trailing_bytes`: data follow the image (further images of a multi-picture file do not count)
    - `metadata_limit`: metadata beyond a limit were not looked at
    - `rgb_jpeg`, `cmyk`: the colours of the file are not Y, Cb, Cr; see the head of this module
    - `adobe_transform_0`, `adobe_transform_2`: what the Adobe segment of a file of four inks says of them; any other
      number up to 255 is a mistake of the file, with `corrupt_data`
    - `reduced_depth`: samples of more than 8 bits were scaled to 8
    - `alpha_dropped`: transparency was left away, not blended
    - `jpeg_in_tiff`: the TIFF's own compression is JPEG
    - `other_codec`: another lossy codec made the pixels (that of lossy WebP)
    - `few_colours`: the colours were reduced to a palette; one of greys without gaps does not count
    - `orientation_2` to `_8`: Exif says that the picture is to be shown mirrored or turned; it is not turned here

    Raises InputError with codes `empty`, `unsupported_format`, `unsupported_method`, `bad_header`, `unsupported_sof`,
    `scan_limit`, `pixel_limit` (before any pixel is decoded), `too_small`, `corrupt_data`, `memory`.
    """
    decoder = _DECODERS[filetypes.image_type(data)]
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd tags and large images on stderr; limits and warnings here are jscan's own.
            warnings.simplefilter("ignore")
            image = decoder(data, max_pixels, rgb)
    except MemoryError as exc:
        raise _no_memory() from exc
    if image.metadata.orientation is not None:
        image = replace(image, warnings=(*image.warnings, f"orientation_{image.metadata.orientation}"))
    image.luma.setflags(write=False)
    if image.rgb is not None:
        image.rgb.setflags(write=False)
    return image


def _no_memory() -> InputError:
    return InputError(
        ErrorCode.MEMORY, "There was not enough memory for it. Scan it with fewer workers, or lower --max-pixels."
    )


def from_array(array: npt.NDArray[np.uint8], *, rgb: bool) -> DecodedImage:
    """The image of an (H, W), (H, W, 3) or (H, W, 4) uint8 array of grey or RGB samples; alpha is dropped.

    The arrays inside are read-only and may share memory with `array`. Raises UsageError for another shape
    or type, and InputError `too_small`.
    """
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise UsageError(f"an image is (H, W) or (H, W, 3 or 4) uint8, not {array.shape} {array.dtype}")
    _check_size(array.shape[1], array.shape[0], None)
    notes: tuple[str, ...] = ()
    if array.ndim == 2:
        luma = array.view()
        colours = np.repeat(luma[:, :, None], 3, axis=2) if rgb else None
    else:
        luma = np.empty(array.shape[:2], np.uint8)
        for rows in _strips(array.shape[0]):
            luma[rows] = _bt601(array[rows, :, :3])
        colours = array[:, :, :3] if rgb else None
        notes = ("alpha_dropped",) if array.shape[2] == 4 else ()
    luma.setflags(write=False)
    if colours is not None:
        colours.setflags(write=False)
    components = 1 if array.ndim == 2 else array.shape[2]
    return DecodedImage(luma=luma, rgb=colours, format="array", components=components, warnings=notes)


def _strips(height: int) -> Iterator[slice]:
    for top in range(0, height, _STRIP):
        yield slice(top, min(top + _STRIP, height))


def _bt601(rgb: Pixels) -> Pixels:
    """Luma (H, W) of colours (H, W, 3), by libjpeg's fixed-point rule (jccolor.c, rgb_ycc_convert)."""
    weights = np.array([19595, 38470, 7471], np.int32)
    total = rgb.astype(np.int32) @ weights
    luma: Pixels = ((total + 32768) >> 16).astype(np.uint8)
    return luma


def _check_size(width: int, height: int, max_pixels: int | None) -> None:
    if width < 1 or height < 1:
        raise InputError(
            ErrorCode.BAD_HEADER, f"Its header states a size of {width} x {height}. Look for an undamaged copy."
        )
    if max_pixels is not None and width * height > max_pixels:
        raise InputError(
            ErrorCode.PIXEL_LIMIT,
            f"It has {width} x {height} pixels, {width * height:,} in all; the limit is {max_pixels:,}. "
            "Raise --max-pixels to read it; decoding takes 2 to 16 bytes of memory for each pixel, by format.",
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(
            ErrorCode.TOO_SMALL,
            f"It has {width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed to estimate anything.",
        )


def _corrupt(exc: BaseException) -> InputError:
    return InputError(
        ErrorCode.CORRUPT, f"Its pixels cannot be decoded: {said_by(exc)}. It is damaged; look for an undamaged copy."
    )


# --- JPEG ---------------------------------------------------------------------------------------------------


def _decode_jpeg(data: bytes, max_pixels: int, rgb: bool) -> DecodedImage:
    header = jpegheader.parse(data)
    # Before --max-pixels, which would not help; what is too small as well is said to be that.
    if max(header.width, header.height) > MAX_JPEG_SIDE and min(header.width, header.height) >= MIN_SIDE:
        raise InputError(
            ErrorCode.PIXEL_LIMIT,
            f"It is a JPEG of {header.width} x {header.height} pixels; the decoder reads at most {MAX_JPEG_SIDE:,} a "
            "side, whatever --max-pixels says. It need not be damaged. Where another program can read it and save it "
            "as PNG or TIFF, scan that; a JPEG saved anew would have another history.",
        )
    _check_size(header.width, header.height, max_pixels)
    if not header.luma_full_size:
        raise InputError(
            ErrorCode.UNSUPPORTED_SOF,
            f"It is a JPEG with sampling {header.subsampling}: its luma is stored below the image's size, so that "
            "it has no grid of 8 x 8 pixels. Nothing can be said about its history.",
        )
    notes = list(header.warnings)
    body = data if header.has_eoi else data[: header.end]
    del data
    luma, colours, complaint = _jpeg_pixels(body, header, rgb)

    valid_rows = None
    # Of scans that were left out before an EOI libjpeg says nothing.
    if complaint is not None or not header.has_eoi or not header.luma_complete:
        ended = not header.has_eoi or not header.luma_complete or "premature end" in (complaint or "").lower()
        ended = ended or body.find(_LOST, header.data_start, header.data_end) >= 0
        if header.has_eoi:
            notes.append("corrupt_data")
        else:
            notes.append("truncated")
        if ended:
            valid_rows = _decoded_rows(body, header)
    if header.trailing and header.frames == 1:
        notes.append("trailing_bytes")
    if header.colours == "rgb":
        notes.append("rgb_jpeg")
    elif header.colours in ("cmyk", "ycck"):
        notes.append("cmyk")
        if header.adobe_transform is not None:
            notes.append(f"adobe_transform_{header.adobe_transform}")

    metadata = Metadata()
    if header.exif is not None:
        metadata = _exif_facts(body[slice(*header.exif)], luma if valid_rows is None else None)
    tables = [c.table for c in header.components]
    return DecodedImage(
        luma=luma,
        rgb=colours,
        format="jpeg",
        components=len(header.components),
        jpeg=JpegFacts(
            q2_luma=tables[0],
            q2_chroma=tables[1] if len(tables) > 1 else None,
            subsampling=header.subsampling,
            progressive=header.progressive,
            encoder=jpegheader.guess_encoder(header, metadata.camera_make, metadata.software),
        ),
        metadata=metadata,
        frames=header.frames,
        warnings=tuple(notes),
        valid_rows=valid_rows,
    )


def _jpeg_pixels(body: bytes, header: jpegheader.JpegHeader, rgb: bool) -> tuple[Pixels, Pixels | None, str | None]:
    """(luma, colours, libjpeg's complaint or None)."""
    try:
        if header.colours in ("cmyk", "ycck"):
            four, complaint = _turbo(body, header, "CMYK")
            luma, colours = _from_cmyk(four, inverted=header.adobe_transform is not None, rgb=rgb)
            return luma, colours, complaint
        # For Y, Cb, Cr this is the Y component as it stands; for R, G, B libjpeg applies the rule of `_bt601`.
        grey, complaint = _turbo(body, header, "GRAY")
        luma = grey[:, :, 0]
        if not rgb:
            return luma, None, complaint
        if header.colours == "gray":
            return luma, np.repeat(grey, 3, axis=2), complaint
        return luma, _turbo(body, header, "RGB", strict=False)[0], complaint
    except ValueError as exc:
        # TurboJPEG knows the usual samplings only, and takes any complaint about the header for a failure even
        # when told to be lenient; libjpeg itself, which Pillow calls, does neither.
        reason = None if "subsampling" in str(exc) else str(exc)
        try:
            luma, colours = _jpeg_by_pillow(body, header, rgb)
        except _PILLOW_ERRORS as failure:
            raise _corrupt(exc if reason else failure) from exc
        return luma, colours, reason


def _turbo(
    body: bytes, header: jpegheader.JpegHeader, colours: str, *, strict: bool = True
) -> tuple[Pixels, str | None]:
    """((H, W, n) pixels, libjpeg's complaint or None). Raises ValueError where nothing can be decoded."""
    channels = {"GRAY": 1, "RGB": 3, "CMYK": 4}[colours]
    # A buffer of our own, so that what a damaged file leaves out is mid-grey and not old memory.
    buffer = np.full((header.height, header.width, channels), 128, np.uint8)
    if strict:
        try:
            return simplejpeg.decode_jpeg(body, colours, buffer=buffer, strict=True), None
        except ValueError as exc:
            complaint = str(exc)
        buffer[:] = 128
        return simplejpeg.decode_jpeg(body, colours, buffer=buffer, strict=False), complaint
    return simplejpeg.decode_jpeg(body, colours, buffer=buffer, strict=False), None


def _jpeg_by_pillow(body: bytes, header: jpegheader.JpegHeader, rgb: bool) -> tuple[Pixels, Pixels | None]:
    image: Image.Image = JpegImagePlugin.JpegImageFile(io.BytesIO(body))
    if image.size != (header.width, header.height):
        raise ValueError("its header can be read in two ways")
    if header.colours != "ycbcr":
        image.load()
        return _convert(image, rgb)
    image.draft("L", image.size)  # libjpeg then gives the Y component alone
    luma = np.array(image)
    if not rgb:
        return luma, None
    return luma, np.array(JpegImagePlugin.JpegImageFile(io.BytesIO(body)).convert("RGB"))


def _from_cmyk(four: Pixels, *, inverted: bool, rgb: bool) -> tuple[Pixels, Pixels | None]:
    luma = np.empty(four.shape[:2], np.uint8)
    colours = np.empty((*four.shape[:2], 3), np.uint8) if rgb else None
    for rows in _strips(four.shape[0]):
        ink = four[rows].astype(np.uint16)
        if not inverted:
            ink = 255 - ink
        strip = ((ink[:, :, :3] * ink[:, :, 3:] + 127) // 255).astype(np.uint8)
        luma[rows] = _bt601(strip)
        if colours is not None:
            colours[rows] = strip
    return luma, colours


def _decoded_rows(body: bytes, header: jpegheader.JpegHeader) -> int:
    """How many rows, from the top, do not depend on data that are missing.

    The file is decoded twice, once as it is and once with made-up data put where its own data end; the first row
    that comes out differently is the first one that lacks data. That holds for any order of scans and with restart
    markers, and needs no knowledge of how libjpeg fills the rest. In a progressive file cut off before its
    last luma scan every row lacks some bits: then 0. Zeros are valid codes, but where a sector was lost or a download
    never went on they are nobody's: they end the file's own data, those at its end and any as long as a sector.
    """
    if not header.luma_complete:
        return 0
    lost = body.find(_LOST, header.data_start, header.data_end)
    own = body[: header.data_end if lost < 0 else lost].rstrip(b"\xff\0")
    tail = np.random.default_rng(0).integers(1, 255, _TAIL, dtype=np.uint8).tobytes()  # holds neither 0 nor 0xFF
    try:
        plain, _ = _turbo(own + b"\xff\xd9", header, "GRAY", strict=False)
        other, _ = _turbo(own + tail + b"\xff\xd9", header, "GRAY", strict=False)
    except ValueError:
        return 0
    for rows in _strips(header.height):
        same = (plain[rows] == other[rows]).all(axis=(1, 2))
        if not same.all():
            return int(rows.start) + int(np.argmin(same))
    return header.height


# --- Exif ---------------------------------------------------------------------------------------------------


def _exif_facts(tiff: bytes, luma: Pixels | None) -> Metadata:
    """The facts of an Exif block (a TIFF structure). `luma` is the image to compare the thumbnail with, or None."""
    try:
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + tiff)
        make, model, software = (_text(exif.get(tag)) for tag in (271, 272, 305))
        turned = _turn(exif.get(274))
        taken = _text(exif.get_ifd(ExifTags.IFD.Exif).get(36867))
        second = exif.get_ifd(ExifTags.IFD.IFD1)
        start, length = second.get(513), second.get(514)
    except _PILLOW_ERRORS:
        return Metadata()
    has, differs = False, None
    if isinstance(start, int) and isinstance(length, int) and start > 0 and length > 0:
        has = True
        if luma is not None:
            differs = _thumbnail_differs(tiff[start : start + length], luma)
    elif 273 in second:  # an uncompressed thumbnail, in strips
        has = True
    return Metadata(make, model, software, taken, has, differs, turned)


def _turn(orientation: object) -> int | None:
    """An Exif orientation that changes what viewers show, or None."""
    return orientation if isinstance(orientation, int) and 2 <= orientation <= 8 else None


def _text(value: object) -> str | None:
    """An Exif string as one clean line of at most 200 characters, or None."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return None
    text = "".join(c if c.isprintable() else " " for c in value.partition("\0")[0])
    return " ".join(text.split())[:200] or None


def _thumbnail_differs(thumbnail: bytes, luma: Pixels) -> bool | None:
    """Whether the thumbnail shows something else than the image; None where that cannot be told.

    The image is scaled to the thumbnail in three ways, stretched, with bars (so cameras put 3:2 into 4:3), and
    cropped, each in four turns, because many a viewer turns the image alone; the best correlation decides. So it
    tells of another picture, not of a small retouch. (Of 37 cameras' own files the lowest was 0.82.)
    """
    try:
        header = jpegheader.parse(thumbnail)
        if header.width * header.height > MAX_THUMBNAIL_PIXELS or min(header.width, header.height) < 32:
            return None
        small = _turbo(thumbnail, header, "GRAY", strict=False)[0][:, :, 0]
    except (InputError, ValueError, MemoryError):
        return None
    image = Image.fromarray(luma)
    image = image.reduce(max(1, min(luma.shape) // (4 * max(small.shape))))  # so that a large image is gone over once
    known = False
    for likeness in (c for turn in range(4) for c in _likenesses(np.rot90(small, turn), image)):
        if likeness >= THUMBNAIL_CORRELATION:
            return False  # mostly by the first comparison
        known = True
    return True if known else None


def _likenesses(small: Pixels, image: Image.Image) -> Iterator[float]:
    """Normalised correlations of a thumbnail with the image stretched, with bars, and cropped; none of flat pixels."""
    rows, cols = small.shape
    width, height = image.size

    fit = min(cols / width, rows / height)
    box_w, box_h = max(1, round(width * fit)), max(1, round(height * fit))
    top, left = (rows - box_h) // 2, (cols - box_w) // 2
    fill = max(cols / width, rows / height)
    crop_w, crop_h = min(cols / fill, width), min(rows / fill, height)
    x, y = (width - crop_w) / 2, (height - crop_h) / 2

    box = Image.Resampling.BOX
    ways = (
        (small, (cols, rows), None),
        (small[top : top + box_h, left : left + box_w], (box_w, box_h), None),
        (small, (cols, rows), (x, y, x + crop_w, y + crop_h)),
    )
    for part, to, of in ways:
        likeness = _correlation(part, np.asarray(image.resize(to, box, of)))
        if likeness is not None:
            yield likeness


def _correlation(a: Pixels, b: Pixels) -> float | None:
    """Normalised correlation, -1 to 1, or None where one of the two is flat."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    x -= x.mean()
    y -= y.mean()
    power = float((x * x).sum() * (y * y).sum())
    return float((x * y).sum()) / power**0.5 if power > 0 else None


# --- all other formats --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Opened:
    """What is known of an image before its pixels are decoded."""

    image: Image.Image
    frames: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)
    palette: bool = False
    """Whether the file has a palette of which Pillow says nothing."""
    check: Callable[[Image.Image], None] = lambda loaded: None
    """Called with the loaded image; raises ValueError for damage of which Pillow says nothing."""


def _by_pillow(name: str, opener: Callable[[bytes, int], _Opened]) -> Callable[[bytes, int, bool], DecodedImage]:
    """A decoder: `opener` reads the header and may refuse; then the size is checked and the pixels are decoded."""

    def decoder(data: bytes, max_pixels: int, rgb: bool) -> DecodedImage:
        try:
            opened = opener(data, max_pixels)
        except _PILLOW_ERRORS as exc:
            raise InputError(
                ErrorCode.BAD_HEADER,
                f"It begins as a {name.upper()} file, but its header cannot be read: {said_by(exc)}. "
                "Look for an undamaged copy.",
            ) from exc
        image, notes = opened.image, opened.notes
        _check_size(*image.size, max_pixels)
        try:
            image.load()
            # Some readers learn the true size while loading.
            _check_size(*image.size, max_pixels)
            opened.check(image)
            bands, transparent = image.getbands(), "transparency" in image.info
            reduced = (opened.palette or bands[0] == "P") and not _all_greys(image)
            luma, colours = _convert(image, rgb)
        except _PILLOW_ERRORS as exc:
            raise _corrupt(exc) from exc
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            notes.append("reduced_depth")
        if bands[-1] in "Aa" or transparent:
            notes.append("alpha_dropped")
        if image.mode == "CMYK":
            notes.append("cmyk")
        if reduced:
            notes.append("few_colours")
        return DecodedImage(
            luma=luma,
            rgb=colours,
            format=name,
            components=3 + (len(bands) - 1) if bands[0] == "P" else len(bands),
            metadata=opened.metadata,
            frames=opened.frames,
            warnings=tuple(dict.fromkeys(notes)),
        )

    return decoder


def _all_greys(image: Image.Image) -> bool:
    """Whether a loaded image with a palette shows greys alone, most of them one step apart: then nothing was lost."""
    if image.getbands()[0] == "P":
        listed = np.zeros((256, 3), np.uint8)  # what a palette leaves out is black
        palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
        listed[: len(palette)] = palette
        shown = listed[np.flatnonzero(image.histogram()[:256])]
    else:
        counted = image.getcolors(257)  # those of a palette, and the canvas where a frame leaves it free
        if counted is None:
            return False
        shown = np.array([colour[:3] for _, colour in counted if isinstance(colour, tuple)], np.uint8).reshape(-1, 3)
    if (shown != shown[:, :1]).any():
        return False
    steps = np.diff(np.unique(shown[:, 0]))
    return bool(2 * np.count_nonzero(steps == 1) >= steps.size)


def _convert(image: Image.Image, rgb: bool) -> tuple[Pixels, Pixels | None]:
    """(luma, colours or None) of a loaded Pillow image, strip by strip. Raises ValueError for unknown modes."""
    width, height = image.size
    luma = np.empty((height, width), np.uint8)
    colours = np.empty((height, width, 3), np.uint8) if rgb else None
    to_grey = _grey_rule(image)
    for rows in _strips(height):
        strip = image.crop((0, rows.start, width, rows.stop))
        if to_grey is not None:
            luma[rows] = to_grey(strip)
            if colours is not None:
                colours[rows] = luma[rows][:, :, None]
        else:
            if strip.mode == "RGBa":
                strip = strip.convert("RGBA")
            # Pillow drops alpha here, and its L of RGB is the rule of `_bt601`.
            strip = strip.convert("RGB")
            luma[rows] = np.asarray(strip.convert("L"))
            if colours is not None:
                colours[rows] = np.asarray(strip)
    return luma, colours


def _grey_rule(image: Image.Image) -> Callable[[Image.Image], Pixels] | None:
    """How strips of an image without colours become 8 bits, or None for an image with colours."""
    mode = image.mode
    if mode in ("1", "L"):
        return lambda strip: np.asarray(strip.convert("L"))
    if mode in ("LA", "La"):
        return lambda strip: np.asarray(strip.convert("LA").getchannel(0))
    if mode == "LAB":
        return lambda strip: np.asarray(strip.getchannel(0))
    if mode.startswith("I;16"):
        # The high byte, as Pillow itself does for 16-bit colours; exact for files that were 8-bit once.
        return lambda strip: (np.asarray(strip) >> 8).astype(np.uint8)
    if mode in ("I", "F"):
        return _scaled_rule(image)
    return None


def _scaled_rule(image: Image.Image) -> Callable[[Image.Image], Pixels]:
    """For 32-bit samples, which do not state their white: 1 (floats), 255 or 65,535 if none is above, else range."""
    width, height = image.size
    low, high = np.inf, -np.inf
    for rows in _strips(height):
        strip = np.asarray(image.crop((0, rows.start, width, rows.stop)))
        strip = strip[np.isfinite(strip)]
        if strip.size:
            low, high = min(low, float(strip.min())), max(high, float(strip.max()))
    if low >= 0:
        whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        low, high = 0.0, next((w for w in whites if high <= w), high)
    scale = 255.0 / (high - low) if high > low else 0.0

    def rule(strip: Image.Image) -> Pixels:
        values = (np.nan_to_num(np.asarray(strip, dtype=np.float64), nan=low, posinf=high, neginf=low) - low) * scale
        return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)

    return rule


def _open_png(data: bytes, max_pixels: int) -> _Opened:
    """A PNG stripped of everything that is not its pixels, so that no compressed text or profile is ever inflated."""
    critical, exif, software, frames = [data[:8]], None, None, 1
    header, packed, view = b"", list[memoryview](), memoryview(data)
    notes: list[str] = []
    pos, ended = 8, False
    for _ in range(_MAX_CHUNKS):
        if pos + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, pos)
        stop = pos + 12 + length
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            if kind == b"IHDR" and length == 13 and pos == 8:
                # Checked before the data are copied.
                width, height = struct.unpack_from(">II", data, 16)
                _check_size(width, height, max_pixels)
                if data[24] == 16:
                    notes.append("reduced_depth")
            critical.append(data[pos:stop])
            if kind == b"IDAT":
                packed.append(view[pos + 8 : pos + 8 + length])
            elif kind == b"IHDR" and not packed:
                header = data[pos + 8 : pos + 21]
        elif kind == b"tRNS":
            notes.append("alpha_dropped")
        elif kind == b"acTL" and length == 8:
            frames = max(1, int.from_bytes(data[pos + 8 : pos + 12], "big"))
            frames = frames if frames < 1 << 31 else 1
        elif kind == b"eXIf" and exif is None:
            if length <= MAX_EXIF_BYTES:
                exif = data[pos + 8 : stop - 4]
            else:
                notes.append("metadata_limit")
        elif kind == b"tEXt" and data.startswith(b"Software\0", pos + 8):
            software = _text(data[pos + 17 : min(stop - 4, pos + 1024)])
        elif kind in (b"zTXt", b"iTXt") and length > MAX_EXIF_BYTES:
            notes.append("metadata_limit")
        if zlib.crc32(view[pos + 4 : stop - 4]).to_bytes(4, "big") != data[stop - 4 : stop]:
            notes.append("corrupt_data" if stop <= len(data) else "truncated")
        pos = stop
        if kind == b"IEND":
            ended = True
            break
    else:
        raise ValueError(f"more than {_MAX_CHUNKS:,} chunks")
    if not ended:
        notes.append("truncated")
    elif pos < len(data):
        notes.append("trailing_bytes")
    facts = _exif_facts(exif, None) if exif else Metadata()
    if facts.software is None and software is not None:
        facts = replace(facts, software=software)
    image = PngImagePlugin.PngImageFile(io.BytesIO(b"".join(critical)))
    return _Opened(image, frames, facts, notes, check=partial(_check_png_rows, header, packed))


def _check_png_rows(header: bytes, packed: list[memoryview], loaded: Image.Image) -> None:
    """Nothing. Raises ValueError where the compressed data end before the last row: Pillow leaves the rest black."""
    last = pngdata.last_row(header)
    row = np.asarray(loaded.crop((0, last, loaded.width, last + 1)))
    # All is inflated once more only where that row is black indeed.
    if not row.any() and not pngdata.holds(packed, pngdata.inflated_size(header)):
        raise ValueError("its compressed data end before its last row")


class _StoredTiff(TiffImagePlugin.TiffImageFile):
    """A TIFF whose pixels stay where the file has them; Pillow would turn them as its Orientation says."""

    def load_prepare(self) -> None:
        if self._im is None:  # as Pillow makes it, but for a limit of its own: the sizes were compared with ours
            self.im = Image.new(self.mode, self.tile_size, None).im
        super().load_prepare()

    def load_end(self) -> None:
        self._size = self.im.size  # until then that of the turned image

    @property
    def tile_size(self) -> tuple[int, int]:
        """(width, height) of what Pillow decodes into."""
        size: tuple[int, int] = getattr(self, "_tile_size", self.size)
        return size


def _open_tiff(data: bytes, max_pixels: int) -> _Opened:
    image = _StoredTiff(io.BytesIO(data))
    _check_size(*image.tile_size, max_pixels)
    tags = image.tag_v2
    # Raw files of many makers are TIFFs whose first page is a preview, with the sensor's data in a sub-page.
    reduced = isinstance(tags.get(254), int) and tags[254] & 1 and 330 in tags
    if 50706 in tags or tags.get(262) in (32803, 34892) or reduced:
        raise InputError(
            ErrorCode.UNSUPPORTED_FORMAT,
            "It is a camera's raw file in a TIFF container. "
            f"{filetypes.READABLE}; scan the JPEG that the camera wrote.",
        )
    notes = []
    if tags.get(259) in (6, 7):
        notes.append("jpeg_in_tiff")
    depths = tags.get(258)
    if max(depths if isinstance(depths, tuple) else (8,)) > 8:
        notes.append("reduced_depth")
    make, model, software = (_text(tags.get(tag)) for tag in (271, 272, 305))
    facts = Metadata(make, model, software, orientation=_turn(tags.get(274)))
    return _Opened(image, _tiff_pages(data), facts, notes)


def _tiff_pages(data: bytes) -> int:
    """Pages in the chain of directories, which may loop or leave the file; at least 1, at most 1,000."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    where, offset_fmt, count_fmt, entry = (8, "Q", "Q", 20) if big else (4, "I", "H", 12)
    offset_fmt, count_fmt = order + offset_fmt, order + count_fmt
    seen: set[int] = set()
    while len(seen) < _MAX_PAGES and where + struct.calcsize(offset_fmt) <= len(data):
        (at,) = struct.unpack_from(offset_fmt, data, where)
        if at == 0 or at in seen or at + struct.calcsize(count_fmt) > len(data):
            break
        seen.add(at)
        (count,) = struct.unpack_from(count_fmt, data, at)
        where = at + struct.calcsize(count_fmt) + entry * count
    return max(1, len(seen))


def _open_bmp(data: bytes, max_pixels: int) -> _Opened:
    return _Opened(BmpImagePlugin.BmpImageFile(io.BytesIO(data)))


def _open_gif(data: bytes, max_pixels: int) -> _Opened:
    frames, end = _gif_blocks(data)
    return _Opened(
        GifImagePlugin.GifImageFile(io.BytesIO(data)), frames, notes=["trailing_bytes"] if end < len(data) else []
    )


def _gif_blocks(data: bytes) -> tuple[int, int]:
    """(images, offset after the trailer), by the lengths of the blocks alone."""
    pos = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    frames, in_blocks = 0, False
    for _ in range(_MAX_GIF_BLOCKS):
        if pos >= len(data):
            break
        code = data[pos]
        if in_blocks:  # a chain of sub-blocks, each with its length in front, ends with one of length 0
            pos += 1 + code
            in_blocks = code > 0
        elif code == 0x2C and pos + 9 < len(data):
            frames += 1
            flags = data[pos + 9]
            pos += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
            in_blocks = True
        elif code == 0x21:
            pos += 2
            in_blocks = True
        elif code == 0x3B:
            return max(1, frames), pos + 1
        else:
            break
    return max(1, frames), len(data)


def _open_webp(data: bytes, max_pixels: int) -> _Opened:
    # libwebp allocates the canvas when the file is opened, so its size is checked first.
    width, height = _webp_size(data)
    _check_size(width, height, max_pixels)
    notes: list[str] = []
    exif, frames = None, 0
    first: tuple[bytes, int] | None = None  # where the pixels are that Pillow will decode, and by which codec
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    for kind, at, length in _riff(data, 12, end):
        if kind == b"ANMF":
            frames += 1
            first = first or next(_webp_pixels(data, at + _ANMF_HEADER, min(at + length, end)), None)
        elif kind == b"EXIF" and exif is None:
            if length <= MAX_EXIF_BYTES:
                exif = data[at : at + length].removeprefix(b"Exif\0\0")
            else:
                notes.append("metadata_limit")
    if len(data) > end + (end & 1):
        notes.append("trailing_bytes")
    codec, at = first or next(_webp_pixels(data, 12, end), (b"", 0))
    if codec == b"VP8 ":
        notes.append("other_codec")
    # Behind its header a lossless image lists what was done to its pixels; a palette comes first.
    palette = codec == b"VP8L" and len(data) > at + 5 and data[at + 5] & 7 == 7
    facts = _exif_facts(exif, None) if exif else Metadata()
    image = WebPImagePlugin.WebPImageFile(io.BytesIO(data))
    return _Opened(image, max(1, frames), facts, notes, palette)


def _riff(data: bytes, pos: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, length) of the chunks that begin between two offsets; the last may reach beyond."""
    for _ in range(_MAX_CHUNKS):
        if pos + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, pos)
        yield kind, pos + 8, length
        pos += 8 + length + (length & 1)


def _webp_pixels(data: bytes, pos: int, end: int) -> Iterator[tuple[bytes, int]]:
    """(kind, start) of the chunks between two offsets that hold pixels: lossy `VP8 ` or lossless `VP8L`."""
    return ((kind, at) for kind, at, _ in _riff(data, pos, end) if kind in (b"VP8 ", b"VP8L"))


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) by the first chunk. Raises ValueError."""
    kind, body = data[12:16], data[20:30]
    if len(body) == 10:
        if kind == b"VP8X":
            return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
        if kind == b"VP8L" and body[0] == 0x2F:
            bits = int.from_bytes(body[1:5], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
            return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise ValueError("its first chunk states no size")


_DECODERS: dict[str, Callable[[bytes, int, bool], DecodedImage]] = {
    "jpeg": _decode_jpeg,
    "png": _by_pillow("png", _open_png),
    "tiff": _by_pillow("tiff", _open_tiff),
    "bmp": _by_pillow("bmp", _open_bmp),
    "webp": _by_pillow("webp", _open_webp),
    "gif": _by_pillow("gif", _open_gif),
}
