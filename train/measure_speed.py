"""How fast a whole `jscan scan` is, and what it takes, measured from outside on the real command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from jscan.limits import usable_cores
from jscan.stages import STAGES

Rgb = npt.NDArray[np.uint8]

BIG_MEGAPIXELS = 100
ROOT = Path(__file__).resolve().parents[1]

# A small process of its own: on Linux a child's peak counts from what its parent held when it was started.
_WATCH = """
import json, os, resource, subprocess, sys, threading, time
cores, command = json.loads(sys.argv[1]), sys.argv[2:]
if cores:
    os.sched_setaffinity(0, cores)
own = 0.0
def look(pid):
    global own
    try:
        while True:
            with open(f"/proc/{pid}/status") as status:
                own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**10
            time.sleep(0.05)
    except (OSError, StopIteration):
        pass
start = time.perf_counter()
child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
threading.Thread(target=look, args=(child.pid,), daemon=True).start()
code = child.wait()
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
processor = used.ru_utime + used.ru_stime
found = {"code": code, "seconds": seconds, "processor_seconds": processor, "peak_mib": peak}
print(json.dumps({**found, "parent_mib": own} if own else found))
"""


def watch(*arguments: str, cores: Sequence[int] = ()) -> dict[str, Any]:
    """What `jscan` with these arguments took, confined to these cores where any are named.

    Wall seconds, processor seconds of all its processes, the peak memory (MiB) of the largest one, that of the first
    one (`parent_mib`, on Linux), and the exit code. Raises RuntimeError where it fails; unreadable inputs (exit code 3)
    are no failure.
    """
    # Without what keeps Python from storing what it compiled: whoever installed jscan has it stored.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", _WATCH, json.dumps(list(cores)), sys.executable, "-m", "jscan", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"code": done.returncode}
    if found["code"] not in (0, 3):
        raise RuntimeError(f"jscan {' '.join(arguments)} ended with {found['code']}: {done.stderr[-500:]}")
    return found


def scan_folder(source: Path, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(pace and memory of one scan on the CPU with the default workers, its rows)."""
    return scan_files([source], "--device", "cpu", *options)


def scan_files(
    sources: Sequence[Path], *options: str, cores: Sequence[int] = ()
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(pace, memory and stages of one scan of these files and folders, its rows); `cores` as for `watch`."""
    with tempfile.TemporaryDirectory() as name:
        out, log, listed = (Path(name) / n for n in ("results.parquet", "log.jsonl", "list"))
        given = [str(sources[0].resolve())]
        if len(sources) > 1:
            listed.write_bytes(b"\0".join(os.fsencode(s.resolve()) for s in sources))
            given = ["--files-from", str(listed), "--null"]
        ways = ("--out", str(out), "--quiet", "--json-log", str(log), "--profile-stages")
        run = watch("scan", *given, *ways, *options, cores=cores)
        columns = ["path", "status", "error_code", "score", "width", "height", "decode_ms", "estimate_ms"]
        rows: list[dict[str, Any]] = pq.read_table(out, columns=columns).to_pylist()
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    stages = next(({k: v for k, v in e.items() if k in STAGES} for e in events if e["event"] == "stages"), {})
    ok = [r for r in rows if r["status"] == "ok"]
    megapixels = sum(r["width"] * r["height"] for r in ok) / 1e6
    decoding, estimating = (sum(r[key] or 0.0 for r in ok) for key in ("decode_ms", "estimate_ms"))
    return {
        "images": len(rows),
        "ok": len(ok),
        "megapixels": megapixels,
        "seconds": run["seconds"],
        "processor_seconds": run["processor_seconds"],
        "mp_per_second": megapixels / run["seconds"],
        "images_per_second": len(rows) / run["seconds"],
        "processor_seconds_per_mp": run["processor_seconds"] / max(megapixels, 1e-9),
        "mp_per_processor_second": megapixels / run["processor_seconds"],
        "decoding_share": decoding / max(decoding + estimating, 1e-9),
        "peak_mib": run["peak_mib"],
        **({"parent_mib": run["parent_mib"]} if "parent_mib" in run else {}),
        "stages": stages,
    }, rows


def machine() -> dict[str, Any]:
    """What the figures were measured on: processor, cores, memory, versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    runtime = next((n for n in ("onnxruntime-gpu", "onnxruntime") if n in installed), None)
    found: dict[str, Any] = {
        "cpu": model,
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    found["python"] = platform.python_version()
    if runtime is not None:
        found["onnxruntime"] = importlib.metadata.version(runtime)
    return found


def photographs() -> list[Rgb]:
    """Photographs that scikit-image carries, reduced a little, (H, W, 3)."""
    from skimage import data

    loaded = (data.astronaut, data.chelsea, data.coffee, data.rocket)
    out = []
    for load in loaded:
        image = np.ascontiguousarray(load()[..., :3])  # type: ignore[no-untyped-call]
        size = (int(image.shape[1] * 0.8), int(image.shape[0] * 0.8))
        out.append(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8))
    return out


def tiled(photos: list[Rgb], height: int, width: int) -> Rgb:
    """(height, width, 3) covered with the photographs side by side, row below row."""
    out = np.zeros((height, width, 3), np.uint8)
    y = k = 0
    while y < height:
        x, tall = 0, min(p.shape[0] for p in photos)
        while x < width:
            photo = photos[k % len(photos)]
            part = out[y : y + tall, x : x + photo.shape[1]]
            part[:] = photo[: part.shape[0], : part.shape[1]]
            x, k = x + photo.shape[1], k + 1
        y += tall
    return out
