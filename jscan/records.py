"""What travels between the stages: references, decoded images, maps, regions, rows.

Everything here is frozen. Arrays inside are not to be written to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

FloatMap = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


Travels = TypeVar("Travels")


def travels(kind: type[Travels]) -> type[Travels]:
    """The same dataclass, which pickle takes apart in one call: its own way takes up to five times as long."""
    values = attrgetter(*(f.name for f in fields(kind)))  # type: ignore[arg-type]

    def reduce(self: Travels) -> tuple[type[Travels], tuple[Any, ...]]:
        return kind, values(self)

    kind.__reduce__ = reduce  # type: ignore[method-assign, assignment]
    return kind


@travels
@dataclass(frozen=True, slots=True)
class Evidence:
    """What identifies the bytes that were decoded."""

    size: int
    """In bytes."""
    mtime: datetime | None
    """UTC; None for bytes and arrays."""
    sha256: str
    """Lower-case hex digest of exactly the bytes that were decoded."""
    warnings: tuple[str, ...] = ()
    """Such as `atime_changed`."""


READING_WARNINGS = frozenset({"atime_changed", "member_cut", "bad_crc", "wrong_size", "other_name"})
"""Warnings of a row that speak of one reading of one file or member; all others, but for `wrong_suffix`, are of the
content, the same in every copy."""
NOT_LUMA = frozenset({"rgb_jpeg", "cmyk"})
"""Warnings of JPEG files whose first component is not the luma; they are treated as decoded pixels."""


@travels
@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """The archive on the disk that holds a member, at whatever depth, as it was when it was opened."""

    path_bytes: bytes
    size: int
    mtime: datetime | None


@travels
@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one input lies; `path_bytes`, `container` and `member` together tell it from all others."""

    path: str
    """Display path: undecodable bytes are shown as backslash escapes."""
    path_bytes: bytes
    """The exact bytes of the name; for a member of an archive those of the archive, `!`, and its own."""
    container: str | None = None
    """The `path` of the archive that holds it, else None."""
    member: int | None = None
    """Its index in the archive, else None."""
    refused: tuple[str, str] | None = None
    """(error code, sentence) where discovery already knows that it will not be read (a symbolic link, say)."""
    container_sha256: str | None = None
    """Digest of the archive that holds it, where that was read."""
    content: bytes | None = field(default=None, repr=False, compare=False)
    """The bytes of a member, which nobody but the one who reads the archive could fetch without reading it anew."""
    evidence: Evidence | None = field(default=None, compare=False)
    """What identifies `content`, or an archive that was looked into."""
    archive: ArchiveFile | None = field(default=None, compare=False)
    """The file that a member lies in, else None."""
    touched: bool = field(default=False, compare=False)
    """Whether a look at the file's first bytes already changed its access time."""


@dataclass(frozen=True, slots=True)
class JpegFacts:
    """What a JPEG's markers say."""

    q2_luma: tuple[int, ...]
    """The table of the first component, 64 steps in zigzag order."""
    q2_chroma: tuple[int, ...] | None
    """The table of the second component, or None for one component."""
    subsampling: str
    """Such as `4:2:0`, `4:4:4`, or `gray`."""
    progressive: bool
    """Whether the frame is progressive."""
    encoder: str
    """`ijg`, `photoshop`, `camera` or `unknown`, by table and marker order."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """EXIF facts; every field is None where the file does not say."""

    camera_make: str | None = None
    camera_model: str | None = None
    software: str | None = None
    capture_time: str | None = None
    has_thumbnail: bool | None = None
    thumbnail_differs: bool | None = None
    orientation: int | None = None
    """2 to 8 where viewers mirror or turn the picture, which jscan does not."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Pixels and header facts of one image."""

    luma: Pixels
    """(H, W) uint8. For a JPEG the Y component as decoded, on the file's own grid; else BT.601 luma of the colours."""
    rgb: Pixels | None
    """(H, W, 3) uint8 for drawing, or None where it was not asked for."""
    format: str
    """`jpeg`, `png`, `tiff`, `bmp`, `webp`, `gif` or `array`."""
    components: int
    """Channels in the file: 1, 3 or 4 (2 for grey with alpha)."""
    jpeg: JpegFacts | None = None
    """None for anything but JPEG."""
    metadata: Metadata = field(default_factory=Metadata)
    frames: int = 1
    """How many images the file holds; the first was decoded."""
    warnings: tuple[str, ...] = ()
    """Such as `truncated`, `corrupt_data`, `trailing_bytes`."""
    valid_rows: int | None = None
    """Rows that hold decoded data when the file is truncated, else None: rows from here on are not to be estimated."""

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.luma.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.luma.shape[1])


@dataclass(frozen=True, slots=True)
class WindowPosteriors:
    """What an estimator says of every window of an image."""

    logp: npt.NDArray[np.float16]
    """(R, C, K) log-posteriors: 226 steps in 15 groups for Q1, 100 quality factors for QF."""
    shift: npt.NDArray[np.float16]
    """(R, C, 64) log-posterior of where the blocks begin, dy * 8 + dx, seen from `origin`."""
    present: npt.NDArray[np.float32]
    """(R, C) probability that there was the compression that is looked for."""
    origin: tuple[int, int]
    """Row and column of the first window's corner."""
    size: tuple[int, int]
    """Rows and columns of the image."""


