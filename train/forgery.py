"""Labelled images for the consistency models: spliced, copied and pristine ones, as files of their own history.

Each case is one file with the mask of what has another history than the rest. Encoders, tables, subsampling, sizes and
region shapes vary; pristine cases cover single, double, resized, cropped and overlaid images.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from jscan.rescaled import PHASES, Scale, restore
from jscan.tiling import STRIDE, WINDOW
from train import compress
from train.dataset import draw_crop, shift_index
from train.process import process

Pixels = npt.NDArray[np.uint8]

JPEG_KINDS = {
    "splice_double": 0.2,
    "splice_clean_region": 0.14,
    "splice_clean_background": 0.08,
    "copy_move": 0.08,
    "ok_single": 0.16,
    "ok_double": 0.18,
    "ok_resized": 0.08,
    "ok_aligned": 0.08,
    "ok_processed": 0.16,
    "splice_processed": 0.05,
}
PIXEL_KINDS = {
    "splice_region": 0.2,
    "splice_double": 0.15,
    "splice_clean_region": 0.12,
    "copy_move": 0.05,
    "ok_never": 0.2,
    "ok_single": 0.2,
    "ok_resized": 0.08,
    "ok_processed": 0.14,
    "splice_processed": 0.04,
}
WHOLE = ("noise", "blur", "sharpened", "brighter or darker", "vignette", "another codec")
"""What is done to processed pictures, all over; what else is done to pictures are kinds of their own."""
UNEVEN = ("denoised", "median", "warped", "video", "another codec")
"""What leaves more of a compression in some parts of a picture than in others; see `make_uneven`."""
UNEVEN_SPLICES = 0.25
"""Share of such pictures that have something pasted in, where it stays in its place."""


@dataclass(frozen=True)
class History:
    """What a part went through before the file was saved."""

    table: tuple[int, ...] | None = None
    """Luma table, zigzag, of its compression; None for none on a grid of 8 pixels."""
    shift: int = 0
    """Where its blocks begin, dy * 8 + dx, seen from the image's corner."""


@dataclass(frozen=True)
class Case:
    """One labelled image."""

    kind: str
    luma: Pixels
    """(H, W) luma as jscan decodes it."""
    q2: tuple[int, ...] | None
    """Table of the file, or None for a lossless one."""
    mask: npt.NDArray[np.bool_]
    """(H, W) what has another history; all False for a pristine image."""
    ground: History
    """The history outside the mask."""
    piece: History
    """The history inside it."""


SIDES = (320, 384, 448, 504)
"""Pixels along a side of a picture."""
RESTORED_SPLICES = 0.55
"""Share of pictures brought back to a scale that have something pasted in."""
RESIZED = (0.55, 0.95)
"""Factors by which parts are resized after their compression."""
SCALE_ERROR = 0.0007
"""How wrong the scale is to which such pictures are brought back, at most."""
SMALL_SHARE = 1 / 3
"""Share of the masks that are one small part: a square, a blob or a long strip, each as often."""
SMALL_SIDES = (24, 80)
"""Pixels along a side of a small part, of its bounding box for a blob."""
STRIP = (24, 36, 160)
"""Pixels across a strip, at least and at most, and the most along it."""
UNANSWERED = (WINDOW - STRIDE) // 2
"""Pixels at the image's edge whose cells have no answer of their own: a small part there would have no label."""


def draw_mask(rng: random.Random, height: int, width: int) -> npt.NDArray[np.bool_]:
    """(H, W) what is pasted: a third of the masks are one small part, the others shapes of 1 to 30 % of the image.

    The image has 128 pixels a side or more.
    """
    return (_small if rng.random() < SMALL_SHARE else _large)(rng, height, width)


def _small(rng: random.Random, height: int, width: int) -> npt.NDArray[np.bool_]:
    """One square or blob of SMALL_SIDES, or one STRIP, no nearer to the image's edge than labels reach."""
    shape = rng.choice(("square", "blob", "strip"))
    low, high = SMALL_SIDES
    # Evenly by the logarithm: the smallest are the hardest, and hold the fewest cells to learn from.
    h, w = (round(low * (high / low) ** rng.random()) for _ in range(2))
    if shape == "square":
        w = h
    elif shape == "strip":
        h, w = rng.randint(*STRIP[:2]), min(rng.randint(high, STRIP[2]), min(height, width) - 2 * UNANSWERED)
        if rng.random() < 0.5:
            h, w = w, h
    y, x = (rng.randint(UNANSWERED, s - UNANSWERED - own) for s, own in ((height, h), (width, w)))
    mask = np.zeros((height, width), np.uint8)
    if shape == "blob":
        # A bent ellipse: its radius waves, and the box fits around it.
        angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        radius = 1 + rng.uniform(0, 0.25) * np.cos(rng.choice((2, 3)) * angles + rng.uniform(0, 2 * np.pi))
        points = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
        points -= points.min(axis=0)
        points *= np.array([w - 1, h - 1]) / points.max(axis=0)
        cv2.fillPoly(mask, [np.rint(points + np.array([x, y])).astype(np.int32)], (255,))
    else:
        mask[y : y + h, x : x + w] = 255
    return mask > 0


