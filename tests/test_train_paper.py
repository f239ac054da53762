"""The papers' own networks: their sizes, losses, data, training, and what is exported of them."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from material import file_of, photo, rng
from PIL import Image

from jscan import papermap, q1map, weights
from jscan.jpegtables import N_COEFS, Q1_MAX, Q1_OFFSET, nearest_qf, standard_table
from train import (
    compress,
    export,
    export_paper,
    figures,
    fit_paper,
    losses,
    measure_paper,
    measure_q1,
    measure_report,
    measure_rows,
    paper_config,
    paper_patches,
)
from train.dataset import image_weights
from train.networks import densenet
from train.networks.densenet import REACH, DenseNet
from train.networks.uchida import FLAT, UchidaNet
from train.networks.uchida import REACH as UCHIDA_REACH

IMAGES = [np.ascontiguousarray(photo(name, 1.0)[..., ::-1]) for name in ("astronaut", "coffee")]
WEIGHTS = image_weights(IMAGES)
FLAT_CONFIG = replace(paper_config.load("densenet-qf90"), begin="flat", dropout=0.2)
"""The network without a shallow one to begin as."""


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# --- networks ---------------------------------------------------------------------------------------------------------


def test_densenet_has_the_published_number_of_parameters() -> None:
    # Huang 2017, table 2: DenseNet-40 of growth 12 for 10 classes has 1.0 million.
    assert parameters(DenseNet(3, 10)) == 1_059_298
    head = 456 * (226 - 10) + 216
    assert parameters(DenseNet(3, 226)) == 1_059_298 + head
    assert parameters(DenseNet(1, 226)) == 1_059_298 + head - 2 * 24 * 9
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in DenseNet(1, 15).modules()) == 37


def test_uchida_has_the_published_number_of_parameters_and_field_of_view() -> None:
    net = UchidaNet().eval()
    assert sum(map(parameters, net.plain())) == 187_586
    pixels = torch.rand(1, 3, 65, 65, requires_grad=True)
    out = net(pixels)
    assert out.shape == (1, 2, 65, 65)
    out[0, :, 32, 32].sum().backward()
    assert pixels.grad is not None
    seen = np.argwhere(pixels.grad.abs().sum((0, 1)).numpy() > 0)
    assert seen.min() >= 32 - UCHIDA_REACH and seen.max() <= 32 + UCHIDA_REACH and UCHIDA_REACH == 16


@torch.no_grad()
def test_windows_of_a_larger_image_are_means_over_its_features() -> None:
    torch.manual_seed(0)
    net = DenseNet(1, 3).eval()
    pixels = torch.rand(1, 1, 80, 96) - 0.5
    out = net(pixels, 8)
    assert out.shape == (1, 3, 5, 3)
    features = net.features(pixels)
    wanted = net.last(features[0, :, 2:18, 8:24].mean((1, 2)))  # the window at y 8, x 32
    assert torch.allclose(out[0, 1, 4], wanted, atol=1e-5)
    alone = net(pixels[..., :64, :64])
    assert alone.shape == (1, 1, 1, 3)


@torch.no_grad()
def test_reach_is_how_far_a_window_sees() -> None:
    """Pixels farther from it than REACH change nothing in a window; those at that distance do."""
    net = DenseNet(1, 1).eval().double()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.fill_(0.02)
    edge = 96  # where the window begins, in a strip of four rows

    def answer(until: int) -> float:
        pixels = torch.zeros(1, 1, 4, edge + 64, dtype=torch.float64)
        pixels[..., :until] = 100
        return float(net.features(pixels)[..., edge // 4 :].sum())

    assert answer(edge - REACH) == answer(0) == 0
    assert answer(edge - REACH + 1) > 0


# --- losses -----------------------------------------------------------------------------------------------------------


def test_eq_5_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    true = torch.tensor([0])
    entropy = float(-np.log(0.5))
    assert losses.ordinal(logits, true).item() == pytest.approx(0.8 * entropy + 0.2 * (0.25 + 2 * 0.25))
    squared = losses.ordinal(logits, true, squared=True)
    assert squared.item() == pytest.approx(0.8 * entropy + 0.2 * (0.25 + 4 * 0.25))


def test_losses_of_the_15_coefficients() -> None:
    q1 = torch.tensor(np.minimum(standard_table(80)[:N_COEFS], Q1_MAX))[None]
    sure = torch.full((1, Q1_OFFSET[-1]), -20.0)
    sure[0, torch.tensor(Q1_OFFSET[:-1]) + q1[0] - 1] = 20
    for squared in (False, True):
        assert losses.q1_loss(sure, q1, squared).item() < 1e-6
        assert losses.q1_loss(torch.zeros_like(sure), q1, squared).item() > 1
    assert losses.q1_loss(torch.zeros_like(sure), q1, True) > losses.q1_loss(torch.zeros_like(sure), q1)
    steps = q1.float().clone()
    steps[0, 3] += 3
    assert losses.regression_loss(steps, q1.float()).item() == pytest.approx(9 / 15)


# --- configs and data -------------------------------------------------------------------------------------------------


def test_every_config_can_be_read_and_built() -> None:
    assert paper_config.NAMES == ("densenet-qf80", "densenet-qf90", "regression-qf90", "uchida")
    outputs = {"densenet": 226, "regression": 15, "uchida": 2}
    for name in paper_config.NAMES:
        config = paper_config.load(name)
        assert paper_config.from_values(name, json.loads(json.dumps(_plain(config)))) == config
        net: Any = paper_config.build(config)
        assert (net.convs[-1].out_channels if name == "uchida" else net.last.out_features) == outputs[config.network]
    assert paper_config.load("densenet-qf90").qf1 == (60, 98) and paper_config.load("densenet-qf80").qf1 == (55, 98)
    assert [paper_config.load(f"densenet-qf{q}").qf2 for q in (80, 90)] == [80, 90]


def _plain(config: paper_config.Config) -> dict[str, Any]:
    return {**config.recipe(), "cpu": vars(config.cpu), "gpu": vars(config.gpu)}


@pytest.mark.parametrize(
    "change",
    [{"network": "vgg"}, {"input": "yuv"}, {"distance": "cubed"}, {"qf1": (0, 98)}, {"qf2": 0}, {"side": 60}],
)
def test_configs_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="densenet-qf90"):
        replace(paper_config.load("densenet-qf90"), **change)
    with pytest.raises(ValueError, match="unknown colour"):
        paper_config.from_values("a", {**_plain(paper_config.load("uchida")), "colour": 1})


@pytest.mark.parametrize("kind", ["luma", "rgb"])
def test_double_patches_are_what_their_label_says(kind: str) -> None:
    """Each patch is remade from the same random numbers by hand, and its table is that of a QF1 in range."""
    config = replace(FLAT_CONFIG, input=kind, context_share=0.0)
    batch = paper_patches.make_batch(config, IMAGES, WEIGHTS, random.Random(3), 6, 2)
    channels = {"luma": 1, "rgb": 3}[kind]
    assert batch["pixels"].shape == (6, channels, 64, 64) and batch["pixels"].dtype == np.uint8
    assert batch["q1"].shape == (6, 15)
    for table in batch["q1"]:
        assert 58 <= nearest_qf(table) <= 98
    assert np.array_equal(batch["q1"][0], batch["q1"][1])  # of one image
    # A patch on the second grid: at QF2 = 90 its blocks are integers times the steps, up to the rounding of pixels.
    luma = batch["pixels"][0, 0] if kind == "luma" else None
    if luma is not None:
        coefs = cv2.dct(luma[:8, :8].astype(np.float32) - 128)
        step = standard_table(90)[4]  # zigzag 4 is row 1, column 1
        assert abs(coefs[1, 1] / step - round(coefs[1, 1] / step)) * step < 1.5


def test_patches_with_surroundings_are_fewer_and_larger() -> None:
    config = replace(paper_config.load("densenet-qf80"), context_share=1.0)
    batch = paper_patches.make_batch(config, IMAGES, WEIGHTS, random.Random(0), 16)
    assert batch["pixels"].shape == (4, 1, 128, 128) and batch["q1"].shape == (4, 15)


def test_single_patches_are_what_their_label_says() -> None:
    config = paper_config.load("uchida")
    batch = paper_patches.make_batch(config, IMAGES, WEIGHTS, random.Random(0), 60)
    assert batch["pixels"].shape == (60, 3, 60, 60) and batch["target"].shape == (60, 2)
    flags = batch["target"][:, 1]
    assert set(flags) == {0, 1} and 0.05 < flags.mean() < 0.4
    assert (batch["target"][flags == 1, 0] == 0).all() and batch["target"][:, 0].max() <= 0.95
    # The channels are red, green, blue: of the picture they come from, and not the other way round.
    red = np.zeros((220, 220, 3), np.uint8)
    red[..., 2] = 200
    plain = paper_patches.draw_single(replace(config, never=1.0), [red], image_weights([red]), random.Random(1), 60, 1)
    mean = plain["pixels"][0].mean((1, 2))
    assert mean[0] > mean[2]


def test_uchidas_network_begins_by_seeing_flat_places() -> None:
    torch.manual_seed(0)
    net = UchidaNet()
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(32), np.arange(32))[None].repeat(3, 0)  # a grey level and more from pixel to pixel
    noise = rng.integers(0, 256, (3, 32, 32))

    def flat(pixels: npt.NDArray[Any]) -> torch.Tensor:
        with torch.no_grad():
            first = torch.relu(net.convs[0](torch.from_numpy(pixels.astype(np.float32) / 255)[None]))
            return torch.relu(net.convs[1](first))[0, :FLAT, 8:-8, 8:-8]

    assert torch.allclose(flat(np.full((3, 32, 32), 90)), torch.ones(()), atol=1e-4)
    some, none = flat(ramp), flat(noise)
    assert (some.mean((1, 2)) < 0.1).any() and (some.mean((1, 2)) > 0.9).any()
    assert none.mean() < 0.1


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs as PNG."""
    home = tmp_path_factory.mktemp("images")
    for name, image in zip(("a", "b"), IMAGES, strict=True):
        cv2.imwrite(str(home / f"{name}.png"), image)
    return home


