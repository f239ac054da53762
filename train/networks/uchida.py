"""The network of Uchida 2019: seven dilated 3 x 3 convolutions, two maps of the size of the image.

Dilations 1, 2, 3, 4, 3, 2, 1, 64 channels, ReLU between: a field of view of 33 pixels and 187,586 parameters.
"""

from __future__ import annotations

from torch import Tensor, nn

DILATIONS = (1, 2, 3, 4, 3, 2, 1)
CHANNELS = 64
REACH = sum(DILATIONS)
"""Pixels to each side that an answer depends on."""


class UchidaNet(nn.Module):
    """RGB (N, 3, H, W) in 0 to 1 -> (N, 2, H, W): `1 - QF / 100`, and 1 where there was no compression, else 0."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        channels = 3
        for k, dilation in enumerate(DILATIONS):
            out = 2 if k == len(DILATIONS) - 1 else CHANNELS
            parts += [nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation), nn.ReLU()]
            channels = out
        self.layers = nn.Sequential(*parts[:-1])

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.layers(pixels)
        return out
