"""Trains the consistency models on forgeries made from a folder of uncompressed images, and calibrates the score.

    python -m train.fit_regions jpeg --src FOLDER --run runs/regions-jpeg --cases 2000

It runs the exported window models (`weights/q1-comb`, `weights/qf-comb`) on every case, so those come first. One in
six source images is kept apart: on forgeries made of these the score is calibrated and the figures are measured.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import random
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from jscan import history, q1map, qfmap, score, weights
from jscan.tiling import BLOCK
from train import forgery
from train.dataset import image_weights, load_images
from train.networks.region import RegionNet

HELD_OUT = 6
"""Every sixth source image is kept for calibration."""
ODDS = 0.7
"""Added to the logits of a trained network. A cell of the training cases lies in a region one time in seventeen, which
is less than half of what it is in an image that is worth a second look; the map answers at twice these odds."""
JOBS = 16
"""Pieces that the making of cases is cut into."""
CHANNELS = {"jpeg": history.JPEG_CHANNELS, "pixels": history.PIXEL_CHANNELS}


def _cell_labels(mask: npt.NDArray[np.bool_], rows: int, cols: int) -> npt.NDArray[np.float32]:
    """(2 rows, 2 cols) share of each answer's cell that lies inside the mask."""
    height, width = (-(-s // BLOCK) * BLOCK for s in mask.shape)
    padded = np.zeros((height, width), np.float32)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    share = padded.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).mean((1, 3))
    # The first window's centre lies between cells 3 and 4.
    picked = np.zeros((2 * rows, 2 * cols), np.float32)
    part = share[3 : 3 + 2 * rows, 3 : 3 + 2 * cols]
    picked[: part.shape[0], : part.shape[1]] = part
    return picked


@cache
def _images(src: Path) -> list[npt.NDArray[np.uint8]]:
    return load_images(src)


def _work(job: tuple[str, Path, int, int, bool]) -> list[dict[str, Any]]:
    name, src, seed, count, held_out = job
    cv2.setNumThreads(1)
    images = [i for k, i in enumerate(_images(src)) if (k % HELD_OUT == 0) == held_out]
    cumulative, rng, out = image_weights(images), random.Random(seed), []
    model = weights.load(q1map.MODEL if name == "jpeg" else qfmap.MODEL)
    for _ in range(count):
        case = forgery.make(name == "jpeg", images, cumulative, rng)
        if case.q2 is not None:
            found = q1map.estimate(model, case.luma, case.q2)
            maps = history.jpeg_channels(found, history.background(found), case.q2, case.luma)
        else:
            found = qfmap.estimate(model, case.luma)
            maps = history.pixel_channels(found, history.background(found), case.luma)
        rows, cols = found.present.shape
        out.append({"maps": maps, "label": _cell_labels(case.mask, rows, cols), "kind": case.kind})
    return out


def make_cases(name: str, src: Path, run: Path, count: int, held_out: bool) -> list[dict[str, Any]]:
    """`count` cases with their maps and labels; kept in the run's folder, so that a later start finds them."""
    kept = run / f"cases-{'held' if held_out else 'train'}.pt"
    cases: list[dict[str, Any]] = torch.load(kept, weights_only=False) if kept.exists() else []
    missing = max(0, count - len(cases))
    if missing:
        seed = 7000 + 500_000 * held_out + len(cases)
        jobs = [(name, src, seed + k, -(-missing // JOBS), held_out) for k in range(JOBS)]
        with mp.get_context("spawn").Pool(2) as pool:
            cases += [case for part in pool.imap(_work, jobs) for case in part]
        torch.save(cases, kept)
    return cases


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


def fit(name: str, cases: list[dict[str, Any]], *, epochs: int, seed: int = 0) -> RegionNet:
    """A trained network."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    net = RegionNet(len(CHANNELS[name]))
    values = np.concatenate([c["maps"].reshape(len(CHANNELS[name]), -1) for c in cases], axis=1)
    net.offset.data = torch.from_numpy(values.mean(1)).float()
    net.scale.data = torch.from_numpy(1 / (values.std(1) + 1e-3)).float()
    by_shape: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for case in cases:
        by_shape.setdefault(case["maps"].shape, []).append(case)
    batch = 16
    steps = epochs * len(cases) // batch
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1, pct_start=0.1)
    sizes = [len(v) for v in by_shape.values()]
    for step in range(steps):
        group = rng.choices(list(by_shape.values()), sizes)[0]
        picked = [_flip(rng, c["maps"], c["label"]) for c in rng.choices(group, k=batch)]
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
def answers(net: RegionNet, cases: list[dict[str, Any]]) -> list[npt.NDArray[np.float32]]:
    """(2 R, 2 C) logits of each case."""
    return [_answers(net(torch.from_numpy(c["maps"])[None].float()))[0].numpy() for c in cases]


def calibrate(
    name: str, cases: list[dict[str, Any]], logits: list[npt.NDArray[np.float32]], truth: npt.NDArray[Any]
) -> dict[str, Any]:
    """Coefficients of the score: a logistic regression on the summaries of cases that trained nothing."""
    from sklearn.linear_model import LogisticRegression

    rows = []
    for case, answer in zip(cases, logits, strict=True):
        mute = history.mute(case["maps"], CHANNELS[name])
        known = np.where(np.kron(mute, np.ones((2, 2), bool)), np.nan, answer).astype(np.float32)
        rows.append(score.summary(score.smooth(known)))
    model = LogisticRegression(class_weight="balanced").fit(np.stack(rows), truth)
    return {"weights": [float(w) for w in model.coef_[0]], "bias": float(model.intercept_[0])}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(CHANNELS))
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=4500)
    parser.add_argument("--epochs", type=int, default=50)
    o = parser.parse_args()
    torch.set_num_threads(1)  # more of them wait for each other longer than these small layers take
    o.run.mkdir(parents=True, exist_ok=True)
    held = make_cases(o.name, o.src, o.run, o.cases // 4, True)
    net = fit(o.name, make_cases(o.name, o.src, o.run, o.cases, False), epochs=o.epochs)
    logits = answers(net, held)
    truth = np.array([c["label"].max() > 0.5 for c in held])
    top = np.array([np.sort(x.ravel())[-max(8, x.size // 50) :].mean() for x in logits])
    print("image AUC of the mean of the top 2 %:", _auc(top, truth))
    for kind in sorted({c["kind"] for c in held}):
        pick = [k for k, c in enumerate(held) if c["kind"] == kind]
        line = f"  {kind:24s} {len(pick):4d} top {np.median(top[pick]):6.2f}"
        if truth[pick].any():
            pixel = [_auc(logits[k].ravel(), held[k]["label"].ravel() > 0.5) for k in pick if truth[k]]
            image = _auc(np.r_[top[pick], top[~truth]], np.r_[np.ones(len(pick)), np.zeros((~truth).sum())])
            line += f"  image AUC {image:.3f}  pixel AUC {np.mean(pixel):.3f} (median {np.median(pixel):.3f})"
        print(line)
    calibration = calibrate(o.name, held, logits, truth)
    print("calibration:", calibration)
    kept = {"net": net.state_dict(), "cases": o.cases, "epochs": o.epochs, "calibration": calibration}
    torch.save(kept, o.run / "last.pt")


if __name__ == "__main__":
    main()
