"""Makes every model from a folder of uncompressed images: `make weights SRC=folder`.

    python -m train.build FOLDER [--hours 5]

The steps follow each other; each leaves its checkpoint in `runs/`, so that the same command goes on where it was
stopped. Half of the hours go to the Q1 network, a quarter to the QF network; the models of whole images take about two.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CASES = {"jpeg": 24_000, "pixels": 9_000}
"""Images that each model of whole images is trained on; those of pixels take six times as long to make."""
EPOCHS = {"jpeg": 30, "pixels": 45}
FOR_CONTEXT = 4500
"""Images for the context network, which reads all their windows, and holds them in memory."""


def _step(*words: str) -> None:
    print("+ python -m", *words, flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("src", type=Path, help="folder of uncompressed images")
    parser.add_argument(
        "--hours", type=float, default=5.0, help="the Q1 network gets half of them, the QF network a quarter"
    )
    parser.add_argument("--cases", type=int, help="images, at most, that each model of whole images is trained on")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints")
    o = parser.parse_args()
    src = str(o.src)
    minutes = {"q1": 60 * o.hours / 2, "qf": 60 * o.hours / 4}
    for name, share in minutes.items():
        run = str(o.runs / name)
        _step("train.fit", name, "--src", src, "--run", run, "--minutes", f"{share:g}")
        _step("train.export", name, "--src", src, "--run", run)
        scout = str(o.runs / f"scout-{name}")
        _step("train.fit_scout", name, "--src", src, "--run", scout)
        _step("train.export_fast", "scout", name, "--src", src, "--run", scout)
        _step("train.export_fast", "reader", name, "--src", src)
    glance = str(o.runs / "glance-q1")
    _step("train.fit_glance", "--src", src, "--run", glance)
    _step("train.export_fast", "glance", "q1", "--src", src, "--run", glance)
    for name, count in CASES.items():
        run, cases = str(o.runs / f"regions-{name}"), str(o.runs / f"cases-{name}")
        make = ("train.cases", name, "--src", src, "--run", cases, "--cases")
        if name == "jpeg":
            context = str(o.runs / "context")
            _step(*make, str(min(FOR_CONTEXT, o.cases or count)))
            _step("train.fit_context", "--cases", cases, "--run", context)
            _step("train.export", "context", "--run", context, "--src", src)
        _step(*make, str(min(count, o.cases or count)))
        _step("train.fit_regions", name, "--cases", cases, "--run", run, "--epochs", str(EPOCHS[name]))
        _step("train.export", name, "--src", src, "--run", run)


if __name__ == "__main__":
    main()
