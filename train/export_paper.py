"""Writes the papers' networks as ONNX models, and measures what running them over whole images changes.

    python -m train.export_paper write densenet-qf90 --src FOLDER --run runs/densenet-qf90
    python -m train.export_paper compare densenet-qf90 --src FOLDER

The graph of a DenseNet takes a tile and gives the answers of all its windows 8 pixels apart: the mean over 16 x 16 of
the last features in place of the global one. At the borders of a tile it sees zeros, as a patch on its own does in
training; within it sees the neighbours. `compare` says how often the two agree, and how long an image of 512 x 512
pixels takes, and writes both into the manifest.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper

from jscan import papermap, weights
from jscan.jpegtables import Q1_OFFSET
from jscan.tiling import WINDOW
from train import compress, export, fit_paper, paper_config
from train.compress import Pixels
from train.dataset import image_weights, load_images
from train.graphs import Graph, finish
from train.measure_report import rounded, write_text
from train.networks.densenet import SCALE, DenseLayer, DenseNet, Transition, affine
from train.networks.steps import Steps, replant
from train.networks.uchida import UchidaNet
from train.paper_config import Config
from train.paper_patches import make_batch, planes

FEW = 64
"""Patches on which a DenseNet's arithmetic is fitted."""
MARGINS = (0, 16, 32, 64)
"""Pixels around a window with which it is compared: 0 is the patch of the paper, on its own."""
SIDE = 384
"""Pixels along a side of the images compared on."""
TIMED = 512
"""Pixels along a side of the image that is timed."""

# --- graphs -----------------------------------------------------------------------------------------------------------


def _scaled(g: Graph, network: str) -> str:
    """What `fit_paper.scaled` computes."""
    x = g.add("Mul", g.add("Cast", "pixels", to=TensorProto.FLOAT), g.scalar(1 / 255))
    return x if network == "uchida" else g.add("Sub", x, g.scalar(0.5))


def _conv(g: Graph, x: str, layer: Any, weight: torch.Tensor | None = None, exact: bool = False) -> str:
    """Of a layer, with its own weights or these."""
    pad, dilation = int(layer.padding[0]), int(layer.dilation[0])
    weight = layer.weight if weight is None else weight
    inputs = [x, g.weight(weight, exact=exact), *([] if layer.bias is None else [g.weight(layer.bias)])]
    return g.add("Conv", *inputs, pads=[pad] * 4, dilations=[dilation] * 2)


def _part(g: Graph, x: str, part: Any) -> str:
    """What a dense layer adds, or a transition before its mean, of the channels that have any weight.

    Most of what a DenseNet reads has none where it is arithmetic: half a megabyte, and some of the time. That is where
    rounding is seen: sums of scores would be off by a thirtieth of what they differ by.
    """
    read = part.conv.weight.ne(0).any((2, 3)).any(0).nonzero()[:, 0]
    if len(read) < part.conv.in_channels:
        x = g.add("Gather", x, g.ints(*read.tolist()), axis=1)
    arithmetic = isinstance(part, DenseLayer) and len(read) < part.conv.in_channels
    return _conv(g, _normed(g, x, part.norm, read), part.conv, part.conv.weight[:, read], arithmetic)


def _normed(g: Graph, x: str, layer: Any, read: torch.Tensor | slice = slice(None)) -> str:
    """Batch normalisation with the running statistics, and ReLU; of these channels alone."""
    scale, shift = (values[read] for values in affine(layer))
    x = g.add("Mul", x, g.weight(scale[:, None, None]))
    return g.add("Relu", g.add("Add", x, g.weight(shift[:, None, None])))


def _finished(g: Graph, channels: int, outputs: dict[str, tuple[str, list[Any]]]) -> onnx.ModelProto:
    """The model whose outputs, by name, are these results with these shapes."""
    for name, (source, _) in outputs.items():
        g.nodes.append(helper.make_node("Identity", [source], [name]))
    graph = helper.make_graph(
        g.nodes,
        "jscan",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["patches", channels, "height", "width"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in outputs.items()],
        g.constants,
    )
    return finish(graph)


