from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn", reason="the extra `train` is not installed")
data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")

from jscan import trace  # noqa: E402
from jscan.jpegtables import Q1_MAX, Q1_OFFSET, ZIGZAG, standard_table  # noqa: E402
from jscan.records import DecodedImage, Maps, Region, ScanRecord, ScanResult  # noqa: E402
from train import (  # noqa: E402
    compress,
    drawings,
    evaluate,
    measure_asked,
    measure_files,
    measure_lossless,
    measure_processed,
    measure_q1,
    measure_qf,
    measure_report,
    measure_rows,
    measure_sets,
    measure_sizes,
    measure_speed,
    measure_tables,
    process,
)
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


def _windows(*qf1: int, qf2: int = 90) -> dict[str, np.ndarray]:
    """Windows of these QF1, of which the posteriors are sure and right, and only the first shift is."""
    steps = np.stack([np.minimum(standard_table(qf)[:15], Q1_MAX) for qf in qf1])
    logp = np.full((len(qf1), Q1_OFFSET[-1]), -30.0, np.float16)
    for n, row in enumerate(steps):
        logp[n, np.array(Q1_OFFSET[:-1]) + row - 1] = 0
    return {
        "logp": logp,
        "truth": steps.astype(np.int16),
        "qf1": np.array(qf1, float),
        "qf2": np.full(len(qf1), float(qf2)),
        "label": np.array([f"{qf // 5 * 5} to {qf // 5 * 5 + 4}" for qf in qf1]),
        "shift": np.arange(1, len(qf1) + 1),
        "found_shift": np.array([1] + [9] * (len(qf1) - 1)),
        "present": np.linspace(0.4, 1, len(qf1)).astype(np.float32),
    }


def test_q1_figures_of_posteriors_that_are_sure_and_right() -> None:
    found = measure_q1.window_figures(_windows(60, 75, 95))
    assert found["windows"] == 3 and found["accuracy"] == found["accuracy_argmax"] == found["accuracy_median"] == 1
    assert found["mse"] == 0 and found["accuracy_surer_half"] == 1 and found["calibration_error"] < 1e-6
    # Only the windows of QF1 60 and 75 count for the shift.
    assert found["shift_accuracy"] == 0.5
    assert found["called_double"] == pytest.approx(2 / 3)
    assert list(found["by_coefficient"]) == [str(i) for i in range(1, 16)]
    assert {at: of["windows"] for at, of in found["by_first"].items()} == {"60 to 64": 1, "75 to 79": 1, "95 to 99": 1}
    assert "by_qf2" not in found  # all are the same
    assert found["reliability"] == {"0.90 to 1.00": {"count": 45, "said": 1.0, "happened": 1.0}}


def test_parts_of_q1_figures_by_hand() -> None:
    w = _windows(60, 70, 90, 95)
    w["truth"][1, 0] += 2  # of QF1 70, the first coefficient is wrong by 2
    w["logp"][1] = np.log(1 / 64)  # and it is the least sure window
    w["logp"][1, np.array(Q1_OFFSET[:-1]) + standard_table(70)[:15] - 1] = np.log(0.25)
    w["qf2"][3] = 80
    w["deviation"] = np.array([1.0, 2.0, 30.0, 40.0])
    found = measure_q1.window_figures(w)
    first, second = found["by_coefficient"]["1"], found["by_coefficient"]["2"]
    assert first["accuracy"] == 0.75 and first["mse"] == 1 and second["accuracy"] == 1
    assert first["accuracy_qf1_below_qf2"] == 0.5 and first["accuracy_qf1_from_qf2"] == 1
    assert [of["accuracy"] for of in found["by_coverage"].values()] == [1, 1, 1, pytest.approx(59 / 60)]
    assert {at: of["windows"] for at, of in found["by_qf2"].items()} == {"80 to 89": 1, "90 to 99": 3}
    assert found["by_first"]["70 to 74"]["mse"] == pytest.approx(4 / 15)
    by = found["by_deviation"]
    assert list(by) == ["0 to 2", "2 to 5", "5 to 10", "10 to 20", "from 20"]
    assert [of["share"] for of in by.values()] == [0.25, 0.25, 0, 0, 0.5]
    assert by["2 to 5"]["accuracy"] == pytest.approx(14 / 15) and by["from 20"]["accuracy"] == 1
    assert by["5 to 10"]["accuracy"] is None


def test_windows_are_averaged() -> None:
    sure, unsure = _log_posteriors((0.98, 0.01, 0.01), (0.3, 0.4, 0.3))
    one = measure_q1.averaged(sure.reshape(1, 1, -1), Q1_OFFSET)
    assert np.array_equal(one, sure)
    both = measure_q1.averaged(np.stack([sure, unsure]).reshape(1, 2, -1), Q1_OFFSET)
    p = np.exp(both[:16].astype(float))
    assert p.sum() == pytest.approx(1, abs=0.01) and np.exp(both.astype(float)).sum() == pytest.approx(15, abs=0.1)
    expected = np.sqrt((np.array([0.98, 0.01, 0.01]) + 0.01) * (np.array([0.3, 0.4, 0.3]) + 0.01))
    assert p[:3] / p[0] == pytest.approx(expected / expected[0], rel=0.02)


