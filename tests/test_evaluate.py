from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn", reason="the extra `train` is not installed")
data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")

from jscan.jpegtables import Q1_OFFSET, standard_table  # noqa: E402
from jscan.records import DecodedImage, Maps, Region, ScanRecord, ScanResult  # noqa: E402
from train import evaluate, measure_files, measure_speed, measure_windows  # noqa: E402
from train import measure_metrics as metrics  # noqa: E402


def test_accuracy_and_mse_by_hand() -> None:
    found, truth = np.array([[1, 2], [3, 7]], np.int16), np.array([[1, 2], [4, 4]])
    assert metrics.accuracy(found, truth) == 0.5
    assert metrics.mse(found, truth) == (1 + 9) / 4
    assert metrics.accuracy(found[:0], truth[:0]) is None and metrics.mse(found[:0], truth[:0]) is None


def test_calibration_error_by_hand() -> None:
    # Two bins: two values of 0.1 of which none happened, two of 0.9 of which one did.
    said, happened = np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, False, False, True])
    assert metrics.calibration_error(said, happened) == pytest.approx(0.5 * 0.1 + 0.5 * 0.4)
    assert metrics.calibration_error(np.ones(3), np.ones(3, bool)) == 0
    assert metrics.calibration_error(said[:0], happened[:0]) is None


def test_reliability_counts_every_value_once() -> None:
    bins = metrics.reliability(np.array([0.0, 0.05, 0.5, 1.0]), np.array([False, True, True, True]))
    assert {name: b["count"] for name, b in bins.items()} == {"0.00 to 0.10": 2, "0.50 to 0.60": 1, "0.90 to 1.00": 1}
    assert bins["0.00 to 0.10"] == {"count": 2, "said": 0.025, "happened": 0.5}


def test_auc_by_hand() -> None:
    # Of the four pairs, three are in order and one is a tie.
    assert metrics.auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([0, 0, 1, 1])) == (3 + 0.5) / 4
    assert metrics.auc(np.array([0.1, 0.4]), np.array([True, True])) is None


def test_iou_by_hand() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert metrics.iou(a, b) == 1
    a[:2], b[1:3] = True, True
    assert metrics.iou(a, b) == 4 / 12


def _log_posteriors(*steps: tuple[float, ...]) -> np.ndarray:
    """(n, 226) log-posteriors that say these probabilities of the first steps of every coefficient."""
    out = np.full((len(steps), Q1_OFFSET[-1]), -30.0, np.float16)
    for n, p in enumerate(steps):
        for a in Q1_OFFSET[:-1]:
            out[n, a : a + len(p)] = np.log(p)
    return out


def test_argmax_median_and_entropy_of_a_posterior() -> None:
    logp = _log_posteriors((0.4, 0.3, 0.3), (0.01, 0.98, 0.01))
    assert metrics.argmax(logp).tolist() == [[1] * 15, [2] * 15]
    assert metrics.median(logp).tolist() == [[2] * 15, [2] * 15]
    expected = [-sum(p * np.log(p) for p in row) for row in ((0.4, 0.3, 0.3), (0.01, 0.98, 0.01))]
    assert metrics.entropy(logp) == pytest.approx(expected, abs=2e-3)


def test_q1_figures_of_posteriors_that_are_sure_and_right() -> None:
    qf1 = np.array([60, 75, 95])
    logp = np.full((3, Q1_OFFSET[-1]), -30.0, np.float16)
    for n, qf in enumerate(qf1):
        for a, q in zip(Q1_OFFSET, standard_table(int(qf))[:15], strict=False):
            logp[n, a + q - 1] = 0
    windows = {"logp": logp, "qf1": qf1, "shift": np.array([1, 2, 3]), "found_shift": np.array([1, 9, 9])}
    found = measure_windows.q1_figures(windows, 90)
    assert found["windows"] == 3 and found["accuracy"] == found["accuracy_argmax"] == found["accuracy_median"] == 1
    assert found["mse"] == 0 and found["accuracy_surer_half"] == 1 and found["calibration_error"] < 1e-6
    # Only the windows of QF1 60 and 75 count for the shift.
    assert found["shift_accuracy"] == 0.5


def _result() -> ScanResult:
    """A scan of 20 x 36 pixels with four suspicious cells in a region's box of six, and one elsewhere."""
    suspicion = np.full((3, 5), 0.1, np.float32)
    suspicion[0:2, 0:2] = 0.9
    suspicion[0, 4] = 0.8
    suspicion[2, 4] = np.nan
    region = Region(0, 0, 16, 24, 256, 0.9, None, None, None, "other_q1")
    blank = np.zeros((3, 5), np.float32)
    maps = Maps(suspicion, blank, blank, np.zeros((15, 3, 5), np.float32), blank, blank)
    record = ScanRecord("a", b"a", height=20, width=36, regions=(region,), score=0.9)
    return ScanResult(record, maps, DecodedImage(np.zeros((20, 36), np.uint8), None, "png", 1))


