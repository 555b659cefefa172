"""The curves of training are those on file, and stay the same whatever way the same work is cut up.

A change of the file goes with a reason in its commit: `python -m tests.golden.test_curves` adds what
is missing, and with names of losses writes theirs anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import numpy as np
import pytest

from tests.golden.curve import LORA, NUM_STEPS, Curve, new_engine, sampled, train
from tests.unit.trainer.tiny import BatchEngine, norms_in_their_own_dtype, session
from trainer.engine import recomputation
from trainer.engine.losses import LOSSES
from wire.engine import AdamParams, LossChoice
from wire.trajectories import Batch

FILE = Path(__file__).with_name("curves.json")
# Of float64 over twenty steps: what other summation orders cost, with room for other machines' libraries.
TOLERANCE = 1e-7
OTHER = UUID(int=7)


def golden(loss: str) -> Curve:
    return Curve(**json.loads(FILE.read_text())[loss])


def agree(found: Curve, expected: Curve) -> None:
    for name, values in asdict(expected).items():
        np.testing.assert_allclose(asdict(found)[name], values, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def shuffled(batch: Batch) -> Batch:
    """Rollouts within their group, and groups: advantages and sums stay what they are."""
    rng = np.random.default_rng(len(batch.trajectories[0].turns[0].prompt_ids))
    groups = [list(rng.permutation(4) + 4 * g) for g in rng.permutation(2)]
    return replace(batch, trajectories=[batch.trajectories[i] for group in groups for i in group])


def beside_another_model(engine: BatchEngine) -> Callable[[int], None]:
    """Between the steps, another model of another shape and one of the same shape train on the same base."""
    third = UUID(int=8)
    engine.open(OTHER, replace(LORA, rank=5), None, None)
    engine.open(third, replace(LORA, init_seed=3), None, None)

    def train_others(step: int) -> None:
        for model in (OTHER, third):
            engine.forward_backward(model, sampled(engine, model, step + 100), LossChoice("ppo"))
        engine.optim_step(OTHER, AdamParams(learning_rate=1e-2))

    return train_others


@pytest.mark.parametrize("loss", LOSSES)
def test_twenty_steps_follow_the_curve_on_file(loss: str) -> None:
    expected = golden(loss)
    assert len(expected.loss) == NUM_STEPS
    assert expected.grad_norm[-1] != expected.grad_norm[0]
    with norms_in_their_own_dtype():
        agree(train(new_engine(), loss), expected)


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "gspo"])
def test_small_micro_batches_follow_the_same_curve(loss: str) -> None:
    with norms_in_their_own_dtype():
        agree(train(new_engine(max_tokens_per_pass=30), loss), golden(loss))


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "gspo"])
def test_another_order_of_packing_follows_the_same_curve(loss: str) -> None:
    with norms_in_their_own_dtype():
        agree(train(new_engine(), loss, reorder=shuffled), golden(loss))


def test_recomputed_activations_follow_the_same_curve() -> None:
    with norms_in_their_own_dtype(), patch.object(recomputation, "checkpoint", wraps=recomputation.checkpoint) as spy:
        agree(train(new_engine(max_activation_bytes=1), "ppo"), golden("ppo"))
    assert spy.call_count >= NUM_STEPS


def test_a_mix_of_adapters_follows_the_same_curve() -> None:
    with norms_in_their_own_dtype():
        engine = new_engine()
        agree(train(engine, "ppo", between=beside_another_model(engine)), golden("ppo"))


def test_models_that_are_parked_between_their_steps_follow_the_same_curve() -> None:
    with norms_in_their_own_dtype():
        engine = new_engine(max_resident_bytes=1)
        agree(train(engine, "ppo", between=beside_another_model(engine)), golden("ppo"))
        assert session(engine, OTHER).num_steps == NUM_STEPS


def write(names: Sequence[str]) -> None:
    """The curves of these losses, and of those that have none on file."""
    known = json.loads(FILE.read_text())
    with norms_in_their_own_dtype():
        curves = {
            loss: known[loss] if loss in known and loss not in names else asdict(train(new_engine(), loss))
            for loss in LOSSES
        }
    FILE.write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    write(sys.argv[1:])
