"""The papers' networks as estimators of a scan: maps, rows, and what is said where there is no model."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from material import file_of, photo, rng
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from jscan import cli, papermap, weights
from jscan.errors import ModelError, UsageError
from jscan.jpegtables import Q1_MAX, Q1_OFFSET, standard_table
from jscan.scan import Scanner


def put(folder: Path, name: str, graph: Any, **more: Any) -> None:
    """A model with its manifest."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    ends = {"inputs": {i.name: {} for i in graph.input}, "outputs": {o.name: {} for o in graph.output}}
    said = {"name": name, "version": "1", "digest": hashlib.sha256(data).hexdigest(), **ends}
    said |= {"training": {}, "metrics": {}, "limits": [], **more}
    (folder / name).mkdir()
    (folder / name / "model.onnx").write_bytes(data)
    (folder / name / "manifest.json").write_text(json.dumps(said))


def windows_model(reads: str) -> Any:
    """A DenseNet's inputs and outputs over a rule: the mean of a window, in 226 random directions."""
    channels = {"luma": 1, "rgb": 3}[reads]
    directions = numpy_helper.from_array(rng(3).normal(0, 30, (channels, 226)).astype(np.float32), "directions")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["scale"], value_float=1 / 255),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("AveragePool", ["scaled"], ["mean"], kernel_shape=[64, 64], strides=[8, 8]),
        helper.make_node("Transpose", ["mean"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["last", "directions"], ["out"]),
    ]
    parts = []
    for k, (a, b) in enumerate(pairwise(Q1_OFFSET)):
        for name, value in (("from", a), ("to", b), ("axis", 3)):
            constant = numpy_helper.from_array(np.array([value]), f"{name}{k}")
            nodes.append(helper.make_node("Constant", [], [f"{name}{k}"], value=constant))
        nodes.append(helper.make_node("Slice", ["out", f"from{k}", f"to{k}", f"axis{k}"], [f"part{k}"]))
        nodes.append(helper.make_node("LogSoftmax", [f"part{k}"], [f"logp{k}"], axis=3))
        parts.append(f"logp{k}")
    nodes.append(helper.make_node("Concat", parts, ["logp"], axis=3))
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", channels, "h", "w"])
    logp = helper.make_tensor_value_info("logp", TensorProto.FLOAT, ["n", "r", "c", 226])
    return helper.make_graph(nodes, "t", [pixels], [logp], [directions])


def flag_model() -> Any:
    """Uchida's inputs and outputs over a rule: QF is red / 2.55, uncompressed is green / 255."""
    nodes = [helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT)]
    for k, (name, divisor) in enumerate((("qf", 2.55), ("uncompressed", 255.0))):
        nodes += [
            helper.make_node("Constant", [], [f"channel{k}"], value_int=k),
            helper.make_node("Gather", ["float", f"channel{k}"], [f"plane{k}"], axis=1),
            helper.make_node("Constant", [], [f"divisor{k}"], value_float=divisor),
            helper.make_node("Div", [f"plane{k}", f"divisor{k}"], [name]),
        ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 3, "h", "w"])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", "h", "w"]) for n in ("qf", "uncompressed")]
    return helper.make_graph(nodes, "t", [pixels], outputs)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models with the inputs and outputs of the papers' networks, and rules that can be done by hand."""
    home = tmp_path / "weights"
    home.mkdir()
    put(home, "densenet-qf90", windows_model("luma"), qf2=90, reads="luma")
    put(home, "densenet-qf80", windows_model("rgb"), qf2=80, reads="rgb")
    put(home, papermap.UCHIDA, flag_model(), reads="rgb")
    monkeypatch.setattr(weights, "folder", lambda: home)
    return home


def test_decode() -> None:
    logp = np.full((2, 226), -9, np.float32)
    table = np.minimum(standard_table(70)[:15], Q1_MAX)
    logp[1, np.array(Q1_OFFSET[:-1]) + table - 1] = np.log(0.8)
    assert papermap.decode(logp).tolist() == [[1] * 15, table.tolist()]
    assert papermap.sureness(logp)[1] == pytest.approx(0.8)
    steps = np.array([[-2, 0.4, 1.6, 99.0] + [3.2] * 11], np.float32)
    assert papermap.decode(steps)[0].tolist() == [1, 1, 2, Q1_MAX[3]] + [3] * 11
    assert np.isnan(papermap.sureness(steps)).all()


def test_cells_take_the_nearest_window() -> None:
    found = np.arange(3 * 5).reshape(3, 5)
    cells = papermap.to_cells(found, (83, 100))  # 83 rows hold 3 windows and 11 cells, 100 columns 5 and 13
    assert cells.shape == (11, 13)
    assert cells[:5, 0].tolist() == [0] * 5 and cells[5, 0] == 5 and cells[6:, 0].tolist() == [10] * 5
    assert cells[0].tolist() == [0] * 5 + [1, 2, 3] + [4] * 5


