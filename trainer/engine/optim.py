"""AdamW on a session's flat buffers, with the parameters of the call."""

from __future__ import annotations

import torch

from trainer.engine.finite import all_finite
from trainer.engine.session import Session
from wire.adamw import check_adam
from wire.engine import AdamParams, StepResult
from wire.errors import NonFinite


def adamw_step(session: Session, adam: AdamParams, max_grad_norm: float | None = None) -> StepResult:
    """Apply the accumulated gradient and clear it (AdamW, arXiv:1711.05101, torch's single-tensor arithmetic).

    A gradient of exactly zero changes neither weights nor moments: no momentum, no decay, no step counted.
    max_grad_norm: the gradient is scaled down to this 2-norm if it is longer, unless the call names its own, or 0 for
    none. Raises
    NonFinite, and leaves everything as it was, if weights or moments would not stay finite.
    """
    check_adam(adam)
    limit = max_grad_norm if adam.max_grad_norm is None else adam.max_grad_norm or None
    if not session.gradient.any():
        return StepResult(_metrics(0.0, limit, update_norm=0.0), moved=False)
    norm = _norm(session.gradient)
    gradient = session.gradient
    if limit is not None and norm > limit:
        gradient = gradient * (limit / norm)
    weights, exp_avg, exp_avg_sq = _stepped(session, gradient, adam)
    if not all(map(all_finite, (weights, exp_avg, exp_avg_sq))):
        raise NonFinite(f"a step of learning rate {adam.learning_rate} would leave weights that are not finite")
    update_norm = _norm(weights - session.weights)
    session.weights, session.exp_avg, session.exp_avg_sq = weights, exp_avg, exp_avg_sq
    session.gradient = torch.zeros_like(weights)
    session.num_steps += 1
    return StepResult(_metrics(norm, limit, update_norm), moved=True)


def _stepped(
    session: Session, gradient: torch.Tensor, adam: AdamParams
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Copies of weights, exp_avg and exp_avg_sq, one step on."""
    parameter = torch.nn.Parameter(session.weights.clone())
    parameter.grad = gradient
    optimizer = torch.optim.AdamW(
        [parameter],
        lr=adam.learning_rate,
        betas=(adam.beta1, adam.beta2),
        eps=adam.eps,
        weight_decay=adam.weight_decay,
        foreach=False,
    )
    state = {
        "step": torch.tensor(float(session.num_steps)),
        "exp_avg": session.exp_avg.clone(),
        "exp_avg_sq": session.exp_avg_sq.clone(),
    }
    optimizer.state[parameter] = state
    optimizer.step()
    return parameter.detach(), state["exp_avg"], state["exp_avg_sq"]


def _metrics(grad_norm: float, max_grad_norm: float | None, update_norm: float) -> dict[str, float]:
    """grad_norm: before clipping."""
    metrics = {"grad_norm": grad_norm, "update_norm": update_norm, "no_gradient": float(grad_norm == 0)}
    if max_grad_norm is None:
        return metrics
    clipped = {"grad_norm_clipped": min(grad_norm, max_grad_norm), "grad_clipped": float(grad_norm > max_grad_norm)}
    return {**metrics, "max_grad_norm": max_grad_norm, **clipped}


def _norm(tensor: torch.Tensor) -> float:
    # In float64: the squares of a large but finite gradient overflow float32.
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
