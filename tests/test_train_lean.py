"""A planted DenseNet as it is trained: the same function, and the same gradients, by less work."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from material import photo
from test_train_steps import CONFIG, IMAGES, patches, trained_a_little
from torch import Tensor, nn
from torch.nn import functional

from jscan import weights
from jscan.jpegtables import Q1_OFFSET
from train import export_paper, fit_paper
from train.losses import q1_loss
from train.networks import lean, lean_by_torch
from train.networks.densenet import GROWTH, LAYERS, DenseLayer, DenseNet, affine
from train.networks.lean import Lean
from train.networks.steps import AT_LEAST, NOWHERE, PASSED_ON, UNIT, coefficients, plant, replant

BATCH = patches(6)
PIXELS = fit_paper.scaled(torch.from_numpy(BATCH["pixels"]), "densenet")
Q1 = torch.from_numpy(BATCH["q1"])


def planted() -> Lean:
    """With a last layer that reads everything."""
    shallow = trained_a_little(PIXELS)
    net = DenseNet(1, 226, 0.0).eval()
    plant(shallow, net, PIXELS)
    with torch.no_grad():
        net.last.weight.normal_(0, 0.01)
    return Lean(shallow, net)


def trained(model: Lean, count: int) -> list[float]:
    """The losses of so many steps."""
    optimizer = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], 1e-3)
    losses = []
    for _ in range(count):
        loss = q1_loss(model(PIXELS)[:, 0, 0], Q1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def inside() -> Tensor:
    """A larger picture, of four patches."""
    return torch.cat([torch.cat([*PIXELS[k : k + 2]], 1) for k in (0, 2)], 2)[None]


def differ(a: Tensor, b: Tensor) -> float:
    """The largest difference by the deviation of the second."""
    return float((a - b).abs().max() / b.std())


@torch.no_grad()
@pytest.mark.parametrize("pixels", [PIXELS, inside()], ids=["patches", "inside"])
def test_it_answers_as_the_densenet(pixels: Tensor) -> None:
    model = planted()
    assert differ(model(pixels, 32), model.net(pixels, 32)) < 0.01
    # All features, but for rounding where places are near a threshold.
    here, there = model.features(pixels), model.net.features(pixels)
    assert here.shape == there.shape and ((here - there).abs().mean() / there.std()) < 0.01


@torch.no_grad()
def test_coefficients_are_the_densenet_s_and_of_whole_blocks_the_transform_s() -> None:
    """Of edges of 255 levels among what deviates by a few as well: nothing is cut off, and hardly anything rounded."""
    shallow, net, pixels = trained_a_little(PIXELS), DenseNet(1, 226, 0.0).eval(), PIXELS / 30
    plant(shallow, net, pixels)
    pixels[:, :, 20:40, 30:41] = 0.5
    pixels[:, :, 25:33, 10:60:3] = -0.5
    x = net.first(pixels)
    for layer in net.blocks[:3]:
        x = layer(x)
    theirs, ours = x[:, -GROWTH:].permute(0, 2, 3, 1), coefficients(net, pixels)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    far = -shallow.far(pixels)[..., :GROWTH]
    whole = far < NOWHERE
    assert whole[0, :, :, 0].sum() == 57 * 57
    rounded_by = UNIT * (theirs.abs() - far)[whole].abs()
    assert rounded_by.max() < 0.2 * AT_LEAST
    assert rounded_by.mean() < 0.02 * AT_LEAST
    assert theirs.abs()[:, 0].median() > 100, "beyond the borders, where it is nowhere"


@torch.no_grad()
def test_it_is_the_densenet_but_for_borders() -> None:
    """In the middle of a picture, from which sums do not reach the borders."""
    small = np.ascontiguousarray(photo("astronaut", 1.0)[30:222, 140:332, 1])
    picture = fit_paper.scaled(torch.from_numpy(small)[None, None], "densenet")
    model = planted()
    before = model(picture, 32)[0]
    for changed in (False, True):
        if changed:
            for some in (w for w in model.parameters() if w.requires_grad):
                some.mul_(1 + 0.05 * torch.rand_like(some))
            replant(model.steps, model.net, PIXELS[:6])
        here, there = model(picture, 32)[0], model.net(picture, 32)[0]
        assert here.shape == (5, 5, 226)
        between = here.flatten(0, 1).std(0).mean()  # of windows
        assert (here - there)[2, 2].abs().max() < 0.01 * between
        assert (here - there).abs().max() < 0.1 * here.std()
    assert (here - before)[2, 2].abs().max() > 0.5 * between


def test_a_densenet_is_made_of_what_was_trained() -> None:
    """Teeth, weights and floors have moved, and its first block with them."""
    model = planted()
    before = copy.deepcopy(model)
    losses = trained(model, 6)
    assert losses[-1] < losses[0] - 0.5
    moved = {k for k, w in model.state_dict().items() if not torch.equal(w, before.state_dict()[k])}
    held = {f"net.blocks.{k}." for k in (*range(LAYERS), *PASSED_ON)}
    assert {"steps.teeth", "steps.widths", "steps.mix", "steps.floor", "net.last.weight"} <= moved
    assert f"net.blocks.{LAYERS}.conv.weight" in moved and "steps.last.weight" not in moved
    assert not any(k.startswith(("net.first", *held)) or "running" in k or k.endswith("norm.weight") for k in moved)
    made = copy.deepcopy(model.net)
    with torch.no_grad():
        model.steps.teeth.mul_(1.2)  # as far as many steps move them
        wanted = model(PIXELS)
        apart = differ(made(PIXELS), wanted)
        replant(model.steps, made, PIXELS)
        assert differ(made(PIXELS), wanted) < min(0.1, apart / 2)
        assert differ(made(inside(), 32), model(inside(), 32)) < 0.1


def test_gradients_are_those_of_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    def dense(x: Tensor, layers: Any) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        for layer in layers:
            x = layer.eval()(x)
        return x.permute(0, 2, 3, 1)

    def move(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> Tensor:
        read = functional.relu(x * scale + shift) @ weight.T
        return functional.avg_pool2d(read.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)

    # In single precision rounding puts now and then a value on the other side of 0 before a ReLU.
    model, pixels = planted().double(), PIXELS.double()
    model.sums = [[k.double() for k in kernels] for kernels in model.sums]
    found = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(lean, "dense", dense)
            monkeypatch.setattr(lean, "_move", move)
        model.zero_grad()
        q1_loss(model(pixels)[:, 0, 0], Q1).mean().backward()  # type: ignore[no-untyped-call]
        found.append({k: w.grad.clone() for k, w in model.named_parameters() if w.grad is not None})
    ours, plain_ones = found
    assert ours.keys() == plain_ones.keys() and len(ours) > 40
    for name, gradient in plain_ones.items():
        assert (ours[name] - gradient).abs().max() < 1e-6 * gradient.abs().max(), name


def test_each_function_has_its_gradient() -> None:
    """In double precision, by differences."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(5, 9 * GROWTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lean._Convolved.apply, (x, kernel))
    scale, shift = torch.rand(5, dtype=torch.float64) + 0.5, torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lean._Halved.apply, (x, scale, shift))
    layers = [DenseLayer(5 + GROWTH * k, 0.0).double().eval() for k in range(2)]
    weights = [w.detach().requires_grad_(k % 3 > 0) for k, w in enumerate(_weights(layers))]
    assert torch.autograd.gradcheck(lean._Dense.apply, (x, *weights))


