"""Which parameters AdamW is defined for, in float32: refused where they are sent, and by whoever computes with them."""

from __future__ import annotations

from dataclasses import asdict

from wire.engine import AdamParams
from wire.errors import InvalidRequest

# Beyond any use, and products of two still fit float32: torch raises an error of its own where they do not.
_LARGEST = 1e6

# A moment is a float32: below this it does not notice a gradient any more (2⁻²⁴), and the correction of its bias
# divides by so little that finite weights give infinite logits. The largest in use is 0.99999.
_LARGEST_BETA = 0.999999

# The smallest that is a normal number: a smaller one is 0 where denormals are, and 0 / 0 for a weight without gradient.
_SMALLEST_EPS = 1.2e-38

_BOUNDS = {
    "learning_rate": (0.0, _LARGEST),
    "beta1": (0.0, _LARGEST_BETA),
    "beta2": (0.0, _LARGEST_BETA),
    "eps": (_SMALLEST_EPS, _LARGEST),
    "weight_decay": (0.0, _LARGEST),
    "max_grad_norm": (_SMALLEST_EPS, 3e38),
}


def check_adam(adam: AdamParams) -> None:
    """Raises InvalidRequest unless AdamW is defined for these parameters, NaN and infinity included."""
    for name, value in asdict(adam).items():
        lowest, highest = _BOUNDS[name]
        if value is None or (name == "max_grad_norm" and value == 0):
            continue
        if not lowest <= value <= highest:
            raise InvalidRequest(f"{name} is {value}: it must be finite and {lowest:g} or more, up to {highest:.7g}")
