"""The scout: a network so small that its first layer is looked up, which says what grid shifts are worth a look.

Its first layer takes 8 numbers from the comb functions of a few coefficients. It is linear and features are sums over
blocks, so these numbers are sums of 8 functions of |c|, whatever the count of candidate steps behind them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jscan.jpegtables import N_COEFS

SIZE = 8
"""Numbers that are added up for each shift."""


class ScoutNet(nn.Module):
    """Features (N, 64, F) and, for Q1, the last table (N, 15) -> logits of the 64 shifts."""

    def __init__(self, features: int, has_table: bool, width: int = 24) -> None:
        super().__init__()
        self.size, self.has_table = SIZE, has_table
        self.project = nn.Linear(features, SIZE, bias=False)
        self.centred = nn.Linear(SIZE, width, bias=False)
        self.context = nn.Linear(SIZE + (N_COEFS if has_table else 0), width)
        self.place = nn.Parameter(torch.zeros(64, width))
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, features: Tensor, q2: Tensor | None = None) -> Tensor:
        """(N, 64, F) mean features of the shifts -> (N, 64) logits."""
        scores: Tensor = self.look(features, q2)[1]
        return scores

    def look(self, features: Tensor, q2: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The same -> units of the shifts (N, 64, width), logits (N, 64), and what all shifts share (N, C)."""
        a = 4 * self.project(features)
        mean = a.mean(1)
        around = mean / 4 if q2 is None else torch.cat([mean / 4, torch.log(q2)], 1)
        hidden = torch.relu(self.centred(a - mean[:, None]) + self.context(around)[:, None] + self.place)
        return hidden, self.score(hidden)[..., 0], around


class Glance(nn.Module):
    """What a scout's units say of a window as a whole: whether a closer look could find a first compression there."""

    def __init__(self, scout: ScoutNet, hidden: int = 32) -> None:
        super().__init__()
        units, around = scout.place.shape[1], scout.context.in_features
        self.first = nn.Linear(3 * units + around + 2, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, units: Tensor, logits: Tensor, around: Tensor) -> Tensor:
        """What `ScoutNet.look` gives -> (N,) log-odds."""
        logp = logits.log_softmax(1)
        p = logp.exp()
        picked = (p[..., None] * units).sum(1)
        sure = torch.stack([p.amax(1), (p * logp).sum(1)], 1)
        x = torch.relu(self.first(torch.cat([picked, units[:, 0], units.mean(1), around, sure], 1)))
        odds: Tensor = self.last(torch.relu(self.second(x)))[:, 0]
        return odds
