"""Trains the consistency models on the cases of `train.cases`, and calibrates the score on those kept apart.

    python -m train.fit_regions jpeg --cases runs/cases-jpeg --run runs/regions-jpeg

Each model is two networks, whose logits are averaged: one that has seen no pictures that were processed unevenly
(`forgery.make_uneven`), and one that has. The first finds more of what was pasted in, the second takes less for it; at
an equal share of plain pristine cases that are suspected, both together find as much as the better one.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from jscan import history, score
from train import cases
from train.networks.region import RegionNet, RegionNets

ODDS = 0.7
"""Added to the logits of a trained network. A cell of the training cases lies in a region one time in seventeen, which
is less than half of what it is in an image that is worth a second look; the map answers at twice these odds."""
COUNTS = (16,)
"""Numbers of the most suspicious cells of 8 x 8 pixels whose means are the summary of an image.

16 are a square of 32 x 32 pixels. Of JPEG cases kept apart they and 40 rank as well (image AUC 0.934 both), and 16
better those whose region is smaller than 60 cells (0.911 for 0.897 from 30 on, 0.708 for 0.680 below); of decoded
pixels 16 are better (0.945 for 0.944; up to 30 cells 0.737 for 0.727). Two or three numbers tell nothing more.
"""
SUSPECTED = {"jpeg": 0.045, "pixels": 0.02}
"""Share of the pristine cases kept apart that may score one half or more, before what is found is looked at closely and
doubted. Cases of which much is too small to be found, or was processed, ask for more than a scan should say: at even
odds 1 in 12 pristine JPEGs scored above one half. With 0.06 of the JPEGs 5 of 600 untouched pictures scored 0.51 to
0.52, without a part that counts; with 0.045 none, and 3 of 480 forgeries less are found. Of pixels fewer, as no
second look follows: with 0.06 one in eight untouched pictures scored 0.50 to 0.55, without a part that could be named,
and with 0.03 pristine pixels still scored higher than pristine JPEGs do (image AUC of JPEGs pasted into JPEGs 0.977 for
0.982)."""
UNEVEN = ("ok_uneven", "splice_uneven")
"""Kinds of cases that the first network does not see and that do not count for the calibration."""
CHANNELS = {"jpeg": history.JPEG_CHANNELS, "pixels": history.PIXEL_CHANNELS}


@dataclass(frozen=True, slots=True)
class Sample:
    """One case as the consistency network sees it."""

    kind: str
    maps: npt.NDArray[np.float32]
    """(channels, R, C)."""
    label: npt.NDArray[np.float32]
    """(2 R, 2 C) share of each cell that lies inside the mask."""
    mute: npt.NDArray[np.bool_]
    """(R, C) windows that hold no information."""


def sample(name: str, case: cases.Case) -> Sample:
    """The maps of a case, as `jscan.scan` makes them."""
    found, pixels = cases.posteriors(case), cases.content(case)
    base = history.background(found)
    if name == "jpeg":
        maps = history.jpeg_channels(found, base, tuple(int(q) for q in case["q2"]), pixels, case["against"])
    else:
        maps = history.pixel_channels(found, base, pixels)
    return Sample(case["kind"], np.asarray(maps, np.float32), case["label"], history.mute(pixels))


def _work(job: tuple[str, Path]) -> list[Sample]:
    name, path = job
    return [sample(name, case) for case in cases.load_part(path)]


def samples(name: str, folder: Path, held_out: bool) -> list[Sample]:
    """All cases of a folder. Raises ValueError where there are none."""
    jobs = [(name, path) for path in cases.parts(folder, held_out)]
    with mp.get_context("spawn").Pool(2) as pool:
        return [s for part in pool.imap(_work, jobs) for s in part]


def _flip(rng: random.Random, maps: Any, label: Any) -> tuple[Any, Any]:
    if rng.random() < 0.5:
        maps, label = maps[:, ::-1], label[::-1]
    if rng.random() < 0.5:
        maps, label = maps[:, :, ::-1], label[:, ::-1]
    if rng.random() < 0.5:
        maps, label = maps.transpose(0, 2, 1), label.T
    return maps, label


def _answers(logits: torch.Tensor) -> torch.Tensor:
    """(N, 4, R, C) -> (N, 2 R, 2 C)."""
    return torch.nn.functional.pixel_shuffle(logits, 2)[:, 0]


def fit(name: str, made: list[Sample], *, epochs: int, seed: int = 0) -> RegionNet:
    """A trained network."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    net = RegionNet(len(CHANNELS[name]))
    values = np.concatenate([c.maps.reshape(len(CHANNELS[name]), -1) for c in made], axis=1)
    net.offset.data = torch.from_numpy(values.mean(1)).float()
    net.scale.data = torch.from_numpy(1 / (values.std(1) + 1e-3)).float()
    by_shape: dict[tuple[int, ...], list[Sample]] = {}
    for case in made:
        by_shape.setdefault(case.maps.shape, []).append(case)
    batch = 16
    steps = epochs * len(made) // batch
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1, pct_start=0.1)
    sizes = [len(v) for v in by_shape.values()]
    for step in range(steps):
        group = rng.choices(list(by_shape.values()), sizes)[0]
        picked = [_flip(rng, c.maps, c.label) for c in rng.choices(group, k=batch)]
        shape = picked[0][0].shape
        picked = [p for p in picked if p[0].shape == shape]
        maps = torch.from_numpy(np.stack([p[0] for p in picked]).copy()).float()
        label = torch.from_numpy(np.stack([p[1] for p in picked]).copy())
        loss = torch.nn.functional.binary_cross_entropy_with_logits(_answers(net(maps)), label)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"{name}: step {step} of {steps}, loss {loss.item():.4f}", flush=True)
    net.last.bias.data += ODDS  # type: ignore[union-attr]
    return net.eval()


