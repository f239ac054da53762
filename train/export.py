"""Writes trained networks as ONNX models with their manifests, each compared with torch first.

python -m train.export q1 --run runs/q1 --src FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto

import jscan
from jscan import context, history, q1map, qfmap, suspicion
from jscan.jpegtables import N_COEFS, Q1_OFFSET
from jscan.tiling import MARGIN
from train import fit
from train.comb import WINDOW, Comb
from train.dataset import TASKS, image_weights, load_images, make_batch
from train.graphs import CONTEXT_MAPS, CONTEXT_OUTPUTS, build_onnx, context_onnx, regions_onnx
from train.networks.context import SHIFTS, STEPS, ContextNet, normalise
from train.networks.region import RegionNet, RegionNets


def prior_logit(name: str) -> float:
    """Log-odds of `present` in training; they are taken off, so that the model answers at even odds."""
    share = TASKS[name]().positive()
    return float(np.log(share / (1 - share)))


TOLERANCE = 1e-2
"""Largest difference from torch, in probability (or logit, for maps), with which a model is written.

What is left comes from |c| that falls on the edge between two rows of a table, on either side of it.
"""

DESCRIPTIONS = {
    q1map.MODEL: "Primary quantisation table, grid shift and presence of a first compression, window by window.",
    qfmap.MODEL: "Quality factor, grid and presence of the last compression in decoded pixels, window by window.",
    q1map.READER: "The network of q1-comb, for features that were computed at some of the grid shifts.",
    qfmap.READER: "The network of qf-comb, for features that were computed at some of the grid shifts.",
    q1map.SCOUT: "Which grid shifts of a JPEG's windows are worth a look for a first compression.",
    qfmap.SCOUT: "Which grid shifts of windows of decoded pixels are worth a look for a compression.",
    context.MODEL: "The posteriors of a JPEG's windows in the light of their neighbours.",
    suspicion.JPEG_MODEL: "Which windows of a JPEG have another first compression than the background.",
    suspicion.PIXEL_MODEL: "Which windows of decoded pixels have another last compression than the background.",
    "densenet-qf80": "Baseline: the DenseNet of Tondi 2021 for a last quality factor of 80.",
    "densenet-qf90": "Baseline: the DenseNet of Tondi 2021 for a last quality factor of 90.",
    "regression-qf90": "Baseline: the regression of Niu 2020 for a last quality factor of 90.",
    "uchida": "Baseline: quality factor and compression flag pixel by pixel, the network of Uchida 2019.",
}
_OF_PATCHES = [
    "JPEG files whose last quality factor is within 2 of the one it was trained on.",
    "First compressions with standard tables; steps above those of quality factor 50 are reported as that step.",
    "Says neither where the blocks of a first compression begin nor whether there was one.",
    "Trained on far fewer patches than its paper's (see `training`), and wrong accordingly more often (see `metrics`).",
    "Begun as DCT coefficients and combs, jscan's own idea, which some layers stay; its paper's began at random.",
]
LIMITS = {
    q1map.MODEL: [
        "JPEG files with 8-bit luma and a last quality factor of about 60 to 100, standard tables or not.",
        "Steps above those of quality factor 50 are reported as that step.",
        "Where the first quality factor is at least the last one, little can be told and the posterior says so.",
        "Windows that are flat or saturated hold no information.",
    ],
    qfmap.MODEL: [
        "Decoded pixels of images compressed once or more with quality factors 5 to 100; the last one is estimated.",
        "Traces on an 8 x 8 grid only: an image that was resized after its compression counts as never compressed.",
        "Windows that are flat or saturated hold no information.",
    ],
    q1map.READER: ["As q1-comb; a first compression at a shift that was not looked at is missed."],
    qfmap.READER: ["As qf-comb; a compression at a shift that was not looked at is missed."],
    q1map.SCOUT: [
        "As q1-comb; where the first quality factor is at least the last one, it is hardly better than chance."
    ],
    qfmap.SCOUT: ["As qf-comb."],
    context.MODEL: [
        "Posteriors of q1-comb of the same version, windows 16 pixels apart.",
        "Parts of less than about 64 x 64 pixels may take on what their surroundings say.",
    ],
    suspicion.JPEG_MODEL: [
        "Regions from about 64 x 64 pixels on that cover less than half of the image.",
        "A region with the background's table on the background's grid cannot be seen.",
        "Recompression with a quality factor far below the first ones removes the traces.",
    ],
    suspicion.PIXEL_MODEL: [
        "Regions from about 64 x 64 pixels on that cover less than half of the image.",
        "Rescaling, denoising or heavy editing after the splice removes the traces.",
    ],
    "densenet-qf80": _OF_PATCHES,
    "densenet-qf90": _OF_PATCHES,
    "regression-qf90": _OF_PATCHES,
    "uchida": ["Decoded pixels of images compressed once with a standard table, or never."],
}


def open_session(model: onnx.ModelProto) -> Any:
    """A session of a model that was just built, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def compare_windows(net: Any, model: onnx.ModelProto, name: str, src: Path, count: int = 64) -> float:
    """The largest difference between the model, fed with pixels, and torch, fed with features of the same windows.

    Compared are probabilities, on windows made from the images of a folder.
    """
    task = TASKS[name]()
    images = load_images(src)
    windows, labels = make_batch(task, images, image_weights(images), random.Random(99), count)
    features, energy = Comb(task.bands())(windows, np.float32)
    out = fit.forward(
        net, torch.from_numpy(features), torch.from_numpy(energy), {k: torch.from_numpy(v) for k, v in labels.items()}
    )
    groups = Q1_OFFSET if name == "q1" else (0, 100)
    logp = torch.cat([out[0][:, a:b].log_softmax(1) for a, b in pairwise(groups)], 1).numpy()
    wanted = (np.exp(logp), out[1].softmax(1).numpy(), (out[2] - prior_logit(name)).sigmoid().numpy())
    session, worst = open_session(model), 0.0
    for k, window in enumerate(windows):
        feed = {"luma": np.pad(window, (0, MARGIN))[None, None], "valid": np.array([WINDOW - 7] * 2)}
        if name == "q1":
            feed["q2"] = labels["q2"][k : k + 1].astype(np.float32)
        logp_got, shift_got, present = session.run(["logp", "shift", "present"], feed)
        for got, want in zip((np.exp(logp_got), np.exp(shift_got), present), wanted, strict=True):
            worst = max(worst, float(np.abs(got[0] - want[k]).max()))
    return worst