def _large(rng: random.Random, height: int, width: int) -> npt.NDArray[np.bool_]:
    """One filled random ellipse, polygon or rectangle, or two, covering 1 to 30 % of the image."""
    while True:
        mask = np.zeros((height, width), np.uint8)
        for _ in range(1 if rng.random() < 0.85 else 2):
            cy, cx = rng.uniform(0.1, 0.9) * height, rng.uniform(0.1, 0.9) * width
            radius = rng.uniform(0.06, 0.3) * min(height, width)
            shape = rng.random()
            if shape < 0.4:
                axes = (int(radius) + 1, int(radius * rng.uniform(0.5, 1.7)) + 1)
                cv2.ellipse(mask, (int(cx), int(cy)), axes, rng.uniform(0, 180), 0, 360, 255, -1)
            elif shape < 0.75:
                angles = sorted(rng.uniform(0, 2 * np.pi) for _ in range(rng.randint(4, 11)))
                points = [
                    [cx + radius * rng.uniform(0.5, 1.6) * np.cos(a), cy + radius * rng.uniform(0.5, 1.6) * np.sin(a)]
                    for a in angles
                ]
                cv2.fillPoly(mask, [np.array(points, np.int32)], (255,))
            else:
                h, w = radius * rng.uniform(0.6, 1.6), radius * rng.uniform(0.6, 1.6)
                cv2.rectangle(mask, (int(cx - w), int(cy - h)), (int(cx + w), int(cy + h)), 255, -1)
        if 0.01 <= (mask > 0).mean() <= 0.3:
            return mask > 0


def _shifted(image: Pixels, how: compress.Compression, rng: random.Random, side: int) -> tuple[Pixels, History]:
    """The image compressed, then cropped at a random shift, (side, side) of (side + 8, side + 8), and its history."""
    y, x = rng.randrange(8), rng.randrange(8)
    pixels = compress.recompress(image, how)[y : y + side, x : x + side]
    return pixels, History(how.luma, shift_index(-y, -x))


