"""What a whole scan reaches: on labelled forgeries, on photographs as cameras wrote them, and on published examples."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan.records import Region, ScanResult
from jscan.tiling import BLOCK
from train import measure_metrics as metrics
from train.measure_sets import scanner
from train.measure_speed import scan_folder

Mask = npt.NDArray[np.bool_]

NOTABLE = 0.5
"""Score from which an image counts as found, or as a false alarm."""


def of_pristine(scores: Sequence[float]) -> dict[str, Any]:
    """Figures of the scores of pristine images, of which there are some."""
    return {
        "images": len(scores),
        "median_score": float(np.median(scores)),
        f"share_from_{NOTABLE}": float(np.mean(np.array(scores) >= NOTABLE)),
    }


# Where something was pasted into the published examples, as polygons of (x, y) in pixels, read off by eye.
PLACES: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    # The dark sign with letters, and the white notice at the lower right. The rest has QF1 75.
    "T_04_758595.jpg": (
        ((165, 96), (440, 96), (440, 140), (165, 140)),
        ((382, 396), (455, 390), (462, 510), (389, 510)),
    ),
    # The mountain on the left, out to the edges of its haze. The JPEG blocks in it are not 8 but 7.01 pixels wide
    # (14.03 in the chroma, which was subsampled): it was made smaller after its compression, alone or with the whole
    # picture. The outline is where differences across pixels show that period and no neighbouring one.
    "tampered.bmp": (
        (
            *((80, 68), (100, 68), (122, 74), (135, 60), (150, 60), (165, 82), (188, 96), (188, 120)),
            *((170, 150), (150, 170), (120, 190), (80, 205), (30, 205), (16, 190), (28, 145), (45, 105)),
        ),
    ),
}
SLACK = 32
"""Pixels around a pasted place that still count as it: half a window."""
COVERED = 0.5
"""The share of a place that regions must cover to outline it, and of a region that must lie in one to belong there."""


def outlined(result: ScanResult, regions: tuple[Region, ...] | None = None) -> Mask:
    """(H, W) pixels that lie in the reported regions, or in those given."""
    assert result.maps is not None
    record = result.record
    # A row holds the boxes of its regions; their shapes are the suspicious cells inside.
    suspicious = np.nan_to_num(result.maps.suspicion) > 0.5
    inside = np.zeros_like(suspicious)
    for r in record.regions or () if regions is None else regions:
        box = (slice(r.y // BLOCK, -(-(r.y + r.height) // BLOCK)), slice(r.x // BLOCK, -(-(r.x + r.width) // BLOCK)))
        inside[box] = suspicious[box]
    return to_pixels(inside, record.height or 0, record.width or 0)


def to_pixels(cells: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """(H, W) map in which each pixel has its cell's value."""
    return cells.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width]


def _scan(path: Path) -> ScanResult:
    result = scanner().scan(path)
    if result.maps is None:
        raise ValueError(f"{path} could not be scanned: {result.record.error}")
    return result


# --- forgeries --------------------------------------------------------------------------------------------------------


def _forged(job: tuple[Path, str, str, str]) -> dict[str, Any]:
    """What was found in one file: score, and where something was pasted, how well it was found."""
    folder, name, kind, mask_name = job
    result = _scan(folder / name)
    score = result.record.score
    found: dict[str, Any] = {"kind": kind, "score": 0.0 if score is None else score}
    if mask_name:
        mask = np.asarray(cv2.imread(str(folder / mask_name), cv2.IMREAD_GRAYSCALE)) > 127
        assert result.maps is not None
        suspicion = to_pixels(result.maps.suspicion, *mask.shape)
        found["pixel_auc"] = metrics.auc(np.nan_to_num(suspicion).ravel(), mask.ravel())
        # Where a flat or saturated cell has no answer, no answer can be right.
        answered = np.isfinite(suspicion)
        found["pixel_auc_answered"] = metrics.auc(suspicion[answered], mask[answered])
        found["iou"] = metrics.iou(outlined(result), mask)
        found["regions"] = len(result.record.regions or ())
    return found