@torch.no_grad()
def compare_regions(nets: RegionNets, model: onnx.ModelProto) -> float:
    """The largest difference of a logit between the model and torch on random maps of two sizes."""
    session, worst, net = open_session(model), 0.0, nets.nets[0]
    assert isinstance(net, RegionNet)
    for rows, cols in ((17, 29), (40, 5)):
        maps = torch.randn(1, net.offset.numel(), rows, cols) / net.scale[:, None, None] + net.offset[:, None, None]
        got = session.run(None, {"maps": maps.numpy()})[0]
        worst = max(worst, float(np.abs(got - nets(maps).numpy()).max()))
    return worst


@torch.no_grad()
def compare_context(net: ContextNet, model: onnx.ModelProto, prior: float) -> float:
    """The largest difference of a probability between the model and torch on random posteriors of two sizes."""
    session, worst = open_session(model), 0.0
    for rows, cols in ((17, 29), (40, 5)):
        logp = normalise(3 * torch.randn(1, rows, cols, STEPS))
        shift = (3 * torch.randn(1, rows, cols, SHIFTS)).log_softmax(-1)
        maps = [torch.rand(1, rows, cols) for _ in range(3)]
        table = torch.randint(1, 60, (1, N_COEFS)).float()
        steps, places, double = net(logp, shift, *maps, table)
        wanted = (normalise(steps).exp(), places.softmax(-1), (double - prior).sigmoid())
        feed = {"logp": logp, "shift": shift, "q2": table, **dict(zip(CONTEXT_MAPS, maps, strict=True))}
        got = session.run(list(CONTEXT_OUTPUTS), {k: v.numpy() for k, v in feed.items()})
        difference = (np.abs(np.exp(g) - w.numpy()) for g, w in zip(got[:2], wanted[:2], strict=True))
        worst = max(worst, *(float(d.max()) for d in difference), float(np.abs(got[2] - wanted[2].numpy()).max()))
    return worst


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write(
    name: str,
    model: onnx.ModelProto,
    training: dict[str, Any],
    out: Path,
    difference: float,
    more: dict[str, Any] | None = None,
) -> None:
    """Writes `model.onnx`, `manifest.json` and README.md. Raises ValueError where the model differs from torch."""
    if not difference <= TOLERANCE:
        raise ValueError(f"{name}: differs from torch by {difference:.2g}, more than {TOLERANCE:.2g}; not written")
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)

    def ends(values: Any) -> dict[str, Any]:
        shape = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        return {
            v.name: {"shape": shape[v.name], "type": TensorProto.DataType.Name(v.type.tensor_type.elem_type)}
            for v in values
        }

    manifest = {
        "name": name,
        "description": DESCRIPTIONS[name],
        "version": jscan.__version__,
        "digest": hashlib.sha256(data).hexdigest(),
        "inputs": ends(model.graph.input),
        "outputs": ends(model.graph.output),
        "training": {**training, "commit": _commit(), "difference_from_torch": float(f"{difference:.2g}")},
        "metrics": {},
        "limits": LIMITS[name],
        **(more or {}),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    lines = [f"# {name}", "", DESCRIPTIONS[name], "", f"Trained with `{training['command']}`.", "", "Valid for:", ""]
    lines += [f"- {limit}" for limit in LIMITS[name]]
    lines += ["", "Inputs, outputs, digest, training data and measured figures are in `manifest.json`.", ""]
    (folder / "README.md").write_text("\n".join(lines))


def export_windows(name: str, run: Path, src: Path, out: Path) -> None:
    """Exports the running average of a trained comb network, `q1` or `qf`."""
    saved = torch.load(run / "last.pt", weights_only=True)
    averaged = torch.optim.swa_utils.AveragedModel(fit.build(name))
    averaged.load_state_dict(saved["average"])
    net: Any = averaged.module.eval()
    model = build_onnx(net, TASKS[name]().bands(), prior_logit(name))
    difference = compare_windows(net, model, name, src)
    state = saved["state"]
    command = f"python -m train.fit {name} --src SRC --run {run.as_posix()} --minutes {saved['minutes']:g}"
    command += f" --replay {saved['replay']:g}" + (f" --start {saved['start']}" if "start" in saved else "")
    training = {
        "command": command,
        "data": f"{len(load_images(src))} uncompressed images",
        "minutes": round(state["seconds"] / 60, 1),
        "steps": state["steps"],
        "fresh_windows": state["windows"],
        "loss": round(state["loss"], 4),
        "task": saved["task"],
    }
    write({"q1": q1map.MODEL, "qf": qfmap.MODEL}[name], model, training, out, difference)


def export_regions(name: str, run: Path, src: Path, out: Path) -> None:
    """Exports the trained consistency networks of `jpeg` or `pixels`."""
    saved = torch.load(run / "last.pt", weights_only=True)
    channels = history.JPEG_CHANNELS if name == "jpeg" else history.PIXEL_CHANNELS
    nets = RegionNets([RegionNet(len(channels)) for _ in saved["nets"]])
    for net, weights in zip(nets.nets, saved["nets"], strict=True):
        net.load_state_dict(weights)
    model = regions_onnx(nets.eval())
    counts = " and ".join(map(str, saved["cases"]))
    command = f"python -m train.fit_regions {name} --cases CASES --run {run.as_posix()} --epochs {saved['epochs']}"
    training = {
        "command": command,
        "data": f"{counts} forgeries and pristine images made of {len(load_images(src))} uncompressed images",
        "epochs": saved["epochs"],
        "channels": list(channels),
    }
    target = suspicion.JPEG_MODEL if name == "jpeg" else suspicion.PIXEL_MODEL
    write(target, model, training, out, compare_regions(nets, model), {"calibration": saved["calibration"]})


def export_context(run: Path, out: Path) -> None:
    """Exports a trained context network."""
    saved = torch.load(run / "last.pt", weights_only=True)
    net = ContextNet()
    net.load_state_dict(saved["net"])
    net.eval()
    # It learns how often its training windows were compressed twice; the model answers at even odds.
    prior = float(np.log(saved["double"] / (1 - saved["double"])))
    model = context_onnx(net, prior)
    training = {
        "command": f"python -m train.fit_context --cases CASES --run {run.as_posix()} --steps {saved['steps']}",
        "data": "forgeries and pristine images made by train.cases",
    }
    write(context.MODEL, model, training, out, compare_context(net, model, prior))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("q1", "qf", "context", "jpeg", "pixels"))
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--src", type=Path, required=True, help="folder of images to compare on")
    parser.add_argument("--out", type=Path, default=Path("weights"))
    o = parser.parse_args()
    if o.name == "context":
        export_context(o.run, o.out)
    else:
        (export_windows if o.name in ("q1", "qf") else export_regions)(o.name, o.run, o.src, o.out)


if __name__ == "__main__":
    main()