def _graphics(image: Pixels, rng: random.Random) -> Pixels:
    """The image with a border, a caption or a flat panel, as pages and screenshots have them."""
    out, side = image.copy(), image.shape[0]
    colour = tuple(rng.choice((0, 16, 128, 235, 255)) for _ in range(3))
    if rng.random() < 0.5:
        band = rng.randint(8, side // 4)
        out[:band] = colour
        if rng.random() < 0.5:
            out[-band:] = colour
    else:
        out[:, : rng.randint(8, side // 3)] = colour
    for _ in range(rng.randint(0, 4)):
        where = (rng.randrange(side // 2), rng.randrange(20, side))
        ink = tuple(255 - c for c in colour)
        cv2.putText(out, "Example 123", where, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.4, 1.5), ink, 1, cv2.LINE_AA)
    return out


def make(jpeg: bool, images: list[Pixels], weights: npt.NDArray[np.float64], rng: random.Random) -> Case:
    """A random case: a JPEG file, or a lossless one."""
    kinds = JPEG_KINDS if jpeg else PIXEL_KINDS
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    side = rng.choice(SIDES)
    mask = np.zeros((side, side), bool)
    clean = draw_crop(images, weights, rng, side + 8)
    if rng.random() < 0.12:
        clean = _graphics(clean, rng)
    crop = clean[:side, :side]
    low = 45 if jpeg else 30
    first, other = (compress.draw(rng, low, 98, photoshop=0.1) for _ in range(2))
    ground = piece = History()
    if kind.startswith("splice") or kind == "copy_move":
        mask = draw_mask(rng, side, side)
        donor = draw_crop(images, weights, rng, side + 8)
        if kind in ("splice_clean_background", "splice_region"):
            behind, (before, piece) = crop, _shifted(donor, other, rng, side)
        elif kind == "splice_clean_region":
            (behind, ground), before = _shifted(clean, first, rng, side), donor[:side, :side]
        elif kind in ("splice_double", "splice_processed"):
            (behind, ground), (before, piece) = _shifted(clean, first, rng, side), _shifted(donor, other, rng, side)
        else:
            behind, ground = _shifted(clean, first, rng, side)
            dy, dx = rng.randrange(32, side - 32), rng.randrange(32, side - 32)
            if dy % 8 == 0 and dx % 8 == 0:
                dx += 1
            before = np.roll(behind, (dy, dx), axis=(0, 1))
            piece = History(ground.table, shift_index(ground.shift // 8 + dy, ground.shift % 8 + dx))
        image = np.where(mask[..., None], before, behind)
    elif kind in ("ok_double", "ok_processed") or (kind == "ok_single" and not jpeg):
        image, ground = _shifted(clean, first, rng, side)
    elif kind == "ok_aligned":
        image, ground = compress.recompress(crop, first), History(first.luma)
    elif kind == "ok_resized":
        small = int(side * rng.uniform(0.5, 0.95))
        once = compress.recompress(clean, first)
        image = np.ascontiguousarray(cv2.resize(once, (small, small), interpolation=cv2.INTER_AREA))
        mask = mask[:small, :small]
    else:
        image = crop
    image = np.ascontiguousarray(image, np.uint8)
    if kind.endswith("processed"):
        image = process(image, rng.choice(WHOLE), rng)
    if jpeg:
        second = compress.draw(rng, 65, 99, common=0.5, photoshop=0.08)
        return Case(kind, compress.recompress(image, second, gray=True), second.luma, mask, ground, piece)
    luma = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
    return Case(kind, luma, None, mask, ground, piece)


def make_uneven(jpeg: bool, images: list[Pixels], weights: npt.NDArray[np.float64], rng: random.Random) -> Case:
    """A random picture that was processed as a whole in a way that leaves its parts with more or less of their history.

    A JPEG file, or a lossless one. Most are pristine, and half of what another codec made was no JPEG before.
    """
    side, how = rng.choice(SIDES), rng.choice(UNEVEN)
    clean = draw_crop(images, weights, rng, side + 8)
    first, other = (compress.draw(rng, 45 if jpeg else 30, 98, photoshop=0.1) for _ in range(2))
    image, ground = _shifted(clean, first, rng, side)
    mask, piece, kind = np.zeros((side, side), bool), History(), "ok_uneven"
    if how in ("video", "another codec") and rng.random() < 0.5:
        image, ground = clean[:side, :side], History()
    elif how in ("denoised", "median") and rng.random() < UNEVEN_SPLICES:
        kind, mask = "splice_uneven", draw_mask(rng, side, side)
        before, piece = _shifted(draw_crop(images, weights, rng, side + 8), other, rng, side)
        image = np.where(mask[..., None], before, image)
    image = process(np.ascontiguousarray(image, np.uint8), how, rng)
    if jpeg:
        second = compress.draw(rng, 65, 99, common=0.5, photoshop=0.08)
        return Case(kind, compress.recompress(image, second, gray=True), second.luma, mask, ground, piece)
    return Case(kind, np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8), None, mask, ground, piece)


def make_restored(images: list[Pixels], weights: npt.NDArray[np.float64], rng: random.Random) -> Case:
    """A random picture as it is looked at where block edges have another period than 8 pixels: brought back to a scale.

    It is lossless. A part of it was made so much smaller after its compression, or none was and the scale is a mistake.
    """
    before = rng.choice(SIDES)
    side = round(before * rng.uniform(*RESIZED))
    image = draw_crop(images, weights, rng, side)
    kind, mask, piece = "ok_restored", np.zeros((side, side), bool), History()
    if rng.random() < RESTORED_SPLICES:
        kind, mask = "splice_restored", draw_mask(rng, side, side)
        how = compress.draw(rng, 30, 95, photoshop=0.1)
        donor = compress.recompress(draw_crop(images, weights, rng, before), how)
        method = rng.choice((cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC))
        image = np.where(mask[..., None], cv2.resize(donor, (side, side), interpolation=method), image)
        piece = History(how.luma)
    luma = np.asarray(cv2.cvtColor(np.ascontiguousarray(image, np.uint8), cv2.COLOR_BGR2GRAY), np.uint8)
    factor = before / side * (1 + rng.uniform(-SCALE_ERROR, SCALE_ERROR))
    # OpenCV's resizing leaves blocks at the first of the phases.
    luma = restore(luma, Scale(factor, PHASES[0] if rng.random() < 0.75 else rng.choice(PHASES)))
    inside = cv2.resize(mask.astype(np.uint8), (luma.shape[1], luma.shape[0]), interpolation=cv2.INTER_NEAREST)
    return Case(kind, luma, None, inside > 0, History(), piece)