def _weights(layers: list[DenseLayer]) -> list[Tensor]:
    """Scale, shift and matrix of each."""
    out: list[Tensor] = []
    for layer in layers:
        layer.norm.running_mean.normal_()  # type: ignore[union-attr]
        scale, shift = affine(layer.norm)
        out += [scale, shift, layer.conv.weight.permute(1, 2, 3, 0).flatten(1)]
    return out


@torch.no_grad()
def test_a_dense_layer_is_a_convolution() -> None:
    torch.manual_seed(0)
    layers = [DenseLayer(20 + GROWTH * k, 0.0).eval() for k in range(3)]
    _weights(layers)
    x = torch.randn(2, 6, 10, 20)
    wanted = nn.Sequential(*layers)(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert torch.allclose(lean.dense(x, layers), wanted, atol=1e-4)


@torch.no_grad()
def test_spreading_undoes_nothing_but_adds_up_the_same() -> None:
    """<convolve(x, weight), g> = <x @ weight, spread(g)>."""
    torch.manual_seed(0)
    x, weight, g, out = (torch.randn(s) for s in ((2, 5, 7, 8), (8, 9 * GROWTH), *[(2, 5, 7, GROWTH)] * 2))
    lean_by_torch.convolve(x, weight, out)
    assert float((out * g).sum()) == pytest.approx(float((x @ weight * lean_by_torch.spread(g)).sum()), rel=1e-4)


@torch.no_grad()
def test_half_precision_answers_alike() -> None:
    model = planted()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(PIXELS)
    assert half.dtype == torch.float32 and differ(half, model(PIXELS)) < 0.02


def test_a_planted_run_is_gone_on_with(tmp_path: Path) -> None:
    config = replace(CONFIG, context_share=0.0)
    trainer = fit_paper.Trainer(config, tmp_path, "cpu", minutes=1)
    trainer.step(patches(4))
    trainer.state["cpu"] = 45.0
    for _ in range(2):
        trainer.step(patches(4))
    trainer.save()
    again = fit_paper.Trainer(config, tmp_path, "cpu", minutes=1)
    assert again.shallow is None and isinstance(again.model, Lean)
    with torch.no_grad():
        assert torch.equal(again.model(PIXELS), trainer.model(PIXELS))
    for one in (trainer, again):
        one.step(patches(4))
    with torch.no_grad():
        assert differ(again.model(PIXELS), trainer.model(PIXELS)) < 1e-3  # the moments, too, are those of before


def test_what_was_trained_is_what_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step touches the first block of the DenseNet; the model's is that of what has moved in its place."""
    cv2.imwrite(str(tmp_path / "a.png"), IMAGES[0])
    model = planted()
    trainer = fit_paper.Trainer(CONFIG, tmp_path / "run", "cpu", minutes=1)
    with torch.no_grad():
        model.steps.teeth.mul_(1.3)
        model.steps.floor.add_(2.0)
        trainer.steps.load_state_dict(model.steps.state_dict())
        trainer.net.load_state_dict(model.net.state_dict())
        wanted, begun = (_chances(net(PIXELS)[:, 0, 0]) for net in (model, model.net))
    trainer.shallow = None
    trainer.save()
    monkeypatch.setattr(export_paper, "FEW", 8)
    monkeypatch.setattr(weights, "folder", lambda: tmp_path / "weights")
    export_paper.write("densenet-qf90", tmp_path / "run", tmp_path, tmp_path / "weights")
    found = _chances(torch.from_numpy(weights.load("densenet-qf90")(pixels=BATCH["pixels"])["logp"][:, 0, 0]))
    assert (found - wanted).std() < 0.1 * (begun - wanted).std()


def _chances(logits: Tensor) -> Tensor:
    """Of each step of each coefficient."""
    return torch.cat([logits[:, a:b].softmax(1) for a, b in pairwise(Q1_OFFSET)], 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton compiles for a GPU, and there is none")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_gpu_computes_the_same(kind: torch.dtype) -> None:
    from train.networks import lean_gpu

    torch.manual_seed(0)
    near = {"rtol": 1e-4, "atol": 1e-4} if kind == torch.float32 else {"rtol": 2e-2, "atol": 5e-2}

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").to(kind)

    def same(a: Tensor, b: Tensor) -> None:
        assert torch.allclose(a.float(), b.float(), **near)

    x, scale, shift = random(2, 8, 6, 84), random(60).abs() + 0.5, random(60)
    part = x[..., :60]
    read = lean_by_torch.read(part, scale, shift)
    same(lean_gpu.read(part, scale, shift), read)
    inner, ours, theirs = random(2, 8, 6, 60), x.clone(), x.clone()
    same(
        lean_gpu.read_back(inner, read, ours[..., :60], scale),
        lean_by_torch.read_back(inner, read, theirs[..., :60], scale),
    )
    same(ours, theirs)
    weight = random(60, 9 * GROWTH) / 8
    lean_gpu.convolve(read, weight, ours[..., 60:72])
    lean_by_torch.convolve(read, weight, theirs[..., 60:72])
    same(ours, theirs)
    same(lean_gpu.spread(x[..., 12:24]), lean_by_torch.spread(x[..., 12:24]))
    scale, shift = random(84).abs() + 0.5, random(84)
    half = lean_by_torch.halved(x, scale, shift)
    same(lean_gpu.halved(x, scale, shift), half)
    for a, b in zip(
        lean_gpu.halved_back(half, x, scale, shift), lean_by_torch.halved_back(half, x, scale, shift), strict=True
    ):
        same(a, b)