def test_one_cycle() -> None:
    rates = [fit_paper.rate(p / 100, 1e-3) for p in range(101)]
    assert max(rates) == pytest.approx(1e-3) and rates.index(max(rates)) == 10
    assert rates[0] < 1e-4 and rates[-1] < 1e-9


@pytest.mark.parametrize("name", ["densenet-qf90", "regression-qf90", "uchida"])
def test_the_loss_falls_on_one_batch(name: str, tmp_path: Path) -> None:
    config = replace(paper_config.load(name), context_share=0.0)
    trainer = fit_paper.Trainer(config, tmp_path, "cpu", minutes=1)
    trainer.state["cpu"] = 5.0  # where the rate is high, and a DenseNet still the shallow network
    batch = paper_patches.make_batch(config, IMAGES, WEIGHTS, random.Random(0), 2)
    for _ in range(6):
        trainer.step(batch)
    values = torch.stack(trainer.losses).tolist()
    assert min(values[3:]) < values[0]
    trainer.settle()
    assert not trainer.losses and min(values) <= trainer.state["loss"] <= max(values)
    assert trainer.state["steps"] == 6 and trainer.state["patches"] == 12


@pytest.mark.parametrize("kind", ["luma", "rgb"])
def test_a_densenet_begins_as_detectors_of_flat_places(kind: str) -> None:
    """Where nothing differs the first layers find it flat, and nowhere do they find it flatter than flat."""
    torch.manual_seed(0)
    config = replace(FLAT_CONFIG, input=kind)
    net: Any = paper_config.build(config)
    pixels = fit_paper.scaled(torch.from_numpy(noise(4, paper_config.INPUTS[kind], 64, 64)), "densenet")
    pixels[:, :, :, 32:] = 0.25
    densenet.see_flatness(net, pixels)
    for layer in (m for m in net.modules() if isinstance(m, torch.nn.Dropout)):
        layer.p = 0.0  # which would leave out differences, and flat places would not stand out as clearly
    first, second = net.blocks[0], net.blocks[1]
    x = first(net.first(pixels))
    found = x[:, densenet.FIRST :]
    assert found.max() <= 1e-3 and found[:, :, 4:60, 36:60].min() > -1e-3 and found[..., 4:28].mean() < -1
    seen = torch.relu(second.norm(x))[:, densenet.FIRST :]
    assert seen.max() <= 1.01 and seen[:, :, 4:60, 36:60].mean().item() == pytest.approx(1, abs=0.01)


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    config = paper_config.load("densenet-qf90")
    one = fit_paper.Trainer(config, tmp_path / "one", "cpu")
    one.net.last.bias.data += 1
    one.save()
    two = fit_paper.Trainer(paper_config.load("densenet-qf80"), tmp_path / "two", "cpu", start=tmp_path / "one")
    assert all(torch.equal(a, b) for a, b in zip(one.net.parameters(), two.net.parameters(), strict=True))
    other = paper_config.load("regression-qf90")
    three = fit_paper.Trainer(other, tmp_path / "three", "cpu", start=tmp_path / "one")
    assert torch.equal(three.net.first.weight, one.net.first.weight) and three.net.last.out_features == 15
    three.save()
    again = fit_paper.Trainer(other, tmp_path / "three", "cpu")
    assert again.start == str(tmp_path / "one") and three.begun, "nothing begins anew"


