"""Trains the context network on the posteriors of forgeries and pristine images made by `train.cases`.

python -m train.fit_context --cases runs/cases-jpeg --run runs/context
"""

from __future__ import annotations

import argparse
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jscan import history
from jscan.jpegtables import N_COEFS, Q1_OFFSET
from train import cases
from train.fit import rate
from train.losses import q1_loss
from train.networks.context import ContextNet
from train.precision import narrow_is_faster

SIDE = 16
"""Windows along a side of a training piece."""
BATCH = 24


def piece(case: cases.Case, top: int, left: int, rows: int, cols: int) -> dict[str, Tensor]:
    """The network's inputs and labels for a rectangle of a case's windows."""
    here = (slice(top, top + rows), slice(left, left + cols))
    inside = case["inside"][here].astype(np.int64)
    table = case["tables"][inside]
    maps = {name: case[name][here].astype(np.float32) for name in ("logp", "shift", "present", "texture", "saturated")}
    quiet = history.mute(history.Content(maps["texture"], maps["saturated"]))
    out: dict[str, Any] = {
        **maps,
        "q2": case["q2"][:N_COEFS].astype(np.float32),
        "table": table,
        "place": case["shifts"][inside],
        "double": (table[..., 0] > 0).astype(np.float32),
        "weight": (~quiet).astype(np.float32),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in out.items()}


def answer(net: ContextNet, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The network's logits for a batch."""
    names = ("logp", "shift", "present", "texture", "saturated", "q2")
    return net(*(batch[name] for name in names))  # type: ignore[no-any-return]


def loss_of(out: tuple[Tensor, Tensor, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Scalar: Eq. 5 of Tondi 2021 and the shift where there was a first compression, and whether there was one."""
    steps, shift, double = out
    known = batch["weight"] * batch["double"]
    total = known.sum().clamp(min=1)
    wanted = batch["table"].clamp(min=1).flatten(0, 2)
    table = (q1_loss(steps.flatten(0, 2), wanted) * known.flatten()).sum() / total
    place = functional.cross_entropy(shift.flatten(0, 2), batch["place"].flatten(), reduction="none")
    there = functional.binary_cross_entropy_with_logits(double, batch["double"], reduction="none")
    there = (there * batch["weight"]).sum() / batch["weight"].sum().clamp(min=1)
    return table + 0.1 * (place * known.flatten()).sum() / total + 0.3 * there


def draw(made: list[cases.Case], rng: random.Random) -> dict[str, Tensor]:
    """A batch of random pieces, varied by `vary`."""
    pieces = []
    for case in rng.choices(made, k=BATCH):
        rows, cols = case["present"].shape
        top, left = rng.randrange(rows - SIDE + 1), rng.randrange(cols - SIDE + 1)
        pieces.append(vary(piece(case, top, left, SIDE, SIDE), rng))
    return {name: torch.stack([p[name] for p in pieces]) for name in pieces[0]}


def vary(made: dict[str, Tensor], rng: random.Random) -> dict[str, Tensor]:
    """A piece whose windows are laid out mirrored or transposed, and whose grids are moved, now and then.

    What a window says stays as it is: only who its neighbours are changes, and which shift is the right one.
    """
    flips = [axis for axis in (0, 1) if rng.random() < 0.5]
    swap, moved = rng.random() < 0.5, rng.random() < 0.5
    dy, dx = (rng.randrange(8), rng.randrange(8)) if moved else (0, 0)
    out = {}
    for name, value in made.items():
        if name == "shift":
            value = value.reshape(*value.shape[:2], 8, 8).roll((dy, dx), (2, 3)).flatten(2)
        elif name == "place":
            value = (value // 8 + dy) % 8 * 8 + (value % 8 + dx) % 8
        if name != "q2":
            value = value.flip(flips)
            value = value.transpose(0, 1) if swap else value
        out[name] = value
    return out


@torch.no_grad()
def measure(net: ContextNet | None, made: list[cases.Case]) -> dict[str, float]:
    """Share of right steps and shifts, and mean loss, over whole cases; without a network, of the windows alone."""
    right, shifts, total, loss, windows = 0.0, 0.0, 0.0, 0.0, 0
    for case in made:
        batch = {k: v[None] for k, v in piece(case, 0, 0, *case["present"].shape).items()}
        if net is None:
            out = (batch["logp"], batch["shift"], torch.logit(batch["present"], 1e-4))
        else:
            out = answer(net, batch)
        known = batch["weight"] * batch["double"]
        best = [out[0][..., a:b].argmax(-1) + 1 for a, b in pairwise(Q1_OFFSET)]
        right += float(((torch.stack(best, -1) == batch["table"]).float().mean(-1) * known).sum())
        shifts += float(((out[1].argmax(-1) == batch["place"]) * known).sum())
        total += float(known.sum())
        loss += float(loss_of(out, batch))
        windows += 1
    return {"accuracy": right / total, "shift": shifts / total, "loss": loss / windows}


def fit(made: list[cases.Case], steps: int, seed: int = 0) -> ContextNet:
    """A trained network."""
    torch.manual_seed(seed)
    rng, net = random.Random(seed), ContextNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    made = [c for c in made if min(c["present"].shape) >= SIDE]

    def learn(batch: dict[str, Tensor], narrow: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            out = answer(net, batch)
        loss = loss_of(tuple(o.float() for o in out), batch)  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    sample = draw(made, rng)
    narrow = narrow_is_faster(lambda narrow: learn(sample, narrow))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step / steps) / 2
        loss = learn(draw(made, rng), narrow)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"context: step {step} of {steps}, loss {loss.item():.4f}", flush=True)
    return net.eval()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder of cases of JPEG files")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    o = parser.parse_args()
    torch.set_num_threads(1)
    o.run.mkdir(parents=True, exist_ok=True)
    net = fit(list(cases.load(o.cases, False)), o.steps)
    held = list(cases.load(o.cases, True))
    print("windows alone:", measure(None, held))
    print("with their neighbours:", measure(net, held))
    double = float(np.mean([(c["tables"][c["inside"].astype(int), 0] > 0).mean() for c in held]))
    torch.save({"net": net.state_dict(), "steps": o.steps, "double": double}, o.run / "last.pt")


if __name__ == "__main__":
    main()
