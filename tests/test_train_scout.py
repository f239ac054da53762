"""Training scouts, and the graphs that are written of them and of readers; short runs on a few windows."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from material import photo, rng

from jscan import candidates, comb, q1map, qfmap, weights
from jscan.jpegtables import Q1_OFFSET
from train import export_fast, fit, fit_glance, fit_scout, published
from train.dataset import TASKS
from train.export import TOLERANCE, prior_logit
from train.graphs import reader_onnx, scout_onnx
from train.networks.comb import centre
from train.networks.scout import Glance

NAMES = pytest.mark.parametrize("name", sorted(TASKS))
STRATA = {"q1": candidates.GRID_KNOWN, "qf": candidates.GRID_UNKNOWN}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs as PNG."""
    home = tmp_path_factory.mktemp("images")
    for name in ("astronaut", "coffee"):
        cv2.imwrite(str(home / f"{name}.png"), photo(name)[..., ::-1])
    return home


def network(name: str) -> Any:
    """A comb network that nobody trained, its weights enlarged so that windows and shifts differ."""
    torch.manual_seed(0)
    net = fit.build(name)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3.5)
        net.trunk.place.normal_()
    return net.eval()


def test_a_scout_sees_single_coefficients_only() -> None:
    for name, count in (("q1", 28), ("qf", 15)):
        bands = fit_scout.bands(name)
        assert [b.coefs for b in bands] == [(i,) for i in range(count)]
        assert fit_scout.build(name).project.in_features == sum(b.size for b in bands)


@NAMES
def test_the_scout_s_graph_equals_torch(name: str) -> None:
    torch.manual_seed(1)
    bands, net = fit_scout.bands(name), fit_scout.build(name).eval()
    with torch.no_grad():
        net.place.normal_()
        net.project.weight.mul_(4)
    model = scout_onnx(net, bands)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    features = rng(2).normal(0, 1, (5, 64, sum(b.size for b in bands))).astype(np.float32)
    q2 = rng(4).integers(1, 30, (1, 15)).astype(np.float32)
    table = {"q2": q2} if name == "q1" else {}
    more = (torch.from_numpy(q2).expand(5, 15),) if name == "q1" else ()
    project = session.run(["projection"], {"means": np.zeros((1, 64, 16), np.float32), **table})[0]
    assert np.array_equal(project, net.project.weight.detach().numpy().T)
    shift = session.run(["shift"], {"means": export_fast.told(features @ project), **table})[0]
    with torch.no_grad():
        wanted = net(torch.from_numpy(features), *more).log_softmax(1).numpy()
    assert np.abs(shift - wanted).max() < 1e-3 < np.ptp(wanted, axis=0).max()


def test_the_glance_s_graph_equals_torch() -> None:
    torch.manual_seed(2)
    bands, net = fit_scout.bands("q1"), fit_scout.build("q1").eval()
    glance = Glance(net).eval()
    with torch.no_grad():
        net.place.normal_()
        net.project.weight.mul_(4)
        for p in glance.parameters():
            p.mul_(3)
    model = scout_onnx(net, bands, glance)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    features = rng(2).normal(0, 1, (7, 64, sum(b.size for b in bands))).astype(np.float32)
    q2 = rng(4).integers(1, 30, (1, 15)).astype(np.float32)
    means = features @ net.project.weight.detach().numpy().T
    got = session.run(["present"], {"means": export_fast.told(means), "q2": q2})[0]
    with torch.no_grad():
        wanted = glance(*net.look(torch.from_numpy(features), torch.from_numpy(q2).expand(7, 15))).sigmoid().numpy()
    assert got.shape == (7,) and np.abs(got - wanted).max() < 1e-4 and np.ptp(wanted) > 0.01


@NAMES
def test_a_published_scout_is_read_again(name: str, tmp_path: Path) -> None:
    """With a glance or without one: its weights are those that it was written of."""
    torch.manual_seed(3)
    net, bands = fit_scout.build(name), fit_scout.bands(name)
    for glance in (None, Glance(net)):
        (tmp_path / "model.onnx").write_bytes(scout_onnx(net, bands, glance).SerializeToString())
        again = fit_scout.build(name)
        published.restore_scout(again, bands, tmp_path / "model.onnx")
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    with pytest.raises(ValueError, match="not exported from this network"):
        published.restore_scout(again, bands, weights.folder() / qfmap.READER / "model.onnx")


