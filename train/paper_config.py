"""How the papers' networks are trained: the files in `configs/`, read and checked.

torch is imported by `build` alone: the processes that make patches do without it.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jscan.jpegtables import N_COEFS, Q1_OFFSET
from jscan.tiling import BLOCK, WINDOW
from train.compress import SUBSAMPLINGS

if TYPE_CHECKING:
    from torch import nn

FOLDER = Path(__file__).with_name("configs")
NAMES = tuple(sorted(p.stem for p in FOLDER.glob("*.toml")))
NETWORKS = ("densenet", "regression", "uchida")
INPUTS = {"luma": 1, "rgb": 3}
"""What a network reads, and in how many channels."""


@dataclass(frozen=True)
class Schedule:
    """How long a network is trained on one kind of machine."""

    minutes: float
    """Training time of one cycle of the learning rate."""
    batch: int
    """Patches a step."""
    rate: float
    """The highest learning rate of the cycle."""
    shallow: float = 0.0
    """Share of the time for the shallow network that a DenseNet begins as, where its config says `begin = "steps"`."""


@dataclass(frozen=True)
class Config:
    """One network, its data and its schedules. Raises ValueError where values do not fit together."""

    name: str
    network: str
    """`densenet` (Tondi 2021), `regression` (Niu 2020) or `uchida` (Uchida 2019)."""
    input: str
    """`luma`, that of the file, or `rgb`."""
    side: int
    """Pixels along a side of a patch."""
    cpu: Schedule
    gpu: Schedule
    grid: int = BLOCK
    """Patches begin at multiples of so many pixels on the grid of the last compression."""
    subsamplings: tuple[str, ...] = ("4:2:0",)
    """Chroma subsamplings of the compressions, drawn evenly."""
    qf1: tuple[int, int] = (0, 0)
    """Quality factors of the first compression; both ends are meant."""
    qf2: int = 0
    """Quality factor of the second compression."""
    distance: str = "absolute"
    """Of Eq. 5: `absolute` or `squared`."""
    context: int = 0
    """Pixels around the windows of patches that come with their surroundings."""
    context_share: float = 0.0
    """Share of such patches."""
    begin: str = "flat"
    """What a DenseNet begins as: detectors of `flat` places, or the shallow network of `networks/steps.py`."""
    dropout: float = 0.2
    """Of a DenseNet's layers, in training."""
    qf: tuple[int, int] = (0, 0)
    """Quality factors of the only compression, for `uchida`."""
    never: float = 0.0
    """Share of patches that were never compressed, for `uchida`."""

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"{self.name}: network is one of {', '.join(NETWORKS)}, not {self.network!r}")
        if self.input not in INPUTS:
            raise ValueError(f"{self.name}: input is luma or rgb, not {self.input!r}")
        if self.distance not in ("absolute", "squared"):
            raise ValueError(f"{self.name}: distance is absolute or squared, not {self.distance!r}")
        if self.begin not in ("flat", "steps") or (self.begin == "steps" and self.input != "luma"):
            raise ValueError(f"{self.name}: begin is flat or, for luma, steps, not {self.begin!r}")
        if self.begin == "steps" and self.network != "uchida" and self.dropout:
            raise ValueError(f"{self.name}: what begins as steps is trained without dropout")
        if not set(self.subsamplings) <= set(SUBSAMPLINGS) or not self.subsamplings:
            raise ValueError(f"{self.name}: subsamplings are of {', '.join(SUBSAMPLINGS)}")
        low, high = self.qf if self.network == "uchida" else self.qf1
        if not 1 <= low <= high <= 100:
            raise ValueError(f"{self.name}: quality factors go from 1 to 100, not from {low} to {high}")
        if self.network == "uchida":
            if self.input != "rgb":
                raise ValueError(f"{self.name}: the network of Uchida 2019 reads rgb")
        elif self.side != WINDOW or not 1 <= self.qf2 <= 100 or self.context % 4:
            raise ValueError(f"{self.name}: patches are {WINDOW} pixels a side, context a multiple of 4, qf2 1 to 100")

    @property
    def crop(self) -> int:
        """Pixels along a side of a patch with its surroundings: room for windows half a window apart."""
        return self.side + 2 * self.context

    def recipe(self) -> dict[str, Any]:
        """All but the schedules, as plain values: what a checkpoint must agree on to be gone on with."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if k not in ("cpu", "gpu")}


def from_values(name: str, values: dict[str, Any]) -> Config:
    """The config of these values, as a TOML file or a checkpoint holds them. Raises ValueError for unknown ones."""
    known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "name"}
    schedules: dict[str, Any] = {k: Schedule(**known.pop(k)) for k in ("cpu", "gpu")}
    unknown = known.keys() - set(Config.__dataclass_fields__)
    if unknown:
        raise ValueError(f"{name}: unknown {', '.join(sorted(unknown))}")
    return Config(name=name, **known, **schedules)


def load(name: str) -> Config:
    """The config of this name in `configs/`."""
    return from_values(name, tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")))


def build(config: Config) -> nn.Module:
    """A new network of this config."""
    from train.networks.densenet import DenseNet
    from train.networks.uchida import UchidaNet

    if config.network == "uchida":
        return UchidaNet()
    out = N_COEFS if config.network == "regression" else Q1_OFFSET[-1]
    return DenseNet(INPUTS[config.input], out, config.dropout)
