"""Payloads of format 1 that are in logs replay to the bits that they had.

`format_1/` was written by the commit before format 2: two payloads, and what the trainer made of them then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.trainer.tiny import MODEL, norms_in_their_own_dtype, opened, session, tiny_engine
from trainer.engine.engine import TrainingEngine
from wire.datum_payload import decode_datums, encode_datums
from wire.datums import Datum
from wire.engine import LossChoice

FOLDER = Path(__file__).with_name("format_1")
TRAINED: dict[str, Any] = json.loads((FOLDER / "trained.json").read_text())
# Gradients of float64 passes: other machines' libraries may add in another order.
TOLERANCE = 1e-9


def logged(name: str) -> tuple[list[Datum], dict[str, Any]]:
    return decode_datums((FOLDER / f"{name}.bin").read_bytes())


def again(datums: list[Datum]) -> list[Datum]:
    """As format 2 gives them back."""
    return decode_datums(encode_datums(datums, {}))[0]


def hexed(values: Any) -> list[str]:
    return [float(value).hex() for value in values]


@pytest.mark.parametrize("name", ["forward_backward", "forward"])
@pytest.mark.parametrize("read", [list, again], ids=["as read", "as logged again"])
def test_what_was_logged_as_trajectories_becomes_the_datums_that_the_trainer_made_of_it(name: str, read: Any) -> None:
    datums = read(logged(name)[0])
    for datum, expected in zip(datums, TRAINED[name], strict=True):
        assert [*datum.model_input.ids.tolist(), int(datum.targets[-1])] == expected["ids"]
        assert (datum.positions + 1).tolist() == expected["action_positions"]
        assert datum.targets.tolist() == [expected["ids"][i] for i in expected["action_positions"]]
        assert hexed(datum.sampling_logprobs) == expected["sampling_logprobs"]
        assert set(hexed(datum.advantages)) == {expected["advantage"]}
        assert set(datum.weights.tolist()) == {1.0}
        origin = datum.origin
        assert origin.reward is not None
        assert origin.trajectory_index == expected["trajectory_index"]
        assert (origin.reward.hex(), origin.trace_id) == (expected["reward"], expected["trace_id"])


def test_the_arguments_of_the_call_come_along() -> None:
    assert logged("forward_backward")[1] == {
        "loss_fn": "ppo",
        "loss_fn_config": {"advantage_std": 1.0, "kl_penalty_coef": 0.1},
        "num_substeps": 2,
        "metrics": {"staleness:max": 1.0},
    }
    assert logged("forward")[1] == {}


@pytest.mark.parametrize("read", [list, again], ids=["as read", "as logged again"])
def test_it_trains_as_it_did(read: Any) -> None:
    datums, call = logged("forward_backward")
    loss = LossChoice(call["loss_fn"], call["loss_fn_config"], call["num_substeps"])
    engine = opened(tiny_engine(dtype=torch.float64, max_tokens_per_pass=60))
    with norms_in_their_own_dtype():
        # The pass itself, without what tests convert from trajectories.
        passed = TrainingEngine.forward_backward(engine, MODEL, read(datums), loss)
        alike(session(engine).gradient, TRAINED["gradient"])
        bare = read(logged("forward")[0])
        scored = TrainingEngine.forward(engine, MODEL, bare)
        custom = TrainingEngine.backward(engine, MODEL, bare, [one.logprobs * one.mask for one in scored])
    alike(session(engine).gradient, TRAINED["both"])
    for found, expected in ((passed.metrics, TRAINED["metrics"]), (custom.metrics, TRAINED["custom_metrics"])):
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
    for one, expected in zip(scored, TRAINED["tensors"], strict=True):
        assert (one.trajectory_index, one.reward) == (expected["trajectory_index"], expected["reward"])
        assert hexed(one.sampling_logprobs) == expected["sampling_logprobs"]
        assert one.mask.tolist() == expected["mask"]
        np.testing.assert_allclose(one.logprobs, expected["logprobs"], rtol=1e-6)


def alike(gradient: torch.Tensor, expected: list[str]) -> None:
    """The bits of the machine that wrote the file, or what differs from them by rounding."""
    found = gradient[:: max(1, len(gradient) // 64)]
    np.testing.assert_allclose(
        found.numpy(), [float.fromhex(value) for value in expected], rtol=TOLERANCE, atol=TOLERANCE
    )


def test_a_payload_of_a_later_format_is_refused() -> None:
    payload = encode_datums(logged("forward")[0], {}).replace(b'"format":2', b'"format":5')
    with pytest.raises(ValueError, match="unknown format 5"):
        decode_datums(payload)
