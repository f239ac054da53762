"""Writes the models of the fast path: readers, which are the published comb networks again, and scouts.

    python -m train.export_fast reader q1 --src FOLDER
    python -m train.export_fast scout q1 --src FOLDER --run runs/scout-q1

A reader is made of the weights of `weights/q1-comb` or `weights/qf-comb` and is compared with that model, on windows of
the images in a folder, at all 64 shifts.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from jscan import q1map, qfmap, weights
from jscan.comb import padding
from jscan.tiling import MARGIN
from train import fit, fit_scout, published
from train.comb import WINDOW, Comb, blocks_per_shift
from train.dataset import TASKS, image_weights, load_images, make_batch
from train.export import open_session, prior_logit, write
from train.graphs import reader_onnx, scout_onnx

COMB = {"q1": q1map.MODEL, "qf": qfmap.MODEL}
READER = {"q1": q1map.READER, "qf": qfmap.READER}
SCOUT = {"q1": q1map.SCOUT, "qf": qfmap.SCOUT}


def _windows(name: str, src: Path, count: int) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[np.int64]]]:
    images = load_images(src)
    return make_batch(TASKS[name](), images, image_weights(images), random.Random(98), count)


def _table(labels: dict[str, npt.NDArray[np.int64]], k: int) -> dict[str, npt.NDArray[np.float32]]:
    return {"q2": labels["q2"][k : k + 1].astype(np.float32)} if "q2" in labels else {}


def compare_reader(name: str, model: Any, src: Path, count: int = 64) -> float:
    """The largest difference of a probability between the reader, fed with features, and the comb model."""
    bands = TASKS[name]().bands()
    windows, labels = _windows(name, src, count)
    features, energy = Comb(bands)(windows, np.float32)
    sums = np.pad(features * blocks_per_shift()[:, None], ((0, 0), (0, 0), (0, padding(bands))))
    level = np.repeat(np.expm1(energy), [len(b.coefs) for b in bands], axis=1)  # the same for all of a band will do
    reader, comb, worst = open_session(model), weights.load(COMB[name]), 0.0
    for k, window in enumerate(windows):
        wanted = comb(
            luma=np.pad(window, (0, MARGIN))[None, None], valid=np.array([WINDOW - 7] * 2), **_table(labels, k)
        )
        got = reader.run(
            ["logp", "shift", "present"],
            {
                "features": sums[k : k + 1],
                "blocks": blocks_per_shift()[None],
                "place": np.arange(64),
                "stands_for": np.ones(64, np.float32),
                "level": level[k : k + 1].astype(np.float32),
                **_table(labels, k),
            },
        )
        for value, output in zip(got, ("logp", "shift", "present"), strict=True):
            a, b = (value, wanted[output]) if output == "present" else (np.exp(value), np.exp(wanted[output]))
            worst = max(worst, float(np.abs(a - b).max()))
    return worst


@torch.no_grad()
def compare_scout(net: Any, model: Any, name: str, src: Path, count: int = 64) -> float:
    """The largest difference of a probability between the scout and torch on windows of the images in a folder."""
    windows, labels = _windows(name, src, count)
    features = Comb(fit_scout.bands(name))(windows, np.float32)[0]
    table = (torch.from_numpy(labels["q2"]).float(),) if "q2" in labels else ()
    wanted = net(torch.from_numpy(features), *table).softmax(1).numpy()
    scout, worst = open_session(model), 0.0
    project = net.project.weight.numpy().T
    for k in range(len(windows)):
        blocks = blocks_per_shift()[None]
        sums = ((features[k] @ project) * blocks[0][:, None])[None].astype(np.float32)
        got = scout.run(["shift"], {"sums": sums, "blocks": blocks, **_table(labels, k)})[0]
        worst = max(worst, float(np.abs(np.exp(got[0]) - wanted[k]).max()))
    return worst


def export_reader(name: str, src: Path, out: Path) -> None:
    """Writes the reader of the published comb network `name`."""
    net: Any = fit.build(name)
    bands = TASKS[name]().bands()
    published.restore(net, bands, weights.folder() / COMB[name] / "model.onnx")
    model = reader_onnx(net.eval(), bands, prior_logit(name))
    training = {
        "command": f"python -m train.export_fast reader {name} --src SRC",
        "data": f"none: these are the weights of {weights.label(COMB[name])}",
    }
    more = {"bands": [b.said() for b in bands], "same_weights_as": weights.manifest(COMB[name])["digest"]}
    write(READER[name], model, training, out, compare_reader(name, model, src), more)


def export_scout(name: str, run: Path, src: Path, out: Path) -> None:
    """Writes a trained scout."""
    saved = torch.load(run / "last.pt", weights_only=True)
    net, bands = fit_scout.build(name), fit_scout.bands(name)
    net.load_state_dict(saved["net"])
    model = scout_onnx(net.eval(), bands)
    training = {
        "command": f"python -m train.fit_scout {name} --src SRC --run {run.as_posix()} --windows {saved['windows']}",
        "data": f"{len(load_images(src))} uncompressed images",
        "windows": saved["windows"],
        "loss": round(saved["loss"], 4),
        "true_shift": saved["found"],
    }
    difference = compare_scout(net, model, name, src)
    write(SCOUT[name], model, training, out, difference, {"bands": [b.said() for b in bands]})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("reader", "scout"))
    parser.add_argument("name", choices=sorted(TASKS))
    parser.add_argument("--src", type=Path, required=True, help="folder of images to compare on")
    parser.add_argument("--run", type=Path, help="folder of a trained scout")
    parser.add_argument("--out", type=Path, default=Path("weights"))
    o = parser.parse_args()
    if o.what == "reader":
        export_reader(o.name, o.src, o.out)
    elif o.run is None:
        parser.error("a scout is exported from its --run")
    else:
        export_scout(o.name, o.run, o.src, o.out)


if __name__ == "__main__":
    main()
