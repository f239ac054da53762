"""Losses: Tondi 2021, Eq. 5, and what the comb networks add to it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from jscan.jpegtables import N_COEFS, Q1_MAX, Q1_OFFSET

CLASSIFICATION_SHARE = 0.8
"""c of Eq. 5 (section 4.3)."""


def ordinal(
    logits: Tensor, true: Tensor, share: float = CLASSIFICATION_SHARE, scale: float = 1.0, squared: bool = False
) -> Tensor:
    """(N,) loss: share of the cross-entropy, the rest the expected distance |j - true| under the softmax.

    `logits` (N, K), `true` (N,) class indices; `scale` divides the distance, which is then squared if asked for.
    """
    log_p = logits.log_softmax(1)
    distance = (torch.arange(logits.shape[1], device=logits.device) - true[:, None]).abs() / scale
    if squared:
        distance = distance**2
    cross_entropy = functional.nll_loss(log_p, true, reduction="none")
    return share * cross_entropy + (1 - share) * (log_p.exp() * distance).sum(1)


def q1_loss(logits: Tensor, q1: Tensor, squared: bool = False) -> Tensor:
    """(N,) Eq. 5, averaged over the 15 coefficients: logits (N, 226), steps (N, 15).

    The distance is that of the text, or `squared` as in the code that was published with it.
    """
    parts = [
        ordinal(logits[:, Q1_OFFSET[i] : Q1_OFFSET[i] + Q1_MAX[i]], q1[:, i] - 1, squared=squared)
        for i in range(N_COEFS)
    ]
    return torch.stack(parts).mean(0)


def regression_loss(steps: Tensor, q1: Tensor) -> Tensor:
    """(N,) mean square error of 15 steps (N, 15), not rounded, as in Niu 2020."""
    return (steps - q1).pow(2).mean(1)


def q1_task_loss(out: tuple[Tensor, Tensor, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Scalar: Eq. 5 and the shift on windows compressed twice, and the double flag on all."""
    steps, shift, double = out
    true = labels["double"].float()
    table = (q1_loss(steps, labels["q1"]) * true).sum() / true.sum().clamp(min=1)
    place = functional.cross_entropy(shift, labels["shift"], reduction="none")
    place = (place * true).sum() / true.sum().clamp(min=1)
    return table + 0.1 * place + 0.3 * functional.binary_cross_entropy_with_logits(double, true)


def qf_task_loss(out: tuple[Tensor, Tensor, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Scalar: ordinal loss of the QF and the shift on compressed windows, and the flag on all."""
    qf, shift, flag = out
    true = labels["flag"].float()
    quality = (ordinal(qf, labels["qf"] - 1, scale=4.0) * true).sum() / true.sum().clamp(min=1)
    place = functional.cross_entropy(shift, labels["shift"], reduction="none")
    place = (place * true).sum() / true.sum().clamp(min=1)
    return quality + 0.2 * place + functional.binary_cross_entropy_with_logits(flag, true)
