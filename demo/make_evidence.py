"""Makes a small folder of evidence whose truth is known, from the photographs that scikit-image carries.

    python demo/make_evidence.py demo-out

writes `demo-out/evidence` (what to scan) and `demo-out/truth` (masks of the pasted regions and a README). It knows
nothing of jscan: NumPy, Pillow and scikit-image only.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data

Rgb = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One file of the evidence and the truth about it."""

    name: str
    content: bytes
    story: str
    """What was done, one sentence."""
    mask: Mask | None = None
    """(rows, cols), True where something was pasted; None where nothing was."""


def photograph(load: Callable[[], Rgb], width: int = 640) -> Rgb:
    """A photograph without a JPEG past, (rows, cols, 3): reduced, which wipes out the grid that it may have had."""
    image = Image.fromarray(load()[..., :3]).convert("RGB")
    # Never enlarge, and always resample by an awkward factor.
    width = min(width, int(image.width * 0.83))
    return np.asarray(image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS))


def motorcycle() -> Rgb:
    """The left image of scikit-image's stereo pair."""
    return np.asarray(data.stereo_motorcycle()[0])  # type: ignore[no-untyped-call]


def jpeg(pixels: Rgb, quality: int) -> bytes:
    """The JPEG file, 4:2:0, libjpeg's tables at that quality."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def png(pixels: Rgb) -> bytes:
    """The PNG file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def pixels_of(file: bytes) -> Rgb:
    """The pixels of an image file."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def compressed(pixels: Rgb, quality: int, dy: int = 0, dx: int = 0) -> Rgb:
    """The pixels after one JPEG compression, the first dy rows and dx columns then cut off, which shifts the grid."""
    return pixels_of(jpeg(pixels, quality))[dy:, dx:]


def ellipse(shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> Mask:
    """True inside the ellipse; centre as fractions of (rows, cols), radii in pixels."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    inside = ((y - centre[0] * shape[0]) / radii[0]) ** 2 + ((x - centre[1] * shape[1]) / radii[1]) ** 2 <= 1
    return np.asarray(inside)


def pasted(host: Rgb, donor: Rgb, mask: Mask) -> Rgb:
    """The host with the donor's pixels where the mask is True; the donor is mirrored into the host's size."""
    rows = np.pad(donor, ((0, max(0, host.shape[0] - donor.shape[0])), (0, 0), (0, 0)), mode="reflect")
    wide = np.pad(rows, ((0, 0), (0, max(0, host.shape[1] - rows.shape[1])), (0, 0)), mode="reflect")
    return np.where(mask[..., None], wide[: host.shape[0], : host.shape[1]], host)


def bundled(name: str) -> bytes:
    """A file as scikit-image carries it, byte for byte."""
    return (Path(data.__file__).parent / name).read_bytes()


def exhibits() -> list[Exhibit]:
    """Everything that goes into the folder."""
    coffee = photograph(data.coffee)
    street = photograph(data.astronaut)
    garage = photograph(motorcycle)
    cat = photograph(data.chelsea)
    eye = photograph(data.retina)

    made = [
        Exhibit("01_untouched_rocket.jpg", bundled("rocket.jpg"), "A JPEG as scikit-image carries it."),
        Exhibit("02_untouched_retina.jpg", bundled("retina.jpg"), "A JPEG as scikit-image carries it."),
        Exhibit("03_untouched_coffee.png", png(coffee), "Never compressed, saved as PNG."),
        Exhibit("04_saved_once_motorcycle.jpg", jpeg(garage, 88), "Saved once as JPEG, quality 88."),
        Exhibit(
            "05_recompressed_coffee.jpg",
            jpeg(compressed(coffee, 75), 92),
            "The whole image saved twice on the same grid, quality 75, then 92.",
        ),
        Exhibit(
            "06_recompressed_cropped_astronaut.jpg",
            jpeg(compressed(street, 80, 3, 5), 90),
            "Saved at quality 80, cropped by 3 rows and 5 columns, saved at 90: the whole image, off the grid.",
        ),
    ]

    host = compressed(garage, 70, 2, 5)
    mask = ellipse(host.shape[:2], (0.55, 0.40), (95, 120))
    made.append(
        Exhibit(
            "07_spliced_motorcycle.jpg",
            jpeg(pasted(host, compressed(coffee, 93, 6, 1), mask), 90),
            "Host of quality 70 with a piece of a photo of quality 93 pasted in, all saved at quality 90.",
            mask,
        )
    )
    host = compressed(coffee, 65, 4, 3)
    mask = ellipse(host.shape[:2], (0.45, 0.65), (85, 100))
    made.append(
        Exhibit(
            "08_spliced_coffee.jpg",
            jpeg(pasted(host, cat, mask), 90),
            "Host of quality 65 with a piece of a never compressed photo pasted in, all saved at quality 90.",
            mask,
        )
    )
    mask = ellipse(street.shape[:2], (0.62, 0.35), (80, 90))
    made.append(
        Exhibit(
            "09_spliced_astronaut.png",
            png(pasted(street, compressed(garage, 70, 1, 6), mask)),
            "A never compressed photo with a piece of a JPEG of quality 70 pasted in, saved as PNG.",
            mask,
        )
    )
    host = compressed(eye, 75)
    mask = ellipse(host.shape[:2], (0.40, 0.55), (110, 90))
    made.append(
        Exhibit(
            "10_spliced_retina.png",
            png(pasted(host, coffee, mask)),
            "A decoded JPEG of quality 75 with a piece of a never compressed photo pasted in, saved as PNG.",
            mask,
        )
    )
    return made


def main(folder: Path) -> None:
    """Nothing; writes the evidence and the truth below the folder."""
    evidence, truth = folder / "evidence", folder / "truth"
    for place in (evidence, truth):
        place.mkdir(parents=True, exist_ok=True)
    lines = ["# What was done to the files in `../evidence`", "", "| file | pasted | what was done |", "|---|---|---|"]
    made = exhibits()
    for exhibit in made:
        (evidence / exhibit.name).write_bytes(exhibit.content)
        area = "nothing"
        if exhibit.mask is not None:
            mask = f"{Path(exhibit.name).stem}_mask.png"
            Image.fromarray(exhibit.mask).save(truth / mask)
            area = f"[{exhibit.mask.mean():.0%}]({mask})"
        lines.append(f"| {exhibit.name} | {area} | {exhibit.story} |")
    lines += [
        "",
        "The photographs are those that scikit-image carries; see its data folder for their licences. All but the",
        "first two were reduced by a sixth or more before anything else, which wipes out whatever JPEG past they had.",
        "",
    ]
    (truth / "README.md").write_text("\n".join(lines), encoding="utf-8")
    print(f"{len(made)} files in {evidence}, the truth about them in {truth / 'README.md'}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python demo/make_evidence.py FOLDER")
    main(Path(sys.argv[1]))
