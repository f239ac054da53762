"""Models are checked before they run, and run where they were asked to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from jscan import modelset, scan, suspicion, tiling, weights
from jscan.errors import DeviceError, ExitCode, ModelError, UsageError
from jscan.windows import AllShifts


def make_model(folder: Path, **changes: Any) -> Path:
    """A model `double-it`, which doubles `x` into `y`, with its manifest; a change to None leaves a key out."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, "n"]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "t", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    data = model.SerializeToString()
    said = {
        "name": "double-it",
        "version": "1",
        "digest": hashlib.sha256(data).hexdigest(),
        "inputs": {"x": {}},
        "outputs": {"y": {}},
        "training": {},
        "metrics": {},
        "limits": [],
        **changes,
    }
    home = folder / "double-it"
    home.mkdir(parents=True)
    (home / "model.onnx").write_bytes(data)
    (home / "manifest.json").write_text(json.dumps({k: v for k, v in said.items() if v is not None}))
    return home


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models."""
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    return tmp_path


def test_a_sound_model_runs(shelf: Path) -> None:
    digest = json.loads((make_model(shelf) / "manifest.json").read_text())["digest"]
    assert weights.names() == ("double-it",)
    weights.check("double-it")
    model = weights.load("double-it", arena=False)
    assert model.label == weights.label("double-it") == f"double-it@{digest[:12]}"
    assert (model.provider, model.outputs) == ("CPU", ("y",))
    assert model(x=np.array([[1.5, 2]], np.float32))["y"].tolist() == [[3, 4]]
    assert not model.bound


@pytest.mark.parametrize("bound", [False, True])
def test_inputs_may_be_given_once_for_several_runs(shelf: Path, bound: bool) -> None:
    ends = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["m", "n"]) for n in "xyz"}
    nodes = [helper.make_node("Mul", ["x", "y"], ["z"]), helper.make_node("Add", ["z", "x"], ["w"])]
    outputs = [ends["z"], helper.make_tensor_value_info("w", TensorProto.FLOAT, ["m", "n"])]
    graph = helper.make_graph(nodes, "t", [ends["x"], ends["y"]], outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    proto.ir_version = 9
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    model = weights.Model("own", "CPU", session, ("z", "w"), bound=bound)
    times = model.given(y=np.array([[2.0]], np.float32))
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    inputs = [np.array([[1.5, 2]], np.float32), turned, np.ones((1, 2), np.float32)]
    found = [times(x=x) for x in inputs]  # kept until all have run: none may lie in the memory of another
    for x, out in zip(inputs, found, strict=True):
        assert list(out) == ["z", "w"] and all(v.dtype == np.float32 for v in out.values())
        assert np.array_equal(out["z"], 2 * x) and np.array_equal(out["w"], 3 * x)
    assert model(x=inputs[0], y=inputs[0])["z"].tolist() == [[2.25, 4]]
    with pytest.raises(Exception, match="q2"):
        model(x=inputs[0], y=inputs[0], q2=inputs[0])


def test_damaged_bytes_are_refused(shelf: Path) -> None:
    path = make_model(shelf) / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    for use in (weights.check, weights.load):
        with pytest.raises(ModelError, match=r"SHA-256 is .* but the manifest says .* install jscan again"):
            use("double-it")


@pytest.mark.parametrize("missing", ["model.onnx", "manifest.json"])
def test_a_missing_file_is_named(shelf: Path, missing: str) -> None:
    (make_model(shelf) / missing).unlink()
    with pytest.raises(ModelError, match=f"{missing}: cannot be read"):
        weights.check("double-it")


def test_an_unknown_model(shelf: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        weights.load("nobody")


@pytest.mark.parametrize("key", weights.MANIFEST_KEYS)
def test_an_incomplete_manifest_is_refused(shelf: Path, key: str) -> None:
    make_model(shelf, **{key: None})
    with pytest.raises(ModelError, match=f"lacks {key}"):
        weights.load("double-it")


def test_a_manifest_that_is_no_json(shelf: Path) -> None:
    (make_model(shelf) / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        weights.manifest("double-it")


@pytest.mark.parametrize("changes", [{"inputs": {"z": {}}}, {"outputs": {}}, {"inputs": {"x": {}, "q2": {}}}])
def test_other_inputs_than_the_manifest_says(shelf: Path, changes: dict[str, Any]) -> None:
    make_model(shelf, **changes)
    with pytest.raises(ModelError, match="not those of its manifest"):
        weights.load("double-it")


def test_bytes_that_are_no_model(shelf: Path) -> None:
    rubbish = b"not a model"
    path = make_model(shelf, digest=hashlib.sha256(rubbish).hexdigest()) / "model.onnx"
    path.write_bytes(rubbish)
    with pytest.raises(ModelError, match="cannot be loaded"):
        weights.load("double-it")


@pytest.mark.parametrize("calibration", [None, {}, {"weights": [1, 1]}, "none"])
def test_a_score_without_calibration(shelf: Path, calibration: Any) -> None:
    make_model(shelf, calibration=calibration)
    with pytest.raises(ModelError, match="calibration"):
        weights.calibration("double-it")


def test_models_that_lie_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "jscan" / "weights.py"))
    with pytest.raises(ModelError, match="no models found"):
        weights.folder.__wrapped__()  # as it is without its cache


def test_the_shipped_models_are_whole() -> None:
    needed = {*scan.Scanner(device="cpu").models}
    assert {label.partition("@")[0] for label in needed} <= set(weights.names())
    for name in weights.names():
        weights.check(name)
    for name in (suspicion.JPEG_MODEL, suspicion.PIXEL_MODEL):
        found = weights.calibration(name)
        assert len(found["weights"]) == len(found["counts"]) > 0


def test_the_shipped_models_stay_small() -> None:
    assert sum(path.stat().st_size for path in weights.folder().rglob("*") if path.is_file()) < 20e6


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_cuda_missing", lambda: "no NVIDIA driver on this machine")
    assert weights.resolve_device("auto") == weights.resolve_device("cpu") == "CPU"
    with pytest.raises(DeviceError, match=r"--device cuda: no NVIDIA driver .* use --device cpu") as caught:
        weights.resolve_device("cuda")
    assert caught.value.exit_code == ExitCode.USAGE
    assert scan.Scanner(device="auto").provider == "CPU"
    with pytest.raises(DeviceError):
        scan.Scanner(device="cuda")


def test_a_gpu_is_there_or_the_reason_is_said() -> None:
    if weights.resolve_device("auto") == "CUDA":
        assert weights.resolve_device("cuda") == "CUDA"
    else:
        with pytest.raises(DeviceError, match="--device cuda: .+; use --device cpu"):
            weights.resolve_device("cuda")


def test_cuda_never_becomes_a_cpu_run(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime gives a CPU session where CUDA cannot start; so it does here, whatever the machine has."""
    make_model(shelf)
    real = onnxruntime.InferenceSession

    def without_gpu(data: bytes, options: Any, *, providers: Any, **more: Any) -> Any:
        assert providers[0][0] == "CUDAExecutionProvider" and providers[0][1]["use_tf32"] == "0"
        assert more == {"enable_fallback": 0}
        return real(data, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", without_gpu)
    with pytest.raises(DeviceError, match="--device cuda: .*use --device cpu"):
        weights.load("double-it", provider="CUDA")


def test_cuda_that_fails_to_start(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("libcudnn.so.9: cannot open shared object file")

    make_model(shelf)
    monkeypatch.setattr(onnxruntime, "InferenceSession", broken)
    with pytest.raises(DeviceError, match="libcudnn"):
        weights.load("double-it", provider="CUDA")


class Card:
    """A session of ONNX Runtime on a GPU, as far as `weights.load` looks at it."""

    def __init__(self, real: Any, number: str) -> None:
        self._real, self._number = real, number

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {"CUDAExecutionProvider": {"device_id": self._number}, "CPUExecutionProvider": {}}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize(("asked", "got"), [(0, "0"), (3, "3"), (3, "0")])
def test_the_gpu_that_was_asked_for_is_used(shelf: Path, monkeypatch: pytest.MonkeyPatch, asked: int, got: str) -> None:
    make_model(shelf)
    real, seen = onnxruntime.InferenceSession, []

    def on_card(data: bytes, options: Any, *, providers: Any, **_: Any) -> Any:
        seen.append(providers[0][1]["device_id"])
        return Card(real(data, options, providers=["CPUExecutionProvider"]), got)

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_card)
    if got == str(asked):
        model = weights.load("double-it", provider="CUDA", gpu=asked, threads=4)
        assert model.provider == "CUDA" and model.threads == 1, "a GPU has its own"
        assert model.bound
        assert model(x=np.ones((1, 2), np.float32))["y"].tolist() == [[2, 2]]
    else:
        with pytest.raises(DeviceError, match="cuda:3: ONNX Runtime took another GPU"):
            weights.load("double-it", provider="CUDA", gpu=asked)
    assert seen == [str(asked)]


def test_a_gpu_beyond_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_cuda_missing", lambda: None)
    monkeypatch.setattr(weights, "gpu_count", lambda: 2)
    assert [weights.resolve_device(d) for d in ("auto", "cuda", "cuda:0", "cuda:1")] == ["CUDA"] * 4
    with pytest.raises(DeviceError, match=r"--device cuda:2: this machine has 2 GPUs, numbered from 0"):
        weights.resolve_device("cuda:2")


class Driver:
    """The CUDA driver of a machine with two GPUs, as far as its free memory is asked for; `broken` fails."""

    def __init__(self, broken: str = "") -> None:
        self._broken = broken
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any) -> int:
            self.calls.append(name)
            if name == self._broken:
                return 2
            if name == "cuDeviceGet":
                given[0]._obj.value = 10 + given[1]
                return 0 if given[1] < 2 else 101
            if name == "cuDevicePrimaryCtxRetain":
                given[0]._obj.value = 1000 * given[1].value
            if name == "cuCtxPushCurrent_v2":
                self.current = given[0].value
            if name == "cuMemGetInfo_v2":
                given[0]._obj.value, given[1]._obj.value = (5 << 30) + self.current, 8 << 30
            return 0

        return call


