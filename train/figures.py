"""Draws the papers' example maps, jscan's own beside those of the papers' networks, as PNGs.

    python -m train.figures tondi12 IMAGE --out DIR       # Tondi 2021, figure 12: coefficients 1, 6 and 14 of Q1
    python -m train.figures uchida-flag IMAGE --out DIR   # Uchida 2019: compression flag and quality factor

Where a network of the papers is not in `weights/`, its row says so and the rest is drawn.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from jscan import papermap, weights
from jscan.decode import decode
from jscan.jpegtables import nearest_qf
from jscan.records import DecodedImage, Maps
from jscan.scan import Scanner
from jscan.tiling import BLOCK

COEFFICIENTS = (1, 6, 14)
"""Zigzag coefficients of figure 12, counted from 1."""
PANEL = 300
"""Pixels along the longer side of a picture or map."""
GAP, HEAD, BAR = 16, 26, 64
"""Pixels between panels, for titles, and for the scale beside a map."""
PAPER, INK, UNKNOWN = (255, 255, 255), (20, 20, 20), (190, 190, 190)
MAX_PIXELS = 1 << 40
"""More pixels than any image has."""

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Panel:
    """A map with its scale, or a photograph."""

    title: str
    values: npt.NDArray[Any] | None
    """(R, C) values, NaN where nothing is known; (H, W, 3) uint8 for a photograph; None for a map that is missing."""
    low: float = 0.0
    high: float = 1.0


def coloured(values: npt.NDArray[np.floating[Any]], low: float, high: float) -> Rgb:
    """(R, C, 3) colours from blue to red, grey where nothing is known."""
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-9), 0, 1)
    bgr = cv2.applyColorMap(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_JET)
    out = np.ascontiguousarray(bgr[..., ::-1])
    out[~known] = UNKNOWN
    return np.asarray(out, np.uint8)


def drawn(rows: list[list[Panel]], size: tuple[int, int]) -> Image.Image:
    """The figure: rows of panels of an image of `size` (H, W), each with its title above and its scale beside it."""
    height, width = (max(1, round(PANEL * s / max(size))) for s in size)
    across, down = width + BAR + GAP, height + HEAD + GAP
    canvas = Image.new("RGB", (GAP + across * max(len(r) for r in rows), GAP + down * len(rows)), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            x, y = GAP + c * across, GAP + r * down
            draw.text((x, y), panel.title, INK, font)
            y += HEAD
            if panel.values is None:
                draw.rectangle((x, y, x + width, y + height), outline=UNKNOWN)
                draw.text((x + 8, y + 8), "this model is not in weights/", INK, font)
                continue
            photo = panel.values.ndim == 3
            pixels = panel.values if photo else coloured(panel.values, panel.low, panel.high)
            method = Image.Resampling.BOX if photo else Image.Resampling.NEAREST
            canvas.paste(Image.fromarray(pixels).resize((width, height), method), (x, y))
            if not photo:
                scale = coloured(np.linspace(panel.high, panel.low, height)[:, None], panel.low, panel.high)
                canvas.paste(Image.fromarray(scale).resize((12, height)), (x + width + 6, y))
                for at, value in ((0, panel.high), (height - 14, panel.low)):
                    draw.text((x + width + 22, y + at), f"{value:.3g}", INK, font)
    return canvas


def _cropped(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """A map at the scale of the image: its last cells may reach beyond it."""
    large = np.kron(values, np.ones((BLOCK, BLOCK), values.dtype))
    return large[: size[0], : size[1]]


def _opened(path: Path) -> tuple[DecodedImage, Maps]:
    """The image in colour, and what jscan's own estimators say of it."""
    data = path.read_bytes()
    maps = Scanner(device="cpu").scan(data).maps
    if maps is None:
        raise ValueError(f"{path} could not be scanned; `jscan show {path}` says why")
    return decode(data, max_pixels=MAX_PIXELS, rgb=True), maps


def _planes(image: DecodedImage, reads: str) -> Rgb:
    assert image.rgb is not None
    return image.luma[None] if reads == "luma" else np.ascontiguousarray(image.rgb.transpose(2, 0, 1))


def tondi12(path: Path) -> Image.Image:
    """The maps of three coefficients of the first table of a double JPEG. Raises ValueError for other files."""
    image, maps = _opened(path)
    if image.jpeg is None:
        raise ValueError(f"{path} is no JPEG; these maps are of what came before a file's own compression")
    size = image.luma.shape
    sources: dict[str, npt.NDArray[Any] | None] = {"jscan": maps.q1}
    choices = papermap.densenets()
    name = "DenseNet"
    if choices:
        choice = papermap.nearest(choices, nearest_qf(np.maximum(image.jpeg.q2_luma, 1)))
        found = papermap.estimate(weights.load(choice.name), _planes(image, choice.reads))
        sources[choice.name] = papermap.jpeg_maps(found, size, choice.qf2).q1
    else:
        sources[name] = None
    # One scale for both estimators, so that the same colour is the same step.
    known = [m for m in sources.values() if m is not None]
    high = {i: max(2.0, max(float(np.nanmax(m[i - 1], initial=2)) for m in known)) for i in COEFFICIENTS}
    rows = []
    for k, (source, steps) in enumerate(sources.items()):
        first = Panel(path.name, image.rgb) if k == 0 else Panel("", np.full((*size, 3), 255, np.uint8))
        panels = [first]
        for i in COEFFICIENTS:
            values = None if steps is None else _cropped(steps[i - 1], size)
            panels.append(Panel(f"{source}, coefficient {i}", values, 1, high[i]))
        rows.append(panels)
    return drawn(rows, size)


def uchida_flag(path: Path) -> Image.Image:
    """The compression flag and the quality factor of decoded pixels."""
    image, maps = _opened(path)
    size = image.luma.shape
    flags: dict[str, tuple[npt.NDArray[Any] | None, npt.NDArray[Any] | None]] = {"jscan": (maps.flag, maps.qf)}
    flags["Uchida 2019"] = (None, None)
    if papermap.UCHIDA in weights.names():
        quality, flag = papermap.flag_maps(weights.load(papermap.UCHIDA), _planes(image, "rgb"))
        flags["Uchida 2019"] = (flag, quality)
    rows = []
    for k, (source, (flag_map, qf_map)) in enumerate(flags.items()):
        first = Panel(path.name, image.rgb) if k == 0 else Panel("", np.full((*size, 3), 255, np.uint8))
        flag_cells = None if flag_map is None else _cropped(flag_map, size)
        qf_cells = None if qf_map is None else _cropped(qf_map, size)
        rows.append([first, Panel(f"{source}, flag", flag_cells), Panel(f"{source}, QF", qf_cells, 0, 100)])
    return drawn(rows, size)


FIGURES = {"tondi12": tondi12, "uchida-flag": uchida_flag}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=sorted(FIGURES))
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("--out", type=Path, default=Path("runs/figures"), help="folder for the PNG")
    o = parser.parse_args(arguments)
    o.out.mkdir(parents=True, exist_ok=True)
    path = o.out / f"{o.figure}-{o.image.stem}.png"
    FIGURES[o.figure](o.image).save(path)
    print(path)


if __name__ == "__main__":
    main()
