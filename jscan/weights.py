"""Models: where they lie, whether they are what their manifest says, and sessions that run them.

A model is a folder with `model.onnx` and `manifest.json`. It lies in `jscan/_weights` of an installed jscan, or in
`weights` of a checkout. Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from jscan.binding import Bound
from jscan.errors import DeviceError, ModelError
from jscan.stages import stage

CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
"""TF32 would round the cosines of the DCT to 10 bits, which blurs the combs that the models read. The exhaustive
search would run anew for every shape of tile, and may choose differently from run to run."""
MANIFEST_KEYS = ("name", "version", "digest", "inputs", "outputs", "training", "metrics", "limits")


@cache
def folder() -> Path:
    """The folder that holds the models. Raises ModelError where there is none."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "_weights", here.parent / "weights"):
        if candidate.is_dir():
            return candidate
    raise ModelError(f"no models found beside {here}: install jscan again, or make them with `make weights`")


def names() -> tuple[str, ...]:
    """Sorted names of the models at hand."""
    return tuple(sorted(p.parent.name for p in folder().glob("*/manifest.json")))


def manifest(name: str) -> dict[str, Any]:
    """What the model says of itself. Raises ModelError where it cannot be read or lacks something."""
    path = folder() / name / "manifest.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); install jscan again") from error
    missing = [key for key in MANIFEST_KEYS if key not in found]
    if missing:
        raise ModelError(f"{path}: lacks {', '.join(missing)}; install jscan again")
    return found


def _read(name: str) -> bytes:
    path = folder() / name / "model.onnx"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error}); install jscan again") from error
    wanted = manifest(name)["digest"]
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise ModelError(f"{path}: its SHA-256 is {found}, but the manifest says {wanted}; install jscan again")
    return data


def check(name: str) -> None:
    """Raises ModelError unless the model's bytes have the digest that its manifest states."""
    _read(name)


def calibration(name: str) -> dict[str, Any]:
    """The coefficients of the score that travel with a consistency model. Raises ModelError where there are none."""
    found = manifest(name).get("calibration")
    if not isinstance(found, dict) or not {"counts", "weights", "bias"} <= set(found):
        raise ModelError(f"{folder() / name / 'manifest.json'}: lacks the score's calibration; install jscan again")
    return found


def label(name: str) -> str:
    """`name@` and the first 12 digits of the digest, as rows name a model."""
    return f"{name}@{manifest(name)['digest'][:12]}"


@dataclass(frozen=True, slots=True)
class Model:
    """A session that runs one model."""

    label: str
    """As in `label`."""
    provider: str
    """`CPU` or `CUDA`: what it really runs on."""
    session: Any
    """The ONNX Runtime session."""
    outputs: tuple[str, ...]
    """Names of its outputs, in order."""
    threads: int = 1
    """How many of its inputs are to be computed at a time, where there are several."""
    bound: bool = False
    """Whether its runs bind inputs and outputs (`binding`), as they do on a GPU."""

    def __call__(self, **inputs: np.ndarray[Any, Any]) -> dict[str, Any]:
        """The outputs by name."""
        if self.bound:
            return Bound(self.session, self.outputs, {})(**inputs)
        with stage("network"):
            values = self.session.run(list(self.outputs), inputs)
        return dict(zip(self.outputs, values, strict=True))

    def given(self, **inputs: np.ndarray[Any, Any]) -> Callable[..., dict[str, Any]]:
        """The model for several runs with these inputs, which each is to be called with the others.

        So many threads as the model has may call it at a time.
        """
        return Bound(self.session, self.outputs, inputs) if self.bound else partial(self, **inputs)


def resolve_device(device: str) -> str:
    """The provider, `CPU` or `CUDA`, that `auto`, `cpu`, `cuda` or a GPU such as `cuda:1` comes to on this machine.

    A GPU counts as usable only if the CUDA driver answers and counts at least one device: ONNX Runtime lists its CUDA
    provider on machines that have none. Raises DeviceError where a GPU was asked for and is not there.
    """
    if device == "cpu":
        return "CPU"
    reason = _cuda_missing()
    if reason is None:
        number = gpu_number(device)
        if number and number >= (count := gpu_count()):
            said = f"this machine has {count} GPU{'s' * (count != 1)}, numbered from 0"
            raise DeviceError(f"--device {device}: {said}; name another, or use --device cpu")
        return "CUDA"
    if device != "auto":
        raise DeviceError(f"--device {device}: {reason}; use --device cpu, or mend the GPU's set-up")
    return "CPU"


