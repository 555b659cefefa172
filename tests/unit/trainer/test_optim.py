from __future__ import annotations

import math

import pytest
import torch

from trainer.engine.lora_layout import LoraLayout
from trainer.engine.optim import adamw_step
from trainer.engine.session import Session
from wire.engine import AdamParams, LoraConfig
from wire.errors import Conflict, InvalidRequest

LAYOUT = LoraLayout(("a.lora_A.weight", "a.lora_B.weight"), ((2, 5), (7, 2)))


def session(seed: int = 0) -> Session:
    weights = torch.randn(LAYOUT.num_parameters, generator=torch.Generator().manual_seed(seed))
    return Session.starting_from(LoraConfig(2, 4), LAYOUT, weights)


def random_gradient(seed: int) -> torch.Tensor:
    return torch.randn(LAYOUT.num_parameters, generator=torch.Generator().manual_seed(100 + seed))


def buffers(held: Session) -> list[torch.Tensor]:
    return [held.weights.clone(), held.gradient.clone(), held.exp_avg.clone(), held.exp_avg_sq.clone()]


def test_steps_equal_torchs_adamw_on_separate_tensors_bit_for_bit() -> None:
    held = session()
    parameters = [torch.nn.Parameter(view.clone()) for view in LAYOUT.views(held.weights)]
    reference = torch.optim.AdamW(parameters)
    for step, (lr, decay) in enumerate([(1e-2, 0.0), (3e-3, 0.1), (1e-2, 0.0)]):
        gradient = random_gradient(step)
        held.add_gradient(gradient)
        assert adamw_step(held, AdamParams(lr, 0.8, 0.97, 1e-6, decay)).moved
        reference.param_groups[0].update(lr=lr, betas=(0.8, 0.97), eps=1e-6, weight_decay=decay)
        for parameter, view in zip(parameters, LAYOUT.views(gradient), strict=True):
            parameter.grad = view
        reference.step()
    for parameter, view in zip(parameters, LAYOUT.views(held.weights), strict=True):
        assert torch.equal(parameter, view)
    assert held.num_steps == 3


def test_a_learning_rate_of_zero_consumes_the_gradient_as_torchs_adamw_does() -> None:
    """The first step of every linear warm-up."""
    held = session()
    before = held.weights.clone()
    parameter = torch.nn.Parameter(held.weights.clone())
    reference = torch.optim.AdamW([parameter], lr=0.0, weight_decay=0.1, foreach=False)
    held.add_gradient(random_gradient(0))
    result = adamw_step(held, AdamParams(0.0, beta2=0.999, weight_decay=0.1))
    parameter.grad = random_gradient(0)
    reference.step()
    assert result.moved
    assert result.metrics["update_norm"] == 0
    assert torch.equal(held.weights, before)
    assert not held.gradient.any()
    assert torch.equal(held.exp_avg, reference.state[parameter]["exp_avg"])
    assert torch.equal(held.exp_avg_sq, reference.state[parameter]["exp_avg_sq"])
    assert held.num_steps == 1


def test_a_step_clears_the_gradient_and_reports_norms() -> None:
    held = session()
    before = held.weights
    held.add_gradient(random_gradient(0))
    result = adamw_step(held, AdamParams(1e-2))
    assert not held.gradient.any()
    assert result.metrics["grad_norm"] == pytest.approx(random_gradient(0).norm().item())
    assert result.metrics["update_norm"] == pytest.approx((held.weights - before).norm().item())
    assert result.metrics["no_gradient"] == 0


def test_a_gradient_of_exactly_zero_moves_neither_weights_nor_moments() -> None:
    held = session()
    held.add_gradient(random_gradient(0))
    adamw_step(held, AdamParams(1e-2))
    before = buffers(held)
    held.add_gradient(torch.zeros(LAYOUT.num_parameters))
    result = adamw_step(held, AdamParams(1e-2, weight_decay=0.5))
    assert not result.moved
    assert result.metrics["no_gradient"] == 1
    assert all(map(torch.equal, buffers(held), before))
    assert held.num_steps == 1


def test_the_gradient_is_clipped_only_where_it_is_too_long() -> None:
    clipped, whole, free = session(), session(), session()
    for held in (clipped, whole, free):
        held.add_gradient(random_gradient(0))
    adamw_step(clipped, AdamParams(1e-2, eps=1.0), max_grad_norm=0.1)
    adamw_step(whole, AdamParams(1e-2, eps=1.0), max_grad_norm=1e3)
    adamw_step(free, AdamParams(1e-2, eps=1.0))
    assert torch.equal(whole.weights, free.weights)
    assert clipped.exp_avg.norm().item() == pytest.approx(0.1 * (1 - 0.9))


