"""The README names what there is, and all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from jscan import parquet, stages
from jscan.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def options(command: str) -> set[str]:
    """Long options of a command."""
    found = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {o for p in found for o in (*p.opts, *p.secondary_opts) if o.startswith("--")}


def test_every_option_of_scan_is_in_the_readme() -> None:
    missing = {o for o in options("scan") - {"--help"} if f"{o}" not in README}
    assert not missing


def test_the_readme_names_no_option_that_is_not_there() -> None:
    known = options("scan") | options("show") | options("models") | options("verify") | {"--version", "--help"}
    # Options of the training commands stand in lines that name `train.` or `ARGS=`.
    lines = [line for line in README.splitlines() if "train." not in line and "ARGS=" not in line]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)))
    assert named <= known


def test_every_stage_of_a_scan_is_in_the_readme() -> None:
    (line,) = (line for line in README.splitlines() if line.startswith("| `--profile-stages`"))
    assert tuple(re.findall(r"`([a-z]+)`", line.partition("took:")[2])) == stages.STAGES


@pytest.mark.parametrize("column", parquet.SCHEMA.names)
def test_every_column_is_in_the_readme(column: str) -> None:
    assert f"`{column}`" in README


def test_the_targets_that_the_readme_names_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_line_for_cron_and_the_unit_for_systemd_are_commands_that_there_are() -> None:
    lines = re.findall(r"/opt/jscan/bin/jscan (scan .*?)(?= 2>>|$)", README, re.MULTILINE)
    assert len(lines) == 2 and len(set(lines)) == 1, "cron and systemd do the same"
    command = typer.main.get_command(app).commands["scan"]  # type: ignore[attr-defined]
    context = command.make_context("scan", lines[0].split()[1:])
    assert context.params["update"] and context.params["quiet"]
    assert all(Path(part).is_absolute() for part in lines[0].split() if "/" in part)
