"""One image from its bytes to its row and maps: the only place where the order of the stages is written."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jscan import (
    __version__,
    clipping,
    decode,
    filetypes,
    limits,
    reading,
    score,
    tiling,
)
from jscan.config import DEFAULT_MAX_PIXELS
from jscan.errors import ErrorCode, InputError, SetupError, UsageError
from jscan.estimate import Estimate, Estimator
from jscan.jpegtables import nearest_qf
from jscan.modelset import ModelSet
from jscan.names import display_path
from jscan.records import (
    DecodedImage,
    Evidence,
    ImageRef,
    ScanRecord,
    ScanResult,
)
from jscan.stages import stage

TOO_LARGE = "There was not enough memory for this image; scan it with fewer --workers or lower --max-pixels."
NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "Insufficient memory", "out of memory", "STATUS_ALLOC_FAILED")
"""How ONNX Runtime, CUDA and OpenCV, which have exceptions of their own, say that memory ran out."""
PAPER_COST = 8
"""Times that a pixel counts for the papers' networks, when it is told how long an image will take."""
PAPER_NOTE = "The papers' networks give maps only: no regions are drawn from them and no score is calibrated."
FEIGNED = {
    "other_codec": "Another lossy codec made these pixels, and its blocks look like a JPEG's. Nothing was estimated.",
    "few_colours": "The colours were reduced to a palette, which hides and feigns compression. Nothing was estimated.",
}
"""Warnings of traces that the estimators have not learned to tell from a JPEG's, and what the row says: of photographs
that were saved so a third to a half scored 0.5 or more."""
MOST_COLOURED = 64_000_000
"""Pixels up to which the colours of an image are decoded where parts of it are suspicious; they take 192 MB then."""
CONFIDENT = 0.5
"""Coverage from which a cell counts as one on which the estimators were confident."""

Source = ImageRef | str | Path | bytes | npt.NDArray[np.uint8]


