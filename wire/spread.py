"""When the rewards of a group count as equal: they then teach nothing.

0.1 + 0.2 and 0.3 are one reward. Any gradient but zero makes a step, with its momentum and decay, so what differs by a
rounding must come to exactly nothing. To a client that computes its rewards with torch they are float32 numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

RELATIVE = float(np.finfo(np.float32).eps)
ABSOLUTE = 1e-8
"""For sums that should have come to 0. TRL's, too."""

HAS_SPREAD = f"({{high}} - {{low}} > {ABSOLUTE} + {RELATIVE} * greatest(abs({{low}}), abs({{high}})))"
"""`has_spread` as SQL, to be formatted with the lowest and the highest reward of a group."""


def has_spread(low_G: npt.NDArray[np.float64], high_G: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which groups teach, by the lowest and the highest reward of each."""
    larger_G: npt.NDArray[Any] = np.maximum(np.abs(low_G), np.abs(high_G))
    return high_G - low_G > ABSOLUTE + RELATIVE * larger_G
