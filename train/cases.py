"""Labelled forgeries with what the window models say of them: what the models of whole images are trained on.

    python -m train.cases jpeg --src FOLDER --run runs/cases-jpeg --cases 4500

It runs the exported window models (`weights/q1-comb`, `weights/qf-comb`) on every case, so those come first. One in
six source images is kept apart: on forgeries made of these the models are measured and the score is calibrated.
Cases lie in parts of 75, so that a run that was stopped goes on, and more can be added later. A part remembers the
model that it was made with; another model makes it anew.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from jscan import history, q1map, qfmap, trace, weights
from jscan.jpegtables import N_COEFS, Q1_MAX
from jscan.modelset import Q1, QF
from jscan.records import WindowPosteriors
from jscan.scan import Scanner
from jscan.tiling import BLOCK, STRIDE, WINDOW
from jscan.windows import AllShifts
from train import forgery
from train.dataset import image_weights, load_images

HELD_OUT = 6
"""Every sixth source image is kept apart."""
PART = 75
"""Cases in a file."""
RESTORED_EVERY, UNEVEN_EVERY = 10, 5
"""Of how many files of cases one holds those of `forgery.make_restored`, for pixels alone, and of `make_uneven`."""
KINDS = {"jpeg": Q1, "pixels": QF}

Case = dict[str, Any]
"""One labelled image, as arrays: the fields of `posteriors` and `history.Content`, the file's table `q2` (64,), what
the background's trace says, `against` (3, R, C; None for decoded pixels), `kind`, `label` (see `cell_labels`), `inside`
(R, C) whether a window's centre lies in the mask, and, for what lies outside and inside of the mask, `tables` (2, 15),
zeros where there was no compression, and `shifts` (2,)."""


def models(name: str) -> str:
    """The digests of the models whose answers the cases hold."""
    kind = KINDS[name]
    asked = (kind.model, kind.scout, kind.reader) if name == "jpeg" else (kind.model,)
    return " ".join(weights.manifest(m)["digest"] for m in asked)


def cell_labels(mask: npt.NDArray[np.bool_], rows: int, cols: int) -> npt.NDArray[np.float32]:
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


def centres(mask: npt.NDArray[np.bool_], rows: int, cols: int) -> npt.NDArray[np.bool_]:
    """(rows, cols) whether the centre of each window lies inside the mask."""
    y, x = (
        np.minimum(np.arange(n) * STRIDE + WINDOW // 2, s - 1) for n, s in zip((rows, cols), mask.shape, strict=True)
    )
    return mask[np.ix_(y, x)]


def posteriors(case: Case) -> WindowPosteriors:
    """What the window model said of a case."""
    return WindowPosteriors(case["logp"], case["shift"], case["present"], (0, 0), tuple(case["size"]))


def content(case: Case) -> history.Content:
    """What the pixels of its windows are like."""
    return history.Content(case["texture"], case["saturated"])


def _capped(table: tuple[int, ...] | None) -> npt.NDArray[np.int64]:
    steps = np.zeros(N_COEFS, np.int64) if table is None else np.array(table[:N_COEFS], np.int64)
    return np.minimum(steps, Q1_MAX)


def _look(made: forgery.Case, scanner: Scanner) -> Case:
    if made.q2 is None:
        # What decides about a picture that is suspected is what is said of it by all shifts.
        found = qfmap.estimate(AllShifts(scanner.estimator.models(QF.model)), made.luma)
    else:
        found = q1map.estimate(scanner.estimator.models.windows(Q1, made.luma), made.luma, made.q2)
    pixels, (rows, cols) = history.content(made.luma, found), found.present.shape
    base = history.background(found)
    against = None if made.q2 is None else trace.background_trace(made.luma, found, base.table, base.shift)
    return {
        "logp": found.logp,
        "shift": found.shift,
        "present": found.present,
        "size": np.array(made.luma.shape),
        "texture": pixels.texture,
        "saturated": pixels.saturated,
        "against": against,
        "q2": np.array(made.q2 or (), np.int64),
        "kind": made.kind,
        "label": cell_labels(made.mask, rows, cols),
        "inside": centres(made.mask, rows, cols),
        "tables": np.stack([_capped(made.ground.table), _capped(made.piece.table)]),
        "shifts": np.array([made.ground.shift, made.piece.shift]),
    }


def made_of(name: str, part: int) -> Callable[..., forgery.Case]:
    """What makes the cases of this file, of images, their weights and a generator."""
    if name == "pixels" and part % RESTORED_EVERY == RESTORED_EVERY - 1:
        return forgery.make_restored
    one = forgery.make_uneven if part % UNEVEN_EVERY == UNEVEN_EVERY // 2 else forgery.make
    return partial(one, name == "jpeg")


@cache
def _images(src: Path) -> list[npt.NDArray[np.uint8]]:
    return load_images(src)


def _work(job: tuple[str, Path, Path, int, int, bool]) -> Path:
    name, src, path, number, seed, held_out = job
    cv2.setNumThreads(1)
    digest = models(name)
    if path.exists() and torch.load(path, weights_only=False, mmap=True)["model"] == digest:
        return path
    images = [i for k, i in enumerate(_images(src)) if (k % HELD_OUT == 0) == held_out]
    cumulative, rng, scanner = image_weights(images), random.Random(seed), Scanner(device="cpu")
    draw = made_of(name, number)
    made = [_look(draw(images, cumulative, rng), scanner) for _ in range(PART)]
    part = path.with_suffix(".part")
    torch.save({"model": digest, "cases": made}, part)
    part.replace(path)
    return path


def make(name: str, src: Path, run: Path, count: int, held_out: bool, workers: int = 2) -> list[Path]:
    """The files of at least `count` cases of JPEG files (`jpeg`) or decoded pixels (`pixels`), made where missing."""
    run.mkdir(parents=True, exist_ok=True)
    kind = "held" if held_out else "train"
    jobs = [
        (name, src, run / f"{kind}-{k:03d}.pt", k, 7000 + 500_000 * held_out + k, held_out)
        for k in range(-(-count // PART))
    ]
    with mp.get_context("spawn").Pool(workers) as pool:
        paths = []
        for path in pool.imap(_work, jobs):
            paths.append(path)
            print(f"{name}: {len(paths)} of {len(jobs)} parts ({kind})", flush=True)
    return paths


def parts(run: Path, held_out: bool) -> list[Path]:
    """The files of a folder's cases. Raises ValueError where there are none."""
    paths = sorted(run.glob("held-*.pt" if held_out else "train-*.pt"))
    if not paths:
        raise ValueError(f"{run}: no cases in it; make them first with python -m train.cases")
    return paths


def load_part(path: Path) -> list[Case]:
    """The cases in a file."""
    made: list[Case] = torch.load(path, weights_only=False)["cases"]
    return made


def load(run: Path, held_out: bool) -> Iterator[Case]:
    """The cases of a folder, file by file. Raises ValueError where there are none."""
    for path in parts(run, held_out):
        yield from load_part(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(KINDS))
    parser.add_argument("--src", type=Path, required=True, help="folder of uncompressed images")
    parser.add_argument("--run", type=Path, required=True, help="folder of cases")
    parser.add_argument("--cases", type=int, default=4500, help="to train on; a quarter more are made to measure on")
    parser.add_argument("--workers", type=int, default=2)
    o = parser.parse_args()
    make(o.name, o.src, o.run, o.cases // 4, True, o.workers)
    make(o.name, o.src, o.run, o.cases, False, o.workers)


if __name__ == "__main__":
    main()