def test_a_glance_is_trained_and_written(folder: Path, tmp_path: Path) -> None:
    path = fit_glance.train(folder, tmp_path / "run", windows=300, workers=1)
    saved = torch.load(path, weights_only=True)
    assert saved["windows"] == 300 and np.isfinite(saved["loss"])
    assert {"settled_0.4", "missed_0.4"} <= set(saved["told"])
    export_fast.export_glance(path.parent, folder, tmp_path / "out")
    home = tmp_path / "out" / q1map.SCOUT
    said, shipped = (json.loads((h / "manifest.json").read_text()) for h in (home, weights.folder() / q1map.SCOUT))
    assert said["training"]["glance"]["windows"] == 300
    assert (said["inputs"], said["outputs"], said["bands"]) == tuple(shipped[k] for k in ("inputs", "outputs", "bands"))
    # The scout itself is the one that is shipped.
    given = {"means": export_fast.told(rng(5).normal(0, 0.5, (2, 64, 8))), "q2": np.full((1, 15), 5, np.float32)}
    old, new = (
        onnxruntime.InferenceSession(h / "model.onnx", providers=["CPUExecutionProvider"]).run(
            ["shift", "present"], given
        )
        for h in (weights.folder() / q1map.SCOUT, home)
    )
    assert np.array_equal(old[0], new[0]) and not np.array_equal(old[1], new[1])


@NAMES
@pytest.mark.parametrize("half", [False, True])
def test_a_reader_of_some_shifts_equals_torch(name: str, half: bool) -> None:
    """What the comparison of the export leaves out: shifts that stand for others, and blocks at an image's edge."""
    bands, net = TASKS[name]().bands(), network(name)
    strata = STRATA[name]
    chosen = candidates.choose([42, 9, 63, 5, 21], 5, strata)
    n, shifts, size = 6, len(chosen.place), sum(b.size for b in bands)
    features = rng(5).normal(0, 0.3, (n, shifts, size)).astype(np.float32)
    blocks = rng(6).integers(1, 65, (n, shifts)).astype(np.float32)
    coefs = [len(b.coefs) for b in bands]
    level = rng(7).gamma(2, 4, (n, sum(coefs))).astype(np.float32)
    energy = np.log1p(np.stack([part.mean(axis=1) for part in np.split(level, np.cumsum(coefs)[:-1], axis=1)], axis=1))
    q2 = rng(8).integers(1, 30, (1, 15)).astype(np.float32)
    sums = features * blocks[..., None]
    model = reader_onnx(net, bands, prior_logit(name), half=half)
    within = 1e-2 if half else 1e-3
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"features": sums, "blocks": blocks, "place": chosen.place, "stands_for": chosen.stands_for, "level": level}
    if name == "q1":
        feed["q2"] = q2
    logp, shift, present = session.run(["logp", "shift", "present"], feed)
    held = torch.from_numpy(features)
    stands_for = torch.from_numpy(chosen.stands_for)[None].expand(n, shifts)
    mean = (held * stands_for[..., None]).sum(1) / 64
    some = (torch.from_numpy(chosen.place)[None].expand(n, shifts), stands_for)
    table = (torch.from_numpy(q2).expand(n, 15),) if name == "q1" else ()
    with torch.no_grad():
        logits, scores, odds = net.read(
            4 * (held - mean[:, None]), mean, torch.from_numpy(energy.astype(np.float32)), *table, some
        )
    groups = Q1_OFFSET if name == "q1" else (0, 100)
    for a, b in pairwise(groups):
        wanted = logits[:, a:b].softmax(1).numpy()
        assert np.abs(np.exp(logp[:, a:b]) - wanted).max() < within
    assert np.abs(np.exp(shift) - scores.softmax(1).numpy()).max() < within
    assert np.abs(present - (odds - prior_logit(name)).sigmoid().numpy()).max() < within
    assert np.ptp(np.exp(shift), axis=0).max() > 0.01


