"""The comb network: one small network shared by the 64 grid shifts, and attention that picks the shift.

The features of a shift enter as their difference from the mean over shifts, which is what a first compression adds
there; the mean itself, the energies and what is known of the last table are the context, which is the same for all
shifts and is projected once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jscan.jpegtables import N_COEFS, Q1_OFFSET

SHIFTS = 64
Some = tuple[Tensor, Tensor]
"""Shifts that are looked at, (N, S) int64, and how many of the 64 each stands for, (N, S)."""


def centre(features: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 64, F) features -> four times their difference from the mean over shifts, and that mean (N, F)."""
    mean = features.mean(1)
    return 4 * (features - mean[:, None]), mean


class CombTrunk(nn.Module):
    """Features of 64 shifts and context -> what was picked, and a score for each shift."""

    def __init__(self, features: int, context: int, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.features, self.heads, self.inner = features, heads, inner
        self.place = nn.Parameter(torch.zeros(SHIFTS, width))
        self.first = nn.Linear(features, width, bias=False)
        self.context = nn.Linear(features + context, width)
        self.second = nn.Linear(width, inner)
        self.attention = nn.Linear(inner, heads)
        self.out_size = heads * inner + features + (features + context)

    def forward(
        self, centred: Tensor, mean: Tensor, context: Tensor, some: Some | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `centre` gives, and (N, C) -> picked (N, out_size), log-scores of the shifts (N, 64).

        Where only `some` of the shifts are looked at, there are as many instead of 64.
        """
        around = torch.cat([mean, context], 1)
        place = self.place if some is None else self.place[some[0]]
        hidden = torch.relu(self.first(centred) + place + self.context(around)[:, None])
        hidden = torch.relu(self.second(hidden))  # N, 64, inner
        scores = self.attention(hidden)  # N, 64, heads
        if some is not None:
            scores = scores + torch.log(some[1])[..., None]
        weights = scores.softmax(1).transpose(1, 2)  # N, heads, 64
        picked = torch.matmul(weights, hidden).flatten(1)  # N, heads * inner
        comb = torch.matmul(weights[:, :1], centred)[:, 0]  # N, F: the comb at the shift of the first head
        return torch.cat([picked, comb, around], 1), scores[:, :, 0]


def _head(size: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(size, hidden),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    )


class Q1Net(nn.Module):
    """Q1 posteriors, shift of the first compression, and whether there was one."""

    def __init__(self, features: int, energies: int, width: int = 160, inner: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.trunk = CombTrunk(features, energies + N_COEFS, width, inner, heads)
        self.head = _head(self.trunk.out_size, 384, Q1_OFFSET[-1] + 1)

    def forward(self, features: Tensor, energy: Tensor, q2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 64, F), (N, B), q2 (N, 15) -> logits of the steps (N, 226), of the shifts (N, 64), of double (N,)."""
        return self.read(*centre(features), energy, q2)

    def read(
        self, centred: Tensor, mean: Tensor, energy: Tensor, q2: Tensor, some: Some | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same from features that were centred before, of all shifts or of some."""
        picked, shift = self.trunk(centred, mean, torch.cat([energy, torch.log(q2)], 1), some)
        out = self.head(picked)
        return out[:, :-1], shift, out[:, -1]


class QfNet(nn.Module):
    """QF posterior, grid shift of the last compression, and whether there was one."""

    def __init__(self, features: int, energies: int, width: int = 128, inner: int = 96, heads: int = 3) -> None:
        super().__init__()
        self.trunk = CombTrunk(features, energies, width, inner, heads)
        self.head = _head(self.trunk.out_size, 256, 101)

    def forward(self, features: Tensor, energy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 64, F), (N, B) -> logits of QF 1 to 100 (N, 100), of the shifts (N, 64), of the flag (N,)."""
        return self.read(*centre(features), energy)

    def read(
        self, centred: Tensor, mean: Tensor, energy: Tensor, some: Some | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same from features that were centred before, of all shifts or of some."""
        picked, shift = self.trunk(centred, mean, energy, some)
        out = self.head(picked)
        return out[:, :-1], shift, out[:, -1]