def gpu_number(device: str) -> int:
    """Which GPU a device such as `cuda:1` is; the first, 0, for one without a number."""
    return int(device.partition(":")[2] or 0)


def gpu_count() -> int:
    """How many GPUs the CUDA driver counts, once `_cuda_missing` found that it answers."""
    import ctypes

    count = ctypes.c_int(0)
    return count.value if _driver().cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def free_memory(gpu: int) -> int | None:
    """Bytes that are free on the GPU of this number, or None where the CUDA driver does not say.

    The driver is asked and not its management library, which counts other GPUs than `CUDA_VISIBLE_DEVICES` leaves and
    knows no part of one. It wants a context: the primary one, which ONNX Runtime works in anyway.
    """
    import ctypes

    device, context, before = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:
        driver = _driver()
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), gpu):
            return None
        if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
            return None
        try:
            if driver.cuCtxPushCurrent_v2(context):
                return None
            failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
            driver.cuCtxPopCurrent_v2(ctypes.byref(before))
        finally:
            driver.cuDevicePrimaryCtxRelease_v2(device)
    except (OSError, AttributeError):  # no driver, or one that lacks a function
        return None
    return None if failed else free.value


def _driver() -> Any:
    """The CUDA driver's library. Raises OSError where there is none."""
    import ctypes
    import sys

    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


@cache
def _cuda_missing() -> str | None:
    """Why CUDA cannot be used here, or None."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CUDA provider (on Linux and Windows x86-64: pip install 'jscan[cuda]')"
    try:
        driver = _driver()
    except OSError as error:
        return f"no NVIDIA driver on this machine ({error})"
    if driver.cuInit(0) != 0 or gpu_count() < 1:
        return "the NVIDIA driver finds no GPU"
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    return None


def load(
    name: str, *, provider: str = "CPU", gpu: int = 0, threads: int = 1, arena: bool = True, inside: bool = False
) -> Model:
    """The model, checked, on this provider. Raises ModelError or DeviceError.

    It is to be used with so many `threads` at a time, each of which computes an input alone, so that answers do not
    depend on their number; or, with `inside`, they share each input, and the last bits may.
    Without `arena` the session keeps no memory between runs: right for a model whose input is as large as the image.

    ONNX Runtime would fall back to the CPU without a word; the provider that the session got, and the number of its
    GPU, are compared with those asked for.
    """
    import onnxruntime

    said = manifest(name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads if inside else 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = arena
    # Which tensors may share memory is planned in a time that grows with the square of the operators: 1.6 of the 1.9 s
    # of opening q1-comb. With an arena tensors come from what was freed anyway, and no more is taken (435 MiB both
    # ways); without one, planning saves a quarter.
    options.enable_mem_reuse = provider != "CPU" or not arena
    levels = onnxruntime.GraphOptimizationLevel
    # The last level reorders channels for convolutions: a third less time for the consistency networks and Uchida's.
    # Of a DCT there are too few for that, and it costs what it saves.
    transforms = "valid" in said["inputs"]
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if transforms else levels.ORT_ENABLE_ALL
    # Threads that wait for work by spinning take it from whatever else a busy machine does: three times slower there.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = f"{provider}ExecutionProvider"
    providers: list[Any] = (
        [wanted] if provider == "CPU" else [(wanted, {**CUDA_OPTIONS, "device_id": str(gpu)}), "CPUExecutionProvider"]
    )
    data = _read(name)
    try:
        session = onnxruntime.InferenceSession(data, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        if provider != "CPU":
            raise DeviceError(f"--device {provider.lower()}: {error}; use --device cpu") from error
        raise ModelError(f"{folder() / name}: cannot be loaded ({error}); install jscan again") from error
    if session.get_providers()[0] != wanted:
        raise DeviceError(f"--device {provider.lower()}: ONNX Runtime could not start it; use --device cpu")
    if provider != "CPU" and session.get_provider_options()[wanted].get("device_id") != str(gpu):
        raise DeviceError(f"--device cuda:{gpu}: ONNX Runtime took another GPU; use --device cpu")
    got_in = sorted(i.name for i in session.get_inputs())
    got_out = [o.name for o in session.get_outputs()]
    if got_in != sorted(said["inputs"]) or sorted(got_out) != sorted(said["outputs"]):
        raise ModelError(f"{folder() / name}: inputs or outputs are not those of its manifest; install jscan again")
    at_a_time = 1 if inside or provider != "CPU" else threads
    return Model(label(name), provider, session, tuple(got_out), at_a_time, bound=provider != "CPU")
