"""The context network: posteriors of windows in, the same posteriors in the light of their neighbours out.

Neighbouring windows mostly share a table and a grid. A few convolutions over the grid of windows gather what they
say, and what comes out is added to each window's own log-posteriors, so that a window that is sure is not changed.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from jscan.jpegtables import N_COEFS, Q1_OFFSET

STEPS, SHIFTS = Q1_OFFSET[-1], 64
FLOOR = 0.003
"""Added to probabilities before their logs are read, so that what is ruled out does not drown what is not."""
DILATIONS = (1, 2, 4)
REACH = sum(DILATIONS)
"""Windows by which an answer depends on its neighbours, to each side."""
CLIP = 4.0
"""Log-odds of presence are read within these bounds."""


def read(logp: Tensor) -> Tensor:
    """Log-posteriors as the network reads them, about -1.2 to 0."""
    return torch.log(torch.exp(logp) + FLOOR) / 5


class ContextNet(nn.Module):
    """Posteriors (N, R, C, ...) of windows and their content -> logits of the same."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.size = STEPS + SHIFTS + 3 + N_COEFS
        self.first = nn.Linear(self.size, width)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=d, dilation=d, padding_mode="replicate") for d in DILATIONS
        )
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(width, STEPS + SHIFTS + 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, logp: Tensor, shift: Tensor, present: Tensor, texture: Tensor, saturated: Tensor, q2: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-posteriors (N, R, C, 226) and (N, R, C, 64), probabilities, texture and saturation (N, R, C), q2 (N, 15).

        Returns logits of the steps (N, R, C, 226), of the shifts (N, R, C, 64), and of the compression (N, R, C).
        """
        odds = torch.logit(present, 1e-4).clamp(-CLIP, CLIP)
        table = (torch.log(q2) / 4)[:, None, None].expand(*present.shape, N_COEFS)
        own = torch.stack([odds / CLIP, texture, saturated], -1)
        x = torch.relu(self.first(torch.cat([read(logp), read(shift), own, table], -1))).permute(0, 3, 1, 2)
        for conv in self.convs:
            x = x + torch.relu(conv(x))
        out = self.last(self.drop(x.permute(0, 2, 3, 1)))
        steps, places = out[..., :STEPS], out[..., STEPS : STEPS + SHIFTS]
        return 5 * read(logp) + steps, 5 * read(shift) + places, odds + out[..., -1]


def normalise(steps: Tensor) -> Tensor:
    """Logits (..., 226) -> log-posteriors of each of the 15 groups."""
    return torch.cat([steps[..., a:b].log_softmax(-1) for a, b in pairwise(Q1_OFFSET)], -1)
