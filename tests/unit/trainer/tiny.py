"""Tiny random models and batches for tests of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TypeVar
from unittest.mock import patch
from uuid import UUID

import numpy as np
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNorm
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeRMSNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNorm
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings, TrainingEngine
from trainer.engine.session import Session
from wire.conversion import to_datums
from wire.datums import Datum, Origin
from wire.engine import NO_PICTURES, DatumTensors, LoraConfig, LossChoice, PassResult, Pictures
from wire.plans import Plan, PlanSettings
from wire.trajectories import Batch, Float32Array, Trajectory, Turn
from wire.turns import check_turn

VOCAB = 89
CONTEXT = 64
LORA = LoraConfig(rank=3, alpha=6)
MODEL, OTHER = UUID(int=1), UUID(int=2)
EngineT = TypeVar("EngineT", bound=TrainingEngine)

_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
ARCHITECTURES = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SHAPE, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE)),
    "mistral with a window of 5": lambda: MistralForCausalLM(MistralConfig(**_SHAPE, sliding_window=5)),
    "qwen3 with windows in some layers": lambda: Qwen3ForCausalLM(
        Qwen3Config(
            **_SHAPE, layer_types=["sliding_attention", "full_attention"], use_sliding_window=True, sliding_window=4
        )
    ),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**_SHAPE)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**_SHAPE, layer_types=["sliding_attention", "full_attention"], sliding_window=6)
    ),
    "qwen3 with experts": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**_SHAPE, **_EXPERTS)),
    "qwen3-next": lambda: Qwen3NextForCausalLM(
        Qwen3NextConfig(**_SHAPE, **_EXPERTS, **_HYBRID, shared_expert_intermediate_size=16)
    ),
    "qwen3.5": lambda: Qwen3_5ForCausalLM(Qwen3_5TextConfig(**_SHAPE, **_HYBRID)),
}


def tiny_model(architecture: str = "qwen3", dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ARCHITECTURES[architecture]()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.25 if parameter.dim() > 1 else 1.0)
    if dtype == torch.float64 and "experts" in str(model.config):
        model.set_experts_implementation("eager")  # the grouped kernel knows no float64
    return model.to(dtype).eval()


class BatchEngine(TrainingEngine):
    """Takes batches of trajectories, and checks and converts them as the server does before it logs them. pictures: of
    all of its batches."""

    pictures: Pictures = NO_PICTURES

    def datums(self, batch: Batch, loss: LossChoice | None = None) -> list[Datum]:
        logprobs_optional = loss is None or loss.name == "cross_entropy"
        for index, one in enumerate(batch.trajectories):
            for number, each in enumerate(one.turns):
                check_turn(f"input {index}, sample {number}", each, self.info, logprobs_optional=logprobs_optional)
        return to_datums(batch, loss.config if loss else None)

    def plan(self, batch: Batch, num_substeps: int = 1, settings: PlanSettings | None = None) -> Plan:
        return super().plan(self.datums(batch), num_substeps, settings)

    def forward_backward(self, model: UUID, batch: Batch, loss: LossChoice, plan: Plan | None = None) -> PassResult:
        return super().forward_backward(model, self.datums(batch, loss), loss, plan, self.pictures)

    def forward(self, model: UUID, batch: Batch, plan: Plan | None = None) -> list[DatumTensors]:
        return super().forward(model, self.datums(batch), plan, self.pictures)

    def backward(
        self, model: UUID, batch: Batch, weights: Sequence[Float32Array], plan: Plan | None = None
    ) -> PassResult:
        return super().backward(model, self.datums(batch), weights, plan, self.pictures)


def tiny_engine(
    architecture: str = "qwen3",
    dtype: torch.dtype = torch.float32,
    max_tokens_per_pass: int = 4096,
    canary: bool = True,
) -> BatchEngine:
    base = BaseModel(tiny_model(architecture, dtype))
    return BatchEngine(base, EngineSettings(max_tokens_per_pass=max_tokens_per_pass, threads=1, canary=canary))


def opened(engine: EngineT, model: UUID = MODEL, seed: int = 0, lora: LoraConfig = LORA) -> EngineT:
    """The engine with a model whose B is not zero: with B zero, A has no gradient and errors hide."""
    engine.open(model, lora, None, None)
    weights = session(engine, model).weights
    noise = torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed)) * 0.2
    session(engine, model).weights = weights + noise.to(weights.dtype)
    return engine


def session(engine: TrainingEngine, model: UUID = MODEL) -> Session:
    return engine._sessions.get(model)


def gradients(engine: TrainingEngine, model: UUID = MODEL) -> dict[str, torch.Tensor]:
    held = session(engine, model)
    return dict(zip(held.layout.names, held.layout.views(held.gradient.clone()), strict=True))


def turn(prompt: Sequence[int], output: Sequence[int], logprobs: Sequence[float] | None = None) -> Turn:
    logprobs = [-1.5] * len(output) if logprobs is None else logprobs
    return Turn(np.array(prompt, np.int32), np.array(output, np.int32), np.array(logprobs, np.float32))


def trajectory(*turns: Turn, reward: float = 1.0) -> Trajectory:
    return Trajectory(tuple(turns), reward)


def datum_of(ids: Sequence[int], first_scored: int, trajectory_index: int = 0, group_index: int = 0) -> Datum:
    """A sequence that is sampled from that token on."""
    (datum,) = to_datums(Batch([trajectory(turn(ids[:first_scored], ids[first_scored:]))]))
    return replace(datum, origin=Origin(trajectory_index, group_index))


def rollout(
    rng: np.random.Generator, prompt: Sequence[int], num_turns: int, reward: float, edit_history_at: int | None = None
) -> Trajectory:
    """Turns that extend one another, save for one turn whose history was edited."""
    history, turns = list(prompt), []
    for index in range(num_turns):
        if index == edit_history_at:
            history[1] = (history[1] + 1) % VOCAB
        output = rng.integers(0, VOCAB, rng.integers(1, 5)).tolist()
        turns.append(turn(history, output, (-3.0 * rng.random(len(output)) - 2.0).tolist()))
        history = history + output + rng.integers(0, VOCAB, rng.integers(0, 4)).tolist()
    return trajectory(*turns, reward=reward)


def mixed_batch(seed: int = 0) -> Batch:
    """Two groups of three on a prompt each: single and multi-turn rollouts, one with an edited history."""
    rng = np.random.default_rng(seed)
    trajectories: list[Trajectory] = []
    for _ in range(2):
        prompt = rng.integers(0, VOCAB, 13).tolist()
        trajectories += [
            rollout(rng, prompt, num_turns=1, reward=float(rng.random())),
            rollout(rng, prompt, num_turns=3, reward=float(rng.random())),
            rollout(rng, prompt, num_turns=3, reward=float(rng.random()), edit_history_at=2),
        ]
    return Batch(trajectories, group_size=3, reward_scale=1.5)


def deep_batch() -> Batch:
    """One group whose tree has branches on branches, and action tokens that several rollouts share."""
    rng = np.random.default_rng(5)
    prompt, thought, more = (rng.integers(0, VOCAB, n).tolist() for n in (12, 10, 9))
    logprobs = (-3.0 * rng.random(12) - 2.0).tolist()

    def answer(*outputs: list[int], reward: float) -> Trajectory:
        history, turns = list(prompt), []
        for output in outputs:
            turns.append(turn(history, output, logprobs[: len(output)]))
            history = [*history, *output, 3, 4]
        return trajectory(*turns, reward=reward)

    return Batch(
        [
            answer(thought, more, [5, 6], reward=1.0),
            answer(thought, more, [7], reward=0.0),
            answer(thought, [8, 9, 10], reward=0.3),
            answer(thought, more, [5, 6], reward=-1.0),
            answer(thought, reward=0.1),
            answer([11], reward=2.0),
        ],
        group_size=6,
    )


@contextmanager
def norms_in_their_own_dtype() -> Iterator[None]:
    """What transformers computes in float32 whatever the model is would drown a float64 proof in rounding: RMSNorms,
    softmaxes of routers, and the gates of linear attention."""

    def forward(self: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden * torch.rsqrt(variance + self.variance_epsilon)

    def forward_from_one(self: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        return (1 + self.weight) * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps)

    from_weight = (
        *(Qwen3RMSNorm, LlamaRMSNorm, MistralRMSNorm, Qwen3MoeRMSNorm),
        *(Qwen2_5_VLRMSNorm, Qwen3VLTextRMSNorm),
    )
    from_one = (GemmaRMSNorm, Gemma3RMSNorm, Qwen3NextRMSNorm, Qwen3_5RMSNorm)
    with ExitStack() as stack:
        for norm in from_weight:
            stack.enter_context(patch.object(norm, "forward", forward))
        for norm in from_one:
            stack.enter_context(patch.object(norm, "forward", forward_from_one))
        stack.enter_context(patch.object(torch.Tensor, "float", torch.Tensor.double))
        stack.enter_context(patch.object(torch, "float", torch.float64))
        stack.enter_context(patch.object(torch, "float32", torch.float64))
        yield