def test_windows_of_a_single_compression_tell_only_how_often_they_are_called_double() -> None:
    w = _windows(60, 75, 95)
    w["truth"][:] = 0
    assert measure_q1.window_figures(w) == {"windows": 3, "called_double": pytest.approx(2 / 3)}


def test_figures_of_whole_images_by_hand() -> None:
    # Two scans of three and two cells; of the first scan one cell has no answer, of the second one is wrong by 3.
    truth = np.array([[4] * 15] * 3 + [[6] * 15] * 2, np.int16)
    found = truth.copy()
    found[1], found[4] = 0, 9
    of_cells = {"qf1": [70, 95], "placed": [True, False], "double": [0.9, 0.2], "background": [1.0, 0.4]}
    w = {name: np.repeat(values, (3, 2)) for name, values in of_cells.items()}
    w |= {"truth": truth, "found": found, "qf2": np.full(5, 90.0), "label": np.repeat(["70 to 74", "95 to 99"], (3, 2))}
    w |= {"coverage": np.array([1, 0, 0.9, 0.8, 0.1]), "start": np.array([True, False, False, True, False])}
    # The shift map is right in two cells of the first scan, one of which has no answer.
    w |= {"shifted": np.array([True, True, False, False, False]), "shift_sure": np.array([0.5, 1, 0.5, 0, 0])}
    figures = measure_q1.image_figures(w)
    assert figures["scans"] == 2 and figures["cells"] == 5 and figures["no_answer"] == pytest.approx(0.2)
    assert figures["accuracy"] == 0.75 and figures["mse"] == 9 / 4 and figures["accuracy_all"] == pytest.approx(0.6)
    assert figures["accuracy_qf1_below_qf2"] == 1 and figures["accuracy_qf1_from_qf2"] == 0.5
    assert figures["shift_accuracy"] == 1 and figures["called_double"] == 0.5
    assert figures["shift_map_accuracy"] == 0.5 and figures["shift_map_calibration_error"] == 0
    assert figures["background_accuracy"] == pytest.approx(0.7)
    assert [of["accuracy"] for of in figures["by_coverage"].values()] == [1, 1, 1, 0.75]


def test_rows_have_names_of_their_own_and_draw_nothing_that_they_need_not() -> None:
    for rows in (measure_rows.Q1_ROWS, measure_rows.IMAGE_ROWS):
        names = [row.name for row in rows]
        assert len(set(names)) == len(names)
        assert {row.windows for row in rows} - {""} <= set(names)
    rng = random.Random(0)
    before = rng.getstate()
    first, second, label = measure_rows.Row("a", encoder="pillow", subsampling="4:4:4").draw(rng, 73)
    assert first is not None and (first.qf, second.qf, label) == (73, 90, "70 to 74")
    assert {first.encoder, second.encoder} == {"pillow"} and {first.subsampling, second.subsampling} == {"4:4:4"}
    assert measure_rows.Row("b", first="none").draw(rng, 73)[0] is None
    assert rng.getstate() == before
    assert 60 <= (measure_rows.Row("c", qf2=(60, 100)).draw(rng, 73)[1].qf or 0) <= 100
    camera = measure_rows.Row("d", first="camera").draw(rng, 73)[0]
    assert camera is not None and camera.qf is None


@pytest.mark.parametrize(
    ("level", "sums", "gimp", "digest"),
    [
        (7, (971, 950), 0x4AD5990C, "b9fd15fd52408af5ea2a5045227233d8"),
        (8, (794, 895), 0xD3B24CB4, "27472e3714251402d5509438505611c3"),
        (9, (668, 830), 0xD4553F25, "34a599dff2b6aaed12143938b7374f2f"),
        (10, (535, 750), 0x1A2CFFE0, "5c508e529d045b6f0c800e29ba2d6ab5"),
        (11, (303, 466), 0x6771042C, "42bfe52476bf07f1ed0e6451903cc9ee"),
        (12, (109, 171), 0x1E96D5D3, "4c3c425b4024b68c0de03904a825bc35"),
    ],
)
def test_tables_of_photoshop_are_the_published_ones(level: int, sums: tuple[int, int], gimp: int, digest: str) -> None:
    # Sums and hashes are those of GIMP's jpegqual.c, the digests, of the file's segment, those of ExifTool's
    # JPEGDigest.pm.
    how = compress.photoshop_tables()[level]
    assert (sum(how.luma), sum(how.chroma)) == sums
    hashed = 11
    for table in (how.luma, how.chroma):
        rows = np.zeros((8, 8), int)
        rows[tuple(np.array(ZIGZAG).T)] = table
        for step in rows.ravel().tolist():
            hashed = (hashed * 4177 + step) % 2**32
    assert hashed == gimp and how.subsampling == "4:4:4"
    segment = b"\0" + bytes(how.luma) + b"\1" + bytes(how.chroma)
    assert hashlib.md5(segment, usedforsecurity=False).hexdigest() == digest


