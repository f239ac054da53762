"""The shallow network that a DenseNet begins as, and what is kept of it in training."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from material import photo
from scipy.signal import convolve2d

from jscan.jpegtables import ZIGZAG, dct_basis
from train import fit_paper, paper_config, paper_patches
from train.dataset import image_weights
from train.networks import steps
from train.networks.densenet import FIRST, GROWTH, DenseNet
from train.networks.steps import COEFS, UNIT, Steps, plant

IMAGES = [np.ascontiguousarray(photo(name, 1.0)[..., ::-1]) for name in ("astronaut", "coffee")]
CONFIG = paper_config.load("densenet-qf90")


def patches(count: int, **more: Any) -> paper_patches.Batch:
    config = replace(CONFIG, **{"context_share": 0.0, **more})
    return paper_patches.make_batch(config, IMAGES, image_weights(IMAGES), random.Random(1), count)


def trained_a_little(pixels: torch.Tensor) -> Steps:
    """Its statistics are those of these pixels, and what was the same for all scores no longer is."""
    torch.manual_seed(0)
    shallow = Steps()
    shallow.norm.momentum = 1.0
    with torch.no_grad():
        shallow.teeth.mul_(1 + 0.1 * torch.rand_like(shallow.teeth))
        shallow.mix.add_(0.1 * torch.randn_like(shallow.mix))
        shallow.last.bias.normal_()
        shallow(pixels)
    return shallow.eval()


@pytest.mark.parametrize("frequency", range(8))
def test_kernels_multiply_out_to_the_transform(frequency: int) -> None:
    kernels, factor = steps.factors(frequency)
    whole = kernels[0]
    for kernel in kernels[1:]:
        whole = np.convolve(whole, kernel)
    assert all(len(k) == 3 for k in kernels)
    assert np.append(dct_basis()[frequency], 0) == pytest.approx(whole * factor, abs=1e-6)


@pytest.mark.parametrize("coefficient", COEFS)
def test_a_coefficient_is_four_kernels_none_of_which_gives_more_than_1(coefficient: int) -> None:
    down, along = ZIGZAG[coefficient]
    kernels = steps.chain(coefficient)
    whole, most = np.ones((1, 1)), []
    for kernel in kernels:
        whole = convolve2d(whole, kernel)
        most.append(0.5 * np.abs(whole).sum())
    wanted = np.outer(dct_basis()[down], dct_basis()[along]) * 255 / UNIT
    assert np.pad(wanted, ((0, 1), (0, 1))) == pytest.approx(whole, abs=1e-5)
    assert most[:3] == pytest.approx([1, 1, 1])
    assert abs(kernels[0].sum()) < 1e-9, "a difference first"
    # What is 1e-7 of the most that there can be, once in each of four pixels, is a small share of a grey level.
    rounded_by = [1e-7 * np.linalg.norm(kernels[3]), 1e-7 * np.linalg.norm(convolve2d(kernels[2], kernels[3]))]
    assert UNIT * steps.LIFT * max(rounded_by) < 0.01 * steps.AT_LEAST


def test_no_triangle_is_narrower_than_what_a_densenet_rounds_by() -> None:
    shallow = Steps()
    with torch.no_grad():
        shallow.widths[0, 0], shallow.widths[1, 1] = -9.0, 1.0
    assert float(shallow.feet()[0, 0].detach()) == pytest.approx(steps.AT_LEAST / UNIT)
    assert float(shallow.feet()[1, 1].detach()) == pytest.approx(np.e)
    far = torch.full((1, 1, 1, shallow.widths.numel()), -steps.AT_LEAST / UNIT / 2)
    assert float(shallow.near(far)[0, 0, 0, 0].detach()) == pytest.approx(0.5)


@pytest.mark.parametrize("distance", [2, 4, 8])
def test_kernels_multiply_out_to_places_that_are_apart(distance: int) -> None:
    impulse = torch.zeros(1, 2, 25, 25)
    impulse[:, :, 12, 12] = 2.0
    found = steps.add(impulse, steps.apart(distance))
    wanted = torch.zeros(25, 25)
    half = distance // 2
    wanted[12 - half :: distance, 12 - half :: distance][:2, :2] = 1.0
    assert torch.allclose(found, wanted.expand_as(found), atol=1e-5)


def test_a_score_is_told_where_blocks_of_the_first_compression_begin() -> None:
    """The loss of blocks is lowest for scores that are high there and nowhere else, and of the right quality."""
    batch = patches(6, qf1=(61, 61))
    corner, qf1 = torch.from_numpy(batch["corner"]), torch.from_numpy(batch["qf1"])
    begins = torch.zeros(6, 1, 64, 64)
    for k, (down, right) in enumerate(corner.tolist()):
        begins[k, :, steps.CORNER + down :: 8, steps.CORNER + right :: 8] = 1
    first, last = torch.eye(GROWTH)[[0, -1]][:, None, :, None, None]
    good = steps.of_blocks(begins * (20 * first - 10) - 10 * (1 - begins), corner, qf1)
    assert good < 1e-3
    assert steps.of_blocks(begins * (20 * last - 10) - 10 * (1 - begins), corner, qf1) > good + 0.1
    assert steps.of_blocks(begins.roll(1, 3) * (20 * first - 10) - 10, corner, qf1) > good + 0.1
    between = torch.tensor([62.5] * 6)  # half the first, half the second
    assert float(steps.of_blocks(torch.zeros(6, GROWTH, 64, 64), corner, between)) == pytest.approx(
        np.log(13), abs=1e-5
    )


def test_corners_are_those_of_the_first_compression() -> None:
    """There, and nowhere else, coefficients lie on its steps but for what the second compression added."""
    batch = patches(4, qf1=(60, 60), qf2=98)
    basis = torch.from_numpy(dct_basis())
    for pixels, q1, (down, right) in zip(batch["pixels"], batch["q1"], batch["corner"], strict=True):
        blocks = torch.from_numpy(pixels[0].astype(np.float32)).unfold(0, 8, 1).unfold(1, 8, 1)
        off = torch.zeros(57, 57)
        for i in (1, 2, 3, 4, 5):
            values = torch.einsum("yxab,a,b->yx", blocks, basis[ZIGZAG[i][0]], basis[ZIGZAG[i][1]]) / float(q1[i - 1])
            off += (values - values.round()).abs()
        phases = torch.stack([off[y::8, x::8].mean() for y in range(8) for x in range(8)])
        assert int(phases.argmin()) == 8 * int(down) + int(right)


@torch.no_grad()
def test_a_densenet_begins_as_the_shallow_network() -> None:
    pixels = fit_paper.scaled(torch.from_numpy(patches(12)["pixels"]), "densenet")
    shallow = trained_a_little(pixels)
    net = DenseNet(1, 226, 0.0).eval()
    plant(shallow, net, pixels)
    assert (shallow(pixels) - net(pixels)[:, 0, 0]).abs().max() < 0.1 * shallow(pixels).std()
    # -|c| of each coefficient, in the middle of a patch.
    x = net.blocks[: steps.SQUARES](net.first(pixels[:4]))[:, FIRST + GROWTH * (steps.SQUARES - 1) :]
    levels = (pixels[:4, 0] * 255).unfold(1, 8, 1).unfold(2, 8, 1)
    basis = torch.from_numpy(dct_basis())
    for k, i in enumerate(COEFS):
        wanted = torch.einsum("nyxab,a,b->nyx", levels, basis[ZIGZAG[i][0]], basis[ZIGZAG[i][1]]).abs()
        found = -UNIT * x[:, k, steps.CORNER : steps.CORNER + 57, steps.CORNER : steps.CORNER + 57]
        error = (found - wanted)[:, 4:-4, 4:-4]
        assert (error - error.median()).abs().median() < 0.05  # but for a constant, which the next layers take away


def test_a_shallow_network_is_gone_on_with(tmp_path: Path) -> None:
    trainer = fit_paper.Trainer(CONFIG, tmp_path, "cpu", minutes=1)
    trainer.state["cpu"] = 2.0
    for share in (0.0, 1.0):  # with surroundings, of which each quarter is a patch
        trainer.step(patches(8, context_share=share))
    assert [len(windows["pixels"]) for windows in trainer.recent] == [8, 8]
    trainer.save()
    again = fit_paper.Trainer(CONFIG, tmp_path, "cpu", minutes=1)
    assert again.shallow is not None and torch.equal(again.steps.mix, trainer.steps.mix)
    assert again.state["steps"] == 2 and not again.recent
    # At the end of its share there may be nothing yet to plant on.
    again.state["cpu"] = 59.0
    again.step(patches(8))
    again.step(patches(8))
    assert again.shallow is None and again.shallow_share == CONFIG.cpu.shallow
    # Where its weights are begun with, or on a machine of another kind, the whole cycle is the DenseNet's.
    again.save()
    assert fit_paper.Trainer(CONFIG, tmp_path / "other", "cpu", start=tmp_path).shallow_share == 0


def test_a_run_of_another_shallow_network_is_told_of(tmp_path: Path) -> None:
    trainer = fit_paper.Trainer(CONFIG, tmp_path, "cpu", minutes=1)
    trainer.save()
    saved = fit_paper.load(trainer.last)
    saved["steps"]["mix"] = saved["steps"]["mix"][:, 1:]
    torch.save(saved, trainer.last)
    for folder, start in ((tmp_path, None), (tmp_path / "other", tmp_path)):
        with pytest.raises(ValueError, match="another kind; begin anew"):
            fit_paper.Trainer(CONFIG, folder, "cpu", start=start)


def test_a_new_last_layer_is_the_best_for_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fit_paper.Trainer(CONFIG, tmp_path / "one", "cpu", minutes=1)
    batch = patches(12)
    pixels = trainer.windows(batch)["pixels"]
    trainer.steps.load_state_dict(trained_a_little(pixels).state_dict())
    trainer.recent.append({"pixels": pixels})
    trainer.plant()
    trainer.save()
    monkeypatch.setattr(fit_paper, "MANY", 12)
    config = replace(paper_config.load("regression-qf90"), context_share=0.0)
    other = fit_paper.Trainer(config, tmp_path / "two", "cpu", minutes=1, start=tmp_path / "one")
    on = {k: torch.from_numpy(v) for k, v in batch.items()}

    def loss() -> float:
        with torch.no_grad():
            return float(fit_paper.loss_of(config, other.model, on))

    before = loss()
    assert other.new_last
    other.fit_last([other.windows(batch)])
    variance = torch.from_numpy(batch["q1"]).float().var(0, correction=0).mean().item()
    assert loss() < 0.9 * variance < before


def test_a_regression_begins_with_the_features_and_its_own_last_layer(tmp_path: Path) -> None:
    trainer = fit_paper.Trainer(paper_config.load("regression-qf90"), tmp_path, "cpu", minutes=1)
    for seconds in (2.0, 59.0):
        trainer.state["cpu"] = seconds
        trainer.step(patches(8))
    assert trainer.shallow is None and trainer.net.last.weight.abs().max() > 0


def test_only_luma_begins_as_steps() -> None:
    with pytest.raises(ValueError, match="luma"):
        replace(CONFIG, input="rgb")
    with pytest.raises(ValueError, match="without dropout"):
        replace(CONFIG, dropout=0.2)