def test_windows_of_surroundings_share_the_label() -> None:
    torch.manual_seed(0)
    config = replace(paper_config.load("densenet-qf90"), context_share=1.0)
    made = paper_patches.make_batch(config, IMAGES, WEIGHTS, random.Random(0), 4)
    batch = {k: torch.from_numpy(v) for k, v in made.items()}
    net: Any = paper_config.build(config).eval()
    with torch.no_grad():
        loss = fit_paper.loss_of(config, net, batch)
        out = net(fit_paper.scaled(batch["pixels"], "densenet"), 32)
        assert out.shape == (1, 3, 3, 226)
        by_hand = [losses.q1_loss(out[:, r, c], batch["q1"]).mean() for r in range(3) for c in range(3)]
    assert loss.item() == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-5)


def test_a_run_is_gone_on_with(folder: Path, tmp_path: Path) -> None:
    """Stopped after its first seconds, continued by the same call to the end of its cycle, and then done."""
    config, lines = paper_config.load("uchida"), []
    config = replace(config, cpu=replace(config.cpu, batch=2))
    more = {"device": "cpu", "workers": 1, "say": lines.append}
    last = fit_paper.fit(config, folder, tmp_path / "run", minutes=0.5 / 60, **more)
    first = fit_paper.load(last)
    assert first["state"]["steps"] >= 1 and first["config"]["name"] == "uchida" and first["state"]["gpu"] == 0
    fit_paper.fit(config, folder, tmp_path / "run", minutes=first["state"]["cpu"] / 60 + 0.5 / 60, **more)
    second = fit_paper.load(last)
    assert second["state"]["steps"] > first["state"]["steps"]
    assert second["state"]["cpu"] > first["state"]["cpu"]
    said = json.loads(lines[-1])
    assert said["task"] == "uchida" and said["progress"] == 1 and said["steps"] == second["state"]["steps"]
    before = len(lines)
    fit_paper.fit(config, folder, tmp_path / "run", minutes=0.5 / 60, **more)
    assert len(lines) == before and fit_paper.load(last)["state"] == second["state"]
    # A GPU would begin its own cycle with these weights; another recipe would not begin at all.
    assert fit_paper.Trainer(config, tmp_path / "run", "cpu", minutes=9).progress < 1
    with pytest.raises(ValueError, match="another recipe"):
        fit_paper.Trainer(replace(config, never=0.5), tmp_path / "run", "cpu")