def test_lines_of_photoshop_draw_from_their_levels() -> None:
    for row in measure_rows.Q1_ROWS:
        if row.first == "photoshop":
            low, _, high = row.name.split()[3:6]
            assert row.levels == tuple(range(int(low), int(high) + 1))
            drawn = {row.draw(random.Random(seed), 73)[2] for seed in range(60)}
            assert drawn == {f"level {n}" for n in row.levels}


def test_errors_of_the_qf_map_by_hand() -> None:
    maps = [np.array([[80, 84]], np.float32), np.array([[np.nan, 82]], np.float32)]
    expected = {"mean": 82, "deviation": np.sqrt(8 / 3), "mae": 2, "no_answer": 0.25}
    assert measure_qf.error_figures(maps, 80) == pytest.approx(expected)
    assert measure_qf.error_figures([np.full((1, 2), np.nan, np.float32)], 80)["mae"] is None


def test_flags_by_hand() -> None:
    assert measure_qf.flag_figures([0.9, 0.5, 0.1, None]) == {
        "images": 4,
        "called_compressed": 1,
        "called_uncompressed": 2,
        "undecided": 1,
        "share_uncompressed": 0.5,
    }


def _result() -> ScanResult:
    """A scan of 20 x 36 pixels with four suspicious cells in a region's box of six, and one elsewhere."""
    suspicion = np.full((3, 5), 0.1, np.float32)
    suspicion[0:2, 0:2] = 0.9
    suspicion[0, 4] = 0.8
    suspicion[2, 4] = np.nan
    region = Region(0, 0, 16, 24, 256, 0.9, None, None, None, "other_q1")
    blank = np.zeros((3, 5), np.float32)
    q1, shift = np.zeros((15, 3, 5), np.float32), np.zeros((2, 3, 5), np.float32)
    maps = Maps(suspicion, blank, blank, q1, blank, blank, shift, blank)
    record = ScanRecord("a", b"a", height=20, width=36, regions=(region,), score=0.9)
    return ScanResult(record, maps, DecodedImage(np.zeros((20, 36), np.uint8), None, "png", 1))


def test_outlined_pixels_are_the_suspicious_cells_of_reported_regions() -> None:
    expected = np.zeros((20, 36), bool)
    expected[:16, :16] = True
    assert np.array_equal(measure_files.outlined(_result()), expected)


def test_forge_figures_by_hand() -> None:
    rows = [
        {"kind": "splice_png", "score": 0.9, "pixel_auc": 1.0, "pixel_auc_answered": None, "iou": 0.5, "regions": 1},
        {"kind": "splice_png", "score": 0.2, "pixel_auc": 0.5, "pixel_auc_answered": 0.75, "iou": 0.0, "regions": 0},
        {"kind": "splice_double", "score": 0.0, "pixel_auc": 0.5, "pixel_auc_answered": 0.75, "iou": 0.0, "regions": 0},
        {"kind": "ok_png", "score": 0.1},
        {"kind": "ok_single", "score": 0.6},
    ]
    found = measure_files.forge_figures(rows)
    # Other kinds of splices are no part of a kind's AUC.
    assert found["kinds"]["splice_png"]["image_auc"] == 0.75
    assert found["kinds"]["splice_double"]["image_auc"] == 0
    assert found["kinds"]["splice_png"]["pixel_auc_answered"] == 0.75
    assert found["kinds"]["splice_png"]["pixel_auc"] == 0.75 and found["kinds"]["splice_png"]["iou"] == 0.25
    assert found["kinds"]["ok_single"]["share_from_0.5"] == 1
    assert found["score"]["false_alarms"] == 1 and found["score"]["detections"] == 1
    assert found["score"]["brier"] == pytest.approx((0.01 + 0.64 + 1 + 0.01 + 0.36) / 5)


