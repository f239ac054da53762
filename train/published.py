"""The weights of a published comb model or scout, to go on from: checkpoints do not travel, the models do.

A graph keeps no names of its weights. They are found by building the graph of the same network again: it is the same
node by node, so a constant of the new graph that holds a known weight says what the constant of that name is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from jscan.comb import Band
from train.graphs import build_onnx, scout_onnx
from train.networks.comb import Q1Net, QfNet
from train.networks.scout import ScoutNet

HOW = {"trunk.first.weight": (True, 4.0)}
"""Weights that the graph holds otherwise than torch does: whether transposed, and multiplied by what."""


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}


def restore(net: Q1Net | QfNet, bands: tuple[Band, ...], path: Path) -> None:
    """Nothing; `net`, whose features are those of `bands`, then has the weights of the model in the file.

    Raises ValueError where the model is not one of such a network.
    """
    _restore(net, lambda: build_onnx(net, bands), path)


def restore_scout(net: ScoutNet, bands: tuple[Band, ...], path: Path) -> None:
    """The same for a scout, without its glance."""
    _restore(net, lambda: scout_onnx(net, bands), path)


def _restore(net: torch.nn.Module, build: Callable[[], onnx.ModelProto], path: Path) -> None:
    with torch.no_grad():
        for weights in net.parameters():
            weights.normal_()  # each number another one: equal constants would be one in the graph
    known, published = _constants(build()), _constants(onnx.load(str(path)))
    if not known.keys() <= published.keys():
        raise ValueError(f"{path}: was not exported from this network; leave out --start to begin anew")
    found = {}
    for name, tensor in net.state_dict().items():
        transposed, factor = HOW.get(name, (tensor.ndim == 2 and not name.endswith("place"), 1.0))
        value = factor * (tensor.numpy().T if transposed else tensor.numpy())
        at = [k for k, v in known.items() if v.shape == value.shape and np.allclose(v, value, rtol=1e-5, atol=0)]
        if len(at) != 1 or published[at[0]].shape != value.shape:
            raise ValueError(f"{path}: {name} was not found in it; leave out --start to begin anew")
        values = published[at[0]] / factor
        found[name] = torch.from_numpy(np.ascontiguousarray(values.T if transposed else values))
    net.load_state_dict(found)
