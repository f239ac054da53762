"""How far an estimator of windows could get: the Q1 network told the grid shift, larger windows, and flat ones apart.

    python -m train.bounds DATA [--qf2 90] [--windows 2000] [--aligned]

DATA is a folder of uncompressed images, its sub-folders are sets. The network is the published `q1-comb`, with its
weights; nothing is trained. For the same places, shifts and QF1 it is shown 64 x 64 pixels, more pixels around them
(its features are means over blocks, of any number), and the shift itself, in place of its attention. What lies
between two lines is what that knowledge is worth; a network trained with it would do a little better.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from jscan import q1map, weights
from jscan.jpegtables import N_COEFS
from train import compress, fit
from train import measure_metrics as metrics
from train.comb import Comb, q1_bands
from train.dataset import capped_q1, shift_index
from train.measure_report import table
from train.measure_sets import image_sets, load
from train.networks.context import normalise
from train.published import restore

SIDES = (64, 96, 128)
"""Pixels along a side of what the network is shown, around the same place."""
SOURCE, MIDDLE = 176, 160
"""Pixels along a side of what is compressed first, and of what is left of it after the crop that moves the grid."""
FLAT, PLAIN = 4.0, 8.0
"""Standard deviations of a window's pixels below which it counts as flat, and as plain."""
BATCH = 128


class Told(nn.Module):
    """Attention whose first head, the one that answers for the shift, looks where it is told: (N,) indices."""

    def __init__(self, own: nn.Linear) -> None:
        super().__init__()
        self.own, self.shift = own, torch.zeros(0, dtype=torch.long)

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores (N, 64, heads); the other heads look where they would."""
        scores: Tensor = self.own(hidden)
        told = 1e4 * nn.functional.one_hot(self.shift, hidden.shape[1]).to(hidden.dtype)
        return torch.cat([told[..., None], scores[..., 1:]], 2)


@dataclass(frozen=True)
class Sample:
    """Windows of one set, and the truth about them."""

    pixels: npt.NDArray[np.uint8]
    """(N, 128, 128)."""
    q1: npt.NDArray[np.int64]
    """(N, 15) first steps, capped."""
    shift: npt.NDArray[np.int64]
    """(N,) where the first blocks begin."""
    deviation: npt.NDArray[np.float64]
    """(N,) standard deviation of the middle 64 x 64 pixels."""

    def middle(self, side: int) -> npt.NDArray[np.uint8]:
        """(N, side, side) pixels in the middle; `side` is a multiple of 16, so that blocks begin at its corner."""
        edge = (self.pixels.shape[1] - side) // 2
        return np.ascontiguousarray(self.pixels[:, edge : edge + side, edge : edge + side])


def draw(paths: list[Path], qf2: int, count: int, seed: str, *, aligned: bool = False) -> Sample:
    """`count` windows of random images, QF1 60 to 98, all 64 shifts, or, of the same, none."""
    rng = random.Random(seed)
    second = compress.standard(qf2)
    pixels, q1, shifts = [], [], []
    picked = sorted(rng.choices(paths, k=count))
    for path in picked:
        image = load(path)
        y, x = rng.randrange(image.shape[0] - SOURCE + 1), rng.randrange(image.shape[1] - SOURCE + 1)
        dy, dx, first = rng.randrange(8), rng.randrange(8), compress.standard(rng.randint(60, 98))
        if aligned:
            dy = dx = 0
        once = compress.recompress(np.ascontiguousarray(image[y : y + SOURCE, x : x + SOURCE]), first)
        piece = np.ascontiguousarray(once[dy : dy + MIDDLE, dx : dx + MIDDLE])
        twice = compress.recompress(piece, second, gray=True)
        pixels.append(twice[16 : 16 + max(SIDES), 16 : 16 + max(SIDES)])
        q1.append(capped_q1(first.luma))
        shifts.append(shift_index(-dy, -dx))
    stacked = np.stack(pixels)
    deviation = stacked[:, 32:96, 32:96].reshape(count, -1).std(axis=1)
    return Sample(stacked, np.stack(q1), np.array(shifts), deviation)


@torch.no_grad()
def answer(net: Any, sample: Sample, qf2: int, side: int, told: bool) -> npt.NDArray[np.float32]:
    """(N, 226) log-posteriors that the network finds in `side` x `side` pixels, told the shift or not."""
    comb, own = Comb(q1_bands()), net.trunk.attention
    q2 = torch.tensor(compress.standard(qf2).luma[:N_COEFS]).float()[None]
    out = []
    if told:
        net.trunk.attention = Told(own)
    try:
        for at in range(0, len(sample.q1), BATCH):
            features, energy = comb(sample.middle(side)[at : at + BATCH], np.float32)
            if told:
                net.trunk.attention.shift = torch.from_numpy(sample.shift[at : at + BATCH])
            logits, _, _ = net(torch.from_numpy(features), torch.from_numpy(energy), q2.expand(len(features), -1))
            out.append(normalise(logits).numpy())
    finally:
        net.trunk.attention = own
    return np.concatenate(out)


def lines(net: Any, sample: Sample, qf2: int) -> dict[str, dict[str, float | None]]:
    """Lines of the table, by what the network is shown: figures of all windows, of the surer half, and by flatness."""
    flat, plain = sample.deviation < FLAT, sample.deviation < PLAIN
    parts = {f"accuracy, deviation below {FLAT:g}": flat, f"{FLAT:g} to {PLAIN:g}": plain & ~flat, "more": ~plain}
    out = {}
    for told in (False, True):
        for side in SIDES:
            logp = answer(net, sample, qf2, side, told)
            found = q1map.decode(logp)
            surer = np.argsort(metrics.entropy(logp), kind="stable")[: len(found) // 2]
            name = f"{side} x {side}" + (", told the shift" if told else "")
            by_part = {key: metrics.accuracy(found[part], sample.q1[part]) for key, part in parts.items()}
            half = {"surer half": metrics.accuracy(found[surer], sample.q1[surer])}
            out[name] = {**metrics.scores("", found, sample.q1), **half, **by_part}
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of uncompressed images, or of sets")
    parser.add_argument("--qf2", type=int, default=90)
    parser.add_argument("--windows", type=int, default=2000, help="windows of each set")
    parser.add_argument("--aligned", action="store_true", help="both compressions on one grid")
    o = parser.parse_args()
    torch.set_num_threads(1)
    net: Any = fit.build("q1")
    restore(net, q1_bands(), weights.folder() / q1map.MODEL / "model.onnx")
    net.eval()
    for name, paths in image_sets(o.data).items():
        sample = draw(paths, o.qf2, o.windows, f"{name}/{o.qf2}", aligned=o.aligned)
        flat, plain = (100 * float((sample.deviation < limit).mean()) for limit in (FLAT, PLAIN))
        kind = ", on the same grid" if o.aligned else ""
        print(f"\n{name}, QF2 = {o.qf2}{kind}: {flat:.0f} % of the windows deviate by less than {FLAT:g}, ", end="")
        print(f"{plain:.0f} % by less than {PLAIN:g}\n")
        print("\n".join(table("shown", lines(net, sample, o.qf2))))


if __name__ == "__main__":
    main()