def test_background_and_disagreement() -> None:
    steps = np.full((4, 4, 15), 3, np.int16)
    steps[0, 0] = 7
    steps[0, 1, :6] = 8
    assert papermap.background(steps) == (3,) * 15
    differing = papermap.disagreement(steps, (3,) * 15)
    assert differing[0, 0] == 1 and differing[0, 1] == pytest.approx(0.4) and differing[1:].max() == 0
    sure = np.ones((4, 4), np.float32)
    assert papermap.held_by_most(papermap.Steps(steps, sure)) == (3,) * 15
    assert papermap.held_by_most(papermap.Steps(np.arange(240).reshape(4, 4, 15).astype(np.int16), sure)) is None


def test_the_nearest_network_is_taken() -> None:
    choices = tuple(papermap.Choice(f"densenet-qf{q}", q, "luma") for q in (80, 90))
    assert [papermap.nearest(choices, q).qf2 for q in (60, 84, 85, 86, 100)] == [80, 80, 80, 90, 90]


def test_flag_maps_are_means_over_cells(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papermap, "FLAG_TILE", 32)
    rgb = rng().integers(0, 256, (3, 75, 68)).astype(np.uint8)
    quality, flag = papermap.flag_maps(weights.load(papermap.UCHIDA), rgb)
    assert quality.shape == flag.shape == (10, 9)
    for row, col in ((0, 0), (4, 4), (9, 8)):
        red, green = (p[8 * row : 8 * row + 8, 8 * col : 8 * col + 8].mean() for p in rgb[:2])
        assert quality[row, col] == pytest.approx(red / 2.55, abs=1e-3)
        assert flag[row, col] == pytest.approx(1 - green / 255, abs=1e-4)


def test_a_jpeg(shelf: Path) -> None:
    result = Scanner(estimator="paper", device="cpu").scan(file_of(photo()[:150, :130], quality=90))
    row, maps = result.record, result.maps
    assert row.status == "ok" and maps is not None and result.image is not None
    assert maps.q1.shape == (15, 19, 17) and maps.q1.min() >= 1
    # The same by hand, of the window whose centre is nearest to the cell in row 9, column 8.
    mean = result.image.luma[40:104, 32:96].mean() / 255
    logits = mean * rng(3).normal(0, 30, (1, 226))[0]
    wanted = [int(logits[a:b].argmax()) + 1 for a, b in pairwise(Q1_OFFSET)]
    assert maps.q1[:, 9, 8].tolist() == wanted
    assert np.isnan(maps.double).all() and (maps.qf == 90).all() and (maps.flag == 1).all()
    # What these networks do not say, and what nobody calibrated, is null.
    assert (row.score, row.regions, row.n_regions, row.grid_shift, row.double_fraction) == (None,) * 5
    assert any("no score is calibrated" in reason for reason in row.reasons)
    assert not any("trained on a last quality" in reason for reason in row.reasons)
    assert {label.partition("@")[0] for label in row.models} == {"densenet-qf80", "densenet-qf90", "uchida"}


def test_a_jpeg_of_another_quality_is_told_so(shelf: Path) -> None:
    result = Scanner(estimator="paper", device="cpu").scan(file_of(photo()[:80, :80], quality=70))
    assert "densenet-qf80 was trained on a last quality of 80; this file's is 70" in result.record.reasons[0]


def test_decoded_pixels(shelf: Path) -> None:
    pixels = np.zeros((72, 80, 3), np.uint8)
    pixels[..., 0] = 204  # QF 80
    pixels[:24, :24, 1] = 255  # not compressed
    result = Scanner(estimator="paper", device="cpu").scan(pixels)
    maps = result.maps
    assert maps is not None and result.record.score is None and result.record.q1_background is None
    assert np.isnan(maps.qf[:3, :3]).all() and maps.qf[4, 4] == pytest.approx(80)
    assert maps.flag[0, 0] == 0 and maps.flag[5, 5] == 1
    assert maps.suspicion[0, 0] == 1 and maps.suspicion[5, 5] == 0
    assert np.isnan(maps.q1).all() and np.isnan(maps.double).all()
    assert result.record.compressed_fraction == pytest.approx(1 - 9 / 90)


@pytest.mark.parametrize("missing", ["densenet", "uchida"])
def test_a_missing_model_is_named_with_the_command_that_makes_it(shelf: Path, missing: str) -> None:
    for path in shelf.glob(f"{missing}*/manifest.json"):
        path.unlink()
    name = {"densenet": "densenet-qf90", "uchida": "uchida"}[missing]
    with pytest.raises(ModelError, match=f"python -m train.fit_paper {name} --src") as caught:
        Scanner(estimator="paper")
    assert f"train.export_paper write {name}" in str(caught.value)


def test_the_command_line(shelf: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(file_of(photo()[:80, :80], quality=90))
    done = CliRunner().invoke(cli.app, ["show", str(image), "--estimator", "paper", "--json"])
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    assert row["score"] is None and row["models"][0].startswith("densenet-qf80@")
    done = CliRunner().invoke(cli.app, ["show", str(image), "--estimator", "paper"])
    assert done.exit_code == 0 and "No region" not in done.stdout
    from jscan.config import ScanConfig

    with pytest.raises(UsageError, match="--estimator is one of comb, paper"):
        ScanConfig(sources=(image,), out=tmp_path / "r.parquet", estimator="guess")
