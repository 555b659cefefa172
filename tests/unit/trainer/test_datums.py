"""What the engine takes beyond trajectories: targets of any kind, and weights and advantages that differ by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.trainer.tiny import CONTEXT, LORA, MODEL, VOCAB, datum_of, opened, session, tiny_model
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings, TrainingEngine
from wire.datums import Datum
from wire.engine import LossChoice
from wire.errors import InvalidRequest
from wire.extension import Media, TokenSequence

IDS = [1, 2, 3, 4, 5, 6]


def an_engine() -> TrainingEngine:
    return opened(TrainingEngine(BaseModel(tiny_model()), EngineSettings(threads=1)))


def sent(**changed: Any) -> Datum:
    """All positions scored, and targets that are not the next tokens."""
    length = len(IDS)
    values = {
        "model_input": TokenSequence(np.array(IDS, np.int32)),
        "spans": np.array([[0, length]], np.int32),
        "is_sampled": np.array([True]),
        "targets": np.array([9, 9, 4, 80, 0, 2], np.int32),
        "weights": np.array([1, 0, -0.5, 2, 0, 1], np.float32),
        "advantages": np.array([0, 1, -1, 0.25, 3, 0]),
        "sampling_logprobs": np.full(length, -4.0, np.float32),
    }
    return replace(datum_of(IDS, 1), **{**values, **changed})


def test_targets_need_not_be_the_next_tokens() -> None:
    engine, datum = an_engine(), sent()
    engine.open(MODEL, LORA, None, None)  # B is zero: the base model itself
    (found,) = engine.forward(MODEL, [datum])
    with torch.no_grad():
        logprobs_LV = tiny_model()(input_ids=torch.tensor([IDS])).logits[0].log_softmax(-1)
    expected = [logprobs_LV[at, token].item() for at, token in enumerate(datum.targets.tolist())]
    assert found.logprobs.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_weight_multiplies_the_cost_of_its_position() -> None:
    built_in, by_hand, datum = an_engine(), an_engine(), sent()
    passed = built_in.forward_backward(MODEL, [datum], LossChoice("cross_entropy"))
    by_hand.backward(MODEL, [datum], [datum.weights])
    assert torch.equal(session(built_in).gradient, session(by_hand).gradient)
    assert passed.logprobs is not None
    assert passed.metrics["loss:sum"] == pytest.approx(-(datum.weights * passed.logprobs[0]).sum(), rel=1e-6)


def test_an_advantage_is_of_its_position_alone() -> None:
    built_in, by_hand, datum = an_engine(), an_engine(), sent(weights=np.ones(len(IDS), np.float32))
    (scored,) = by_hand.forward(MODEL, [datum])
    built_in.forward_backward(MODEL, [datum], LossChoice("importance_sampling"))
    ratios = np.exp(scored.logprobs - datum.sampling_logprobs)
    by_hand.backward(MODEL, [datum], [(ratios * datum.advantages).astype(np.float32)])
    torch.testing.assert_close(session(built_in).gradient, session(by_hand).gradient, rtol=1e-5, atol=1e-6)


def test_without_rewards_nothing_is_said_of_them() -> None:
    metrics = an_engine().forward_backward(MODEL, [sent()], LossChoice("ppo")).metrics
    assert not [name for name in metrics if "reward" in name or "spread" in name]
    assert "ratio:mean" in metrics


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"model_input": TokenSequence(np.array([1, VOCAB, *IDS[2:]], np.int32))}, f"its model input holds {VOCAB}"),
        ({"targets": np.array([1, 2, 3, 4, 5, -1], np.int32)}, "its targets holds -1, which is outside"),
        ({"targets": np.ones(5, np.int32)}, "are not one a scored position"),
        ({"weights": np.ones(7, np.float32)}, "are not one a scored position"),
        ({"is_sampled": np.array([True, True])}, "are not one a scored position"),
        ({"spans": np.array([[0, 7]], np.int32)}, "no ascending runs of its 6 positions"),
        ({"spans": np.array([[3, 6], [0, 3]], np.int32)}, "no ascending runs"),
        ({"spans": np.array([[2, 2], [2, 6]], np.int32)}, "no ascending runs"),
        ({"spans": np.zeros((0, 2), np.int32)}, "no ascending runs"),
        ({"weights": np.array([1, 1, 1, 1, 1, np.nan], np.float32)}, "not a finite number"),
        ({"sampling_logprobs": np.array([1, 1, 1, 1, 1, -np.inf], np.float32)}, "not a finite number"),
        ({"is_sampled": np.array([False])}, "without sampling logprobs, which this loss needs"),
        ({"targets": np.ones((6, 2), np.int32)}, "several targets a position"),
        ({"model_input": TokenSequence(np.array(IDS, np.int32), (Media(1, 1, bytes(32), 8, 8),))}, "takes text alone"),
    ],
)
def test_a_datum_that_cannot_be_scored_is_named_and_leaves_nothing_behind(bad: dict[str, Any], sentence: str) -> None:
    refused(lambda engine, datums: engine.forward_backward(MODEL, datums, LossChoice("ppo")), sent(**bad), sentence)


def test_a_datum_beyond_the_context_is_refused() -> None:
    refused(
        lambda engine, datums: engine.forward(MODEL, datums),
        datum_of([1] * (CONTEXT + 2), 1),
        f"its {CONTEXT + 1} tokens are more than the model's context of {CONTEXT}",
    )


def test_an_input_may_fill_the_context_and_predict_one_token_more() -> None:
    (found,) = an_engine().forward(MODEL, [datum_of([1] * (CONTEXT + 1), 1)])
    assert len(found.logprobs) == CONTEXT


def refused(call: Callable[[TrainingEngine, list[Datum]], object], bad: Datum, sentence: str) -> None:
    engine = an_engine()
    with pytest.raises(InvalidRequest) as caught:
        call(engine, [sent(), bad])
    assert caught.value.message.startswith("input 0 (datum 1)")
    assert sentence in caught.value.message
    assert not session(engine).gradient.any()