def test_the_precision_is_chosen_without_touching_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fit_paper.Trainer(paper_config.load("uchida"), tmp_path, "cpu", minutes=1)
    before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    batch = {"pixels": noise(1, 3, 12, 12), "target": np.zeros((1, 2), np.float32)}
    for capability, compared in (("avx2", False), ("avx512_bf16", True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", dict.fromkeys([capability], True).copy)
        passes: list[int] = []
        handle = trainer.net.register_forward_hook(lambda *_, seen=passes: seen.append(1))
        trainer.choose_precision(batch)
        handle.remove()
        assert bool(passes) == compared and (compared or not trainer.half)
    assert all(torch.equal(v, trainer.net.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for p in trainer.net.parameters())


def test_a_dead_worker_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    stream = paper_patches.Patches(
        paper_config.load("uchida"), tmp_path / "empty", seed=1, workers=1, size=2, per_crop=1
    )
    with pytest.raises(RuntimeError, match="has died"):
        next(stream)


def test_subsamplings_are_drawn() -> None:
    assert set(paper_config.load("uchida").subsamplings) <= set(compress.SUBSAMPLINGS)


# --- export -----------------------------------------------------------------------------------------------------------


def untrained(name: str, seed: int = 0) -> Any:
    """A network that nobody trained, of which the running statistics are those of random pixels."""
    torch.manual_seed(seed)
    config = paper_config.load(name)
    net: Any = paper_config.build(config)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.train()
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        if name == "uchida":
            net(torch.rand(1, 3, 60, 60))
        else:
            for layer in (m for m in net.modules() if isinstance(m, torch.nn.Conv2d)):
                layer.weight.copy_(layer.weight.half())  # as they are stored
            net(torch.rand(1, 1, 64, 64) - 0.5)
            net.last.weight.copy_((net.last.weight * 30).half())
    return net.eval()


def noise(*shape: int, seed: int = 0) -> Any:
    return rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("name", ["densenet-qf90", "regression-qf90", "uchida"])
def test_the_graph_equals_torch(name: str) -> None:
    net, network = untrained(name), paper_config.load(name).network
    model = export_paper.build_onnx(net, network)
    pixels = noise(2, 3, 20, 17) if name == "uchida" else noise(1, 1, 64, 83)
    near = export_paper.compare_torch(net, model, network, pixels)
    far = export_paper.compare_torch(untrained(name, 1), model, network, pixels)
    assert near < 1e-3 < far
    if name != "uchida":
        answers = export.open_session(model).run(None, {"pixels": pixels})[0]
        assert answers.shape == (1, 1, 3, {"densenet": 226, "regression": 15}[network])  # odd columns are left over
        if network == "densenet":
            assert np.exp(answers[..., :16]).sum(-1) == pytest.approx(1, abs=1e-4)
        assert np.ptp(answers, axis=2).max() > 0.01  # windows differ, or nothing was compared


@pytest.fixture(scope="module")
def shelf(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of networks that nobody trained, exported from checkpoints as a run leaves them."""
    home = tmp_path_factory.mktemp("weights")
    for name in ("densenet-qf90", "uchida"):
        run = tmp_path_factory.mktemp(name)
        # Of one that nobody trained no arithmetic can be replanted.
        trainer = fit_paper.Trainer(replace(paper_config.load(name), begin="flat"), run, "cpu", minutes=3)
        trainer.net = untrained(name)
        trainer.state |= {"cpu": 90.0, "steps": 5, "patches": 160, "loss": 1.5}
        trainer.images = [3, 3]
        trainer.save()
        export_paper.write(name, run, folder, home)
    return home


@pytest.fixture
def shelved(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weights, "folder", lambda: shelf)
    return shelf


def test_the_manifest_says_how_far_the_schedule_came(shelved: Path) -> None:
    said = weights.manifest("densenet-qf90")
    assert said["training"]["schedule"] == "3 minutes, cpu" and said["training"]["schedule_done"] == 0.5
    assert said["training"]["patches"] == 160 and said["qf2"] == 90 and said["reads"] == "luma"
    assert papermap.densenets() == (papermap.Choice("densenet-qf90", 90.0, "luma"),)
    weights.check("uchida")


def test_the_manifest_says_what_a_run_began_with(folder: Path, tmp_path: Path) -> None:
    flat, start = replace(paper_config.load("densenet-qf90"), begin="flat"), None
    for name, patches in (("one", 10), ("two", 20), ("three", 30)):
        trainer = fit_paper.Trainer(flat, tmp_path / name, "cpu", minutes=3, start=start)
        trainer.net = untrained("densenet-qf90")
        trainer.state |= {"patches": patches, "loss": 1.0}
        trainer.save()
        start = tmp_path / name
    export_paper.write("densenet-qf90", tmp_path / "three", folder, tmp_path / "weights")
    said = json.loads((tmp_path / "weights" / "densenet-qf90" / "manifest.json").read_text())["training"]
    assert said["patches"] == 30 and said["command"].endswith(f"--start {tmp_path / 'two'}")
    assert [(run["patches"], run["command"].count("--start")) for run in said["before"]] == [(20, 1), (10, 0)]


def test_a_run_that_is_not_yet_a_densenet_is_not_exported(folder: Path, tmp_path: Path) -> None:
    fit_paper.Trainer(paper_config.load("densenet-qf90"), tmp_path, "cpu", minutes=3).save()
    with pytest.raises(ValueError, match="still the shallow network; go on with the command that began it"):
        export_paper.write("densenet-qf90", tmp_path, folder, tmp_path / "weights")


def test_tiles_leave_no_trace(shelved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a strip that is longer than a tile with its surroundings every window gets what one pass gives."""
    model, strip = weights.load("densenet-qf90"), noise(1, 64, 363)
    whole = papermap.estimate(model, strip)
    assert whole.steps.shape == (1, 38, 15) and np.isfinite(whole.sure).all()
    monkeypatch.setattr(papermap, "TILE", 13)
    parts = papermap.estimate(model, strip)
    assert np.allclose(parts.sure, whole.sure, atol=1e-5)
    assert (parts.steps == whole.steps).mean() > 0.99
    monkeypatch.setattr(papermap, "MARGIN", 8)  # too little: it is seen
    assert not np.allclose(papermap.estimate(model, strip).sure, whole.sure, atol=1e-5)


def test_compare_writes_into_the_manifest(shelved: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_paper, "SIDE", 104)
    monkeypatch.setattr(export_paper, "TIMED", 64)
    monkeypatch.setattr(export_paper, "MARGINS", (0, 88))
    monkeypatch.setattr(export_paper.agreement, "__kwdefaults__", {"margins": (0, 88)})
    found = export_paper.compare("densenet-qf90", folder, images=1, windows=3)
    # With all that the image has around a window, the patch is the image.
    assert found["margins"]["88"] == {"same_15": 1.0, "same": 1.0, "difference": 0.0}
    assert found["margins"]["0"]["same"] < 1 and found["windows"] == 3
    kept = weights.manifest("densenet-qf90")["fully_convolutional"]
    assert kept["margins"].keys() == {"0", "88"} and kept["seconds_512"] > 0
    weights.check("densenet-qf90")


# --- measured beside the comb -----------------------------------------------------------------------------------------


def test_all_estimators_see_the_same_windows(folder: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comb's answers are those of the Q1 lines, and a network's those of the windows cut out by hand."""
    job = (folder / "a.png", measure_rows.MAIN_ROWS[0], 3, "seed")
    lines = measure_q1.isolated(job)
    comb = q1map.decode(lines["logp"])
    if not (shelf / q1map.MODEL).exists():
        shutil.copytree(weights.folder() / q1map.MODEL, shelf / q1map.MODEL)
    monkeypatch.setattr(weights, "folder", lambda: shelf)
    measure_paper._model.cache_clear()
    found = measure_paper.windows(job)
    measure_paper._model.cache_clear()
    assert np.array_equal(found["comb"], comb) and np.array_equal(found["truth"], lines["truth"])
    model = weights.load("densenet-qf90")
    for k, (data, _, _) in enumerate(measure_q1.isolated_files(job)):
        window = compress.decode(data, gray=True)[16:80, 16:80]
        answers = model(pixels=window[None, None])["logp"]
        assert np.array_equal(papermap.decode(answers)[0, 0, 0], found["densenet-qf90"][k])
    figures = measure_paper.window_figures(found)
    assert figures["windows"] == 3 and figures["accuracy comb"] == (comb == lines["truth"]).mean()
    assert figures["accuracy densenet-qf90"] == (found["densenet-qf90"] == lines["truth"]).mean()


def test_figures_of_crops_by_hand() -> None:
    parts = []
    for qualities in ([80.0, 84.0], [82.0]):
        q = np.array(qualities)
        one = {"said": q.size, "sum": q.sum(), "squares": (q**2).sum(), "error": np.abs(q - 80).sum()}
        one |= {"flagged": 4.0, "flags": 1.0}
        none = dict.fromkeys(one, 0.0)
        parts.append({f"comb {k}": v for k, v in none.items()} | {f"uchida {k}": v for k, v in one.items()})
    found = measure_paper.crop_figures(parts)
    assert found["mean uchida"] == 82 and found["deviation uchida"] == pytest.approx(np.sqrt(8 / 3))
    assert found["mae uchida"] == 2 and found["uncompressed uchida"] == 0.25
    assert found["mean comb"] is found["mae comb"] is found["uncompressed comb"] is None


def test_nothing_is_measured_where_there_is_no_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    assert measure_paper.measure_networks({"photos": [folder / "a.png"]}, 2, 1) == {"photos": {}}
    results = {"papers-networks": {"photos": {}}, "command": "c", "machine": {}, "models": {}, "seconds": {}}
    assert "No model for isolated windows is at hand." in measure_report.report(results)


def test_the_section_reads_as_two_tables() -> None:
    rows = {"QF2 90": {"windows": 3, "accuracy comb": 0.5}, "QF 50": {"images": 1, "mean uchida": 51.0}}
    results = {"papers-networks": {"photos": rows}, "command": "c", "machine": {}, "models": {}, "seconds": {}}
    text = measure_report.report(results)
    assert "| QF2 90 | 3 | 0.500 |" in text and "| QF 50 | 1 | 51.0 |" in text
    assert ("papers-networks", "photos", "QF2 90", "", "accuracy comb", 0.5) in measure_report.tidy(results)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_colours_run_from_blue_to_red_and_the_unknown_is_grey() -> None:
    out = figures.coloured(np.array([[1.0, 9.0, np.nan]]), 1, 9)
    low, high, unknown = out[0].astype(int)
    assert low[2] > 100 > low[0] and high[0] > 100 > high[2] and tuple(unknown) == figures.UNKNOWN


def test_figures_are_drawn_without_the_papers_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papermap, "densenets", lambda: ())
    image = tmp_path / "a.jpg"
    image.write_bytes(file_of(photo()[:96, :128], quality=90))
    figures.main(["tondi12", str(image), "--out", str(tmp_path / "out")])
    drawn = np.asarray(Image.open(tmp_path / "out" / "tondi12-a.png"))
    down = figures.HEAD + figures.GAP + round(figures.PANEL * 96 / 128)
    assert drawn.shape == (figures.GAP + 2 * down, figures.GAP + 4 * (figures.PANEL + figures.BAR + figures.GAP), 3)
    rows = [drawn[figures.GAP + figures.HEAD + k * down + 60 :][:100, figures.PANEL + 120 :][:, :200] for k in range(2)]
    assert (rows[0] != 255).mean() > 0.5 > (rows[1] != 255).mean()  # jscan's map, and an empty place
    picture = tmp_path / "b.png"
    picture.write_bytes(file_of(photo()[:96, :128], "PNG"))
    with pytest.raises(ValueError, match="no JPEG"):
        figures.tondi12(picture)
    monkeypatch.setattr(papermap, "UCHIDA", "not-there")
    figures.main(["uchida-flag", str(picture), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "uchida-flag-b.png").stat().st_size > 1000


def test_a_figure_shows_the_network_where_it_is_there(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(file_of(photo()[:80, :96], quality=90))
    opened = figures._opened(image)
    monkeypatch.setattr(figures, "_opened", lambda _: opened)
    monkeypatch.setattr(weights, "folder", lambda: shelf)
    panels: list[Any] = []
    monkeypatch.setattr(figures, "drawn", lambda rows, size: panels.extend(rows))
    figures.tondi12(image)
    whole = papermap.estimate(weights.load("densenet-qf90"), opened[0].luma[None]).steps
    wanted = papermap.to_cells(whole, (80, 96))
    for panel, i in zip(panels[1][1:], figures.COEFFICIENTS, strict=True):
        assert panel.title == f"densenet-qf90, coefficient {i}" and panel.values.shape == (80, 96)
        assert np.array_equal(panel.values[::8, ::8], wanted[..., i - 1])
