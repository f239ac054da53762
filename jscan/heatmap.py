"""Maps to pictures that a person reads: photograph, suspicion as colour over it, regions, and a legend below."""

from __future__ import annotations

import zipfile
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from jscan import wording
from jscan.atomic import replacing
from jscan.records import DecodedImage, Maps, Pixels, Region, ScanRecord

if TYPE_CHECKING:
    Bools = npt.NDArray[np.bool_]
    Rgb = tuple[int, int, int]

MIN_COVERAGE = 0.1
"""Cells whose coverage is below this are drawn as "no information"."""
CONTOUR = 0.5
"""Suspicion at which a region's outline is drawn."""

_MIN_SIDE = 512  # small images are enlarged to this, so that the text beside them is in proportion
_MIN_WIDTH = 640  # of the legend
_BLOCK = 8

_BACKGROUND: Rgb = (24, 26, 30)
_TEXT: Rgb = (232, 234, 238)
_FAINT: Rgb = (158, 163, 172)
_LINE: Rgb = (62, 66, 74)

# Dark blue-violet over red and orange to pale yellow, as (lightness, a, b) in OKLab (B. Ottosson, 2020). Lightness
# rises evenly, so that the order of values is seen in grey print and by colour-blind readers as well.
_RAMP = (
    (0.22, 0.020, -0.100),
    (0.40, 0.110, -0.090),
    (0.56, 0.170, 0.020),
    (0.72, 0.110, 0.130),
    (0.86, 0.010, 0.150),
    (0.97, -0.010, 0.080),
)