def test_the_free_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(weights, "_driver", lambda: driver)
    assert [weights.free_memory(gpu) for gpu in (0, 1, 2)] == [(5 << 30) + 10_000, (5 << 30) + 11_000, None]
    for taken, given_back in (
        ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"),
        ("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"),
    ):
        assert driver.calls.count(taken) == driver.calls.count(given_back) == 2


@pytest.mark.parametrize(
    "broken", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemGetInfo_v2"]
)
def test_a_driver_that_does_not_say_how_much_memory_is_free(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    driver = Driver(broken)
    monkeypatch.setattr(weights, "_driver", lambda: driver)
    assert weights.free_memory(0) is None
    held = "cuDevicePrimaryCtxRetain" in driver.calls and broken != "cuDevicePrimaryCtxRetain"
    assert ("cuDevicePrimaryCtxRelease_v2" in driver.calls) == held


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_no_driver_to_ask_for_memory(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing() -> Any:
        raise error

    monkeypatch.setattr(weights, "_driver", missing)
    assert weights.free_memory(0) is None


def test_the_number_of_the_gpu_reaches_every_model_that_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    real, opened = weights.load, []

    def load(name: str, *, provider: str = "CPU", gpu: int = 0, **more: Any) -> weights.Model:
        opened.append((name, provider, gpu))
        return real(name, **more)

    monkeypatch.setattr(weights, "_cuda_missing", lambda: None)
    monkeypatch.setattr(weights, "gpu_count", lambda: 2)
    monkeypatch.setattr(weights, "load", load)
    scanner = scan.Scanner(device="cuda:1")
    assert scanner.scan(np.full((64, 64), 90, np.uint8)).record.status == "ok" and scanner.provider == "CUDA"
    assert [o for o in opened if o[1] == "CUDA"] == [("q1-comb", "CUDA", 1), ("qf-comb", "CUDA", 1)]
    assert {name for name, provider, _ in opened if provider == "CPU"} == {"regions-pixels"}
    with pytest.raises(UsageError, match="a scanner works on one"):
        scan.Scanner(device="cuda:0,1")


@pytest.mark.parametrize(
    ("options", "free", "side"),
    [
        ({"batch": 100}, 0, 10),
        ({}, 8 << 30, 64),
        ({"sharing": 4}, 8 << 30, 24),
        ({}, None, tiling.TILE),
        ({"batch": 100, "device": "cpu", "thorough": True}, 0, tiling.TILE),
    ],
)
def test_a_scanner_looks_at_as_many_windows_as_its_gpu_can_hold(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], free: int | None, side: int
) -> None:
    real = weights.load
    sides: list[int] = []

    class Noting(AllShifts):
        def __init__(self, model: weights.Model, side: int = 0) -> None:
            super().__init__(model, side)
            sides.append(side)

    monkeypatch.setattr(weights, "_cuda_missing", lambda: None)
    monkeypatch.setattr(weights, "gpu_count", lambda: 2)
    monkeypatch.setattr(weights, "free_memory", {1: free}.__getitem__)
    monkeypatch.setattr(weights, "load", lambda name, *, provider, gpu, **more: real(name, **more))
    monkeypatch.setattr(modelset, "AllShifts", Noting)
    scanner = scan.Scanner(**{"device": "cuda:1", **options})
    assert scanner.scan(np.full((64, 64), 90, np.uint8)).record.status == "ok"
    assert set(sides) == {side}


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_driver_without_the_libraries(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """A driver answers, but no session starts: `auto` takes the CPU and says so, `cuda` fails before any image."""
    real = weights.load

    def load(name: str, *, provider: str = "CPU", **more: Any) -> weights.Model:
        if provider == "CUDA":
            raise DeviceError("--device cuda: ONNX Runtime could not start it; use --device cpu")
        return real(name, provider=provider, **more)

    monkeypatch.setattr(weights, "_cuda_missing", lambda: None)
    monkeypatch.setattr(weights, "load", load)
    if device == "cuda":
        with pytest.raises(DeviceError):
            scan.Scanner(device=device)
    else:
        scanner = scan.Scanner(device=device)
        assert scanner.provider == "CPU"
        assert scanner.scan(np.full((64, 64), 90, np.uint8)).record.status == "ok"
