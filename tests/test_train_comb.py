"""The comb features, and the ONNX graph that must compute the same network from the same pixels."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from material import photo, rng

from jscan import suspicion, tiling
from jscan.comb import STEPS_PER_UNIT, Band
from jscan.jpegtables import Q1_OFFSET, ZIGZAG
from train import export, fit, graphs
from train.comb import Comb, blocks_per_shift, q1_bands, qf_bands
from train.dataset import TASKS, image_weights, load_images, make_batch
from train.networks.region import RegionNet, RegionNets
from train.published import restore


def patches() -> npt.NDArray[np.uint8]:
    """(4, 64, 64): two pieces of a compressed photograph, noise, and black and white."""
    file = cv2.imencode(".jpg", photo(), [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
    grey = np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE))
    noise = rng().integers(0, 256, (64, 64))
    stark = np.kron(rng(1).integers(0, 2, (8, 8)), np.ones((8, 8))) * 255
    made = np.stack([grey[40:104, 60:124], grey[203:267, 101:165], noise, stark]).astype(np.uint8)
    made.setflags(write=False)
    return made


def direct(patch: npt.NDArray[np.uint8], bands: tuple[Band, ...]) -> tuple[Any, Any]:
    """Features (64, F) and energies (bands,) by their definition: OpenCV's DCT of every block, one after the other."""
    pixels = patch.astype(np.float32) - 128
    rounded: list[list[Any]] = [[] for _ in range(64)]
    total = np.zeros((8, 8))
    rows, cols = (s - 7 for s in patch.shape)
    for y in range(rows):
        for x in range(cols):
            c = np.abs(cv2.dct(np.ascontiguousarray(pixels[y : y + 8, x : x + 8])))
            total += c
            rounded[(y % 8) * 8 + x % 8].append(np.floor(c * STEPS_PER_UNIT + 0.5) / STEPS_PER_UNIT)
    features = []
    for blocks in (np.array(r) for r in rounded):  # (n, 8, 8)
        parts = []
        for band in bands:
            c = np.stack([blocks[:, ZIGZAG[i][0], ZIGZAG[i][1]] for i in band.coefs], axis=1)[..., None]
            parts.append(np.cos(2 * np.pi * c / np.array(band.steps)).mean(axis=(0, 1)))
            if band.bells:
                parts.append(np.exp(-((c / np.array(band.bells)) ** 2)).mean(axis=(0, 1)))
        features.append(np.concatenate(parts))
    mean = total / (rows * cols)
    energy = [np.log1p(np.mean([mean[ZIGZAG[i]] for i in band.coefs])) for band in bands]
    return np.array(features), np.array(energy)


@pytest.mark.parametrize("bands", [q1_bands(), qf_bands()], ids=["q1", "qf"])
def test_features_equal_their_definition(bands: tuple[Band, ...]) -> None:
    comb = Comb(bands)
    features, energy = comb(patches(), np.float32)
    assert features.shape == (4, 64, comb.size) and energy.shape == (4, len(bands))
    for k, patch in enumerate(patches()):
        wanted, loud = direct(patch, bands)
        off = np.abs(features[k] - wanted)
        # A value on the edge between two rows of the table may fall on either side; in flat blocks many are.
        assert np.quantile(off, 0.99) < 1e-3
        assert k == 3 or off.max() < 0.03
        assert np.allclose(energy[k], loud, atol=1e-3)
    assert comb(patches())[0].dtype == np.float16


def test_blocks_per_shift() -> None:
    counted = np.zeros(64)
    for y in range(57):
        for x in range(57):
            counted[(y % 8) * 8 + x % 8] += 1
    assert np.array_equal(blocks_per_shift(), counted)


def test_no_coefficient_is_seen_twice() -> None:
    for bands in (q1_bands(), qf_bands()):
        coefs = [i for band in bands for i in band.coefs]
        assert len(set(coefs)) == len(coefs) and set(range(15)) <= set(coefs) <= set(range(64))
    assert sum(band.size for band in q1_bands()[:15]) == Q1_OFFSET[-1]


def test_blocks_of_a_window_inside_an_image() -> None:
    assert np.all(blocks_per_shift(64) == 64)
    features, _ = Comb(q1_bands())(np.tile(patches(), (1, 2, 2))[:, :71, :71], np.float32)
    alone, _ = Comb(q1_bands())(patches(), np.float32)
    assert np.abs(features[:, 0] - alone[:, 0]).max() < 1e-5 and np.abs(features[:3, 9] - alone[:3, 9]).max() > 1e-3


# --- export -------------------------------------------------------------------------------------------------


