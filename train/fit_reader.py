"""Trains a comb network on to read features of a few grid shifts in place of all 64.

    python -m train.fit_reader q1 --src FOLDER --run runs/reader-q1 --minutes 15

It goes on from the published `weights/q1-comb` (or `weights/qf-comb`), on the same endless windows. Of each window it
sees the shifts that the published scout ranks first, and the sample that stands for the others, as in a scan. An image
as a whole often names a shift that a single window does not, so the true one is mostly added where it was missed. A
checkpoint is written every few minutes; the same command started again goes on from it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jscan import candidates, fastwindows, weights
from jscan.candidates import GRID_KNOWN, GRID_UNKNOWN
from train import fit, fit_scout
from train.dataset import TASKS, Stream
from train.export_fast import COMB, SCOUT
from train.networks.comb import Some
from train.published import restore

PEAK_RATE = 4e-4
TOLD = 0.75
"""How often the true shift is added where the scout does not rank it first."""
STRATA = {"q1": GRID_KNOWN, "qf": GRID_UNKNOWN}

Batch = dict[str, torch.Tensor]


class Chooser:
    """Chooses the shifts of windows as a scan does."""

    def __init__(self, name: str) -> None:
        self.strata = STRATA[name]
        self._scout = weights.load(SCOUT[name])
        nothing = {"means": np.zeros((1, 64, 8), np.float32)}
        table = {"q2": np.ones((1, 15), np.float32)} if name == "q1" else {}
        self._project = torch.from_numpy(self._scout(**nothing, **table)["projection"])
        self._columns = fit_scout.columns(name)

    def __call__(self, raw: torch.Tensor, batch: Batch, rng: np.random.Generator) -> Some:
        """Shifts and what they stand for, of windows with features `raw` (N, 64, F)."""
        means = (raw[:, :, self._columns] @ self._project).numpy()
        place, stands_for = [], []
        for k in range(len(means)):
            table = {"q2": batch["q2"][k : k + 1].float().numpy()} if "q2" in batch else {}
            found = self._scout(means=means[k : k + 1], **table)["shift"][0]
            ranked = list(np.argsort(-found, kind="stable"))
            if rng.random() < TOLD:
                ranked.insert(0, int(batch["shift"][k]))
            chosen = candidates.choose(ranked, fastwindows.MOST, self.strata)
            place.append(chosen.place)
            stands_for.append(chosen.stands_for)
        return torch.from_numpy(np.stack(place)), torch.from_numpy(np.stack(stands_for))


def reduced(batch: Batch, some: Some, raw: torch.Tensor, strata: candidates.Strata) -> Batch:
    """The batch as a reader sees it: features of some shifts, their weighed mean, and the shift's place among them.

    A shift that was not looked at is found where the sample of its kind stands.
    """
    place, stands_for = some
    picked = raw.gather(1, place[..., None].expand(-1, -1, raw.shape[2]))
    mean = (picked * stands_for[..., None]).sum(1) / candidates.SHIFTS
    kind = torch.empty(candidates.SHIFTS, dtype=torch.int64)
    for k, members in enumerate(strata.members):
        kind[list(members)] = k
    same = place == batch["shift"][:, None]
    stand_in = (kind[place] == kind[batch["shift"]][:, None]) & (stands_for != 1)
    at = torch.where(same.any(1), same.int().argmax(1), stand_in.int().argmax(1))
    return {**batch, "centred": 4 * (picked - mean[:, None]), "mean": mean, "shift": at}


def train(name: str, src: Path, run: Path, *, minutes: float, workers: int, replay: float, ring_size: int) -> Path:
    """Trains and returns the last checkpoint, `run`/last.pt."""
    run.mkdir(parents=True, exist_ok=True)
    last, bands = run / "last.pt", TASKS[name]().bands()
    torch.manual_seed(0)
    net: Any = fit.build(name)
    restore(net, bands, weights.folder() / COMB[name] / "model.onnx")
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=fit._blend)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=1e-3)
    state: dict[str, Any] = {"seconds": 0.0, "steps": 0, "windows": 0, "loss": float("nan")}
    if last.exists():
        saved = torch.load(last, weights_only=True)
        net.load_state_dict(saved["net"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    budget = minutes * 60
    if state["seconds"] >= budget:
        return last
    choose, rng = Chooser(name), np.random.default_rng(state["steps"])
    stream, ring = Stream(TASKS[name](), src, seed=5000 + state["steps"], workers=workers), fit.Ring(ring_size)

    def take() -> int:
        features, energy, labels = next(stream)
        ring.put(features, energy, labels)
        state["windows"] += len(features)
        return len(features)

    def save() -> None:
        kept = {"net": net.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        part = last.with_suffix(".part")
        torch.save({**kept, "state": state, "name": name, "minutes": minutes, "replay": replay}, part)
        part.replace(last)

    while ring.filled < min(10 * fit.BATCH, ring_size):
        take()
    fresh, seen, told, saved_at, clock = float(ring.filled), 0.0, time.time(), time.time(), time.time()
    try:
        while state["seconds"] < budget:
            while seen > replay * fresh:
                fresh += take()
            for group in optimizer.param_groups:
                group["lr"] = fit.rate(state["seconds"] / budget, PEAK_RATE)
            batch = ring.draw(rng, fit.BATCH)
            raw = batch["centred"].float() / 4 + batch["mean"][:, None]
            some = choose(raw, batch, rng)
            batch = reduced(batch, some, raw, choose.strata)
            table = (batch["q2"].float(),) if "q2" in batch else ()
            out = net.read(batch["centred"], batch["mean"], batch["energy"], *table, some)
            loss = fit.LOSSES[name](out, batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimizer.step()
            average.update_parameters(net)
            seen += fit.BATCH
            state["steps"] += 1
            now = time.time()
            state["seconds"] += now - clock
            clock = now
            state["loss"] = loss.item() if state["steps"] == 1 else 0.99 * state["loss"] + 0.01 * loss.item()
            if now - told > 30:
                told = now
                print(json.dumps({"reader": name, **{k: round(v, 4) for k, v in state.items()}}), flush=True)
            if now - saved_at > 120:
                saved_at = now
                save()
    finally:
        stream.close()
    save()
    return last


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(TASKS))
    parser.add_argument("--src", type=Path, required=True, help="folder of uncompressed images")
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--minutes", type=float, default=15, help="training time")
    parser.add_argument("--workers", type=int, default=1, help="processes that make windows")
    parser.add_argument("--replay", type=float, default=4.0, help="times that a window is seen on average")
    parser.add_argument("--ring", type=int, default=20_000, help="windows kept in memory")
    o = parser.parse_args()
    torch.set_num_threads(1)
    how = {"minutes": o.minutes, "workers": o.workers, "replay": o.replay, "ring_size": o.ring}
    print(train(o.name, o.src, o.run, **how))


if __name__ == "__main__":
    main()
