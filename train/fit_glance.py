"""Trains a glance: what the published scout's units tell about whether a closer look at a window would find anything.

    python -m train.fit_glance --src FOLDER --run runs/glance-q1

It learns the answer of `weights/q1-comb`, at even odds, not the truth: a window in which that finds nothing need not be
looked at closely. The scout itself stays as it is. A run takes minutes and is not continued where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from jscan import q1map, weights
from train import fit, fit_scout, published
from train.dataset import TASKS, Stream
from train.export import prior_logit
from train.networks.comb import centre
from train.networks.scout import Glance, ScoutNet

NAME = "q1"
RATE = 3e-3
BATCH = 256
EPOCHS = 12
SHOWN = 0.6
"""Probability, by the comb network, from which a window counts as one that shows a compression."""
SETTLED = (0.2, 0.3, 0.4)
"""Probabilities, by the glance, up to which it is told how many windows are settled, and how many of those shown."""

Units = tuple[torch.Tensor, ...]


def scout() -> ScoutNet:
    """The published scout."""
    net = fit_scout.build(NAME)
    published.restore_scout(net, fit_scout.bands(NAME), weights.folder() / q1map.SCOUT / "model.onnx")
    return net.eval()


@torch.no_grad()
def _gather(net: ScoutNet, src: Path, count: int, workers: int) -> tuple[Units, torch.Tensor]:
    """What `net` says of at least `count` windows, and the comb network's answers (n,)."""
    comb: Any = fit.build(NAME)
    published.restore(comb, TASKS[NAME]().bands(), weights.folder() / q1map.MODEL / "model.onnx")
    columns, prior = fit_scout.columns(NAME), prior_logit(NAME)
    stream = Stream(TASKS[NAME](), src, seed=992, workers=workers)
    units: list[Units] = []
    answers: list[torch.Tensor] = []
    try:
        while sum(len(a) for a in answers) < count:
            raw, energy, labels = next(stream)
            features, table = torch.from_numpy(raw).float(), torch.from_numpy(labels["q2"]).float()
            units.append(net.look(features[:, :, columns], table))
            odds = comb.eval().read(*centre(features), torch.from_numpy(energy).float(), table)[2]
            answers.append(torch.sigmoid(odds - prior))
    finally:
        stream.close()
    return tuple(torch.cat(part) for part in zip(*units, strict=True)), torch.cat(answers)


@torch.no_grad()
def _settles(glance: Glance, units: Units, answers: torch.Tensor) -> dict[str, float]:
    """Shares of the windows that the glance settles, and of those among them that show a compression."""
    said, told = torch.sigmoid(glance(*units)), {}
    for limit in SETTLED:
        settled = said < limit
        told[f"settled_{limit:g}"] = round(float(settled.float().mean()), 4)
        told[f"missed_{limit:g}"] = round(float(settled[answers > SHOWN].float().mean()), 4)
    return told


def train(src: Path, run: Path, *, windows: int, workers: int) -> Path:
    """Trains and returns the path of what was learned, `run`/last.pt."""
    torch.manual_seed(0)
    net = scout()
    units, answers = _gather(net, src, windows, workers)
    held, glance = windows // 10, Glance(net)
    optimizer = torch.optim.Adam(glance.parameters(), lr=RATE)
    steps = max(1, (len(answers) - held) // BATCH)
    cycle = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, EPOCHS * steps)
    told: dict[str, float] = {}
    for epoch in range(EPOCHS):
        order, total = held + torch.randperm(len(answers) - held), 0.0
        for k in range(steps):
            pick = order[k * BATCH : (k + 1) * BATCH]
            odds = glance(*(u[pick] for u in units))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, answers[pick])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cycle.step()
            total += float(loss.detach())
        told = _settles(glance, tuple(u[:held] for u in units), answers[:held])
        print(json.dumps({"glance": NAME, "epoch": epoch, "loss": round(total / steps, 4), **told}), flush=True)
    run.mkdir(parents=True, exist_ok=True)
    torch.save({"net": glance.state_dict(), "windows": windows, "loss": total / steps, "told": told}, run / "last.pt")
    return run / "last.pt"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path, required=True, help="folder of uncompressed images")
    parser.add_argument("--run", type=Path, required=True, help="folder for what is learned")
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2, help="processes that make windows")
    o = parser.parse_args()
    torch.set_num_threads(1)
    print(train(o.src, o.run, windows=o.windows, workers=o.workers))


if __name__ == "__main__":
    main()