def network(name: str, seed: int = 0) -> Any:
    """A network that nobody trained, its weights enlarged so that its answers differ from window to window."""
    torch.manual_seed(seed)
    net = fit.build(name)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3.5)
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs as PNG."""
    home = tmp_path_factory.mktemp("images")
    for name in ("astronaut", "coffee"):
        cv2.imwrite(str(home / f"{name}.png"), photo(name)[..., ::-1])
    return home


@torch.no_grad()
def by_torch(net: Any, name: str, features: Any, energy: Any, q2: Any) -> tuple[Any, Any, Any]:
    """Probabilities of the steps or qualities, the shifts, and presence at even odds."""
    tensors = [torch.from_numpy(np.asarray(x, np.float32)) for x in (features, energy)]
    logits, shift, present = fit.forward(net, *tensors, {"q2": torch.from_numpy(q2)} if name == "q1" else {})
    groups = Q1_OFFSET if name == "q1" else (0, 100)
    p = torch.cat([logits[:, a:b].softmax(1) for a, b in pairwise(groups)], 1)
    return p.numpy(), shift.softmax(1).numpy(), (present - export.prior_logit(name)).sigmoid().numpy()


@pytest.mark.parametrize("name", ["q1", "qf"])
def test_the_graph_equals_torch(name: str) -> None:
    """On a tile of 3 x 4 windows that reaches beyond the image: every block that begins in a window and ends in the
    image counts."""
    net, bands = network(name), TASKS[name]().bands()
    model = graphs.build_onnx(net, bands, export.prior_logit(name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    file = cv2.imencode(".jpg", photo("coffee"), [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    luma = np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE), np.uint8)[8:93, 16:121].copy()
    luma[:, 60:] = luma[:, 60:] // 8 * 8  # so that the windows differ
    (tile,) = tiling.tiles(*tiling.window_grid(*luma.shape))
    assert tile.shape == (3, 4)
    pixels, valid = tiling.cut_tile(luma, tile)
    feed = {"luma": pixels[None, None], "valid": valid}
    q2 = np.array([[5, 3, 4, 4, 3, 5, 4, 4, 4, 5, 5, 5, 6, 7, 12]])
    if name == "q1":
        feed["q2"] = q2.astype(np.float32)
    logp, shift, present = session.run(["logp", "shift", "present"], feed)
    corners = [(16 * r, 16 * c) for r in range(3) for c in range(4)]
    found = [direct(luma[y : y + 71, x : x + 71], bands) for y, x in corners]
    features, energy = (np.stack([f[k] for f in found]) for k in range(2))
    wanted = by_torch(net, name, features, energy, np.repeat(q2, 12, axis=0).astype(np.float32))
    for got, want in zip((np.exp(logp), np.exp(shift), present), wanted, strict=True):
        assert np.isfinite(got).all()
        assert np.abs(got - want).max() < export.TOLERANCE
    # The windows' answers must differ, or nothing was compared.
    assert min(np.ptp(want, axis=0).max() for want in wanted[:2]) > 10 * export.TOLERANCE


@pytest.mark.parametrize("name", ["q1", "qf"])
def test_the_comparison_sees_another_network(name: str, folder: Path, tmp_path: Path) -> None:
    net, bands, prior = network(name), TASKS[name]().bands(), export.prior_logit(name)
    own, other = (graphs.build_onnx(n, bands, prior) for n in (net, network(name, seed=1)))
    near = export.compare_windows(net, own, name, folder, count=8)
    far = export.compare_windows(net, other, name, folder, count=8)
    assert near < export.TOLERANCE < 0.1 < far
    with pytest.raises(ValueError, match="differs from torch .* not written"):
        export.write("q1-comb", other, {"command": "none"}, tmp_path, far)
    with pytest.raises(ValueError, match="not written"):
        export.write("q1-comb", other, {"command": "none"}, tmp_path, float("nan"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["q1", "qf"])
def test_training_can_go_on_from_a_published_model(name: str, tmp_path: Path) -> None:
    wanted, bands, path = network(name), TASKS[name]().bands(), tmp_path / "model.onnx"
    path.write_bytes(graphs.build_onnx(wanted, bands, export.prior_logit(name)).SerializeToString())
    net = network(name, seed=1)
    restore(net, bands, path)
    found = net.state_dict()
    assert all(torch.allclose(found[key], value) for key, value in wanted.state_dict().items())
    other = {"q1": "qf", "qf": "q1"}[name]
    with pytest.raises(ValueError, match="leave out --start"):
        restore(network(other), TASKS[other]().bands(), path)


def test_regions_export(tmp_path: Path) -> None:
    torch.manual_seed(0)
    nets = [RegionNet(5).eval() for _ in range(2)]
    for net in nets:
        net.offset.copy_(torch.arange(5.0))
        net.scale.copy_(torch.tensor([1.0, 2, 3, 4, 0.5]))
    for some in (nets[:1], nets):
        assert export.compare_regions(RegionNets(some), graphs.regions_onnx(RegionNets(some))) < 1e-4
    model = graphs.regions_onnx(RegionNets(nets))
    maps = torch.randn(1, 5, 12, 9)
    assert torch.allclose(RegionNets(nets)(maps), (nets[0](maps) + nets[1](maps)) / 2, atol=1e-5)
    assert export.compare_regions(RegionNets(nets[1:]), model) > export.TOLERANCE
    calibration = {"counts": [16, 40], "weights": [1.0, 2.0], "bias": 0.5}
    export.write(suspicion.JPEG_MODEL, model, {"command": "none"}, tmp_path, 1e-6, {"calibration": calibration})
    folder = tmp_path / suspicion.JPEG_MODEL
    assert {p.name for p in folder.iterdir()} == {"model.onnx", "manifest.json", "README.md"}
    said = json.loads((folder / "manifest.json").read_text())
    assert said["calibration"] == calibration and said["inputs"]["maps"]["shape"] == [1, 5, "rows", "cols"]


def test_batches_feed_the_network(folder: Path) -> None:
    """Windows and labels of a batch go through the network and its loss."""
    images = load_images(folder)
    for name in ("q1", "qf"):
        task = TASKS[name]()
        windows, labels = make_batch(task, images, image_weights(images), random.Random(0), 8)
        features, energy = Comb(task.bands())(windows)
        tensors = {k: torch.from_numpy(v) for k, v in labels.items()}
        out = fit.forward(network(name), torch.from_numpy(features).float(), torch.from_numpy(energy), tensors)
        loss = fit.LOSSES[name](out, tensors)
        assert loss.ndim == 0 and torch.isfinite(loss) and loss > 0
