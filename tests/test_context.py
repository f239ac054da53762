"""The context model: what a window says, in the light of its neighbours."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jscan import context
from jscan.jpegtables import N_COEFS, Q1_OFFSET
from jscan.records import WindowPosteriors
from train import export, fit_context, graphs
from train.networks.context import REACH, SHIFTS, STEPS, ContextNet, normalise

Q2 = tuple(range(3, 67))


def found(rows: int, cols: int, seed: int = 0) -> WindowPosteriors:
    """Random posteriors of rows x cols windows."""
    g = torch.Generator().manual_seed(seed)
    logp = normalise(3 * torch.randn(rows, cols, STEPS, generator=g)).numpy().astype(np.float16)
    shift = (3 * torch.randn(rows, cols, SHIFTS, generator=g)).log_softmax(-1).numpy().astype(np.float16)
    present = torch.rand(rows, cols, generator=g).numpy()
    return WindowPosteriors(logp, shift, present, (3, 5), (rows * 16 + 48, cols * 16 + 48))


def content(rows: int, cols: int) -> tuple[Any, Any]:
    """Texture and saturation of the windows."""
    g = np.random.default_rng(1)
    return g.random((rows, cols), np.float32), g.random((rows, cols), np.float32)


def network(seed: int | None) -> ContextNet:
    """A network that nobody trained; without a seed, one that adds nothing."""
    net = ContextNet(16).eval()
    if seed is not None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(0.2 * torch.randn_like(p))
    return net


class Session:
    """What `refine` needs of a model, run on a graph in memory."""

    def __init__(self, net: ContextNet, prior: float = 0.0) -> None:
        self.session = export.open_session(graphs.context_onnx(net, prior))

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        names = list(graphs.CONTEXT_OUTPUTS)
        return dict(zip(names, self.session.run(names, inputs), strict=True))


def refine(net: ContextNet, windows: WindowPosteriors) -> WindowPosteriors:
    model: Any = Session(net)
    return context.refine(model, windows, Q2, *content(*windows.present.shape))


def test_the_export_equals_torch() -> None:
    net = network(0)
    assert export.compare_context(net, graphs.context_onnx(net, 0.4), 0.4) < 1e-4


def test_a_network_that_adds_nothing_changes_little() -> None:
    windows = found(6, 9)
    refined = refine(network(None), windows)
    assert np.abs(np.exp(refined.logp.astype(float)) - np.exp(windows.logp.astype(float))).max() < 0.1
    assert np.abs(np.exp(refined.shift.astype(float)) - np.exp(windows.shift.astype(float))).max() < 0.3
    inside = (windows.present > 0.02) & (windows.present < 0.98)
    assert np.abs(refined.present - windows.present)[inside].max() < 1e-3
    assert refined.origin == windows.origin and refined.size == windows.size


def test_posteriors_stay_posteriors() -> None:
    refined = refine(network(2), found(8, 8))
    assert refined.logp.dtype == refined.shift.dtype == np.float16 and refined.present.dtype == np.float32
    for a, b in pairwise(Q1_OFFSET):
        assert np.allclose(np.exp(refined.logp[..., a:b].astype(float)).sum(-1), 1, atol=0.02)
    assert np.allclose(np.exp(refined.shift.astype(float)).sum(-1), 1, atol=0.02)
    assert refined.logp.min() >= context.LOWEST and 0 <= refined.present.min() <= refined.present.max() <= 1


@pytest.mark.parametrize(("present", "heard"), [(0.1, False), (0.4, True)])
def test_neighbours_are_heard_where_there_are_claims_or_doubts(present: float, heard: bool) -> None:
    windows = found(8, 8)
    windows.present[:] = present  # none claims a first compression
    refined = refine(network(2), windows)
    assert np.array_equal(refined.logp, windows.logp) is not heard
    model: Any = Session(network(2))
    asked = context.refine(model, windows, Q2, *content(8, 8), everywhere=True)
    assert not np.array_equal(asked.logp, windows.logp)
    windows.present[0] = 0.9  # an eighth of them does
    assert not np.array_equal(refine(network(2), windows).logp, windows.logp)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    windows, net = found(40, 23), network(3)
    whole = refine(net, windows)
    monkeypatch.setattr(context, "SIDE", 9)
    tiled = refine(net, windows)
    for name in ("logp", "shift", "present"):
        a, b = (getattr(x, name).astype(float) for x in (whole, tiled))
        assert np.allclose(a, b, atol=1e-2 if name != "present" else 1e-5), name


def test_the_reach_is_that_of_the_network() -> None:
    assert context.REACH == REACH
    windows, net = found(20, 20), network(4)
    before = refine(net, windows)
    logp = windows.logp.copy()
    logp[0] = found(1, 20, seed=9).logp[0]
    after = refine(net, WindowPosteriors(logp, windows.shift, windows.present, windows.origin, windows.size))
    changed = np.abs(before.shift - after.shift).max(axis=(1, 2)) > 0
    assert changed[1:].any() and not changed[REACH + 1 :].any()


def test_varied_pieces_keep_what_is_true() -> None:
    rng = random.Random(0)
    piece = {
        "shift": torch.arange(64).expand(4, 4, 64).float() * 0,
        "place": torch.randint(0, 64, (4, 4)),
        "q2": torch.ones(N_COEFS),
        "present": torch.rand(4, 4),
    }
    piece["shift"] = torch.nn.functional.one_hot(piece["place"], 64).float()
    for _ in range(20):
        varied = fit_context.vary(piece, rng)
        assert torch.equal(varied["shift"].argmax(-1), varied["place"])
        assert varied["present"].shape == (4, 4)


def test_training_goes_down(tmp_path: Path) -> None:
    """Windows that say nothing among windows that know: their neighbours must tell them."""
    g = np.random.default_rng(0)
    made = []
    for k in range(6):
        rows = cols = fit_context.SIDE
        table = g.integers(1, 9, N_COEFS)
        logp = np.full((rows, cols, STEPS), -3.0, np.float16)
        for i, a in enumerate(Q1_OFFSET[:-1]):
            logp[::2, ::2, a + table[i] - 1] = -0.05
        shift = np.full((rows, cols, SHIFTS), -4.2, np.float16)
        shift[::2, ::2, k] = -0.05
        made.append(
            {
                "logp": logp,
                "shift": shift,
                "present": np.full((rows, cols), 0.9, np.float32),
                "texture": np.ones((rows, cols), np.float32),
                "saturated": np.zeros((rows, cols), np.float32),
                "q2": np.full(64, 4),
                "inside": np.zeros((rows, cols), bool),
                "tables": np.stack([table, 0 * table]),
                "shifts": np.array([k, 0]),
            }
        )
    torch.set_num_threads(1)
    alone = fit_context.measure(None, made)
    net = fit_context.fit(made, steps=25)
    helped = fit_context.measure(net, made)
    assert helped["accuracy"] > alone["accuracy"] + 0.03 and helped["loss"] < alone["loss"]