def test_forgeries_of_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is run as it is, but for its size."""
    program = tmp_path / "forge.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\nSIZE = 512\n\ndef size():\n    return SIZE\n\ndef main():\n"
        "    out = Path(sys.argv[2])\n    head = 'name,kind,mask\\n'\n"
        "    (out / 'index.csv').write_text(head + f\"{size()}-{'-'.join(sys.argv[3:])}.png,ok_png,\\n\")\n\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    seen: list[str] = []
    monkeypatch.setattr(measure_files.metrics, "spread", lambda _, jobs, workers: seen.extend(j[1] for j in jobs) or [])
    monkeypatch.setattr(measure_files, "forge_figures", lambda rows: {"rows": rows})
    for side in (None, 1400):
        measure_files.measure_forge(program, tmp_path, 3, 1, side)
    assert seen == ["512---per-kind-3---seed-0.png", "1400---per-kind-3---seed-0.png"]
    o = evaluate._parse([str(tmp_path), "--forge", str(program), "--only", "forge", "--side", "1400"])
    assert o.side == 1400 and evaluate._command(o, ("forge",)).endswith("--per-kind 40 --side 1400")
    for wrong in (["--side", "10"], ["--side", "1400", "--record"]):
        with pytest.raises(SystemExit):
            evaluate._parse([str(tmp_path), "--forge", str(program), "--only", "forge", *wrong])
    results = {"forge": {"kinds": {}, "score": {}, "reliability": {}}}
    assert "image AUC, splice_double" in measure_asked.asked_table(results)
    assert not measure_asked.asked_table({**results, "side": 1400})


def test_pasted_places_lie_inside_their_pictures() -> None:
    for name, size in (("T_04_758595.jpg", (512, 512)), ("tampered.bmp", (429, 285))):
        points = np.concatenate([np.array(p) for p in measure_files.PLACES[name]])
        assert (points >= 0).all() and (points <= size).all()


def test_tiled_photographs_fill_the_picture() -> None:
    photos = [np.full((4, 5, 3), 1, np.uint8), np.full((6, 3, 3), 2, np.uint8)]
    out = measure_speed.tiled(photos, 11, 13)
    assert out.shape == (11, 13, 3) and set(np.unique(out)) == {1, 2}


def test_asked_table_says_what_is_met_and_what_was_not_measured() -> None:
    lines = measure_asked.asked_table({"q1": {"kodak": {"QF2 90": {"accuracy": 0.79, "mse_median": 1.0}}}})
    met = {name: line["met"] for name, line in lines.items()}
    assert met["Q1 accuracy, QF2 90, isolated windows, Kodak"] is True
    assert met["Q1 MSE, QF2 90, isolated, median of the posterior, Kodak"] is False
    assert met["Q1 accuracy, QF2 80, isolated windows, Kodak"] is None
    assert not any("whole images" in name for name in lines)


RESULTS: dict[str, Any] = {
    "q1": {"kodak": {"QF2 90": {"accuracy": 0.123456, "by_coverage": {"50 %": {"accuracy": 1.0, "mse": None}}}}},
    "qf": {"kodak": {"mae": 2.0, "flag": {"never": {"images": 3}}}},
    "qf-sizes": {"kodak": {"64 x 64": {"error": {"50": {"mae": 1.0}}}}},
    "forge": {"kinds": {"ok_png": {"images": 2}}, "score": {"brier": 0.5}},
}


def test_tidy_figures_say_where_they_belong() -> None:
    assert measure_report.tidy(RESULTS) == [
        ("q1", "kodak", "QF2 90", "", "accuracy", 0.123456),
        ("q1 by coverage", "kodak", "QF2 90", "50 %", "accuracy", 1.0),
        ("q1 by coverage", "kodak", "QF2 90", "50 %", "mse", None),
        ("qf", "kodak", "", "", "mae", 2.0),
        ("qf flag", "kodak", "", "never", "images", 3),
        ("qf-sizes error", "kodak", "64 x 64", "50", "mae", 1.0),
        ("forge kinds", "", "", "ok_png", "images", 2),
        ("forge score", "", "", "brier", "value", 0.5),
    ]
    lines = measure_report.csv_text(RESULTS).splitlines()
    assert lines[:2] == ["table,set,row,at,metric,value", "q1,kodak,QF2 90,,accuracy,0.1235"]
    assert lines[3] == "q1 by coverage,kodak,QF2 90,50 %,mse,"


def test_quick_and_images_are_what_the_command_says(photographs: Path) -> None:
    o = evaluate._parse([str(photographs), "--only", "q1,qf-sizes", "--quick", "--patches", "7"])
    assert (o.patches, o.images, o.per_kind) == (7, evaluate.QUICK["images"], evaluate.QUICK["per_kind"])
    assert evaluate._command(o, o.only) == "python -m train.evaluate DATA --only q1,qf-sizes --patches 7 --images 3"
    paths = [Path(str(k)) for k in range(24)]
    assert [p.name for p in evaluate._spread(paths, 3)] == ["0", "8", "16"] and evaluate._spread(paths, None) == paths


def test_expected_minutes_grow_with_what_is_asked_for() -> None:
    sets = {"a": [Path("1"), Path("2")], "b": [Path("3")]}
    for section in ("q1", "q1-images", "lossless", "qf", "qf-sizes", "sizes", "processed", "tables"):
        less = evaluate.expected_minutes(section, {"a": sets["a"]}, 100, 2)
        more = evaluate.expected_minutes(section, sets, 100, 1)
        assert less is not None and more is not None and more > 2 * less > 0
    assert evaluate.expected_minutes("papers", sets, 100, 1) is None


def test_parts_of_q1_become_tables_with_their_columns_in_order() -> None:
    rows = {
        "a": {"accuracy": 1.0, "by_first": {"90 to 94": {"accuracy": 0.5, "mse": None}}},
        "b": {"accuracy": 1.0, "by_first": {"60 to 64": {"accuracy": 0.25, "mse": None}}},
        "single": {"called_double": 0.5},
    }
    assert measure_report.q1_parts_report(rows) == [
        "| accuracy by first compression | 60 to 64 | 90 to 94 |",
        "|---|---|---|",
        "| a |  | 0.500 |",
        "| b | 0.250 |  |",
        "",
    ]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with one set of two photographs."""
    folder = tmp_path / "data" / "photos"
    folder.mkdir(parents=True)
    Image.fromarray(data.coffee()[:272, :300]).save(folder / "coffee.png")
    Image.fromarray(data.chelsea()[:272, :300]).save(folder / "chelsea.png")
    Image.fromarray(data.chelsea()[:50, :50]).save(folder / "too_small.png")
    return folder.parent


