"""Steps of a training on a GPU, recorded once and replayed with other inputs.

A step of a DenseNet is more than a thousand kernels, which take long to launch one by one; a recorded step is launched
as one. Recording is by CUDA graphs, as torch has them: the addresses of inputs, weights and moments must stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TRIES = 2
"""Steps before the one that is recorded: kernels are chosen, and memory is taken."""


@dataclass(frozen=True)
class Recorded:
    """A step that can be replayed."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    loss: Tensor

    def replay(self, inputs: dict[str, Any]) -> Tensor:
        """The loss of a step with these inputs, arrays of the shapes that were recorded."""
        for key, value in self.inputs.items():
            value.copy_(torch.from_numpy(inputs[key]))
        self.graph.replay()
        return self.loss.clone()


def record(update: Callable[[dict[str, Tensor]], Tensor], inputs: dict[str, Tensor]) -> Recorded:
    """What `update` does with the inputs, which lie on the GPU and are overwritten when it is replayed.

    It was done for TRIES times and its gradients are those of the last time; undoing that is left to the caller.
    """
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(TRIES):
            update(inputs)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = update(inputs)
    return Recorded(graph, inputs, loss)
