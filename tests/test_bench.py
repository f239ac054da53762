"""The benchmark: on tiny inputs it measures what it says, and its ratios are those of the figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("onnx", reason="the extra `train` is not installed")
pytest.importorskip("skimage.data", reason="scikit-image is not installed")

from jscan.stages import STAGES
from train import bench, bench_baselines, bench_gpu, bench_material, measure_speed


def test_spread_takes_the_files_evenly() -> None:
    paths = [Path(str(k)) for k in range(10)]
    assert bench_material.spread(paths, 4) == [paths[k] for k in (0, 2, 5, 7)]
    assert bench_material.spread(paths, 10) == bench_material.spread(paths, 99) == paths


def test_small_images_are_all_different(tmp_path: Path) -> None:
    bench_material.write_small(tmp_path, 300)
    files = bench_material.jpegs(tmp_path)
    assert len(files) == 300 and len({p.read_bytes() for p in files}) == 300
    assert simplejpeg.decode_jpeg_header(files[0].read_bytes())[:2] == (bench_material.SMALL, bench_material.SMALL)


def test_made_images_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    path = bench_material.write_sized(tmp_path / "a.jpg", 0.25)
    assert simplejpeg.decode_jpeg_header(path.read_bytes())[:2] == (500, 500)
    assert bench_material.write_sized(tmp_path / "a.tif", 0.25).stat().st_size > 3 * 500 * 500


def test_the_best_time_of_the_work_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    took, now = iter([9.0, 3.0, 2.0, 4.0]), [0.0]

    def work() -> None:
        now[0] += next(took)

    monkeypatch.setattr(bench_baselines.time, "process_time", lambda: now[0])
    assert bench_baselines.processor_seconds(work, seconds=8) == 2.0, "the first is warming up"


def test_growth_is_one_where_time_is_linear() -> None:
    assert bench.growth([1, 4, 16], [3, 6, 18]) == pytest.approx(1)
    assert bench.growth([1, 2, 4], [1, 4, 16]) == pytest.approx(2)
    assert bench.growth([1, 2], [1, 2]) is None and bench.growth([1, 2, 3], [2, 1, 4]) is None


def test_ratios_by_hand() -> None:
    def run(rate: float, **more: float) -> dict[str, float]:
        return {"mp_per_processor_second": rate, **more}

    measured: dict[str, Any] = {
        "scan": run(5),
        "baselines": {"decoding to luma": run(100), "A": run(0.5)},
        "counts": {
            str(n): {"images": n, "processor_seconds": 2 + n / 100, "peak_mib": 400, "parent_mib": 100 + n}
            for n in (10, 20, 40)
        },
        "workers": {str(n): {"mp_per_second": 4 * n, "processor_seconds": 6 + n} for n in (1, 2)},
    }
    assert bench.ratios(measured) == {
        "processor time of the scan / of decoding alone": 20,
        "MP per processor second of the scan / of A": 10,
        "processor time of a further image, at the far end / at the near end": pytest.approx(1),
        "memory of the largest process, most images / fewest": 1,
        "memory of the parent, most images / fewest": pytest.approx(140 / 110),
        "MP/s of 2 workers / of 1": 2,
        "processor time of 2 workers / of 1": pytest.approx(8 / 7),
    }
    assert bench.ratios({}) == {}


def test_baselines_are_measured_on_what_they_say(tmp_path: Path) -> None:
    files = bench_material.write_photographs(tmp_path, 1)
    decoded = bench_baselines.decode_alone(files, seconds=0)
    assert decoded["megapixels"] == 3.0 and decoded["images"] == 1
    assert decoded["mp_per_processor_second"] == pytest.approx(3 / decoded["processor_seconds"])
    uchida = bench_baselines.uchida(side=64, seconds=0)
    assert uchida["megapixels"] == pytest.approx(0.004096)
    densenet = bench_baselines.densenet(patches=2, seconds=0)
    assert densenet["megapixels"] == pytest.approx(2 * 64 / 1e6), "a patch stands for 8 x 8 pixels"
    # 1.16 million weights, each used for up to 4096 pixels of a patch, against 0.19 million a pixel.
    assert densenet["mp_per_processor_second"] < uchida["mp_per_processor_second"]
    assert uchida["mp_per_processor_second"] < decoded["mp_per_processor_second"]


def test_a_tiny_benchmark_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "REPEATS", 1)
    cameras = tmp_path / "cameras"
    cameras.mkdir()
    for k in range(3):
        bench_material.write_sized(cameras / f"{k}.jpg", 0.02 + 0.01 * k)
    options = ["--cameras", cameras, "--images", 2, "--counts", "1,2", "--seconds", 0]
    options += ["--big", 0.05, "--only", "scan,start,counts", "--out", tmp_path / "bench"]
    bench.main([str(o) for o in options])
    said = (tmp_path / "bench.md").read_text()
    assert said.strip() == capsys.readouterr().out.strip()
    assert str(tmp_path) not in said, "paths of this machine are nobody's business"
    found = json.loads((tmp_path / "bench.json").read_text())
    assert tuple(found["bench"]) == tuple(found["parts"]) == ("scan", "start", "counts")
    scan = found["bench"]["scan"]
    assert scan["images"] == scan["ok"] == 2
    assert {"read", "hash", "decode", "network", "regions", "write"} <= set(scan["stages"]) <= set(STAGES)
    assert sum(line["share"] for line in scan["stages"].values()) == pytest.approx(1, abs=0.01)
    assert scan["mp_per_processor_second"] == pytest.approx(scan["megapixels"] / scan["processor_seconds"], rel=0.01)
    assert list(found["bench"]["counts"]) == ["1 images", "2 images"]
    assert found["bench"]["start"]["jscan --help"]["seconds"] < scan["seconds"]
    wanted = {"whole scan of photographs, MP/s", "jscan --help, s", "a scan of one small image, s"}
    assert set(found["asked"]) == wanted, "of the parts that were measured"
    assert found["asked"]["jscan --help, s"]["reached"] == found["bench"]["start"]["jscan --help"]["seconds"]


@pytest.mark.parametrize("wrong", [["--only", "scan,speed"], ["--sizes", "4,1"], ["--sizes", "x"], ["--counts", "0"]])
def test_wrong_options_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(wrong)


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="ended with 2"):
        measure_speed.watch("scan", "--no-such-option")


def test_a_device_beside_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for the GPU: its answers are its own, its pace is measured, and the report holds both."""
    monkeypatch.setattr(bench_gpu, "_gpu", lambda: "none")
    photos = tmp_path / "photos"
    photos.mkdir()
    bench_material.write_small(photos, 2)
    out = tmp_path / "gpu"
    few = ("--device", "cpu", "--copies", "2", "--workers", "1", "--compared", "1", "--seconds", "0.1")
    bench_gpu.main([str(photos), *few, "--out", str(out)])
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["answers"]["CPU and CPU"] == dict.fromkeys(bench_gpu.FACTS, 0.0)
    pace = found["pace"]["1 workers"]
    assert pace["images"] == 4 and pace["GPU busy"] is None and pace["MP/s"] > 0 and found["decoding"] > 0
    said = out.with_suffix(".md").read_text()
    assert "| suspicion of a cell | 0 | 0 |" in said and "Decoding alone, on all cores" in said


def test_what_only_one_map_says_is_a_difference() -> None:
    nothing, some = np.full((2, 2), np.nan, np.float32), np.zeros((2, 2), np.float32)
    assert bench_gpu._largest(nothing, some) == float("inf") and bench_gpu._largest(nothing, nothing) == 0
    assert bench_gpu._largest(some, some + 0.25) == 0.25
    few, many = dict.fromkeys(bench_gpu.FACTS, 0.5), dict.fromkeys(bench_gpu.FACTS, 1.0)
    both = bench_gpu.summary([few, many])
    assert both["score"] == 1.0 and both["images called otherwise"] == 1.5
    assert bench_gpu.Busy([0.0, 0.5, 1.0]).mean == 0.75 and bench_gpu.Busy([0.0]).mean is None
