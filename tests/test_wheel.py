"""The wheel carries the models and all it needs, and scans a folder from anywhere, with neither torch nor ray."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from material import file_of, photo

from jscan import scan, weights

ROOT = Path(__file__).resolve().parents[1]

BLOCKED = '''
import sys

class Blocked:
    """An importer that knows none of these."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError(name + " must not be needed")

sys.meta_path.insert(0, Blocked())
'''


def run(*words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTEST_"))} | more
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    done = run("-m", "pip", "wheel", str(ROOT), "--no-deps", "--wheel-dir", str(out), cwd=out)
    if done.returncode and "hatchling" in done.stderr and "No matching distribution" in done.stderr:
        pytest.skip(
            "the build backend, hatchling, is neither in an index nor on this machine, so no wheel can be built"
        )
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("jscan-*.whl")
    return built


def test_what_the_wheel_carries(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for model in weights.names():
        for part in ("model.onnx", "manifest.json", "README.md"):
            assert f"jscan/_weights/{model}/{part}" in names
    assert {label.partition("@")[0] for label in scan.Scanner(device="cpu").models} <= set(weights.names())
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "jscan").rglob("*.py")}
    assert sources <= set(names) and "jscan/py.typed" in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"jscan"}
    assert not [name for name in names if "__pycache__" in name or "/train" in name or "/tests" in name]
    assert any(name.endswith("/licenses/LICENSE") for name in names)


@pytest.mark.skipif(sys.platform == "win32", reason="the wheel's folder is given by PYTHONPATH, as on POSIX")
def test_the_wheel_scans_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    home, cwd, evidence = (tmp_path / name for name in ("home", "elsewhere", "evidence"))
    for folder in (cwd, evidence):
        folder.mkdir()
    done = run(
        *("-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--target", str(home), str(wheel)), cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    # What stands in a `sitecustomize` is run by every Python that starts, the worker processes too.
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    names = ("torch", "ray", "matplotlib", "train", "skimage", "scipy", "onnx")
    (blocked / "sitecustomize.py").write_text(BLOCKED.replace("{names}", repr(names)))
    (evidence / "a.jpg").write_bytes(file_of(photo()[:190, :210], quality=85))
    (evidence / "b.png").write_bytes(file_of(photo("coffee")[:100, :100], "PNG"))
    (evidence / "c.txt.jpg").write_text("not an image")
    paths = os.pathsep.join(map(str, (blocked, home)))

    where = run("-c", "import jscan; print(jscan.__file__)", cwd=cwd, PYTHONPATH=paths)
    assert where.stdout.strip() == str(home / "jscan" / "__init__.py"), where.stderr
    stopped = run("-c", "import torch", cwd=cwd, PYTHONPATH=paths)
    assert "must not be needed" in stopped.stderr

    out = tmp_path / "results.parquet"
    done = run("-m", "jscan", "scan", str(evidence), "--out", str(out), "--workers", "1", cwd=cwd, PYTHONPATH=paths)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pq.read_table(out).to_pylist()
    assert [(Path(r["path"]).name, r["status"]) for r in rows] == [
        ("a.jpg", "ok"),
        ("b.png", "ok"),
        ("c.txt.jpg", "skipped"),
    ]
    assert all(r["score"] is not None and len(r["models"]) == 7 for r in rows[:2])
    assert list(cwd.iterdir()) == []
