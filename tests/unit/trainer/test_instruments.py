"""What a trainer counts."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from structlog.contextvars import get_contextvars

from store.oplog.operation import ModelState, Operation
from trainer.worker.instruments import TrainerMetrics


def model(number: int = 0) -> ModelState:
    return ModelState(uuid.UUID(int=number + 1), f"m{number}", uuid.uuid4(), {}, None, 0, 0)


def operation(kind: str = "optim_step") -> Operation:
    return Operation(uuid.uuid4(), uuid.UUID(int=1), 1, kind, b"", None, None, 1)


def outcomes(metrics: TrainerMetrics) -> dict[str, float]:
    family = next(f for f in metrics.registry.collect() if f.name == "headway_trainer_operation_seconds")
    return {s.labels["outcome"]: s.value for s in family.samples if s.name.endswith("_count")}


def test_operations_are_counted_by_how_they_ended_and_named_in_the_log():
    metrics = TrainerMetrics()
    ran = operation()
    with metrics.operation(ran, model()):
        assert get_contextvars()["operation"] == str(ran.id)
        assert get_contextvars()["model_id"] == str(model().id)
    assert "operation" not in get_contextvars()
    with metrics.operation(operation(), model()):
        metrics.failed("nothing_accumulated")
    with pytest.raises(RuntimeError), metrics.operation(operation(), model()):
        raise RuntimeError
    with metrics.operation(operation(), model()):
        pass  # a failure is forgotten with its operation
    assert outcomes(metrics) == {"done": 2.0, "failed": 1.0, "interrupted": 1.0}


def test_an_operation_keeps_its_own_outcome_while_another_one_ends():
    metrics, gone_on = TrainerMetrics(), operation()
    with metrics.operation(gone_on, model()):
        metrics.goes_on()
    with metrics.operation(operation(), model(1)), metrics.rest_of(gone_on, model()):
        metrics.failed("promotion_rejected")
    assert outcomes(metrics) == {"done": 1.0, "failed": 1.0}


def test_phases_and_tokens_add_up():
    metrics: Any = TrainerMetrics()
    for _ in range(2):
        metrics.passed({"seconds_forward:sum": 0.5, "tokens:sum": 7, "tokens_computed:sum": 3})
    get = metrics.registry.get_sample_value
    assert get("headway_trainer_phase_seconds_total", {"phase": "forward"}) == 1.0
    assert get("headway_trainer_tokens_total", {"kind": "action"}) == 14
    assert get("headway_trainer_tokens_total", {"kind": "computed"}) == 6
    assert get("headway_trainer_passes_total") == 2


def test_figures_are_kept_of_the_models_that_stepped_last():
    metrics = TrainerMetrics()
    for number in range(60):
        metrics.stepped(model(number), {"reward_mean": number})
    metrics.stepped(model(10), {"reward_mean": 0.5})
    family = next(f for f in metrics.registry.collect() if f.name == "headway_trainer_model_reward_mean")
    shown = {sample.labels["slug"]: sample.value for sample in family.samples}
    assert len(shown) == 50
    assert shown["m10"] == 0.5
    assert "m9" not in shown
    assert shown["m59"] == 59
