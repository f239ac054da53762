"""How fast a whole `jscan scan` is, and how much memory it takes, measured from outside on the real command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from jscan.limits import usable_cores

Rgb = npt.NDArray[np.uint8]

BIG_MEGAPIXELS = 100
REPEATS = 3
"""Short commands are timed this often; the fastest counts."""
ROOT = Path(__file__).resolve().parents[1]

# A small process of its own: on Linux a child's peak counts from what its parent held when it was started.
_WATCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
print(json.dumps({"code": done.returncode, "seconds": seconds, "peak_mib": peak}))
"""


def watch(*arguments: str) -> dict[str, Any]:
    """Wall seconds, the peak memory (MiB) of the largest process, and the exit code of `jscan` with these arguments.

    Raises RuntimeError where it fails; unreadable inputs (exit code 3) are no failure.
    """
    command = [sys.executable, "-c", _WATCH, sys.executable, "-m", "jscan", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"code": done.returncode}
    if found["code"] not in (0, 3):
        raise RuntimeError(f"jscan {' '.join(arguments)} ended with {found['code']}: {done.stderr[-500:]}")
    return found


def scan_folder(source: Path, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(pace and memory of one scan on the CPU with the default workers, its rows)."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "results.parquet"
        run = watch("scan", str(source.resolve()), "--out", str(out), "--device", "cpu", "--quiet", *options)
        columns = ["path", "status", "error_code", "score", "width", "height", "decode_ms", "estimate_ms"]
        rows: list[dict[str, Any]] = pq.read_table(out, columns=columns).to_pylist()
    ok = [r for r in rows if r["status"] == "ok"]
    megapixels = sum(r["width"] * r["height"] for r in ok) / 1e6
    decoding, estimating = (sum(r[key] or 0.0 for r in ok) for key in ("decode_ms", "estimate_ms"))
    return {
        "images": len(rows),
        "ok": len(ok),
        "megapixels": megapixels,
        "seconds": run["seconds"],
        "mp_per_second": megapixels / run["seconds"],
        "images_per_second": len(rows) / run["seconds"],
        "decoding_share": decoding / max(decoding + estimating, 1e-9),
        "peak_mib": run["peak_mib"],
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


def _best(*arguments: str) -> float:
    return min(float(watch(*arguments)["seconds"]) for _ in range(REPEATS))


def _write_photographs(folder: Path) -> None:
    photos = photographs()
    for k in range(len(photos)):
        image = tiled(photos[k:] + photos[:k], 1500, 2000)
        cv2.imwrite(str(folder / f"photo_{k}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def _write_big(folder: Path, megapixels: float) -> tuple[Path, Path]:
    """A JPEG and an uncompressed TIFF of that many megapixels."""
    side = round((megapixels * 1e6) ** 0.5)
    image = np.ascontiguousarray(tiled(photographs(), side, side)[..., ::-1])
    paths = folder / "big.jpg", folder / "big.tif"
    cv2.imwrite(str(paths[0]), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    cv2.imwrite(str(paths[1]), image, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    return paths


def measure_speed(cameras: Path | None, megapixels: float = BIG_MEGAPIXELS) -> dict[str, Any]:
    """Pace and memory of a whole scan, start-up times, and one image of `megapixels` as JPEG and as TIFF."""
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if cameras is None:
            (folder / "photos").mkdir()
            _write_photographs(folder / "photos")
            out["photographs from scikit-image"] = scan_folder(folder / "photos")[0]
        else:
            out["camera files"] = scan_folder(cameras)[0]
        small = folder / "small.jpg"
        cv2.imwrite(str(small), photographs()[0][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        out["start"] = {
            "help_seconds": _best("--help"),
            "one_small_image_seconds": min(scan_folder(small)[0]["seconds"] for _ in range(REPEATS)),
        }
        for path in _write_big(folder, megapixels):
            run, rows = scan_folder(path, "--workers", "1")
            if rows[0]["status"] != "ok":
                raise RuntimeError(f"{path.name} of {megapixels:g} MP: {rows[0]['error_code']}")
            kind = "JPEG" if path.suffix == ".jpg" else "TIFF"
            out[f"{kind} of {megapixels:g} MP, one worker"] = run
            path.unlink()
    return out