def _auc(score: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, score))


@torch.no_grad()
def answers(net: nn.Module, made: list[Sample]) -> list[npt.NDArray[np.float32]]:
    """(2 R, 2 C) logits of each case."""
    return [_answers(net(torch.from_numpy(c.maps)[None].float()))[0].numpy() for c in made]


def calibrate(
    made: list[Sample],
    logits: list[npt.NDArray[np.float32]],
    truth: npt.NDArray[Any],
    counts: tuple[int, ...],
    suspected: float,
) -> dict[str, Any]:
    """Coefficients of the score: a logistic regression on the summaries of cases that trained nothing.

    So large a share of the pristine ones is `suspected`, with a score of one half or more.
    """
    from sklearn.linear_model import LogisticRegression

    rows = []
    for case, answer in zip(made, logits, strict=True):
        known = np.where(np.kron(case.mute, np.ones((2, 2), bool)), np.nan, answer).astype(np.float32)
        rows.append(score.summary(score.smooth(known), counts))
    model = LogisticRegression(class_weight="balanced").fit(np.stack(rows), truth)
    bias = -float(np.quantile(np.stack(rows)[~truth] @ model.coef_[0], 1 - suspected))
    return {"counts": list(counts), "weights": [float(w) for w in model.coef_[0]], "bias": bias}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(CHANNELS))
    parser.add_argument("--cases", type=Path, required=True, help="folder of cases of the same name")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    o = parser.parse_args()
    torch.set_num_threads(1)  # more of them wait for each other longer than these small layers take
    o.run.mkdir(parents=True, exist_ok=True)
    held, made = samples(o.name, o.cases, True), samples(o.name, o.cases, False)
    parts = [[case for case in made if case.kind not in UNEVEN], made]
    nets = RegionNets([fit(o.name, part, epochs=o.epochs) for part in parts]).eval()
    logits = answers(nets, held)
    truth = np.array([c.label.max() > 0.5 for c in held])
    top = np.array([np.sort(x.ravel())[-max(8, x.size // 50) :].mean() for x in logits])
    print("image AUC of the mean of the top 2 %:", _auc(top, truth))
    for kind in sorted({c.kind for c in held}):
        pick = [k for k, c in enumerate(held) if c.kind == kind]
        line = f"  {kind:24s} {len(pick):4d} top {np.median(top[pick]):6.2f}"
        if truth[pick].any():
            pixel = [_auc(logits[k].ravel(), held[k].label.ravel() > 0.5) for k in pick if truth[k]]
            image = _auc(np.r_[top[pick], top[~truth]], np.r_[np.ones(len(pick)), np.zeros((~truth).sum())])
            line += f"  image AUC {image:.3f}  pixel AUC {np.mean(pixel):.3f} (median {np.median(pixel):.3f})"
        print(line)
    plain = [k for k, case in enumerate(held) if case.kind not in UNEVEN]
    some = ([held[k] for k in plain], [logits[k] for k in plain], truth[plain])
    calibration = calibrate(*some, COUNTS, SUSPECTED[o.name])
    print("calibration:", calibration)
    kept = {
        "nets": [net.state_dict() for net in nets.nets],
        "cases": [len(part) for part in parts],
        "epochs": o.epochs,
        "calibration": calibration,
    }
    torch.save(kept, o.run / "last.pt")


if __name__ == "__main__":
    main()
