"""The consistency network: maps of evidence in, the probability of another history out, window by window.

A few convolutions over the grid of windows, and the image's own mean of what they find, so that a window is judged
against its neighbours and against the whole image. Each window answers for the 2 x 2 cells of 8 x 8 pixels around
its centre.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CELLS_PER_WINDOW = 4


class RegionNet(nn.Module):
    """(N, channels, R, C) -> logits (N, 4, R, C) of cells: upper left, upper right, lower left, lower right."""

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels), requires_grad=False)
        self.offset = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.first = nn.Conv2d(channels, width, 1)
        self.second = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")
        self.third = nn.Conv2d(width, width, 3, padding=2, dilation=2, padding_mode="replicate")
        self.whole = nn.Conv2d(width, width, 1)
        self.fourth = nn.Conv2d(2 * width, width, 3, padding=1, padding_mode="replicate")
        self.last = nn.Conv2d(width, CELLS_PER_WINDOW, 1)
        self.drop = nn.Dropout(0.1)

    def forward(self, maps: Tensor) -> Tensor:
        """Logits of the cells."""
        x = (maps - self.offset[:, None, None]) * self.scale[:, None, None]
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x))
        x = torch.relu(self.third(x))
        mean = torch.relu(self.whole(x.mean((2, 3), keepdim=True)))
        x = torch.cat([x, mean + torch.zeros_like(x)], 1)
        out: Tensor = self.last(self.drop(torch.relu(self.fourth(x))))
        return out


class RegionNets(nn.Module):
    """Several of these networks, which answer with the mean of their logits."""

    def __init__(self, nets: Sequence[RegionNet]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, maps: Tensor) -> Tensor:
        """Logits of the cells."""
        return torch.stack([net(maps) for net in self.nets]).mean(0)
