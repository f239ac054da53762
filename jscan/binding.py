"""Runs of a session of ONNX Runtime whose inputs and outputs are bound to where they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jscan.stages import stage


class Bound:
    """Runs a session whose `fixed` inputs are the same in every run, and copied to a GPU once.

    The arrays of these are not to be changed meanwhile, and one thread at a time may use it.
    """

    def __init__(self, session: Any, outputs: tuple[str, ...], fixed: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._session = session
        self._outputs = outputs
        self._binding = session.io_binding()
        self._bind(fixed)

    def __call__(self, **inputs: np.ndarray[Any, Any]) -> dict[str, Any]:
        """The outputs by name, as arrays in memory of their own. Raises RuntimeError for an unknown input."""
        self._bind(inputs)
        with stage("network"):
            for name in self._outputs:
                # Anew for every run: else the arrays of the last one would be written to, whatever their shape.
                self._binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            values = self._binding.copy_outputs_to_cpu()
        return dict(zip(self._outputs, values, strict=True))

    def _bind(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Nothing; the inputs lie on the device where the graph reads them, which for sizes is the CPU."""
        with stage("network"):
            for name, values in inputs.items():
                self._binding.bind_cpu_input(name, np.ascontiguousarray(values))
            self._binding.synchronize_inputs()  # a run has a stream of its own, which does not wait for copies
