"""Trains one comb network on endless windows, and goes on where it was stopped.

    python -m train.fit q1 --src FOLDER --run runs/q1 --minutes 60

The learning rate follows one cycle over the minutes given, counted in training time, so that the same command ends at
the same point of its schedule on a slow machine and on a fast one. A checkpoint is written every few minutes;
the same command started again continues from it. With `--start weights/q1-comb/model.onnx` training goes on from a
published model, at half the rate.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.comb import Comb
from train.dataset import TASKS, Stream
from train.losses import q1_task_loss, qf_task_loss
from train.networks.comb import Q1Net, QfNet, centre
from train.precision import narrow_is_faster
from train.published import restore

LOSSES = {"q1": q1_task_loss, "qf": qf_task_loss}
NETWORKS: dict[str, Any] = {"q1": Q1Net, "qf": QfNet}
PEAK_RATE = 2e-3
STARTED_RATE = 1e-3
"""Peak of the learning rate where training goes on from a published model."""
BATCH = 256
AVERAGE = 0.999
"""Decay of the running average of the weights, which is what is exported."""


def build(name: str) -> torch.nn.Module:
    """A new network of this name for its task's features."""
    comb = Comb(TASKS[name]().bands())
    return NETWORKS[name](comb.size, len(comb.bands))  # type: ignore[no-any-return]


def forward(net: torch.nn.Module, features: Any, energy: Any, labels: dict[str, Any]) -> Any:
    """The network's outputs for a batch."""
    return net(features, energy, *_table(labels))


def _table(labels: dict[str, Any]) -> tuple[Any, ...]:
    """The last table, for a network that is told it."""
    return (labels["q2"].float(),) if "q2" in labels else ()


class Ring:
    """The latest windows, drawn from at random; each is seen a few times before it is overwritten.

    Features are kept centred and in bfloat16: a batch of raw ones in float32 took longer to prepare than to learn from.
    """

    def __init__(self, size: int) -> None:
        self.size, self.filled, self.at = size, 0, 0
        self.arrays: dict[str, torch.Tensor] = {}

    def put(self, features: Any, energy: Any, labels: dict[str, Any]) -> None:
        """Overwrites the oldest windows with these: arrays (n, 64, F), (n, B), and labels (n, ...)."""
        n = len(features)
        centred, mean = centre(torch.from_numpy(features).float())
        chunk = {"centred": centred.bfloat16(), "mean": mean, "energy": torch.from_numpy(energy)}
        chunk |= {name: torch.from_numpy(value) for name, value in labels.items()}
        if not self.arrays:
            self.arrays = {k: torch.empty((self.size, *v.shape[1:]), dtype=v.dtype) for k, v in chunk.items()}
        where = (self.at + torch.arange(n)) % self.size
        for name, value in chunk.items():
            self.arrays[name][where] = value
        self.at = (self.at + n) % self.size
        self.filled = min(self.size, self.filled + n)

    def draw(self, rng: np.random.Generator, n: int) -> dict[str, torch.Tensor]:
        """n random windows."""
        pick = torch.from_numpy(rng.integers(0, self.filled, n))
        return {k: v[pick] for k, v in self.arrays.items()}


def _blend(averages: Any, weights: Any, _count: Any) -> None:
    """Moves the running average a little towards the weights."""
    torch._foreach_lerp_(averages, weights, 1 - AVERAGE)


def rate(progress: float, peak: float = PEAK_RATE) -> float:
    """One cycle: a short rise, then a cosine to nothing."""
    if progress < 0.05:
        return peak * (0.1 + 0.9 * progress / 0.05)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - 0.05) / 0.95)))


def _learn(name: str, net: Any, batch: dict[str, torch.Tensor], narrow: bool) -> torch.Tensor:
    """The loss of a batch, after its gradients were added up; `narrow` multiplies in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        centred = batch["centred"] if narrow else batch["centred"].float()
        out = net.read(centred, batch["mean"], batch["energy"], *_table(batch))
    loss: torch.Tensor = LOSSES[name](tuple(o.float() for o in out), batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


def fit(
    name: str,
    src: Path,
    run: Path,
    *,
    minutes: float,
    workers: int,
    replay: float,
    ring_size: int,
    start: Path | None = None,
) -> Path:
    """Trains `name`, from the published model `start` on if given, and returns its last checkpoint, `run`/last.pt.

    Raises ValueError where `start` is not a model of this network.
    """
    run.mkdir(parents=True, exist_ok=True)
    last = run / "last.pt"
    torch.manual_seed(0)
    net: Any = build(name)
    if start is not None and not last.exists():
        restore(net, TASKS[name]().bands(), start)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=_blend)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=1e-3)
    state: dict[str, Any] = {"seconds": 0.0, "steps": 0, "windows": 0, "loss": float("nan")}
    if last.exists():
        saved = torch.load(last, weights_only=True)
        net.load_state_dict(saved["net"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    task = TASKS[name]()
    peak = PEAK_RATE if start is None else STARTED_RATE
    budget = minutes * 60
    if state["seconds"] >= budget:
        return last
    stream = Stream(task, src, seed=1 + state["steps"], workers=workers)
    ring, rng = Ring(ring_size), np.random.default_rng(state["steps"])

    def take() -> int:
        features, energy, labels = next(stream)
        ring.put(features, energy, labels)
        state["windows"] += len(features)
        return len(features)

    def save() -> None:
        kept = {"net": net.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        part = last.with_suffix(".part")
        said = {"state": state, "task": asdict(task), "name": name, "minutes": minutes, "replay": replay}
        if start is not None:
            said |= {"start": start.as_posix()}
        torch.save({**kept, **said}, part)
        part.replace(last)

    while ring.filled < min(20 * BATCH, ring_size):
        take()
    sample = ring.draw(rng, BATCH)
    narrow = narrow_is_faster(lambda narrow: _learn(name, net, sample, narrow))
    fresh, seen, told, saved_at = float(ring.filled), 0.0, time.time(), time.time()
    clock = time.time()
    while state["seconds"] < budget:
        while seen > replay * fresh:
            fresh += take()
        for group in optimizer.param_groups:
            group["lr"] = rate(state["seconds"] / budget, peak)
        optimizer.zero_grad()
        loss = _learn(name, net, ring.draw(rng, BATCH), narrow)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimizer.step()
        average.update_parameters(net)
        seen += BATCH
        state["steps"] += 1
        now = time.time()
        state["seconds"] += now - clock
        clock = now
        smooth = loss.item() if math.isnan(state["loss"]) else 0.99 * state["loss"] + 0.01 * loss.item()
        state["loss"] = smooth
        if now - told > 30:
            told = now
            print(json.dumps({"task": name, **{k: round(v, 4) for k, v in state.items()}}), flush=True)
        if now - saved_at > 120:
            saved_at = now
            save()
    save()
    stream.close()
    return last


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(TASKS))
    parser.add_argument("--src", type=Path, required=True, help="folder of uncompressed images")
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--minutes", type=float, default=60, help="training time")
    parser.add_argument("--workers", type=int, default=2, help="processes that make windows")
    parser.add_argument("--replay", type=float, default=3.0, help="times that a window is seen on average")
    parser.add_argument("--ring", type=int, default=40_000, help="windows kept in memory")
    parser.add_argument("--start", type=Path, help="model.onnx of a published model to go on from")
    o = parser.parse_args()
    torch.set_num_threads(1)
    how = {"minutes": o.minutes, "workers": o.workers, "replay": o.replay, "ring_size": o.ring, "start": o.start}
    print(fit(o.name, o.src, o.run, **how))


if __name__ == "__main__":
    main()
