"""What a pass computes and holds, counted rather than timed: a change that loses the gain is seen on any machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.unit.trainer.tiny import MODEL, BatchEngine, opened, trajectory, turn
from trainer.engine import logprobs
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings
from wire.engine import LossChoice
from wire.trajectories import Batch

VOCAB, HIDDEN, INNER, HEADS = 5000, 32, 64, 2
PROMPT, OUTPUT, GROUP = 200, 40, 6


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns, and multiplications of the layers' matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.multiplications = 0, 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else [found]:
            # Views hold nothing of their own.
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in _storages(args):
                self.elements = max(self.elements, tensor.numel())
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            if VOCAB not in (*left.shape, *right.shape):
                self.multiplications += left.shape[0] * left.shape[1] * right.shape[1]
        return found


def _storages(args: Any) -> set[int]:
    return {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}


def engine() -> BatchEngine:
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=16,
        max_position_embeddings=512,
    )
    return opened(BatchEngine(BaseModel(Qwen3ForCausalLM(config)), EngineSettings(threads=1)))


def group(num_rollouts: int = GROUP) -> Batch:
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, VOCAB, PROMPT).tolist()
    rollouts = [turn(prompt, rng.integers(0, VOCAB, OUTPUT).tolist()) for _ in range(num_rollouts)]
    return Batch([trajectory(each, reward=float(i)) for i, each in enumerate(rollouts)], group_size=num_rollouts)


def counted(batch: Batch) -> tuple[LargestTensor, dict[str, float]]:
    ready = engine()
    ready.forward_backward(MODEL, batch, LossChoice("importance_sampling"))
    chunk = 16 * VOCAB
    with patch.dict(logprobs._CHUNK_ELEMENTS, cpu=chunk), LargestTensor() as count:
        metrics = ready.forward_backward(MODEL, batch, LossChoice("importance_sampling")).metrics
    return count, metrics


def test_no_tensor_is_as_large_as_logits_or_a_mask() -> None:
    count, metrics = counted(group())
    computed = int(metrics["tokens_computed:sum"])
    chunk_of_logits, widest_activation = 16 * VOCAB, computed * INNER
    assert count.elements <= max(chunk_of_logits, widest_activation)
    assert count.elements < computed * computed * HEADS
    assert count.elements < GROUP * OUTPUT * VOCAB / 10


def test_a_prompt_is_computed_once_a_group() -> None:
    _, metrics = counted(group())
    assert metrics["tokens_computed:sum"] == PROMPT + GROUP * (OUTPUT - 1)
    assert metrics["tokens_sent:sum"] == GROUP * (PROMPT + OUTPUT)


def test_work_grows_by_what_a_rollout_adds() -> None:
    few, many = (counted(group(n))[0].multiplications for n in (2, 6))
    assert many / few == pytest.approx((PROMPT + 6 * (OUTPUT - 1)) / (PROMPT + 2 * (OUTPUT - 1)), rel=0.01)
