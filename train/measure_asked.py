"""What the models are to reach, and the table of what they did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train.measure_qf import FLAG_ASKED
from train.measure_speed import BIG_MEGAPIXELS

Results = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One line of the table: what is asked for, and where the figure stands in the results."""

    what: str
    at: tuple[str, ...]
    sign: str
    bound: float


def _of_sets(what: str, place: tuple[str, ...], sign: str, kodak: float, clic: float) -> tuple[Asked, ...]:
    """A line for each set; `place` is (section, row, figure)."""
    sets = {"Kodak": kodak, "CLIC": clic}
    return tuple(Asked(f"{what}, {n}", (place[0], n.lower(), *place[1:]), sign, bound) for n, bound in sets.items())


_UNCOMPRESSED = f"up_to_{FLAG_ASKED}_not_called_compressed"
_FLAG = ("qf-sizes", "kodak", "512 x 512", "flag")
_OF_SCAN = "MP per processor second of the scan / of"
_RATIOS = (
    (f"{_OF_SCAN} Uchida's network (ONNX Runtime)", ">=", 40),
    (f"{_OF_SCAN} DenseNet-40 patch by patch, stride 8 (ONNX Runtime)", ">=", 500),
    ("processor time of the scan / of decoding alone", "<=", 25),
    ("MP/s of 2 workers / of 1", ">=", 1.8),
)
ASKED = (
    *_of_sets("Q1 accuracy, QF2 90, isolated windows", ("q1", "QF2 90", "accuracy"), ">=", 0.78, 0.73),
    *_of_sets("Q1 MSE, QF2 90, isolated, median of the posterior", ("q1", "QF2 90", "mse_median"), "<=", 0.6, 1.0),
    *_of_sets("Q1 accuracy, QF2 90, surer half", ("q1", "QF2 90", "accuracy_surer_half"), ">=", 0.995, 0.985),
    *_of_sets("Q1 accuracy, QF2 92, isolated windows", ("q1", "QF2 92", "accuracy"), ">=", 0.78, 0.73),
    *_of_sets("Q1 accuracy, QF2 90, aligned, isolated", ("q1", "QF2 90, aligned", "accuracy"), ">=", 0.80, 0.76),
    Asked("Q1 accuracy, QF2 80, isolated windows, Kodak", ("q1", "kodak", "QF2 80", "accuracy"), ">=", 0.58),
    *_of_sets(
        "Q1 accuracy, QF2 90, Photoshop 8 to 12 first, isolated",
        ("q1", "QF2 90, Photoshop 8 to 12 first", "accuracy"),
        ">=",
        0.65,
        0.65,
    ),
    *_of_sets("calibration error of Q1, QF2 90", ("q1", "QF2 90", "calibration_error"), "<=", 0.03, 0.03),
    *_of_sets("Q1 accuracy, QF2 90, whole images", ("q1-images", "QF2 90", "accuracy"), ">=", 0.87, 0.82),
    *_of_sets("Q1 MSE, QF2 90, whole images", ("q1-images", "QF2 90", "mse"), "<=", 0.3, 0.55),
    Asked("Q1 accuracy, QF2 80, whole images, Kodak", ("q1-images", "kodak", "QF2 80", "accuracy"), ">=", 0.65),
    *_of_sets("grid shift right, QF2 90, whole images", ("q1-images", "QF2 90", "shift_accuracy"), ">=", 0.97, 0.97),
    Asked("QF mean absolute error per cell, QF 30 to 95, Kodak", ("qf", "kodak", "mae"), "<=", 0.8),
    Asked("never compressed, called compressed, images of Kodak", ("qf", "kodak", "never_called_compressed"), "<=", 0),
    Asked(f"QF 85 to {FLAG_ASKED}, not called compressed, images of Kodak", ("qf", "kodak", _UNCOMPRESSED), "<=", 0),
    *(
        Asked(f"QF {qf}, called uncompressed, share of Kodak", (*_FLAG, str(qf), "share_uncompressed"), "<=", bound)
        for qf, bound in ((98, 0), (99, 0), (100, 0.02))
    ),
    *(
        Asked(f"{name} AUC, {kind}", ("forge", "kinds", kind, key), ">=", bound)
        for name, key, bounds in (
            ("image", "image_auc", (0.98, 0.95, 0.95)),
            ("pixel", "pixel_auc", (0.975, 0.93, 0.95)),
        )
        for kind, bound in zip(("splice_double", "splice_clean_fg", "splice_png"), bounds, strict=True)
    ),
    Asked("camera files that score 0.5 or more", ("cameras", "alarms"), "<=", 2),
    *(
        Asked(
            f"{name}: pasted places outlined, nothing else", ("papers", name, "outlined_and_nothing_else"), ">=", True
        )
        for name in ("T_04_758595.jpg", "tampered.bmp")
    ),
    Asked("whole scan of the camera files, MP/s", ("cameras", "mp_per_second"), ">=", 1.5),
    Asked("peak memory of a worker, camera files, MiB", ("cameras", "peak_mib"), "<=", 2048),
    Asked("whole scan of photographs, MP/s", ("bench", "scan", "mp_per_second"), ">=", 15),
    *(Asked(what, ("ratios", what), sign, bound) for what, sign, bound in _RATIOS),
    *(
        Asked(
            f"peak memory, {name}, one worker, MiB", ("bench", "memory", f"{name}, one worker", "peak_mib"), "<=", bound
        )
        for name, bound in (("JPEG of 12 MP", 717), (f"TIFF of {BIG_MEGAPIXELS} MP", 1536))
    ),
    Asked("jscan --help, s", ("bench", "start", "jscan --help", "seconds"), "<=", 0.3),
    Asked("a scan of one small image, s", ("bench", "start", "scan of one image of 96 x 96", "seconds"), "<=", 1.5),
)


def asked_table(results: Results) -> dict[str, dict[str, Any]]:
    """What is asked for and what was reached, by line; only lines whose section was measured, and as it is asked."""
    out = {}
    for line in ASKED:
        if line.at[0] not in results or (line.at[0] == "forge" and "side" in results):
            continue
        value: Any = results
        for key in line.at:
            value = value.get(key) if isinstance(value, Mapping) else None
        met = None if value is None else value >= line.bound if line.sign == ">=" else value <= line.bound
        asked = "yes" if line.bound is True else f"{line.sign} {line.bound:g}"
        out[line.what] = {"asked": asked, "reached": value, "met": met}
    return out
