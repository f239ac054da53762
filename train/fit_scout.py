"""Trains a scout, which says what grid shifts of a window are worth a look, on endless windows.

    python -m train.fit_scout q1 --src FOLDER --run runs/scout-q1 --windows 40000

The windows are those of the comb networks, without those that have no shift to be found. A run takes minutes and is not
continued where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from jscan.comb import Band
from train.dataset import TASKS, Stream
from train.networks.scout import ScoutNet

RATE = 3e-3
BATCH = 128
EPOCHS = 5
FOUND = (1, 4, 8)
"""Ranks at which it is told how often the true shift is among the best."""


def bands(name: str) -> tuple[Band, ...]:
    """The scout's bands: those of single coefficients.

    For Q1 these are 28. Of windows whose first steps are about the last ones, 15 of them find the shift among four in
    0.25 of cases, 28 in 0.48, all 64 in 0.49.
    """
    return tuple(b for b in TASKS[name]().bands() if len(b.coefs) == 1)


def build(name: str) -> ScoutNet:
    """A new scout for this task."""
    return ScoutNet(sum(b.size for b in bands(name)), has_table=name == "q1")


def columns(name: str) -> list[int]:
    """Which of the task's features are those of the scout's bands."""
    chosen, out, at = {b.coefs for b in bands(name)}, [], 0
    for band in TASKS[name]().bands():
        out += list(range(at, at + band.size)) if band.coefs in chosen else []
        at += band.size
    return out


def _gather(name: str, src: Path, count: int, workers: int) -> dict[str, torch.Tensor]:
    """Features (n, 64, F) half, shifts (n,) and last tables of at least `count` windows that were compressed."""
    stream = Stream(TASKS[name](), src, seed=77, workers=workers)
    own = columns(name)
    parts: list[dict[str, torch.Tensor]] = []
    try:
        while sum(len(p["shift"]) for p in parts) < count:
            features, _, labels = next(stream)
            keep = labels["double" if name == "q1" else "flag"] == 1
            if name == "q1":
                keep &= labels["shift"] != 0  # the last grid is always looked at
            part = {
                "features": torch.from_numpy(features[keep][:, :, own]),
                "shift": torch.from_numpy(labels["shift"][keep]),
            }
            if name == "q1":
                part["q2"] = torch.from_numpy(labels["q2"][keep]).float()
            parts.append(part)
    finally:
        stream.close()
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


def _ranks(net: ScoutNet, windows: dict[str, torch.Tensor]) -> torch.Tensor:
    """How many shifts are ranked before the true one."""
    with torch.no_grad():
        logits = torch.cat([net(*_inputs(windows, slice(k, k + 256))) for k in range(0, len(windows["shift"]), 256)])
    return (logits > logits.gather(1, windows["shift"][:, None])).sum(1)


def _inputs(windows: dict[str, torch.Tensor], pick: Any) -> tuple[torch.Tensor, ...]:
    features = windows["features"][pick].float()
    return (features, windows["q2"][pick]) if "q2" in windows else (features,)


def fit(name: str, src: Path, run: Path, *, windows: int, workers: int) -> Path:
    """Trains and returns the path of what was learned, `run`/last.pt."""
    torch.manual_seed(0)
    net, made = build(name), _gather(name, src, windows, workers)
    held = {k: v[: windows // 10] for k, v in made.items()}
    shown = {k: v[windows // 10 :] for k, v in made.items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    steps = len(shown["shift"]) // BATCH
    cycle = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, EPOCHS * steps)
    for epoch in range(EPOCHS):
        order, total = torch.randperm(len(shown["shift"])), 0.0
        for k in range(steps):
            pick = order[k * BATCH : (k + 1) * BATCH]
            loss = torch.nn.functional.cross_entropy(net(*_inputs(shown, pick)), shown["shift"][pick])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cycle.step()
            total += float(loss.detach())
        ranks = _ranks(net, held)
        found = {f"among_{n}": round(float((ranks < n).float().mean()), 4) for n in FOUND}
        print(json.dumps({"scout": name, "epoch": epoch, "loss": round(total / steps, 4), **found}), flush=True)
    run.mkdir(parents=True, exist_ok=True)
    kept = {"net": net.state_dict(), "windows": windows, "loss": total / steps, "found": found}
    torch.save(kept, run / "last.pt")
    return run / "last.pt"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(TASKS))
    parser.add_argument("--src", type=Path, required=True, help="folder of uncompressed images")
    parser.add_argument("--run", type=Path, required=True, help="folder for what is learned")
    parser.add_argument("--windows", type=int, default=40_000)
    parser.add_argument("--workers", type=int, default=2, help="processes that make windows")
    o = parser.parse_args()
    torch.set_num_threads(1)
    print(fit(o.name, o.src, o.run, windows=o.windows, workers=o.workers))


if __name__ == "__main__":
    main()
