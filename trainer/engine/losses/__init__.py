"""The built-in losses. A new one is a file here and a line in the table."""

from __future__ import annotations

from trainer.engine.losses.base import ActionTokens, Costs, Loss
from trainer.engine.losses.cispo import CISPO
from trainer.engine.losses.cross_entropy import CrossEntropy
from trainer.engine.losses.dr_grpo import DrGRPO
from trainer.engine.losses.dro import DRO
from trainer.engine.losses.gspo import GSPO
from trainer.engine.losses.importance_sampling import ImportanceSampling
from trainer.engine.losses.options import LossOptions
from trainer.engine.losses.ppo import PPO
from trainer.engine.losses.truncated_importance_sampling import TruncatedImportanceSampling
from wire.engine import LossChoice
from wire.errors import InvalidRequest

__all__ = ["LOSSES", "ActionTokens", "Costs", "Loss", "LossOptions", "make_loss"]

LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "importance_sampling": ImportanceSampling,
    "ppo": PPO,
    "cispo": CISPO,
    "dro": DRO,
    "gspo": GSPO,
    "dr_grpo": DrGRPO,
    "truncated_importance_sampling": TruncatedImportanceSampling,
}


def make_loss(choice: LossChoice) -> Loss:
    """The loss a caller named, with its own hyperparameters; `LossOptions` reads the others from the same config.

    Raises InvalidRequest for a name or key that is unknown.
    """
    if choice.name not in LOSSES:
        raise InvalidRequest(f"unknown loss_fn {choice.name!r}: this trainer knows {', '.join(LOSSES)}")
    options = LossOptions.defaults()
    own = {key: value for key, value in choice.config.items() if key not in options}
    return LOSSES[choice.name].from_config(own)
