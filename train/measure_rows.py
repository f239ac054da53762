"""The lines of the tables of Q1: how the windows, or the images, of each line were made."""

from __future__ import annotations

import random
from dataclasses import dataclass

from jscan.tiling import WINDOW
from train import compress
from train.compress import OTHER_ENCODERS, Compression


@dataclass(frozen=True)
class Row:
    """One line: a first compression, a crop that moves the grid, and a second compression."""

    name: str
    qf1: tuple[int, int] = (60, 98)
    """Quality factors of the first compression, drawn uniformly; both ends are meant."""
    qf2: tuple[int, int] = (90, 90)
    first: str = "standard"
    """Tables of the first compression: `standard`, `photoshop`, `camera`, or `none` where there was no first one."""
    levels: tuple[int, ...] = (8, 9, 10, 11, 12)
    """Photoshop's levels that the first compression is drawn from, where its tables are `photoshop`."""
    aligned: bool = False
    """Whether both compressions have the same grid; else its shift is drawn from all 64."""
    half: bool = False
    """Whether the image was reduced to half its size before the first compression."""
    subsampling: str = "4:2:0"
    encoder: str = "opencv"
    """Encoder of both compressions; tables that are not standard are written with Pillow."""
    side: int = WINDOW
    """Pixels along a side of an isolated window; of a larger one the answers of all windows in it are averaged."""
    windows: str = ""
    """The line whose random places, shifts and QF1 are taken, so that the two lines differ in nothing else."""

    @property
    def seed(self) -> str:
        """The name that randomness is drawn by."""
        return self.windows or self.name

    def draw(self, rng: random.Random, qf1: int) -> tuple[Compression | None, Compression, str]:
        """The first compression (None for a single one), the second one, and what the first is called in tables.

        `qf1` is the quality factor of a standard first compression. Nothing is drawn that the line does not leave open.
        """
        low, high = self.qf2
        second = compress.standard(low if low == high else rng.randint(low, high), self.subsampling, self.encoder)
        if self.first == "none":
            return None, second, "none"
        if self.first == "standard":
            return compress.standard(qf1, self.subsampling, self.encoder), second, _bin(qf1)
        if self.first == "photoshop":
            level = rng.choice(self.levels)
            return compress.photoshop_tables()[level], second, f"level {level}"
        luma, chroma = rng.choice(compress.camera_tables())
        tables = (tuple(map(int, luma)), tuple(map(int, chroma)))
        camera = Compression(*tables, subsampling=self.subsampling, encoder="pillow", qf=None)
        return camera, second, _bin(int(camera.nearest_qf))


def _bin(qf: int, width: int = 5) -> str:
    low = qf // width * width
    return f"{low} to {low + width - 1}"


TONDI_LEVELS = (7, 8, 9, 10, 11, 12)
"""Photoshop's levels that Tondi 2021 measures."""

MAIN_ROWS = (
    Row("QF2 90"),
    Row("QF2 80", qf1=(55, 98), qf2=(80, 80)),
    Row("QF2 92", qf2=(92, 92)),
    Row("QF2 95", qf2=(95, 95)),
    Row("QF2 60 to 100", qf1=(50, 98), qf2=(60, 100)),
    Row("QF2 90, aligned", aligned=True),
    Row("QF2 90, Photoshop 8 to 12 first", first="photoshop", windows="QF2 90"),
)
"""The lines that the models' manifests hold."""

Q1_ROWS = (
    *MAIN_ROWS,
    Row("QF2 80, aligned", qf1=(55, 98), qf2=(80, 80), aligned=True),
    Row("QF2 92, aligned", qf2=(92, 92), aligned=True),
    Row("QF2 90, half resolution", half=True),
    Row("QF2 80, half resolution", qf1=(55, 98), qf2=(80, 80), half=True),
    *(Row(f"QF2 90, windows of {side}", side=side) for side in (96, 128)),
    Row("QF2 90, 4:4:4", subsampling="4:4:4", windows="QF2 90"),
    *(Row(f"QF2 90, encoder {name}", encoder=name, windows="QF2 90") for name in ("pillow", *OTHER_ENCODERS)),
    Row("QF2 90, Photoshop 8 to 12 first, aligned", first="photoshop", aligned=True, windows="QF2 90, aligned"),
    Row("QF2 90, Photoshop 7 to 12 first", first="photoshop", levels=TONDI_LEVELS, windows="QF2 90"),
    Row(
        "QF2 90, Photoshop 7 to 12 first, aligned",
        first="photoshop",
        levels=TONDI_LEVELS,
        aligned=True,
        windows="QF2 90, aligned",
    ),
    Row("QF2 90, camera tables first", first="camera", windows="QF2 90"),
    Row("QF2 90, camera tables first, aligned", first="camera", aligned=True, windows="QF2 90, aligned"),
    Row("QF2 80, single", qf2=(80, 80), first="none"),
    Row("QF2 90, single", first="none"),
    Row("QF2 95, single", qf2=(95, 95), first="none"),
    Row("QF2 60 to 100, single", qf2=(60, 100), first="none"),
)
"""Every line of isolated windows."""

IMAGE_ROWS = (
    Row("QF2 90"),
    Row("QF2 80", qf1=(55, 98), qf2=(80, 80)),
    Row("QF2 60 to 100", qf1=(50, 98), qf2=(60, 100)),
    Row("QF2 90, aligned", aligned=True),
    Row("QF2 90, Photoshop 8 to 12 first", first="photoshop", windows="QF2 90"),
    Row("QF2 90, Photoshop 7 to 12 first", first="photoshop", levels=TONDI_LEVELS, windows="QF2 90"),
    Row("QF2 90, single", first="none"),
)
"""Every line of whole images."""

LOSSLESS_ROWS = (
    Row("QF2 80", qf1=(55, 98), qf2=(80, 80)),
    Row("QF2 90"),
    Row("QF2 95", qf2=(95, 95)),
    Row("QF2 90, aligned", aligned=True),
)
"""Every line of images that were saved losslessly after both compressions."""