def test_outlined_pixels_are_the_suspicious_cells_of_reported_regions() -> None:
    expected = np.zeros((20, 36), bool)
    expected[:16, :16] = True
    assert np.array_equal(measure_files.outlined(_result()), expected)


def test_forge_figures_by_hand() -> None:
    rows = [
        {"kind": "splice_png", "score": 0.9, "pixel_auc": 1.0, "iou": 0.5, "regions": 1},
        {"kind": "splice_png", "score": 0.2, "pixel_auc": 0.5, "iou": 0.0, "regions": 0},
        {"kind": "splice_double", "score": 0.0, "pixel_auc": 0.5, "iou": 0.0, "regions": 0},
        {"kind": "ok_png", "score": 0.1},
        {"kind": "ok_single", "score": 0.6},
    ]
    found = measure_files.forge_figures(rows)
    # Other kinds of splices are no part of a kind's AUC.
    assert found["kinds"]["splice_png"]["image_auc"] == 0.75
    assert found["kinds"]["splice_double"]["image_auc"] == 0
    assert found["kinds"]["splice_png"]["pixel_auc"] == 0.75 and found["kinds"]["splice_png"]["iou"] == 0.25
    assert found["kinds"]["ok_single"]["share_from_0.5"] == 1
    assert found["score"]["false_alarms"] == 1 and found["score"]["detections"] == 1
    assert found["score"]["brier"] == pytest.approx((0.01 + 0.64 + 1 + 0.01 + 0.36) / 5)


def test_pasted_places_lie_inside_their_pictures() -> None:
    for name, size in (("T_04_758595.jpg", (512, 512)), ("tampered.bmp", (429, 285))):
        points = np.concatenate([np.array(p) for p in measure_files.PLACES[name]])
        assert (points >= 0).all() and (points <= size).all()


def test_tiled_photographs_fill_the_picture() -> None:
    photos = [np.full((4, 5, 3), 1, np.uint8), np.full((6, 3, 3), 2, np.uint8)]
    out = measure_speed.tiled(photos, 11, 13)
    assert out.shape == (11, 13, 3) and set(np.unique(out)) == {1, 2}


def test_asked_table_says_what_is_met_and_what_was_not_measured() -> None:
    lines = evaluate.asked_table({"q1": {"kodak": {"QF2 90": {"accuracy": 0.75, "mse_median": 1.0}}}})
    assert [line["met"] for line in lines.values()] == [True, None, False, None, None]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with one set of two photographs."""
    folder = tmp_path / "data" / "photos"
    folder.mkdir(parents=True)
    Image.fromarray(data.coffee()[:200, :300]).save(folder / "coffee.png")
    Image.fromarray(data.chelsea()[:200, :300]).save(folder / "chelsea.png")
    Image.fromarray(data.chelsea()[:50, :50]).save(folder / "too_small.png")
    return folder.parent


def test_sets_are_sub_folders_or_else_the_folder(photographs: Path) -> None:
    assert {k: [p.name for p in v] for k, v in measure_windows.image_sets(photographs).items()} == {
        "photos": ["chelsea.png", "coffee.png"]
    }
    assert list(measure_windows.image_sets(photographs / "photos")) == ["photos"]
    with pytest.raises(ValueError, match="no uncompressed image"):
        measure_windows.image_sets(photographs.parent / "nowhere")


def test_q1_of_twenty_windows_from_the_command_line(photographs: Path, tmp_path: Path) -> None:
    arguments = [str(photographs), "--only", "q1", "--patches", "20", "--workers", "1", "--out", str(tmp_path / "out")]
    evaluate.main(arguments)
    first = (tmp_path / "out" / "evaluation.json").read_text()
    found = json.loads(first)
    assert set(found["q1"]) == {"photos"} and len(found["q1"]["photos"]) == len(measure_windows.Q1_ROWS)
    for row in found["q1"]["photos"].values():
        assert row["windows"] == 20 and 0 <= row["accuracy"] <= 1 and row["mse"] >= 0
    assert str(tmp_path) not in first
    assert "## Q1, isolated windows of 64 x 64: photos" in (tmp_path / "out" / "evaluation.md").read_text()
    evaluate.main(arguments)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["q1"] == found["q1"]


def test_record_writes_metrics_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "q1-comb" / "manifest.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"name": "q1-comb", "metrics": {"old": 1}}))
    results = {"q1": {"kodak": {"QF2 90": {"accuracy": 0.123456}}}, "command": "python -m x", "sets": {"kodak": 24}}
    assert evaluate.record(results, tmp_path) == ["q1-comb"]
    assert json.loads(path.read_text()) == {
        "name": "q1-comb",
        "metrics": {"kodak": {"QF2 90": {"accuracy": 0.1235}}, "command": "python -m x", "data": "kodak"},
    }
