"""Writes the models of the fast path: readers, which are the published comb networks again, and scouts.

    python -m train.export_fast reader q1 --src FOLDER
    python -m train.export_fast scout q1 --src FOLDER --run runs/scout-q1
    python -m train.export_fast glance q1 --src FOLDER --run runs/glance-q1

A reader has the weights of `weights/q1-comb` or `weights/qf-comb`. Either model is compared with torch, on windows of
the images in a folder.
"""

from __future__ import annotations

import argparse
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from jscan import q1map, qfmap, weights
from jscan.jpegtables import Q1_OFFSET
from train import fit, fit_glance, fit_scout, published
from train.comb import Comb, blocks_per_shift
from train.dataset import TASKS, image_weights, load_images, make_batch
from train.export import open_session, prior_logit, write
from train.graphs import reader_onnx, scout_onnx
from train.networks.scout import Glance

COMB = {"q1": q1map.MODEL, "qf": qfmap.MODEL}
READER = {"q1": q1map.READER, "qf": qfmap.READER}
SCOUT = {"q1": q1map.SCOUT, "qf": qfmap.SCOUT}


def _windows(name: str, src: Path, count: int) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[np.int64]]]:
    images = load_images(src)
    return make_batch(TASKS[name](), images, image_weights(images), random.Random(98), count)


def _table(labels: dict[str, npt.NDArray[np.int64]], k: int) -> dict[str, npt.NDArray[np.float32]]:
    return {"q2": labels["q2"][k : k + 1].astype(np.float32)} if "q2" in labels else {}


@torch.no_grad()
def compare_reader(name: str, net: Any, model: Any, src: Path, count: int = 64) -> float:
    """The largest difference of a probability between the reader and torch, both fed with features of all shifts."""
    bands = TASKS[name]().bands()
    windows, labels = _windows(name, src, count)
    features, energy = Comb(bands)(windows, np.float32)
    sums = features * blocks_per_shift()[:, None]
    level = np.repeat(np.expm1(energy), [len(b.coefs) for b in bands], axis=1)  # the same for all of a band will do
    level = level.astype(np.float32)
    tensors = {k: torch.from_numpy(v) for k, v in labels.items()}
    out = fit.forward(net, torch.from_numpy(features), torch.from_numpy(energy), tensors)
    groups = Q1_OFFSET if name == "q1" else (0, 100)
    logp = torch.cat([out[0][:, a:b].log_softmax(1) for a, b in pairwise(groups)], 1).numpy()
    wanted = np.exp(logp), out[1].softmax(1).numpy(), (out[2] - prior_logit(name)).sigmoid().numpy()
    reader, worst = open_session(model), 0.0
    for k in range(count):
        got = reader.run(
            ["logp", "shift", "present"],
            {
                "features": sums[k : k + 1],
                "blocks": blocks_per_shift()[None],
                "place": np.arange(64),
                "stands_for": np.ones(64, np.float32),
                "level": level[k : k + 1],
                **_table(labels, k),
            },
        )
        probabilities = np.exp(got[0]), np.exp(got[1]), got[2]
        worst = max(worst, *(float(np.abs(p - w[k]).max()) for p, w in zip(probabilities, wanted, strict=True)))
    return worst


def told(means: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(n, 64, 16) what a scout is told of windows whose means are (n, 64, 8); see `kernels.window_means`."""
    together = np.broadcast_to(means.mean(axis=1, keepdims=True), means.shape)
    return np.concatenate([means, together], axis=2).astype(np.float32)


@torch.no_grad()
def compare_scout(net: Any, model: Any, name: str, src: Path, count: int = 64, glance: Glance | None = None) -> float:
    """The largest difference of a probability between the scout and torch on windows of the images in a folder."""
    windows, labels = _windows(name, src, count)
    features = Comb(fit_scout.bands(name))(windows, np.float32)[0]
    table = (torch.from_numpy(labels["q2"]).float(),) if "q2" in labels else ()
    units, logits, around = net.look(torch.from_numpy(features), *table)
    wanted = logits.softmax(1).numpy()
    there = glance(units, logits, around).sigmoid().numpy() if glance is not None else None
    scout, worst = open_session(model), 0.0
    project = net.project.weight.numpy().T
    for k in range(len(windows)):
        feed = {"means": told((features[k] @ project)[None]), **_table(labels, k)}
        worst = max(worst, float(np.abs(np.exp(scout.run(["shift"], feed)[0][0]) - wanted[k]).max()))
        if there is not None:
            worst = max(worst, float(np.abs(scout.run(["present"], feed)[0][0] - there[k])))
    return worst


def export_reader(name: str, src: Path, out: Path) -> None:
    """Writes the published comb network as a reader.

    Its weights are stored in half precision, so that all models together stay below 20 MB.
    """
    net: Any = fit.build(name)
    bands = TASKS[name]().bands()
    published.restore(net, bands, weights.folder() / COMB[name] / "model.onnx")
    training = {
        "command": f"python -m train.export_fast reader {name} --src SRC",
        "data": f"none: these are the weights of {weights.label(COMB[name])}",
    }
    model = reader_onnx(net.eval(), bands, prior_logit(name), half=True)
    more = {"bands": [b.said() for b in bands]}
    write(READER[name], model, training, out, compare_reader(name, net, model, src), more)


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


def export_glance(run: Path, src: Path, out: Path) -> None:
    """Writes the published scout again, with a trained glance."""
    saved, net, name = torch.load(run / "last.pt", weights_only=True), fit_glance.scout(), fit_glance.NAME
    glance, bands = Glance(net), fit_scout.bands(name)
    glance.load_state_dict(saved["net"])
    model = scout_onnx(net, bands, glance.eval())
    before = weights.manifest(SCOUT[name])["training"]
    of_glance = {
        "command": f"python -m train.fit_glance --src SRC --run {run.as_posix()} --windows {saved['windows']}",
        "data": f"{len(load_images(src))} uncompressed images, and what {weights.label(COMB[name])} says of them",
        "windows": saved["windows"],
        "loss": round(saved["loss"], 4),
        **saved["told"],
    }
    difference = compare_scout(net, model, name, src, glance=glance)
    training = {**before, "scout_commit": before.get("scout_commit", before["commit"]), "glance": of_glance}
    write(SCOUT[name], model, training, out, difference, {"bands": [b.said() for b in bands]})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("reader", "scout", "glance"))
    parser.add_argument("name", choices=sorted(TASKS))
    parser.add_argument("--src", type=Path, required=True, help="folder of images to compare on")
    parser.add_argument("--run", type=Path, help="folder of what was trained")
    parser.add_argument("--out", type=Path, default=Path("weights"))
    o = parser.parse_args()
    if o.what == "reader":
        export_reader(o.name, o.src, o.out)
    elif o.run is None:
        parser.error(f"a {o.what} is exported from its --run")
    elif o.what == "glance":
        if o.name != fit_glance.NAME:
            parser.error(f"only {fit_glance.NAME} has a glance")
        export_glance(o.run, o.src, o.out)
    else:
        export_scout(o.name, o.run, o.src, o.out)


if __name__ == "__main__":
    main()