@torch.no_grad()
def build_onnx(net: Any, network: str) -> onnx.ModelProto:
    """The model of a trained network of this kind. Input: `pixels` (n, channels, H, W) uint8.

    Outputs: `logp` (n, R, C, 226) log-posteriors or, of a regression, `steps` (n, R, C, 15), not rounded, of windows
    8 pixels apart; of `uchida` `qf`, 0 to 100, and `uncompressed`, about 0 to 1, (n, H, W).
    """
    g = Graph(half=network != "uchida")  # of which a pixel would be off by up to 4 QF
    x = _scaled(g, network)
    if isinstance(net, UchidaNet):
        *inner, last = net.plain()
        for conv in inner:
            x = g.add("Relu", _conv(g, x, conv))
        x = _conv(g, x, last)
        shape = ["patches", "height", "width"]
        qf, uncompressed = (g.add("Squeeze", g.cut(x, 1, k, k + 1), g.ints(1)) for k in range(2))
        qf = g.add("Sub", g.scalar(100), g.add("Mul", qf, g.scalar(100)))
        return _finished(g, 3, {"qf": (qf, [*shape]), "uncompressed": (uncompressed, [*shape])})
    assert isinstance(net, DenseNet)
    x = _conv(g, x, net.first)
    for part in net.blocks:
        new = _part(g, x, part)
        if isinstance(part, Transition):
            x = g.add("AveragePool", new, kernel_shape=[2, 2], strides=[2, 2])
        else:
            x = g.add("Concat", x, new, axis=1)
    step = papermap.STRIDE // SCALE
    x = g.add("AveragePool", _normed(g, x, net.norm), kernel_shape=[WINDOW // SCALE] * 2, strides=[step] * 2)
    x = g.linear(g.add("Transpose", x, perm=[0, 2, 3, 1]), net.last)
    name = "steps"
    if network == "densenet":
        name = "logp"
        x = g.add(
            "Concat",
            *(g.add("LogSoftmax", g.cut(x, 3, a, b), axis=3) for a, b in pairwise(Q1_OFFSET)),
            axis=3,
        )
    out = net.last.out_features
    return _finished(g, net.first.in_channels, {name: (x, ["patches", "rows", "cols", out])})


@torch.no_grad()
def compare_torch(net: Any, model: onnx.ModelProto, network: str, pixels: npt.NDArray[np.uint8]) -> float:
    """The largest difference between the model and torch: of a probability, a step, a QF / 100 or a flag."""
    got = export.open_session(model).run(None, {"pixels": pixels})
    x = fit_paper.scaled(torch.from_numpy(pixels), network)
    if network == "uchida":
        wanted = net(x).numpy()
        return float(max(np.abs(1 - got[0] / 100 - wanted[:, 0]).max(), np.abs(got[1] - wanted[:, 1]).max()))
    out = net(x, papermap.STRIDE)
    if network == "densenet":
        out = torch.cat([out[..., a:b].softmax(-1) for a, b in pairwise(Q1_OFFSET)], -1)
        got[0] = np.exp(got[0])
    return float(np.abs(got[0] - out.numpy()).max())


def _of_run(name: str, run: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of a run."""
    state, start = saved["state"], saved.get("start")
    return {
        "command": f"python -m train.fit_paper {name} --src SRC --run {run.as_posix()}"
        + (f" --start {start}" if start else ""),
        "data": f"{', then '.join(map(str, dict.fromkeys(saved['images'])))} uncompressed images",
        "minutes_cpu": round(state["cpu"] / 60, 1),
        "minutes_gpu": round(state["gpu"] / 60, 1),
        "schedule": f"{saved['minutes']:g} minutes, {saved['device']}",
        "schedule_done": round(min(1.0, state[saved["device"]] / (60 * saved["minutes"])), 3),
        "steps": state["steps"],
        "patches": state["patches"],
        "loss": round(state["loss"], 4),
    }


def _before(saved: dict[str, Any]) -> list[dict[str, Any]]:
    """The same of the runs that it began with, the last one first, as far as their checkpoints are there."""
    found: list[dict[str, Any]] = []
    while saved.get("start") and (last := Path(saved["start"], "last.pt")).exists():
        run, saved = last.parent, fit_paper.load(last)
        found.append(_of_run(saved["config"]["name"], run, saved))
    return found


def write(name: str, run: Path, src: Path, out: Path) -> None:
    """Exports the network of a run. Raises ValueError where the model differs from torch."""
    saved = fit_paper.load(run / "last.pt")
    config = paper_config.from_values(name, saved["config"])
    net: Any = paper_config.build(config)
    net.load_state_dict(saved["net"])
    net.eval()
    images = load_images(src)
    alone = replace(config, context_share=0.0)
    pixels = make_batch(alone, images, image_weights(images), random.Random(99), FEW)["pixels"]
    if "steps" in saved:
        if "shallow" in saved:
            raise ValueError(f"{run}: still the shallow network; go on with the command that began it")
        steps = Steps()
        steps.load_state_dict(saved["steps"])
        replant(steps.eval(), net, fit_paper.scaled(torch.from_numpy(pixels), config.network))
    model = build_onnx(net, config.network)
    difference = compare_torch(net, model, config.network, pixels[:8])
    training = {**_of_run(name, run, saved), "before": _before(saved), "task": config.recipe()}
    more = {"reads": config.input, **({} if config.network == "uchida" else {"qf2": config.qf2})}
    export.write(name, model, training, out, difference, more)


# --- whole images against patches -------------------------------------------------------------------------------------


def _double(config: Config, image: Pixels, rng: random.Random, side: int) -> tuple[Pixels, bytes]:
    """Planes of a double JPEG as the network reads them, of at most side x side pixels, and the file itself."""
    height, width = (min(side + 8, s) for s in image.shape[:2])
    y, x = rng.randrange(image.shape[0] - height + 1), rng.randrange(image.shape[1] - width + 1)
    once = compress.recompress(image[y : y + height, x : x + width], compress.standard(rng.randint(*config.qf1)))
    dy, dx = rng.randrange(8), rng.randrange(8)
    moved = np.ascontiguousarray(once[dy : dy + height - 8, dx : dx + width - 8])
    data = compress.encode(moved, compress.standard(config.qf2))
    return planes(compress.decode(data, gray=config.input == "luma"), config.input), data


def _alone(model: weights.Model, image: Pixels, y: int, x: int, margin: int) -> npt.NDArray[np.int16]:
    """(15,) steps of the window at (y, x), read with `margin` pixels around it, where the image has them."""
    top, left = max(0, y - margin), max(0, x - margin)
    part = np.ascontiguousarray(image[None, :, top : y + WINDOW + margin, left : x + WINDOW + margin])
    answers = model(pixels=part)[model.outputs[0]][0]
    return papermap.decode(answers[(y - top) // papermap.STRIDE, (x - left) // papermap.STRIDE])


def agreement(
    model: weights.Model, config: Config, images: list[Pixels], *, windows: int, margins: tuple[int, ...] = MARGINS
) -> dict[str, Any]:
    """By margin: `same_15`, the share of windows with the same 15 estimates as in one pass over the image; `same`, that
    of estimates; `difference`, the mean absolute one of a step. `windows` of each image are compared, at random places.
    """
    rng = random.Random("agreement")
    pairs: dict[int, list[tuple[Any, Any]]] = {margin: [] for margin in margins}
    for image in images:
        whole, _ = _double(config, image, rng, SIDE)
        found = papermap.estimate(model, whole).steps
        for _ in range(windows):
            row, col = rng.randrange(found.shape[0]), rng.randrange(found.shape[1])
            for margin in margins:
                alone = _alone(model, whole, papermap.STRIDE * row, papermap.STRIDE * col, margin)
                pairs[margin].append((found[row, col], alone))
    out: dict[str, Any] = {"images": len(images), "windows": len(images) * windows, "side": SIDE, "margins": {}}
    for margin, both in pairs.items():
        a, b = (np.stack([p[k] for p in both]).astype(int) for k in range(2))
        out["margins"][str(margin)] = {
            "same_15": float((a == b).all(axis=1).mean()),
            "same": float((a == b).mean()),
            "difference": float(np.abs(a - b).mean()),
        }
    return out


def seconds_of(model: weights.Model, config: Config, image: Pixels) -> dict[str, float]:
    """Wall and processor seconds of one JPEG of 512 x 512 pixels, from its bytes to its steps, on one core."""
    side = TIMED + 8
    larger = cv2.resize(image, (max(side, image.shape[1]), max(side, image.shape[0])), interpolation=cv2.INTER_CUBIC)
    _, data = _double(config, np.asarray(larger, np.uint8), random.Random(0), TIMED)
    wall, own = time.perf_counter(), time.process_time()
    papermap.estimate(model, planes(compress.decode(data, gray=config.input == "luma"), config.input))
    return {"seconds_512": time.perf_counter() - wall, "processor_seconds_512": time.process_time() - own}


def compare(name: str, src: Path, *, images: int, windows: int) -> dict[str, Any]:
    """What `agreement` and `seconds_of` say of a model in `weights/`, which its manifest holds from now on."""
    manifest = weights.manifest(name)
    config = paper_config.load(name)
    known = vars(config)  # a manifest may hold what is no longer asked
    task = {k: tuple(v) if isinstance(v, list) else v for k, v in manifest["training"]["task"].items() if k in known}
    config = paper_config.from_values(name, {**task, "cpu": vars(config.cpu), "gpu": vars(config.gpu)})
    cv2.setNumThreads(1)
    model, loaded = weights.load(name), load_images(src)
    picked = [loaded[k * len(loaded) // min(images, len(loaded))] for k in range(min(images, len(loaded)))]
    said: dict[str, Any] = {
        "command": f"python -m train.export_paper compare {name} --src SRC --images {images} --windows {windows}",
        **seconds_of(model, config, picked[0]),
        **agreement(model, config, picked, windows=windows),
    }
    manifest["fully_convolutional"] = rounded(said)
    write_text(weights.folder() / name / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return said


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (("write", "run to weights/"), ("compare", "whole images against patches")):
        sub = commands.add_parser(command, help=text)
        sub.add_argument("name", choices=[n for n in paper_config.NAMES if command == "write" or n != "uchida"])
        sub.add_argument("--src", type=Path, required=True, help="folder of uncompressed images to compare on")
        if command == "write":
            sub.add_argument("--run", type=Path, required=True, help="folder of checkpoints")
            sub.add_argument("--out", type=Path, default=Path("weights"))
        else:
            sub.add_argument("--images", type=int, default=20)
            sub.add_argument("--windows", type=int, default=10, help="of each image")
    o = parser.parse_args(arguments)
    if o.command == "write":
        write(o.name, o.run, o.src, o.out)
    else:
        print(json.dumps(rounded(compare(o.name, o.src, images=o.images, windows=o.windows)), indent=1))


if __name__ == "__main__":
    main()
