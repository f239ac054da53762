"""Pictures that nobody photographed: pages, screens, slides, charts and signs, flat but for edges and letters."""

from __future__ import annotations

import random
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from train import compress
from train.compress import Pixels

SIZES = ((640, 480), (800, 600), (1000, 700), (720, 1000), (512, 512))
"""Pixels across and down."""
TEXT = (
    "the of and to in is for on with as light water house street garden number table archive result amount paid total "
    "invoice date name address city window examiner picture quantisation history"
)
WORDS = TEXT.split()
HISTORIES = (
    "as drawn",
    "JPEG",
    "JPEG twice",
    "cropped between two JPEGs",
    "resized between two JPEGs",
    "PNG of a JPEG",
)
"""What a picture went through, all of it alike; see `save`."""

Colour = tuple[int, int, int]


def _colour(rng: random.Random) -> Colour:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _font(rng: random.Random, least: int, most: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(rng.randint(least, most))


def _words(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


def _new(rng: random.Random, colour: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", rng.choice(SIZES), colour)
    return image, ImageDraw.Draw(image)


def _text(
    draw: ImageDraw.ImageDraw, rng: random.Random, box: tuple[int, int, int, int], ink: Colour, sizes: tuple[int, int]
) -> None:
    """Lines of words in a box (left, top, right, bottom), which cuts off the longest."""
    font = _font(rng, *sizes)
    height = round(sum(sizes) / 2 * rng.uniform(1.2, 1.6))
    for y in range(box[1], box[3] - height, height):
        line = _words(rng, 3, 20)
        while draw.textlength(line, font) > box[2] - box[0]:
            line = line.rpartition(" ")[0]
        draw.text((box[0], y), line, ink, font)


def page(rng: random.Random) -> Image.Image:
    """A printed page of one or two columns, and a few lines of a table."""
    image, draw = _new(rng, rng.choice(((255, 255, 255), (250, 248, 240))))
    ink, columns = rng.choice(((0, 0, 0), (30, 30, 30), (60, 0, 0))), rng.choice((1, 1, 2))
    draw.text((50, 30), _words(rng, 2, 5), ink, _font(rng, 28, 44))
    across, down = image.width - 100, rng.choice((image.height // 2, image.height - 150))
    for k in range(columns):
        _text(draw, rng, (50 + k * across // columns, 100, 40 + (k + 1) * across // columns, down), ink, (11, 26))
    for y in range(down + 10, image.height - 30, 28):
        draw.line((50, y, image.width - 50, y), ink)
        draw.text((60, y + 5), f"{rng.choice(WORDS)}   {1000 * rng.random():.2f}", ink, _font(rng, 12, 16))
    return image


def screen(rng: random.Random) -> Image.Image:
    """A program's window: a bar, a list of words, and boxes that begin at multiples of 8 pixels."""
    ground, list_, ink = rng.choice(
        (((30, 32, 36), (40, 44, 52), (220,) * 3), ((245, 246, 248), (230,) * 3, (20,) * 3))
    )
    image, draw = _new(rng, ground)
    draw.rectangle((0, 0, image.width, 56), _colour(rng))
    draw.rectangle((0, 56, rng.choice((160, 200, 240)), image.height), list_)
    for k in range(12):
        draw.text((16, 72 + 32 * k), rng.choice(WORDS), ink, _font(rng, 12, 16))
    for _ in range(rng.randint(3, 10)):
        left, top = 8 * rng.randrange(25, image.width // 8 - 10), 8 * rng.randrange(8, image.height // 8 - 7)
        box = (left, top, left + 8 * rng.randrange(6, 35), top + 8 * rng.randrange(3, 20))
        draw.rounded_rectangle(box, 8, _colour(rng), _colour(rng))
        draw.text((left + 8, top + 8), _words(rng, 1, 4), _colour(rng), _font(rng, 10, 18))
    return image


def messages(rng: random.Random) -> Image.Image:
    """What two people wrote to each other, on the screen of a telephone."""
    size, dark = rng.choice(((540, 960), (480, 800))), rng.random() < 0.5
    image = Image.new("RGB", size, (18, 27, 34) if dark else (236, 229, 221))
    draw, y = ImageDraw.Draw(image), 20
    while y < image.height - 60:
        width, height = rng.randint(120, image.width * 3 // 4), rng.choice((40, 64, 88))
        own = rng.random() < 0.5
        left = image.width - width - 12 if own else 12
        fill = ((0, 92, 75) if own else (32, 44, 51)) if dark else (220, 248, 198) if own else (255, 255, 255)
        draw.rounded_rectangle((left, y, left + width, y + height), 10, fill)
        _text(draw, rng, (left + 10, y + 6, left + width - 10, y + height), (230,) * 3 if dark else (20,) * 3, (14, 18))
        y += height + rng.choice((8, 16, 24))
    return image


def slide(rng: random.Random) -> Image.Image:
    """A heading, some lines and, mostly, a disc."""
    image, draw = _new(rng, rng.choice(((255, 255, 255), (20, 30, 60), (240, 240, 235))))
    ink = _colour(rng)
    draw.text((40, 30), _words(rng, 1, 4), ink, _font(rng, 30, 50))
    for k in range(rng.randint(2, 6)):
        draw.text((60, 120 + 50 * k), f"- {_words(rng, 2, 6)}", ink, _font(rng, 16, 28))
    if rng.random() < 0.6:
        left, top, side = image.width // 2, image.height // 2, rng.randint(60, 200)
        draw.ellipse((left, top, left + side, top + side), _colour(rng))
    return image


def chart(rng: random.Random) -> Image.Image:
    """Bars and curves above lines with numbers."""
    width, height = rng.choice(SIZES)
    out = np.full((height, width, 3), 255, np.uint8)
    for k in range(10):
        y = 40 + k * (height - 100) // 10
        cv2.line(out, (60, y), (width - 30, y), (220,) * 3, 1, cv2.LINE_AA)
        cv2.putText(out, str(100 - 10 * k), (20, y + 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0,) * 3, 1, cv2.LINE_AA)
    bars = rng.randint(5, 30)
    for k in range(bars):
        x = 70 + k * (width - 110) // bars
        top = height - 60 - rng.randrange(20, height - 140)
        cv2.rectangle(out, (x, top), (x + max(3, (width - 110) // bars - 4), height - 60), _colour(rng), -1)
    for k in range(3):
        across = np.linspace(70, width - 40, 40)
        down = height / 2 + height / 4 * np.sin(np.arange(40) / 5 + k) + [rng.uniform(-20, 20) for _ in range(40)]
        cv2.polylines(out, [np.stack([across, down], 1).astype(np.int32)], False, _colour(rng), 2, cv2.LINE_AA)
    return Image.fromarray(out)


def street_map(rng: random.Random) -> Image.Image:
    """Coloured areas, roads and names."""
    size = rng.choice(SIZES)
    width, height = 2 * size[0], 2 * size[1]
    image = Image.new("RGB", (width, height), (240, 235, 220))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y = rng.randrange(width), rng.randrange(height)
        corners = [(x + rng.randint(-200, 200), y + rng.randint(-200, 200)) for _ in range(5)]
        draw.polygon(corners, tuple(rng.randint(150, 255) for _ in range(3)))
    for _ in range(60):
        way = [(rng.randrange(width), rng.randrange(height)) for _ in range(3)]
        draw.line(way, rng.choice(((255, 255, 255), (200, 160, 60), (120, 120, 120))), rng.randint(2, 14))
    image = image.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        draw.text((rng.randrange(size[0]), rng.randrange(size[1])), rng.choice(WORDS), (20,) * 3, _font(rng, 9, 16))
    return image


def sign(rng: random.Random) -> Image.Image:
    """A few large discs and boxes, as of a logo."""
    size = rng.choice(SIZES)
    image = Image.new("RGB", (2 * size[0], 2 * size[1]), rng.choice(((255, 255, 255), _colour(rng))))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(2, 6)):
        left, top, side = rng.randrange(image.width), rng.randrange(image.height), rng.randint(20, 300)
        form = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        form((left, top, left + side, top + side), _colour(rng))
    return image.resize(size, Image.Resampling.LANCZOS)


KINDS: dict[str, Callable[[random.Random], Image.Image]] = {
    "page": page,
    "screen": screen,
    "messages": messages,
    "slide": slide,
    "chart": chart,
    "map": street_map,
    "sign": sign,
}


def draw(kind: str, rng: random.Random) -> Pixels:
    """(H, W, 3), BGR, a picture of one of KINDS."""
    return np.ascontiguousarray(np.asarray(KINDS[kind](rng))[..., ::-1])


def save(pixels: Pixels, history: str, rng: random.Random) -> bytes:
    """The file of a picture that went through one of HISTORIES, with qualities of 40 to 95 and 70 to 97."""
    subsampling = rng.choice(("4:2:0", "4:4:4"))
    first, last = rng.randint(40, 95), rng.choice((70, 75, 80, 85, 90, 92, 95, 97))
    if history != "as drawn" and history != "JPEG":
        pixels = compress.recompress(pixels, compress.standard(first, subsampling))
    if "cropped" in history:
        pixels = pixels[rng.randrange(8) :, rng.randrange(8) :]
    if "resized" in history:
        factor = rng.choice((0.5, 0.75, 1.25, 1.5))
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        pixels = np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=how), np.uint8)
    pixels = np.ascontiguousarray(pixels)
    if history in ("as drawn", "PNG of a JPEG"):
        return bytes(cv2.imencode(".png", pixels)[1])
    return compress.encode(pixels, compress.standard(last, subsampling))