def test_the_limit_of_a_call_goes_before_that_of_the_trainer_and_is_reported() -> None:
    of_the_call, of_the_trainer = session(), session()
    norm = random_gradient(0).norm().item()
    for held in (of_the_call, of_the_trainer):
        held.add_gradient(random_gradient(0))
    result = adamw_step(of_the_call, AdamParams(1e-2, max_grad_norm=0.1), max_grad_norm=1e3)
    adamw_step(of_the_trainer, AdamParams(1e-2), max_grad_norm=0.1)
    assert torch.equal(of_the_call.weights, of_the_trainer.weights)
    figures = {
        name: result.metrics[name] for name in ("grad_norm", "grad_norm_clipped", "grad_clipped", "max_grad_norm")
    }
    assert figures == {
        "grad_norm": pytest.approx(norm),
        "grad_norm_clipped": 0.1,
        "grad_clipped": 1,
        "max_grad_norm": 0.1,
    }


def test_a_limit_of_zero_clips_nothing_whatever_the_trainers() -> None:
    off, free = session(), session()
    for held in (off, free):
        held.add_gradient(random_gradient(0))
    result = adamw_step(off, AdamParams(1e-2, max_grad_norm=0.0), max_grad_norm=0.1)
    adamw_step(free, AdamParams(1e-2))
    assert torch.equal(off.exp_avg, free.exp_avg)
    assert torch.equal(off.weights, free.weights)
    assert "max_grad_norm" not in result.metrics


def test_a_step_is_that_of_the_formula() -> None:
    """θ ← θ(1 − lr·wd) − lr·m̂ / (√v̂ + ε), in float64, of a clipped gradient and of a tiny ε."""
    held = session()
    held = Session.starting_from(held.lora, LAYOUT, held.weights.double())
    theta, m, v = held.weights.clone(), torch.zeros_like(held.weights), torch.zeros_like(held.weights)
    lr, decay, beta1, beta2, eps, limit = 1e-2, 0.3, 0.8, 0.95, 1e-12, 2.5
    for step in range(1, 4):
        gradient = random_gradient(step).double()
        held.add_gradient(gradient)
        adamw_step(held, AdamParams(lr, beta1, beta2, eps, decay, limit))
        gradient = gradient * min(1.0, limit / gradient.norm().item())
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
        theta = theta * (1 - lr * decay) - lr * m_hat / (v_hat.sqrt() + eps)
        torch.testing.assert_close(held.weights, theta, rtol=1e-12, atol=1e-12)


def test_a_step_within_its_limit_says_that_nothing_was_clipped() -> None:
    held = session()
    held.add_gradient(random_gradient(0))
    metrics = adamw_step(held, AdamParams(1e-2, max_grad_norm=1e3)).metrics
    assert metrics["grad_clipped"] == 0
    assert metrics["grad_norm_clipped"] == metrics["grad_norm"]


def test_a_step_that_would_leave_nonfinite_weights_changes_nothing() -> None:
    held = session()
    held.weights = held.weights * 1e30
    held.add_gradient(random_gradient(0))
    before = buffers(held)
    with pytest.raises(Conflict, match="not finite"):
        adamw_step(held, AdamParams(1e6, weight_decay=1e6))
    assert all(map(torch.equal, buffers(held), before))
    assert held.num_steps == 0


@pytest.mark.parametrize(
    ("adam", "name"),
    [
        (AdamParams(-1e-9), "learning_rate"),
        (AdamParams(math.inf), "learning_rate"),
        (AdamParams(1e-3, beta1=1.0), "beta1"),
        (AdamParams(1e30), "learning_rate"),
        (AdamParams(1e-3, beta1=1 - 1e-16), "beta1"),
        (AdamParams(1e-3, beta2=1 - 1e-9), "beta2"),
        (AdamParams(1e-3, beta2=-0.1), "beta2"),
        (AdamParams(1e-3, eps=1e-45), "eps"),
        (AdamParams(1e-3, weight_decay=1e30), "weight_decay"),
        (AdamParams(1e-3, eps=0.0), "eps"),
        (AdamParams(1e-3, weight_decay=math.nan), "weight_decay"),
        (AdamParams(1e-3, max_grad_norm=-1.0), "max_grad_norm"),
        (AdamParams(1e-3, max_grad_norm=math.inf), "max_grad_norm"),
        (AdamParams(1e-3, max_grad_norm=math.nan), "max_grad_norm"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(adam: AdamParams, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        adamw_step(session(), adam)
