"""The rules by name. A new one is one file and one line here."""

from server.guard.rules.base import Finding, GuardRule, Parameters
from server.guard.rules.components import Components
from server.guard.rules.entropy import Entropy
from server.guard.rules.held_out import HeldOut
from server.guard.rules.kl_base import KlBase
from server.guard.rules.kl_sampler import KlSampler
from server.guard.rules.length import Length
from server.guard.rules.non_finite import NonFinite
from server.guard.rules.spread import Spread

RULES: dict[str, GuardRule] = {
    "held_out": HeldOut(),
    "kl_base": KlBase(),
    "kl_sampler": KlSampler(),
    "entropy": Entropy(),
    "length": Length(),
    "spread": Spread(),
    "components": Components(),
    "non_finite": NonFinite(),
}

__all__ = ["RULES", "Finding", "GuardRule", "Parameters"]
