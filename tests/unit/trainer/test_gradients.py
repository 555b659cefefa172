"""The engine's gradients are those of the plainest code that computes the same thing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests.unit.trainer.naive import FORMULAS, Reference, naive_pass, saved_policy, turn_logprobs, worst_relative_error
from tests.unit.trainer.tiny import (
    ARCHITECTURES,
    MODEL,
    BatchEngine,
    deep_batch,
    gradients,
    mixed_batch,
    norms_in_their_own_dtype,
    opened,
    session,
    tiny_engine,
    tiny_model,
)
from trainer.engine.base_model import BaseModel
from trainer.engine.losses import LOSSES
from trainer.engine.mixers import Paths
from trainer.engine.packing import Pack
from trainer.engine.prefix_tree import Node
from trainer.engine.scores import Scores
from wire.conversion import to_datums
from wire.engine import LossChoice

OPTIONS = {
    "kl": {"kl_penalty_coef": 0.3},
    "std": {"advantage_std": 1.0},
    "by tokens": {"normalize_by_tokens": 1.0, "kl_penalty_coef": 0.3},
    "by sequences": {"normalize_by_sequences": 1.0, "kl_penalty_coef": 0.3, "advantage_std": 1.0},
}


BATCHES = {"turns": mixed_batch(), "branches on branches": deep_batch()}


@cache
def _kept_engine(architecture: str, dtype: torch.dtype, max_tokens_per_pass: int) -> BatchEngine:
    return tiny_engine(architecture, dtype, max_tokens_per_pass)


def reopened(architecture: str = "qwen3", dtype: torch.dtype = torch.float64, at_once: int = 4096) -> BatchEngine:
    """One engine for all tests, with its model as if nothing had come before."""
    return opened(_kept_engine(architecture, dtype, at_once))


@cache
def reference(architecture: str, dtype: torch.dtype, batch: str) -> Reference:
    """Of the model that a reopened engine holds."""
    with TemporaryDirectory() as folder:
        policy = saved_policy(tiny_model(architecture, dtype), opened(tiny_engine(architecture, dtype)), Path(folder))
    return Reference(policy, BATCHES[batch], lambda _: {})


def test_every_loss_has_a_formula_to_be_compared_with() -> None:
    assert set(FORMULAS) == set(LOSSES)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("loss", FORMULAS)
def test_float64_gradients_equal_naive_ones_to_rounding(loss: str, batch: str) -> None:
    with norms_in_their_own_dtype():
        engine = reopened()
        result = engine.forward_backward(MODEL, BATCHES[batch], LossChoice(loss))
        cost, expected = reference("qwen3", torch.float64, batch).gradient(loss)
    assert result.metrics["loss:sum"] == pytest.approx(cost, rel=1e-12)
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("loss", FORMULAS)
def test_float64_gradients_of_options_equal_naive_ones(loss: str, options: str) -> None:
    config = OPTIONS[options]
    with norms_in_their_own_dtype():
        engine = reopened(at_once=40)
        result = engine.forward_backward(MODEL, BATCHES["turns"], LossChoice(loss, config, num_substeps=2))
        cost, expected = reference("qwen3", torch.float64, "turns").gradient(loss, config)
    assert result.metrics["micro_batches:sum"] > 2
    assert result.metrics["loss:sum"] == pytest.approx(cost, rel=1e-12)
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


@pytest.mark.parametrize("options", ["none", *OPTIONS])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_split_into_micro_batches_changes_rounding_only(loss: str, options: str) -> None:
    choice = LossChoice(loss, OPTIONS.get(options, {}))
    with norms_in_their_own_dtype():
        whole, split = (reopened(at_once=n) for n in (4096, 1))
        metrics = [engine.forward_backward(MODEL, mixed_batch(), choice).metrics for engine in (whole, split)]
    assert metrics[1]["micro_batches:sum"] > metrics[0]["micro_batches:sum"] == 1
    assert metrics[1]["loss:sum"] == pytest.approx(metrics[0]["loss:sum"], rel=1e-9)
    expected = gradients(whole)
    assert worst_relative_error(gradients(split), expected) <= 1e-9


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float64_gradients_equal_naive_ones_on_every_architecture(architecture: str, tmp_path: Path) -> None:
    with norms_in_their_own_dtype():
        engine = opened(tiny_engine(architecture, torch.float64, max_tokens_per_pass=100))
        assert engine.info.sharing == "prefixes"
        for batch in (mixed_batch(), deep_batch()):
            session(engine).gradient.zero_()
            engine.forward_backward(MODEL, batch, LossChoice("importance_sampling"))
            base = tiny_model(architecture, torch.float64)
            _, expected = naive_pass(base, engine, batch, "importance_sampling", tmp_path / str(batch.group_size))
            assert worst_relative_error(gradients(engine), expected) <= 1e-12


@pytest.mark.parametrize("loss", FORMULAS)
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_float32_gradients_equal_naive_ones(architecture: str, loss: str) -> None:
    engine = reopened(architecture, torch.float32)
    result = engine.forward_backward(MODEL, BATCHES["turns"], LossChoice(loss))
    cost, expected = reference(architecture, torch.float32, "turns").gradient(loss)
    assert result.metrics["loss:sum"] == pytest.approx(cost, rel=1e-5)
    assert worst_relative_error(gradients(engine), expected) <= 1e-5


def test_forward_gives_the_logprobs_of_a_plain_row_a_turn(tmp_path: Path) -> None:
    engine, batch = opened(tiny_engine()), mixed_batch()
    policy = saved_policy(tiny_model(), engine, tmp_path)
    found = [float(p) for d in engine.forward(MODEL, batch) for p, m in zip(d.logprobs, d.mask, strict=True) if m]
    with torch.no_grad():
        expected = [turn_logprobs(policy, turn) for t in batch.trajectories for turn in t.turns]
    assert found == pytest.approx(torch.cat(expected).tolist(), abs=1e-5)


def test_prefix_sharing_computes_each_shared_token_once() -> None:
    """Counted work, not time: what the model computes is what differs."""
    result = opened(tiny_engine()).forward_backward(MODEL, deep_batch(), LossChoice("importance_sampling"))
    sequences = [datum.model_input.ids.tolist() for datum in to_datums(deep_batch())]
    different = {tuple(ids[: n + 1]) for ids in sequences for n in range(len(ids))}
    assert result.metrics["tokens_computed:sum"] == len(different)
    assert result.metrics["tokens_merged:sum"] == sum(map(len, sequences)) > 4 * len(different)


Mistake = Callable[[], AbstractContextManager[object]]


def _packed(mistake: Callable[[Pack], Pack]) -> AbstractContextManager[object]:
    rightly = BaseModel.pack
    return patch.object(BaseModel, "pack", lambda self, datums: mistake(rightly(self, datums)))


def _positions_by_packed_index(pack: Pack) -> Pack:
    return replace(pack, position_ids_T=torch.arange(pack.num_tokens))


def _labels_rolled_over_the_pack(pack: Pack) -> Pack:
    # What the packed row holds behind a token is taken for the prediction made there.
    return replace(pack, targets_P=pack.input_ids_T.roll(-1)[pack.rows_P])


def _branches_see_one_another(pack: Pack) -> Pack:
    tree = pack.layout.tree
    blind = replace(tree, nodes_M=(Node(0, tree.num_tokens, tree.num_tokens),))
    return replace(pack, layout=replace(pack.layout, tree=blind, _made={}))


def _shared_action_tokens_count_once() -> AbstractContextManager[object]:
    def backpropagate(scores: Scores, weights_N: torch.Tensor) -> None:
        weights_P = torch.zeros_like(scores.logprobs_P)
        weights_P[scores.pack.inverse_N] = weights_N
        scores.logprobs_P.backward(-weights_P)

    return patch.object(Scores, "backpropagate", backpropagate)


def _transformers_own_attention() -> AbstractContextManager[object]:
    """It takes positions that restart for sequences packed one behind the other."""
    score = BaseModel.logprobs

    def logprobs(base: BaseModel, pack: Pack, **kwargs: object) -> object:
        base._model.set_attn_implementation("sdpa")
        return score(base, pack, **kwargs)

    return patch.object(BaseModel, "logprobs", logprobs)


MISTAKES: dict[str, Mistake] = {
    "transformers' own attention on tree positions": _transformers_own_attention,
    "positions by packed index": lambda: _packed(_positions_by_packed_index),
    "labels rolled over the pack": lambda: _packed(_labels_rolled_over_the_pack),
    "branches that see one another": lambda: _packed(_branches_see_one_another),
    "shared action tokens that count once": _shared_action_tokens_count_once,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_silent_mistake_would_be_seen(mistake: str, tmp_path: Path) -> None:
    engine = opened(tiny_engine())
    with MISTAKES[mistake]():
        engine.forward_backward(MODEL, deep_batch(), LossChoice("importance_sampling"))
    _, expected = naive_pass(tiny_model(), engine, deep_batch(), "importance_sampling", tmp_path)
    assert worst_relative_error(gradients(engine), expected) > 0.1


def test_a_linear_mixer_that_took_the_tree_for_one_sequence_would_be_seen(tmp_path: Path) -> None:
    engine = opened(tiny_engine("qwen3-next"))
    one_row = lambda tree, device: Paths(  # noqa: E731
        torch.arange(tree.num_tokens)[None],
        torch.zeros(tree.num_tokens, dtype=torch.int64),
        torch.arange(tree.num_tokens),
    )
    with patch("trainer.engine.mixers.paths_of", one_row):
        engine.forward_backward(MODEL, deep_batch(), LossChoice("importance_sampling"))
    _, expected = naive_pass(tiny_model("qwen3-next"), engine, deep_batch(), "importance_sampling", tmp_path)
    assert worst_relative_error(gradients(engine), expected) > 0.1


def test_low_precision_costs_no_more_than_in_plain_code(tmp_path: Path) -> None:
    """bfloat16 gradients, each against float32 ones of the same rounded weights."""
    weights = tiny_model(dtype=torch.bfloat16).state_dict()
    exact_model = tiny_model()
    exact_model.load_state_dict(weights)
    errors = []
    for seed in range(4):
        engine = opened(tiny_engine(dtype=torch.bfloat16), seed=seed)
        engine.forward_backward(MODEL, mixed_batch(seed), LossChoice("importance_sampling"))
        _, exact = naive_pass(
            deepcopy(exact_model), engine, mixed_batch(seed), "importance_sampling", tmp_path / f"exact{seed}"
        )
        base = tiny_model(dtype=torch.bfloat16)
        _, plain = naive_pass(base, engine, mixed_batch(seed), "importance_sampling", tmp_path / f"plain{seed}")
        errors.append([_mean_relative_error(each, exact) for each in (gradients(engine), plain)])
    ours, plain_code = torch.tensor(errors).mean(0).tolist()
    assert ours <= 1.25 * plain_code


def _mean_relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    return float(np.mean([((found[n] - expected[n].float()).norm() / expected[n].norm()).item() for n in expected]))
