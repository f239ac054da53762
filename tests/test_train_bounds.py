"""What the bounds are measured with: windows around one place, and attention that is told where to look."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from material import photo

from jscan import q1map, weights
from jscan.jpegtables import standard_table
from train import bounds, fit
from train.comb import q1_bands
from train.published import restore


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bounds.Sample:
    """16 windows of a photograph."""
    path = tmp_path_factory.mktemp("images") / "astronaut.png"
    cv2.imwrite(str(path), photo()[..., ::-1])
    return bounds.draw([path], 95, 16, "test")


def test_larger_windows_lie_around_the_smaller_ones(sample: bounds.Sample) -> None:
    small, large = sample.middle(64), sample.middle(128)
    assert small.shape == (16, 64, 64) and np.array_equal(large[:, 32:96, 32:96], small)
    assert np.allclose(sample.deviation, small.reshape(16, -1).std(axis=1))
    tables = {tuple(standard_table(qf)[1:5]) for qf in range(60, 99)}
    assert {tuple(q) for q in sample.q1[:, 1:5].tolist()} <= tables and len(set(sample.shift.tolist())) > 4


def test_aligned_windows_are_of_the_same_places(sample: bounds.Sample, tmp_path: Path) -> None:
    path = tmp_path / "astronaut.png"
    cv2.imwrite(str(path), photo()[..., ::-1])
    aligned = bounds.draw([path], 95, 16, "test", aligned=True)
    assert not aligned.shift.any() and np.array_equal(aligned.q1, sample.q1)
    assert np.corrcoef(aligned.deviation, sample.deviation)[0, 1] > 0.8  # they are up to 7 pixels away


def test_the_network_is_told_the_shift(sample: bounds.Sample) -> None:
    net = fit.build("q1").eval()
    restore(net, q1_bands(), Path(weights.folder()) / q1map.MODEL / "model.onnx")
    torch.set_num_threads(1)
    own = net.trunk.attention
    alone, told = (bounds.answer(net, sample, 95, 64, told) for told in (False, True))
    assert net.trunk.attention is own
    # Where it sees the shift by itself, being told it changes next to nothing; being told another one, everything.
    wrong = bounds.answer(
        net, bounds.Sample(sample.pixels, sample.q1, (sample.shift + 27) % 64, sample.deviation), 95, 64, True
    )
    right = [float((q1map.decode(logp) == sample.q1).mean()) for logp in (alone, told, wrong)]
    assert right[0] > 0.7 and right[1] > right[0] - 0.1 and right[2] < right[1] - 0.1
    lines = bounds.lines(net, sample, 95)
    assert next(iter(lines)) == "64 x 64" and lines["64 x 64"]["accuracy"] == pytest.approx(right[0])
    assert len(lines) == 2 * len(bounds.SIDES)