@NAMES
def test_a_shift_that_stands_for_others_counts_as_all_of_them(name: str) -> None:
    """Where all shifts of a kind are alike, a sample of them says what all 64 do."""
    net, strata = network(name), STRATA[name]
    with torch.no_grad():
        for members in strata.members:
            net.trunk.place[list(members)] = net.trunk.place[members[0]].clone()
    size = sum(b.size for b in TASKS[name]().bands())
    full = torch.zeros(2, 64, size)
    for k, members in enumerate(strata.members):
        full[:, list(members)] = torch.from_numpy(rng(10 + k).normal(0, 0.3, (2, 1, size))).float()
    full[:, 42] = torch.from_numpy(rng(20).normal(0, 0.5, (2, size))).float()
    chosen = candidates.choose([42], 5, strata)
    energy = torch.ones(2, len(TASKS[name]().bands()))
    table = (torch.full((2, 15), 5.0),) if name == "q1" else ()
    some = tuple(torch.from_numpy(x)[None].expand(2, len(x)) for x in (chosen.place, chosen.stands_for))
    with torch.no_grad():
        wanted = net.read(*centre(full), energy, *table)
        picked = full[:, chosen.place]
        mean = (picked * some[1][..., None]).sum(1) / 64
        got = net.read(4 * (picked - mean[:, None]), mean, energy, *table, some)
    assert torch.allclose(got[0], wanted[0], atol=1e-3) and torch.allclose(got[2], wanted[2], atol=1e-3)
    spread = np.exp(chosen.spread(got[1].log_softmax(1).numpy()))
    assert np.abs(spread - wanted[1].softmax(1).numpy()).max() < 1e-4


@NAMES
def test_a_scout_is_trained_and_written(name: str, folder: Path, tmp_path: Path) -> None:
    path = fit_scout.fit(name, folder, tmp_path / "run", windows=300, workers=1)
    assert path == tmp_path / "run" / "last.pt"
    saved = torch.load(path, weights_only=True)
    assert saved["windows"] == 300 and np.isfinite(saved["loss"])
    assert set(saved["found"]) == {"among_1", "among_4", "among_8"}
    began = fit_scout.build(name).state_dict()
    assert any(not torch.equal(v, began[k]) for k, v in saved["net"].items())
    export_fast.export_scout(name, path.parent, folder, tmp_path / "out")
    home = tmp_path / "out" / export_fast.SCOUT[name]
    said = json.loads((home / "manifest.json").read_text())
    assert comb.from_manifest(said) == fit_scout.bands(name) and said["training"]["windows"] == 300
    shipped = json.loads((weights.folder() / export_fast.SCOUT[name] / "manifest.json").read_text())
    assert (said["inputs"], said["bands"]) == (shipped["inputs"], shipped["bands"])
    assert said["outputs"].items() <= shipped["outputs"].items()  # the glance comes later
    net = fit_scout.build(name)
    net.load_state_dict(saved["net"])
    net.eval()
    model = scout_onnx(net, fit_scout.bands(name))
    assert export_fast.compare_scout(net, model, name, folder, count=6) < TOLERANCE
    other = fit_scout.build(name).eval()
    with torch.no_grad():
        other.score.weight.mul_(40)
    assert export_fast.compare_scout(other, model, name, folder, count=6) > TOLERANCE


@NAMES
def test_a_reader_is_the_published_network_again(name: str, folder: Path, tmp_path: Path) -> None:
    export_fast.export_reader(name, folder, tmp_path)
    written, shipped = (h / export_fast.READER[name] for h in (tmp_path, weights.folder()))
    assert (written / "model.onnx").read_bytes() == (shipped / "model.onnx").read_bytes()
    said, known = (json.loads((h / "manifest.json").read_text()) for h in (written, shipped))
    assert (said["inputs"], said["outputs"], said["bands"]) == tuple(known[k] for k in ("inputs", "outputs", "bands"))
    assert weights.label(export_fast.COMB[name]) in said["training"]["data"]


def test_the_reader_s_comparison_sees_another_network(folder: Path) -> None:
    name = "qf"
    net, bands = network(name), TASKS[name]().bands()
    model = reader_onnx(net, bands, prior_logit(name))
    assert export_fast.compare_reader(name, net, model, folder, count=6) < TOLERANCE
    with torch.no_grad():
        net.head[0].weight.mul_(-1)
    assert export_fast.compare_reader(name, net, model, folder, count=6) > TOLERANCE