class Scanner:
    """Scans any number of images; checks all of its models at once, and opens each when an image first wants it.

    `provider` says what the models run on, `CPU` or `CUDA`; `models` names them with their digests. Images of more than
    `max_pixels` become error rows. So many `threads` compute parts of the same image on the CPU; its row is the same
    with any number. Raises UsageError where `device` is not the name of one device, ModelError where a model is missing
    or damaged, and DeviceError where `device="cuda"` and there is no GPU. With `estimator` "paper" the models are the
    papers' own networks (`papermap`), which give maps but neither regions nor a score. On the CPU a scout chooses what
    is looked at (`fastwindows`), unless `thorough`. A GPU looks at so many windows at a time as `batch` says; 0 chooses
    them from its free memory, of which each of the scanners `sharing` it takes a part.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        threads: int = 1,
        estimator: str = "comb",
        thorough: bool = False,
        batch: int = 0,
        sharing: int = 1,
    ) -> None:
        models = ModelSet(
            device=device, threads=threads, estimator=estimator, thorough=thorough, batch=batch, sharing=sharing
        )
        self.provider, self.models = models.provider, models.labels
        self.estimator = Estimator(models, thorough=thorough)
        self.max_pixels = max_pixels
        self._papers = bool(models.papers)

    def scan(
        self,
        source: Source,
        *,
        rgb: bool = False,
        known: Callable[[Evidence], bool] | None = None,
        sized: Callable[[int], None] | None = None,
    ) -> ScanResult:
        """The row of an image, its maps, and the decoded image.

        `source` is a path, a reference, the bytes of a file, or pixels: (H, W) or (H, W, 3) uint8, RGB. With `rgb` the
        colours are decoded as well, for drawing. Where `known` answers that it knows the bytes by their digest, nothing
        is decoded, and the result says so; `sized` is told the number of pixels before they are estimated. An input
        that cannot be estimated gives a row that says why; only a source of another type raises (UsageError).
        """
        ref = _reference(source)
        row = ScanRecord(
            path=ref.path,
            path_bytes=ref.path_bytes,
            container=ref.container,
            member=ref.member,
            container_sha256=ref.container_sha256,
            models=self.models,
            jscan_version=__version__,
        )
        started = time.perf_counter()
        try:
            data, evidence = self._read(source, ref)
            row = _with_evidence(row, evidence)
            if known is not None and known(evidence):
                return ScanResult(row, None, None, known=True)
            with stage("decode"):
                if data is None:
                    image = decode.from_array(np.asarray(source), rgb=rgb or self._papers)
                else:
                    image = decode.decode(data, max_pixels=self.max_pixels, rgb=rgb or self._papers)
            colours = self._colours(image, np.asarray(source) if data is None else data)
            del data  # the file of a huge image need not lie in memory while its pixels are estimated
            if sized is not None:
                sized(image.width * image.height * (PAPER_COST if self._papers else 1))
            row = _with_facts(row, image)
            if filetypes.contradicts(ref.path_bytes, image.format):
                row = replace(row, warnings=(*row.warnings, "wrong_suffix"))
            decoded = time.perf_counter()
            row = replace(row, decode_ms=1000 * (decoded - started))
            feigned = [said for warning, said in FEIGNED.items() if warning in image.warnings]
            if feigned and not self._papers:
                return ScanResult(replace(row, reasons=tuple(feigned)), None, image)
            with stage("estimate"):
                estimate = self.estimator(image, colours)
            if estimate is None:
                too_few = f"Fewer than {tiling.WINDOW} rows of the image could be decoded; nothing was estimated."
                return ScanResult(replace(row, reasons=(too_few,)), None, image)
            row = _with_estimate(row, image, estimate)
            if self._papers:
                row = replace(row, n_regions=None, regions=None, score=None, reasons=(*estimate.notes, PAPER_NOTE))
            row = replace(row, estimate_ms=1000 * (time.perf_counter() - decoded))
            return ScanResult(row, estimate.maps, image, last=estimate.last)
        except InputError as error:
            return _refused(row, error)
        except MemoryError:
            return _refused(row, InputError(ErrorCode.MEMORY, TOO_LARGE))
        except SetupError:
            raise  # another kind of source, or a model that cannot be opened: no image is to blame
        except Exception as error:  # the one place where an unforeseen fault becomes a row, so that a run goes on
            if any(words in str(error) for words in NO_MEMORY):
                return _refused(row, InputError(ErrorCode.MEMORY, TOO_LARGE))
            said = f"jscan failed on this image ({type(error).__name__}: {error}); please report it with the file."
            return _refused(row, InputError(ErrorCode.INTERNAL, said))

    def _read(self, source: Source, ref: ImageRef) -> tuple[bytes | None, Evidence]:
        """The bytes to decode (None for an array), and what identifies them."""
        if isinstance(source, np.ndarray):
            digest = hashlib.sha256(np.ascontiguousarray(source).data).hexdigest()
            return None, Evidence(size=source.nbytes, mtime=None, sha256=digest)
        if isinstance(source, bytes):
            return source, Evidence(len(source), None, hashlib.sha256(source).hexdigest())
        return reading.read(ref)

    def _colours(self, image: DecodedImage, source: bytes | npt.NDArray[np.uint8]) -> clipping.Colours | None:
        """What tells of the colours of an image, which few images are ever asked; None for huge ones.

        Colours are not decoded with the luma, which alone is estimated from: they would take as long again.
        """
        if image.width * image.height > MOST_COLOURED:
            return None

        @functools.cache  # an image that is looked at again asks again
        def told() -> tuple[npt.NDArray[np.float32] | None, bool]:
            coloured = image
            if image.rgb is None and isinstance(source, bytes):
                coloured = decode.decode(source, max_pixels=self.max_pixels, rgb=True)
            elif image.rgb is None:
                coloured = decode.from_array(np.asarray(source), rgb=True)
            rows = image.luma.shape[0] if image.valid_rows is None else image.valid_rows
            rgb = coloured.rgb
            return (None, False) if rgb is None else (clipping.share(rgb[:rows]), clipping.is_grey(rgb[:rows]))

        return clipping.Colours(lambda: told()[0], lambda: told()[1])


def _reference(source: Source) -> ImageRef:
    if isinstance(source, ImageRef):
        return source
    if isinstance(source, (str, Path)):
        raw = os.fsencode(source)
        return ImageRef(display_path(raw), raw)
    if isinstance(source, bytes):
        return ImageRef("<bytes>", b"<bytes>")
    if isinstance(source, np.ndarray):
        return ImageRef("<array>", b"<array>")
    raise UsageError(f"an image is a path, bytes or an array, not {type(source).__name__}")


def _refused(row: ScanRecord, error: InputError) -> ScanResult:
    """The result of an input that was not estimated: its row so far, and why."""
    return ScanResult(replace(row, status=error.status, error_code=str(error.code), error=str(error)), None, None)


def _with_evidence(row: ScanRecord, evidence: Evidence) -> ScanRecord:
    """The row with what identifies the bytes, which holds even where they are no image."""
    return replace(row, size=evidence.size, mtime=evidence.mtime, sha256=evidence.sha256, warnings=evidence.warnings)


def _with_facts(row: ScanRecord, image: DecodedImage) -> ScanRecord:
    """The row with what is known from the header."""
    jpeg, said = image.jpeg, image.metadata
    row = replace(
        row,
        warnings=row.warnings + image.warnings,
        format=image.format,
        frames=image.frames,
        width=image.width,
        height=image.height,
        components=image.components,
        camera_make=said.camera_make,
        camera_model=said.camera_model,
        software=said.software,
        capture_time=said.capture_time,
        has_thumbnail=said.has_thumbnail,
        thumbnail_differs=said.thumbnail_differs,
    )
    if jpeg is None:
        return row
    return replace(
        row,
        subsampling=jpeg.subsampling,
        progressive=jpeg.progressive,
        q2_luma=jpeg.q2_luma,
        q2_chroma=jpeg.q2_chroma,
        qf2=nearest_qf(np.maximum(jpeg.q2_luma, 1)),
        encoder=jpeg.encoder,
    )


def _with_estimate(row: ScanRecord, image: DecodedImage, found: Estimate) -> ScanRecord:
    """The row with what was estimated."""
    maps, consistency = found.maps, found.consistency
    quality = maps.qf[np.isfinite(maps.qf)]
    flags = maps.flag[np.isfinite(maps.flag)]
    coverage = float((maps.coverage >= CONFIDENT).mean())
    notes = found.notes
    if image.valid_rows is not None:
        notes += (f"Only the first {image.valid_rows} of {image.height} rows could be decoded.",)
    mean, low, high = (None, None, None)
    if quality.size:
        mean, low, high = (float(v) for v in (quality.mean(), *np.percentile(quality, (10, 90))))
    return replace(
        row,
        qf_mean=mean,
        qf_p10=low,
        qf_p90=high,
        compressed_fraction=float((flags > 0.5).mean()) if flags.size else None,
        q1_background=found.q1,
        qf1_background=nearest_qf(found.q1) if found.q1 is not None else None,
        double_fraction=found.double_fraction,
        grid_shift=found.grid_shift,
        n_regions=len(consistency.regions),
        regions=consistency.regions,
        score=consistency.score,
        reasons=score.reasons(consistency.regions, consistency.score, coverage, found.grid_shift) + notes,
        coverage=coverage,
    )


def scan_image(
    source: Source, *, device: str = "auto", max_pixels: int = DEFAULT_MAX_PIXELS, rgb: bool = False
) -> ScanResult:
    """The row, the maps and the decoded image of one image; see `Scanner.scan`.

    Opens the models each time: for many images make a `Scanner` once. Raises ModelError and DeviceError as that does.
    """
    return Scanner(device=device, max_pixels=max_pixels, threads=limits.usable_cores()).scan(source, rgb=rgb)