def forge_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures by kind, and of the score over all kinds, from what was found in each file."""
    scores = np.array([r["score"] for r in rows])
    tampered = np.array([r["kind"].startswith("splice") for r in rows])
    kinds: dict[str, Any] = {}
    for kind in dict.fromkeys(r["kind"] for r in rows):
        here = np.array([r["kind"] == kind for r in rows])
        line: dict[str, Any] = {
            "images": int(here.sum()),
            "median_score": float(np.median(scores[here])),
            f"share_from_{NOTABLE}": float((scores[here] >= NOTABLE).mean()),
        }
        if kind.startswith("splice"):
            compared = here | ~tampered
            pixel, answered = (
                [r[key] for r in rows if r["kind"] == kind and r[key] is not None]
                for key in ("pixel_auc", "pixel_auc_answered")
            )
            overlap = [r["iou"] for r in rows if r["kind"] == kind]
            line |= {
                "image_auc": metrics.auc(scores[compared], here[compared]),
                "pixel_auc": float(np.mean(pixel)) if pixel else None,
                "pixel_auc_median": float(np.median(pixel)) if pixel else None,
                "pixel_auc_answered": float(np.mean(answered)) if answered else None,
                "iou": float(np.mean(overlap)),
                "with_regions": sum(r["regions"] > 0 for r in rows if r["kind"] == kind),
            }
        kinds[kind] = line
    score = {
        "images": len(rows),
        "tampered": int(tampered.sum()),
        "brier": metrics.mse(scores, tampered),
        "calibration_error": metrics.calibration_error(scores, tampered, 10),
        "false_alarms": int((scores[~tampered] >= NOTABLE).sum()),
        "detections": int((scores[tampered] >= NOTABLE).sum()),
    }
    return {"kinds": kinds, "score": score, "reliability": metrics.reliability(scores, tampered)}


OF_SIDE = "import runpy, sys; m = runpy.run_path(sys.argv.pop(1)); m['main'].__globals__['SIZE'] = {side}; m['main']()"
"""Runs the program that makes forgeries, which has no option for it, with another largest side of its images."""


def measure_forge(forge: Path, data: Path, per_kind: int, workers: int, side: int | None = None) -> dict[str, Any]:
    """Figures on spliced and pristine files that the program `forge` makes of the images in `data`.

    They have at most `side` pixels a side, if that is said, else as many as the program makes them.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = [str(forge)] if side is None else ["-c", OF_SIDE.format(side=side), str(forge)]
        command = [sys.executable, *run, str(data), name, "--per-kind", str(per_kind), "--seed", "0"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(folder / "index.csv", newline="", encoding="utf-8") as handle:
            jobs = [(folder, r["name"], r["kind"], r["mask"]) for r in csv.DictReader(handle)]
        return forge_figures(list(metrics.spread(_forged, jobs, workers)))


# --- photographs and published examples -------------------------------------------------------------------------------


def measure_cameras(folder: Path) -> dict[str, Any]:
    """False alarms among photographs as cameras wrote them, and the pace and memory of scanning them."""
    run, rows = scan_folder(folder)
    alarms = sorted((r for r in rows if (r["score"] or 0.0) >= NOTABLE), key=lambda r: -r["score"])
    return {
        **run,
        "alarms": len(alarms),
        "alarm_names": {Path(r["path"]).name: r["score"] for r in alarms},
        "not_ok": {Path(r["path"]).name: r["error_code"] for r in rows if r["status"] != "ok"},
    }


def _polygon(points: tuple[tuple[int, int], ...], shape: tuple[int, int]) -> Mask:
    out = np.zeros(shape, np.uint8)
    cv2.fillPoly(out, [np.array(points, np.int32)], 1)
    return out > 0


def _example(path: Path) -> dict[str, Any]:
    result = _scan(path)
    record = result.record
    shape = (record.height or 0, record.width or 0)
    places = [_polygon(points, shape) for points in PLACES[path.name]]
    near = cv2.dilate(np.any(places, axis=0).astype(np.uint8), np.ones((2 * SLACK + 1, 2 * SLACK + 1), np.uint8)) > 0
    found = outlined(result)
    regions: list[dict[str, Any]] = []
    for r in record.regions or ():
        own = outlined(result, (r,))
        history = {"kind": r.kind, "qf1": r.qf1, "grid_shift": r.grid_shift}
        where = {"x": r.x, "y": r.y, "width": r.width, "height": r.height}
        regions.append(
            {**where, "score": r.score, **history, "in_a_place": float(near[own].mean()) if own.any() else 0}
        )
    covered = [float(found[place].mean()) for place in places]
    others = sum(r["in_a_place"] < COVERED for r in regions)
    return {
        "score": record.score,
        "places_covered": {f"place {k + 1}": share for k, share in enumerate(covered)},
        "regions_elsewhere": others,
        "outlined_and_nothing_else": min(covered) >= COVERED and not others,
        "iou": metrics.iou(found, np.any(places, axis=0)),
        "regions": {f"region {k + 1}": r for k, r in enumerate(regions)},
        "reasons": list(record.reasons),
    }


def measure_papers(folder: Path) -> dict[str, Any]:
    """What was found in the published examples, and whether it is what was pasted and nothing else."""
    return {name: _example(folder / name) for name in PLACES if (folder / name).is_file()}