def test_sets_are_sub_folders_or_else_the_folder(photographs: Path) -> None:
    assert {k: [p.name for p in v] for k, v in measure_sets.image_sets(photographs).items()} == {
        "photos": ["chelsea.png", "coffee.png"]
    }
    assert list(measure_sets.image_sets(photographs / "photos")) == ["photos"]
    with pytest.raises(ValueError, match="no uncompressed image"):
        measure_sets.image_sets(photographs.parent / "nowhere")


def run(photographs: Path, out: Path, *options: str) -> dict[str, Any]:
    """The figures that the command line writes."""
    evaluate.main([str(photographs), "--workers", "1", "--out", str(out), *options])
    found: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return found


def test_q1_of_a_few_windows_from_the_command_line(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = run(photographs, out, "--only", "q1", "--patches", "6")
    rows = found["q1"]["photos"]
    assert list(found["q1"]) == ["photos"] and list(rows) == [row.name for row in measure_rows.Q1_ROWS]
    for row in measure_rows.Q1_ROWS:
        figures = rows[row.name]
        assert figures["windows"] == 6 and 0 <= figures["called_double"] <= 1
        if row.first != "none":
            assert 0 <= figures["accuracy"] <= 1 and figures["mse"] >= 0 and len(figures["by_coefficient"]) == 15
    levels = rows["QF2 90, Photoshop 8 to 12 first"]["by_first"]
    assert set(levels) <= {f"level {n}" for n in range(8, 13)}
    levels = rows["QF2 90, Photoshop 7 to 12 first"]["by_first"]
    assert set(levels) <= {f"level {n}" for n in range(7, 13)}
    # These encoders have the same tables and DCT as OpenCV's, and their lines the same windows.
    assert rows["QF2 90, encoder pillow"] == rows["QF2 90"] != rows["QF2 90, encoder 9e"]
    assert str(tmp_path) not in (out / "evaluation.json").read_text()
    text = (out / "evaluation.md").read_text()
    assert "## Q1, isolated windows of 64 x 64: photos" in text and "accuracy by coefficient, QF1 < QF2" in text
    with open(out / "evaluation.csv", newline="") as handle:
        lines = list(csv.DictReader(handle))
    at = [r for r in lines if (r["table"], r["row"], r["at"]) == ("q1 by coefficient", "QF2 80", "15")]
    assert {r["metric"] for r in at} >= {"accuracy", "mse", "accuracy_qf1_below_qf2", "accuracy_qf1_from_qf2"}


def test_the_same_command_gives_the_same_figures(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_q1, "Q1_ROWS", measure_rows.MAIN_ROWS[:1])
    options = ("--only", "q1", "--patches", "4", "--images", "1")
    assert run(photographs, tmp_path / "a", *options)["q1"] == run(photographs, tmp_path / "b", *options)["q1"]


def test_lines_for_which_the_images_are_too_small_are_left_out(photographs: Path) -> None:
    sets = measure_sets.image_sets(photographs)
    small = photographs / "small.png"
    Image.fromarray(data.chelsea()[:200, :200]).save(small)
    rows = (measure_rows.Row("whole"), measure_rows.Row("half", half=True))
    found = {
        name: list(measure_q1.by_line({name: paths}, rows, 1, 1, measure_q1.isolated, len).get(name, {}))
        for name, paths in {**sets, "small": [small]}.items()
    }
    assert found == {"photos": ["whole", "half"], "small": ["whole"]}


def test_q1_of_whole_images_from_the_command_line(photographs: Path, tmp_path: Path) -> None:
    found = run(photographs, tmp_path, "--only", "q1-images", "--patches", "10")["q1-images"]["photos"]
    assert list(found) == [row.name for row in measure_rows.IMAGE_ROWS]
    for row in measure_rows.IMAGE_ROWS:
        figures = found[row.name]
        assert figures["scans"] == 1 and figures["cells"] >= 17 * 18 and figures["no_answer"] < 0.5
        assert ("accuracy" in figures) == (row.first != "none")


def test_lossless_images_from_the_command_line(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_lossless, "LOSSLESS_ROWS", (measure_rows.Row("QF2 95", qf1=(70, 71), qf2=(95, 95)),))
    found = run(photographs, tmp_path, "--only", "lossless", "--patches", "40")["lossless"]["photos"]["QF2 95"]
    assert found["images"] == 1
    # One image, whose last compression is plain.
    assert found["last_found"] == found["grid_right"] == found["first_15_right"] == 1 and found["qf_error"] == 0
    assert found["accuracy"] > 0.5 and found["accuracy_file"] > 0.5 and found["accuracy_all"] <= found["accuracy"]
    assert found["accuracy_known"] == found["accuracy"] and found["accuracy_mistaken"] is None
    assert "## Q1 of images saved losslessly: photos" in (tmp_path / "evaluation.md").read_text()


def test_figures_of_lossless_images_by_hand() -> None:
    """Three images: all right; a wrong table; no last compression found."""
    w: dict[str, Any] = {
        "last": [True, True, False],
        "grid": [True, True, False],
        "table": [True, False, False],
        "first_15": [True, False, False],
        "trace": [True, True, False],
        "steps": [1, 0.5, 0],
        "qf_error": [0, 4, np.nan],
        "cells": [10, 10, 10],
        "said": [8, 10, 0],
        "right": [8, 4, 0],
        "square": [0, 9, 0],
        "file_cells": [10, 10, 10],
        "file_said": [10, 10, 10],
        "file_right": [9, 9, 6],
        "file_square": [1, 1, 4],
    }
    found = measure_lossless.figures({name: np.array(values) for name, values in w.items()})
    third = pytest.approx(1 / 3)
    assert (found["table_right"], found["first_15_right"]) == (third, third)
    assert found["last_found"] == found["grid_right"] == found["traced_right"] == pytest.approx(2 / 3)
    assert found["steps_right"] == 0.5 and found["qf_error"] == 2
    assert found["accuracy"] == pytest.approx(12 / 18) and found["mse"] == 0.5 and found["accuracy_all"] == 0.4
    assert found["accuracy_file"] == found["accuracy_all_file"] == 0.8 and found["mse_file"] == pytest.approx(0.2)
    assert found["accuracy_known"] == 1 and found["accuracy_mistaken"] == 0.4


def test_steps_of_coefficients_that_are_zero_leave_no_trace() -> None:
    table = np.full(64, 10)
    luma = np.full((64, 80), 128.0)
    row, col = ZIGZAG[4]
    waves = np.cos((2 * np.arange(8)[:, None] + 1) * row * np.pi / 16) * np.cos(
        (2 * np.arange(8) + 1) * col * np.pi / 16
    )
    luma[8:16, 16:24] += 20 * waves
    seen = measure_lossless.traced(luma.astype(np.uint8), tuple(table.tolist()))
    assert np.flatnonzero(seen).tolist() == [4]
    assert not measure_lossless.traced(luma.astype(np.uint8), (255,) * 64).any()


def test_squares_have_the_history_that_their_contrast_says(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.ascontiguousarray(data.astronaut()[..., ::-1])
    drawn: list[tuple[int | None, tuple[int, int]]] = []
    real = measure_sizes._piece

    def piece(image: Any, side: int, qf: int | None, shift: tuple[int, int], rng: random.Random) -> Any:
        drawn.append((qf, shift))
        return np.full_like(real(image, side, qf, shift, rng), 50 * len(drawn))

    monkeypatch.setattr(measure_sizes, "_piece", piece)
    for contrast in measure_sizes.CONTRASTS:
        for seed in range(5):
            drawn.clear()
            made = measure_sizes.make(image, contrast, 95, 48, random.Random(seed))
            pixels, (y, x) = measure_sizes.compress.decode(made.data, gray=True), made.place
            assert pixels.shape == (504, 504)
            inside = pixels > 75
            assert inside.sum() == (48 * 48 if contrast.pasted else 0)
            assert inside[y : y + 48, x : x + 48].all() == contrast.pasted
            (ground, shift), *other = drawn
            assert ground is not None and 70 <= ground <= 85
            assert len(other) == contrast.pasted
            for qf, elsewhere in other:
                assert elsewhere != shift
                assert (qf is None) == (contrast.apart is None)
                if qf is not None and contrast.apart is not None:
                    assert contrast.apart[0] <= abs(qf - ground) <= contrast.apart[1]


def test_squares_are_found_or_other_regions_are() -> None:
    result = _result()  # its region is cells (0, 0) to (1, 1)
    square = np.zeros((20, 36), bool)
    square[:16, :8] = True
    found = measure_sizes.found_in(result, square)
    assert (found["score"], found["iou"], found["elsewhere"]) == (0.9, 0.5, 0)
    assert 0.5 < found["pixel_auc"] < 1
    far = np.zeros((20, 36), bool)
    far[16:, 34:] = True
    other = measure_sizes.found_in(result, far)
    assert (other["iou"], other["elsewhere"]) == (0, 1) and other["pixel_auc"] < 0.5
    nothing = measure_sizes.found_in(result, np.zeros((20, 36), bool))
    assert nothing == {"score": 0.9, "iou": 0, "pixel_auc": None, "elsewhere": 1}
    figures = measure_sizes.figures([found, {"score": 0.1, "iou": 0.2, "pixel_auc": 0.5, "elsewhere": 2}], True)
    assert figures["found"] == 0.5 and figures["iou"] == 0.35 and figures["share_from_0.5"] == 0.5
    assert figures["with_regions_elsewhere"] == 0.5 and figures["pixel_auc"] == (found["pixel_auc"] + 0.5) / 2
    assert "found" not in measure_sizes.figures([nothing], False)


def test_squares_from_the_command_line(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_sizes, "SIZES", (64,))
    monkeypatch.setattr(measure_sizes, "QF2", (95,))
    contrasts = (measure_sizes.Contrast("far", (13, 20)), measure_sizes.Contrast("no square", pasted=False))
    monkeypatch.setattr(measure_sizes, "CONTRASTS", contrasts)
    found = run(photographs, tmp_path, "--only", "sizes", "--patches", "50")["sizes"]["photos"]
    assert list(found) == ["QF2 95, far", "QF2 95, no square"]
    assert list(found["QF2 95, far"]["by_size"]) == ["64"] and list(found["QF2 95, no square"]["by_size"]) == ["none"]
    assert found["QF2 95, far"]["by_size"]["64"]["images"] == 1
    text = (tmp_path / "evaluation.md").read_text()
    assert "| pixel auc | 64 |" in text and "| with regions elsewhere | 64 | none |" in text


@pytest.mark.parametrize("grid", measure_tables.GRIDS)
@pytest.mark.parametrize("pasted", [False, True])
def test_pictures_with_a_first_table_that_was_not_learned(grid: str, pasted: bool) -> None:
    image, table = np.ascontiguousarray(data.astronaut()[:, :, ::-1]), "Robidoux 75"
    made, place = measure_tables.make(image, table, grid, pasted, random.Random(3))
    pixels = compress.decode(made, gray=True).copy()
    shape = pixels[place].shape
    assert pixels.shape == (480, 480) and shape[0] == shape[1] and (96 <= shape[0] <= 224 if pasted else shape[0] == 0)
    # Most of it lies on multiples of that table: on the last grid, or on one of the others.
    pixels[place] = 0
    steps = trace.whole_table(tuple(np.minimum(measure_tables.tables()[table].luma[:15], Q1_MAX).tolist()))
    means = {}
    for first in np.ndindex(8, 8):
        total, count = trace.cosines(pixels, steps, first, (0, 0))
        means[first] = float(total[1:20].sum() / count[1:20].sum())
    best = max(means, key=lambda first: means[first])
    assert means[best] > 0.15 and (best == (0, 0)) is (grid == measure_tables.GRIDS[0])


def test_first_tables_that_were_not_learned_from_the_command_line(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: measure_tables.tables()[name] for name in ("Photoshop 7", "MS-SSIM 85")}
    monkeypatch.setattr(measure_tables, "tables", lambda: some)
    found = run(photographs, tmp_path, "--only", "tables", "--patches", "50")["tables"]["photos"]
    assert list(found) == [f"{table}, {grid}" for table in some for grid in measure_tables.GRIDS]
    assert all(row["images"] == 2 and 0 <= row["told"] <= 1 for row in found.values())
    assert "without square from 0.5" in (tmp_path / "evaluation.md").read_text()


@pytest.mark.parametrize("how", process.PROCESSES)
def test_what_is_done_to_a_picture_is_done_to_all_of_it(how: str) -> None:
    image = np.ascontiguousarray(data.astronaut()[:200, :240, ::-1])
    made = [process.process(image, how, random.Random(7)) for _ in range(2)]
    assert np.array_equal(*made) and made[0].dtype == np.uint8
    if how == "nothing":
        assert np.array_equal(made[0], image)
    elif how in ("turned", "resized", "framed"):
        assert made[0].shape != image.shape
    else:
        changed = (made[0] != image).any(axis=2)
        quarters = [changed[y : y + 100, x : x + 120].mean() for y in (0, 100) for x in (0, 120)]
        assert min(quarters) > 0.2
    for saved, begin in (("PNG", b"\x89PNG"), ("JPEG", b"\xff\xd8")):
        assert measure_processed.make(image, how, saved, random.Random(3)).startswith(begin)


def test_processed_pictures_from_the_command_line(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_processed, "PROCESSES", ("nothing", "vignette"))
    found = run(photographs, tmp_path, "--only", "processed", "--patches", "50")["processed"]["photos"]
    assert list(found) == ["nothing, PNG", "vignette, PNG", "nothing, JPEG", "vignette, JPEG"]
    assert all(line["images"] == 1 and line["share_from_0.5"] in (0, 1) for line in found.values())
    assert "| a JPEG, then |" in (tmp_path / "evaluation.md").read_text()


@pytest.mark.parametrize("kind", drawings.KINDS)
def test_drawings_are_the_same_each_time_and_of_one_history(kind: str) -> None:
    first, again, other = (drawings.draw(kind, random.Random(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again) and first.dtype == np.uint8 and first.shape[2] == 3
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 5
    for history in drawings.HISTORIES:
        data = drawings.save(first, history, random.Random(3))
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[..., ::-1]
        assert data.startswith(b"\x89PNG" if "PNG" in history or history == "as drawn" else b"\xff\xd8")
        assert np.array_equal(pixels, first) == (history == "as drawn")
        resized = max(abs(a - b) for a, b in zip(pixels.shape, first.shape, strict=True)) > 7
        assert resized == ("resized" in history)


def test_drawings_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They need no images."""
    monkeypatch.setattr(drawings, "KINDS", {k: drawings.KINDS[k] for k in ("slide", "sign")})
    evaluate.main(["--only", "drawings", "--per-kind", "3", "--out", str(tmp_path), "--workers", "1"])
    results = json.loads((tmp_path / "evaluation.json").read_text())
    assert results["command"] == "python -m train.evaluate --only drawings --per-kind 3"
    found = results["drawings"]
    assert list(found["kinds"]) == ["slide", "sign"] and list(found["histories"]) == list(drawings.HISTORIES[:3])
    assert [line["images"] for line in (*found["kinds"].values(), *found["histories"].values())] == [3, 3, 2, 2, 2]
    assert "| sign |" in (tmp_path / "evaluation.md").read_text()
    assert "drawings kinds,,,sign,images,3" in (tmp_path / "evaluation.csv").read_text()


def test_qf_by_size_from_the_command_line(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_qf, "ALL_QUALITIES", (60, 97))
    found = run(photographs, tmp_path, "--only", "qf-sizes")["qf-sizes"]["photos"]
    assert list(found) == ["64 x 64", "128 x 128", "256 x 256"]  # the photographs hold no larger crop
    for size, figures in found.items():
        assert set(figures["error"]) == {"60", "97"} and set(figures["flag"]) == {"never", "60", "97"}
        assert figures["flag"]["60"]["images"] == 2 * measure_qf.SIZES[int(size.split()[0])]
    assert found["256 x 256"]["error"]["60"]["mae"] < 5
    assert found["256 x 256"]["flag"]["60"]["called_compressed"] == 2
    assert "flag, crops of 64 x 64" in (tmp_path / "evaluation.md").read_text()


def test_record_writes_metrics_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "q1-comb" / "manifest.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"name": "q1-comb", "metrics": {"old": 1}}))
    rows = {"QF2 90": {"accuracy": 0.123456, "by_coverage": {}}, "QF2 90, half resolution": {"accuracy": 0.5}}
    results = {"q1": {"kodak": rows}, "command": "python -m x", "sets": {"kodak": 24}}
    assert evaluate.record(results, tmp_path) == ["q1-comb"]
    assert json.loads(path.read_text()) == {
        "name": "q1-comb",
        "metrics": {"kodak": {"QF2 90": {"accuracy": 0.1235}}, "command": "python -m x", "data": "kodak"},
    }


def test_figures_of_the_papers_networks_go_to_their_manifests() -> None:
    line = {"windows": 9, "accuracy comb": 0.9, "accuracy densenet-qf90": 0.2, "mse densenet-qf90": 7.0}
    of_qf = {"images": 2, "mean comb": 30.0, "mean uchida": 33.0, "mae uchida": 5.0}
    rows = {"QF2 90": line, "QF 30": of_qf}
    results = {"papers-networks": {"kodak": rows}, "command": "c", "sets": {"kodak": 24}}
    found = evaluate.model_metrics(results)
    assert set(found) == {"densenet-qf90", "uchida"}
    assert found["densenet-qf90"]["kodak"] == {"QF2 90": {"accuracy": 0.2, "mse": 7.0}}
    assert found["uchida"]["kodak"] == {"QF 30": {"mean": 33.0, "mae": 5.0}} and found["uchida"]["command"] == "c"