def draw(image: DecodedImage, maps: Maps, record: ScanRecord, *, max_side: int = 1600) -> Pixels:
    """The heatmap, (h, w, 3) uint8 RGB: the photograph in grey under the colours of `maps.suspicion`, and a legend.

    Colour covers more of the photograph where suspicion is higher. Cells about which nothing is known (NaN, coverage
    below 0.1, rows missing from a truncated file) are hatched. Regions are outlined and numbered as in
    `record.regions`. The longer side of the photograph becomes at most `max_side` pixels; an image whose shorter
    side is below 512 is enlarged as far as that allows.
    """
    scale = _scale(image.height, image.width, max_side)
    height, width = max(1, round(image.height * scale)), max(1, round(image.width * scale))
    cell_y = _cells(height, image.height, maps.suspicion.shape[0])
    cell_x = _cells(width, image.width, maps.suspicion.shape[1])

    suspicion = maps.suspicion[np.ix_(cell_y, cell_x)]
    unknown = np.isnan(suspicion) | ~(maps.coverage[np.ix_(cell_y, cell_x)] >= MIN_COVERAGE)
    if image.valid_rows is not None:
        unknown[round(image.valid_rows * scale) :] = True
    suspicion = np.clip(np.where(unknown, 0, suspicion), 0, 1)

    photo = _overlay(_photo(image, height, width), suspicion, unknown)
    line = max(2, round(max(height, width) / 500))
    labels = []
    for number, region in enumerate(record.regions or (), 1):
        mask = _region_mask(region, suspicion, scale)
        _outline(photo, mask, line)
        rows, cols = np.nonzero(mask)
        labels.append((number, int(cols.min()), int(rows.min())))

    canvas = Image.fromarray(photo)
    pen = ImageDraw.Draw(canvas)
    font = _font(max(15, min(26, max(height, width) // 45)))
    for number, x, y in labels:
        _label(pen, font, str(number), x, y, (width, height))
    return _with_legend(canvas, image, record)


def write_png(path: Path, array: Pixels) -> None:
    """Nothing; the file appears whole. `array` is (h, w, 3) uint8 RGB. Raises OutputError, naming the path."""
    with replacing(path) as stream:
        Image.fromarray(np.ascontiguousarray(array)).save(stream, "PNG")


def write_maps(path: Path, maps: Maps) -> None:
    """Nothing; the file appears whole: an npz of float32 arrays, named as the fields of `Maps`.

    The same maps give the same bytes (numpy's own writer would store the time). Raises OutputError, naming the path.
    """
    with replacing(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (field.name for field in fields(Maps)):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                array = np.ascontiguousarray(getattr(maps, name), dtype=np.float32)
                np.lib.format.write_array(member, array, allow_pickle=False)


# --- the photograph -----------------------------------------------------------------------------------------


def _scale(height: int, width: int, max_side: int) -> float:
    longest, shortest = max(height, width), min(height, width)
    if longest > max_side:
        return max_side / longest
    if shortest < _MIN_SIDE:
        return max(1.0, min(_MIN_SIDE / shortest, max_side / longest))
    return 1.0


def _cells(drawn: int, pixels: int, cells: int) -> npt.NDArray[np.intp]:
    """The map cell of each drawn row (or column), whatever the scale."""
    centres = (np.arange(drawn) + 0.5) * pixels / drawn
    return np.minimum(centres // _BLOCK, cells - 1).astype(np.intp)


def _photo(image: DecodedImage, height: int, width: int) -> npt.NDArray[np.float32]:
    """(height, width, 3) float32, 0 to 255: the image at drawing size."""
    pixels = image.luma if image.rgb is None else image.rgb
    factor = max(1, min(image.height // height, image.width // width))
    if factor > 1:
        pixels = _reduced(pixels, factor)
    small = height < image.height or width < image.width
    method = Image.Resampling.LANCZOS if small else Image.Resampling.NEAREST
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), method)
    return np.asarray(resized.convert("RGB"), dtype=np.float32)


def _reduced(pixels: Pixels, factor: int) -> Pixels:
    """The image reduced by a whole factor, each pixel a mean; row by row, so that memory stays small."""
    rows, cols = -(-pixels.shape[0] // factor), -(-pixels.shape[1] // factor)
    starts = np.arange(cols) * factor
    widths = np.minimum(starts + factor, pixels.shape[1]) - starts
    out = np.empty((rows, cols, *pixels.shape[2:]), np.uint8)
    for row in range(rows):
        strip = pixels[row * factor : (row + 1) * factor]
        total = np.add.reduceat(strip.sum(axis=0, dtype=np.uint32), starts, axis=0)
        count = widths * strip.shape[0]
        out[row] = total // (count[:, None] if pixels.ndim == 3 else count)
    return out


def _overlay(photo: npt.NDArray[np.float32], suspicion: npt.NDArray[np.float32], unknown: Bools) -> Pixels:
    """The photograph, greyed and dimmed, under the colours; hatched where nothing is known."""
    grey = photo @ np.array([0.299, 0.587, 0.114], np.float32)
    # A trace of colour is left, so that the photograph stays recognisable.
    base = ((0.75 * grey[:, :, None] + 0.25 * photo) * 0.8 + 18).astype(np.float32)
    alpha = (0.8 * suspicion**1.2)[:, :, None]
    mixed = base * (1 - alpha) + _ramp()[(suspicion * 255 + 0.5).astype(np.uint8)] * alpha
    mixed[unknown] = _hatch(suspicion.shape[0], suspicion.shape[1], base)[unknown]
    out: Pixels = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    return out


def _hatch(height: int, width: int, base: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """(height, width, 3) float32: grey with diagonal lines, the photograph faintly behind."""
    stripe = (np.add.outer(np.arange(height), np.arange(width)) % 12 < 2)[:, :, None]
    under: Any = 96.0 if base is None else 0.45 * base.mean(axis=2, keepdims=True) + 40
    pattern: npt.NDArray[np.float32] = np.where(stripe, 168.0, under).astype(np.float32)
    return np.repeat(pattern, 3, axis=2)


@cache
def _ramp() -> npt.NDArray[np.float32]:
    """(256, 3) float32: sRGB colours of suspicion 0 to 1."""
    anchors = np.array(_RAMP)
    at = np.linspace(0, 1, 256)
    # Placed by lightness, so that equal steps of suspicion are equal steps of lightness.
    place = (anchors[:, 0] - anchors[0, 0]) / (anchors[-1, 0] - anchors[0, 0])
    lab = np.stack([np.interp(at, place, anchors[:, i]) for i in range(3)], axis=1)
    to_lms = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(((lab @ to_lms.T) ** 3) @ to_rgb.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: npt.NDArray[np.float32] = (255 * srgb).astype(np.float32)
    table.setflags(write=False)
    return table


# --- regions ------------------------------------------------------------------------------------------------


def _region_mask(region: Region, suspicion: npt.NDArray[np.float32], scale: float) -> Bools:
    """The drawn pixels of a region: suspicion above one half inside its box, or the box if there are few."""
    height, width = suspicion.shape
    top, left = min(int(region.y * scale), height - 1), min(int(region.x * scale), width - 1)
    bottom = min(max(top + 1, round((region.y + region.height) * scale)), height)
    right = min(max(left + 1, round((region.x + region.width) * scale)), width)
    mask = np.zeros((height, width), np.bool_)
    inside = suspicion[top:bottom, left:right] >= CONTOUR
    # Fewer than half of the region's own pixels: what makes it a region is not this map's height alone.
    if inside.sum() < 0.5 * region.area * scale * scale:
        inside = np.ones_like(inside)
    mask[top:bottom, left:right] = inside
    return mask


def _outline(photo: Pixels, mask: Bools, line: int) -> None:
    """The mask's border drawn into the photograph: white, with a dark line on either side."""
    outer = _grown(mask, line) & ~mask
    inner = mask & ~_shrunk(mask, line)
    edge = _grown(mask, 1) & ~_shrunk(mask, max(1, line - 1))
    photo[outer | inner] = (20, 20, 24)
    photo[edge] = (255, 255, 255)


def _grown(mask: Bools, by: int) -> Bools:
    """The mask with everything within `by` pixels, diagonals included."""
    for axis in (0, 1):
        wide = mask.copy()
        for step in range(1, by + 1):
            a, b = (slice(step, None), slice(None, -step)) if axis == 0 else (slice(None), slice(None))
            c, d = (slice(None), slice(None)) if axis == 0 else (slice(step, None), slice(None, -step))
            wide[a, c] |= mask[b, d]
            wide[b, d] |= mask[a, c]
        mask = wide
    return mask


def _shrunk(mask: Bools, by: int) -> Bools:
    # The border of the image counts as outside, so that an outline closes along it.
    padded = np.pad(mask, by)
    return ~_grown(~padded, by)[by:-by, by:-by]


def _label(pen: ImageDraw.ImageDraw, font: Any, text: str, x: int, y: int, size: tuple[int, int]) -> None:
    """A number in a box at a region's upper left corner, above it where there is room."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    pad = 4
    w, h = int(right - left) + 2 * pad, int(bottom - top) + 2 * pad
    x = min(max(0, x), max(0, size[0] - w))
    y = y - h - 2 if y - h - 2 >= 0 else min(y + 3, max(0, size[1] - h))
    pen.rectangle((x, y, x + w - 1, y + h - 1), fill=(255, 255, 255), outline=(20, 20, 24))
    pen.text((x + pad - left, y + pad - top), text, font=font, fill=(20, 20, 24))


# --- the legend ---------------------------------------------------------------------------------------------


def _with_legend(photo: Image.Image, image: DecodedImage, record: ScanRecord) -> Pixels:
    width = max(photo.width, _MIN_WIDTH)
    size = max(14, min(24, width // 62))
    title, body, small = _font(round(size * 1.25)), _font(size), _font(round(size * 0.85))
    margin, gap = round(size * 1.1), round(size * 0.55)
    usable = width - 2 * margin
    scratch = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    lines: list[tuple[str, Any, Rgb, int]] = []  # text, font, colour, space above
    lines.append((_shortened(scratch, _ascii(Path(record.path).name or record.path), title, usable), title, _TEXT, 0))
    for text in (_headline(image, record), _history(record)):
        lines += [(part, body, _TEXT, gap // 2) for part in _wrapped(scratch, text, body, usable)]
    for number, region in enumerate(record.regions or (), 1):
        for i, part in enumerate(_wrapped(scratch, f"{number}.  {_describe(region)}", small, usable)):
            lines.append((part, small, _FAINT if i else _TEXT, gap if number == 1 and i == 0 else gap // 3))
    notes = [note for note in record.warnings if note]
    if notes:
        text = "Notes: " + ", ".join(_ascii(note) for note in notes)
        lines += [(part, small, _FAINT, gap // 2) for part in _wrapped(scratch, text, small, usable)]

    bar_height, swatch = size, round(size * 1.6)
    scale_height = bar_height + round(size * 1.3)
    heights = [_line_height(font) for _, font, _, _ in lines]
    total = margin + scale_height + gap + sum(heights) + sum(space for *_, space in lines) + margin

    canvas = Image.new("RGB", (width, photo.height + total), _BACKGROUND)
    canvas.paste(photo, ((width - photo.width) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    y = photo.height + margin
    _draw_scale(canvas, pen, small, (margin, y, usable, bar_height), swatch)
    y += scale_height + gap
    pen.line((margin, y - gap // 2, width - margin, y - gap // 2), fill=_LINE)
    y += gap // 2
    for (text, font, colour, space), height in zip(lines, heights, strict=True):
        y += space
        pen.text((margin, y), text, font=font, fill=colour)
        y += height
    return np.array(canvas)


def _draw_scale(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, font: Any, place: tuple[int, int, int, int], swatch: int
) -> None:
    """The colour bar with its numbers, and the swatch for "no information" to its right."""
    x, y, usable, height = place
    length = min(usable // 2, 420)
    # Over mid-grey and with the overlay's own opacity, so that the bar shows what is seen on the photograph.
    ramp = np.tile(np.linspace(0, 1, length, dtype=np.float32), (height, 1))
    grey = np.full((height, length, 3), 128, np.float32)
    canvas.paste(Image.fromarray(_overlay(grey, ramp, np.zeros(ramp.shape, np.bool_))), (x, y))
    pen.rectangle((x - 1, y - 1, x + length, y + height), outline=_LINE)
    below = y + height + 4
    for value, anchor in ((0.0, "la"), (0.25, "ma"), (0.5, "ma"), (0.75, "ma"), (1.0, "ra")):
        at = x + round(value * (length - 1))
        pen.line((at, y + height, at, y + height + 3), fill=_FAINT)
        pen.text((at, below), f"{value:g}", font=font, fill=_FAINT, anchor=anchor)
    x += length + swatch
    pen.text((x, y + height // 2), "suspicion", font=font, fill=_TEXT, anchor="lm")
    x += round(pen.textlength("suspicion", font=font)) + swatch
    hatch = Image.fromarray(_hatch(height, swatch).astype(np.uint8))
    canvas.paste(hatch, (x, y))
    pen.rectangle((x - 1, y - 1, x + swatch, y + height), outline=_LINE)
    pen.text((x + swatch + 8, y + height // 2), "no information", font=font, fill=_TEXT, anchor="lm")


def _headline(image: DecodedImage, record: ScanRecord) -> str:
    score = "no score" if record.score is None else f"Score {record.score:.2f}"
    parts = [score, image.format.upper(), f"{image.width} x {image.height}"]
    if image.jpeg is not None:
        parts.append(image.jpeg.subsampling)
        parts.append("progressive" if image.jpeg.progressive else "baseline")
    if record.qf2 is not None:
        parts.append(f"saved at QF {record.qf2:.0f}")
    if record.coverage is not None:
        parts.append(f"coverage {record.coverage:.0%}")
    return "  |  ".join(parts)


def _history(record: ScanRecord) -> str:
    """The background's history in one line."""
    if record.double_fraction is None and record.qf1_background is None and record.q1_background is None:
        if record.qf_mean is not None:
            return f"Background: last compression at about QF {record.qf_mean:.0f}"
        return "Background: history unknown"
    if record.qf1_background is None and record.q1_background is None:
        if record.double_fraction is not None and record.double_fraction > 0.5:
            return "Background: compressed before, with a table that cannot be told"
        return "Background: compressed once, as far as can be told"
    first = " with a table of its own"
    if record.qf1_background is not None:
        first = f", QF1 {wording.quality(record.qf1_background, first=True)}"
    shift = "" if record.grid_shift is None else f", grid shift {_shift(record.grid_shift)}"
    return f"Background: compressed before{first}{shift}"


def _describe(region: Region) -> str:
    parts = [wording.KINDS[region.kind].name]
    if region.qf1 is not None:
        parts.append(f"QF1 {wording.quality(region.qf1, first=region.q1 is not None)}")
    if region.grid_shift is not None:
        parts.append(f"grid shift {_shift(region.grid_shift)}")
    parts.append(f"score {region.score:.2f}")
    parts.append(f"{region.width} x {region.height} at x {region.x}, y {region.y}")
    return "  |  ".join(parts)


def _shift(shift: tuple[int, int]) -> str:
    return f"({shift[0]}, {shift[1]})"


def _ascii(text: str) -> str:
    """Printable ASCII, the rest as escapes: the bundled font draws no more."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text)


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except ImportError:  # Pillow built without FreeType has one size only
        return ImageFont.load_default()


def _line_height(font: Any) -> int:
    _, top, _, bottom = font.getbbox("Agjy|")
    return int((bottom - min(0, top)) * 1.15)


def _shortened(pen: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    """The text cut in its middle, where needed, so that the end of a file's name stays."""
    if pen.textlength(text, font=font) <= width:
        return text
    keep = len(text)
    while keep > 8:
        keep -= 1
        cut = text[: (keep + 1) // 2] + "..." + text[len(text) - keep // 2 :]
        if pen.textlength(cut, font=font) <= width:
            return cut
    return text[:8]


def _wrapped(pen: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> list[str]:
    """The text in lines that fit."""
    lines: list[str] = []
    current = ""
    for word in text.split(" "):
        longer = f"{current} {word}" if current else word
        if current.strip() and pen.textlength(longer, font=font) > width:
            lines.append(current.rstrip(" |"))
            current = "    " + word if word != "|" else "    "
        else:
            current = longer
    return [*lines, current] if current.strip() else lines