@dataclass(frozen=True, slots=True)
class LastCompression:
    """What is known of the last compression of decoded pixels."""

    origin: tuple[int, int]
    """Row and column, 0 to 7, where its first whole block begins."""
    table: tuple[int, ...]
    """64 steps in zigzag order; those that leave no trace are a standard table's."""
    qf: int
    """The standard quality factor that explains the coefficients best."""
    exact: bool
    """Whether that standard table explains them as well as free steps do."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well each block of an image agrees with its last compression; blocks that hold whole pixels of it alone."""

    nats: npt.NDArray[np.float32]
    """(r, c) log-likelihood ratio of "near multiples of its steps" against "anywhere between them"."""
    count: npt.NDArray[np.float32]
    """(r, c) coefficients that this is the sum of: such as are not near zero, of steps that are coarse enough."""
    origin: tuple[int, int]
    """Row and column, 0 to 7, at which the first block begins."""


@dataclass(frozen=True, slots=True)
class Maps:
    """One cell per 8 x 8 block of the image, (ceil(H / 8), ceil(W / 8)) float32; NaN where nothing could be said."""

    suspicion: FloatMap
    """Probability, 0 to 1, that the cell has another history than the background."""
    qf: FloatMap
    """Quality factor of the last compression, 1 to 100."""
    flag: FloatMap
    """Probability, 0 to 1, that the cell was JPEG compressed."""
    q1: FloatMap
    """(15, rows, cols): primary quantisation steps in zigzag order; one of `jpegtables.Q1_MAX` means at least that."""
    double: FloatMap
    """Probability, 0 to 1, that there was a compression before the last one."""
    coverage: FloatMap
    """How sure the estimators are here, 0 to 1."""
    shift: FloatMap
    """(2, rows, cols): (dy, dx), 0 to 7, where the blocks of the first compression most probably begin, seen from the
    image's corner: the one before the last where `double` speaks of one, else the one that `flag` speaks of."""
    shift_confidence: FloatMap
    """Probability, 0 to 1, that there was this compression and that its blocks begin at `shift`."""


@travels
@dataclass(frozen=True, slots=True)
class Region:
    """A connected part of the image with another history than the background; pixel units."""

    y: int
    x: int
    height: int
    width: int
    area: int
    """Pixels inside the region itself, not its box."""
    score: float
    """Calibrated probability that this region's history differs."""
    qf1: float | None
    """Nearest standard quality factor of its first compression, or None; beside `q1` one of 50 means at most that."""
    q1: tuple[int, ...] | None
    """Its 15 first steps, or None where its history has no first compression or is unknown; one of `jpegtables.Q1_MAX`
    means at least that."""
    grid_shift: tuple[int, int] | None
    """(dy, dx), 0 to 7: where the first compression's blocks begin on the image's grid, or None."""
    kind: str
    """One of `wording.KINDS`."""


@travels
@dataclass(frozen=True, slots=True)
class ScanRecord:
    """One row of the results: what was found in one input, or why nothing was."""

    path: str
    path_bytes: bytes
    container: str | None = None
    member: int | None = None
    container_sha256: str | None = None
    size: int | None = None
    mtime: datetime | None = None
    sha256: str | None = None
    duplicate_of: str | None = None
    """`path` of the first input with the same bytes, where this is not the first: they were estimated once."""
    vanished: datetime | None = None
    """When an input of an earlier run was first missed, UTC; the row says what was found when it was last seen."""
    status: str = "ok"
    error_code: str | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    format: str | None = None
    frames: int | None = None
    width: int | None = None
    height: int | None = None
    components: int | None = None
    subsampling: str | None = None
    progressive: bool | None = None
    q2_luma: tuple[int, ...] | None = None
    q2_chroma: tuple[int, ...] | None = None
    qf2: float | None = None
    encoder: str | None = None
    camera_make: str | None = None
    camera_model: str | None = None
    software: str | None = None
    capture_time: str | None = None
    has_thumbnail: bool | None = None
    thumbnail_differs: bool | None = None
    qf_mean: float | None = None
    qf_p10: float | None = None
    qf_p90: float | None = None
    compressed_fraction: float | None = None
    q1_background: tuple[int, ...] | None = None
    """15 steps of the background's first compression; one of `jpegtables.Q1_MAX` means at least that."""
    qf1_background: float | None = None
    """Their nearest standard quality factor; 50 means at most that."""
    double_fraction: float | None = None
    """Share of the windows, weighed by how sure they are, that show a first compression, the background's or another;
    None where they tell too little."""
    grid_shift: tuple[int, int] | None = None
    n_regions: int | None = None
    regions: tuple[Region, ...] | None = None
    score: float | None = None
    reasons: tuple[str, ...] = ()
    coverage: float | None = None
    models: tuple[str, ...] = ()
    jscan_version: str | None = None
    decode_ms: float | None = None
    estimate_ms: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The row as plain values, regions as a list of dicts; for Arrow and JSON."""
        row = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.regions is not None:
            row["regions"] = [{f.name: getattr(r, f.name) for f in fields(r)} for r in self.regions]
        return row


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What `scan_image` returns."""

    record: ScanRecord
    maps: Maps | None
    """None where the input could not be estimated."""
    image: DecodedImage | None
    """The decoded image, for drawing; None where it could not be decoded."""
    known: bool = False
    """Whether the content was known already: then the row holds only what identifies the bytes."""
    last: LastCompression | None = None
    """The last compression of pixels that were a JPEG, as it was estimated; None for a JPEG, whose row holds its table,
    and where there was none."""
