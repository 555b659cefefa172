"""With pictures, too, gradients are those of PEFT on transformers' own forward, which is given pixels a row a turn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
import torch
from structlog.testing import capture_logs

from tests.unit.trainer.naive import Reference, naive_pass, saved_policy, turn_logprobs, worst_relative_error
from tests.unit.trainer.pictured import (
    PICTURES,
    A,
    Sighted,
    any_batch,
    pictured_batch,
    rollout,
    sighted,
)
from tests.unit.trainer.tiny import LORA, MODEL, BatchEngine, gradients, norms_in_their_own_dtype, opened
from tests.vision.families import FAMILIES
from trainer.engine.architectures import Sharing
from trainer.engine.base_model import BaseModel
from trainer.engine.kernels.dense import DenseKernel
from trainer.engine.packing import Pack
from trainer.engine.prefix_tree import build_tree
from trainer.engine.vision.embedding import PackedPictures
from trainer.engine.vision.features import Features
from trainer.engine.vision.sight import Sight
from wire.engine import LossChoice
from wire.extension import Media
from wire.positions import positions_AN
from wire.trajectories import Batch

REINFORCE = LossChoice("importance_sampling")


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest) -> Sighted:
    return sighted(request.param)


@cache
def proven_base(family: str, dtype: torch.dtype, kernel: str = "cascade") -> BaseModel:
    """One for all tests of the module that leave it as it is: to build and prove one takes longer than most of them."""
    with by_dense_kernel(kernel == "dense"):
        return sighted(family).base(dtype)


def engine_of(base: Sighted, dtype: torch.dtype, kernel: str = "cascade", at_once: int = 4096) -> BatchEngine:
    """On the base that all have."""
    return base.engine(dtype, at_once, proven_base(base.family.name, dtype, kernel))


def naive(
    base: Sighted, engine: BatchEngine, batch: Batch, folder: Path, dtype: torch.dtype
) -> tuple[float, dict[str, torch.Tensor]]:
    model = base.model(dtype)
    return naive_pass(model, engine, batch, REINFORCE.name, folder, beside=partial(base.own_inputs, model))


@cache
def float64_reference(family: str) -> Reference:
    """Of `pictured_batch` under the model that an engine opens, which neither kernel nor packs have a part in."""
    return reference(sighted(family), torch.float64)


@cache
def float32_gradient(family: str) -> dict[str, torch.Tensor]:
    return reference(sighted(family), torch.float32).gradient(REINFORCE.name)[1]


def reference(base: Sighted, dtype: torch.dtype) -> Reference:
    model = base.model(dtype)
    with TemporaryDirectory() as folder:
        policy = saved_policy(model, opened(engine_of(base, dtype)), Path(folder))
    return Reference(policy, pictured_batch(base), partial(base.own_inputs, model))


def by_dense_kernel(on: bool) -> AbstractContextManager[object]:
    return patch("trainer.engine.base_model.choose_kernel", lambda _: DenseKernel()) if on else nullcontext()


@pytest.mark.parametrize("kernel", ["cascade", "dense"])
@pytest.mark.parametrize("at_once", [4096, 60], ids=["in one pack", "in several"])
def test_float64_gradients_equal_naive_ones_to_rounding(base: Sighted, kernel: str, at_once: int) -> None:
    batch = pictured_batch(base)
    with norms_in_their_own_dtype():
        engine = opened(engine_of(base, torch.float64, kernel, at_once))
        result = engine.forward_backward(MODEL, batch, REINFORCE)
        cost, expected = float64_reference(base.family.name).gradient(REINFORCE.name)
    assert (result.metrics["micro_batches:sum"] > 1) == (at_once == 60)
    assert result.metrics["tokens_computed:sum"] < result.metrics["tokens_merged:sum"]
    assert result.metrics["loss:sum"] == pytest.approx(cost, rel=1e-12)
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


def test_logprobs_on_any_tree_are_the_naive_ones(base: Sighted, tmp_path: Path) -> None:
    with norms_in_their_own_dtype():
        engine = opened(engine_of(base, torch.float64))
        model = base.model(torch.float64)
        policy = saved_policy(model, engine, tmp_path)
        for seed in range(5):
            batch = any_batch(base, seed)
            for found, each in zip(engine.forward(MODEL, batch), batch.trajectories, strict=True):
                with torch.no_grad():
                    expected = turn_logprobs(policy, each.turns[0], partial(base.own_inputs, model))
                assert found.logprobs[found.mask > 0] == pytest.approx(expected.tolist(), abs=1e-6), seed


def test_gradients_of_an_unembedding_are_those_of_the_naive_one(base: Sighted, tmp_path: Path) -> None:
    batch = pictured_batch(base)
    with norms_in_their_own_dtype():
        engine = opened(engine_of(base, torch.float64), lora=replace(LORA, unembed=True))
        engine.forward_backward(MODEL, batch, REINFORCE)
        _, expected = naive(base, engine, batch, tmp_path, torch.float64)
    assert any("lm_head" in name for name in expected)
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


def test_sequences_that_share_nothing_have_the_same_gradients(base: Sighted) -> None:
    with norms_in_their_own_dtype(), patch("trainer.engine.base_model.known_sharing", lambda _: Sharing.NOTHING):
        engine = opened(base.engine(torch.float64))
        engine.forward_backward(MODEL, pictured_batch(base), REINFORCE)
        _, expected = float64_reference(base.family.name).gradient(REINFORCE.name)
    assert engine.info.sharing == "nothing"
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


@pytest.mark.parametrize("kernel", ["cascade", "dense"])
def test_a_window_may_be_narrower_than_a_run(kernel: str, tmp_path: Path) -> None:
    """It cuts off what comes before a token, and nothing of what comes behind it."""
    base = sighted("gemma3", sliding_window=3)
    with norms_in_their_own_dtype(), by_dense_kernel(kernel == "dense"):
        engine = opened(base.engine(torch.float64))
        engine.forward_backward(MODEL, pictured_batch(base), REINFORCE)
        _, expected = naive(base, engine, pictured_batch(base), tmp_path, torch.float64)
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


def test_adapters_are_on_the_text_part_alone(base: Sighted, tmp_path: Path) -> None:
    """The policy that PEFT reads is the naive one of the proof above: it would adapt a tower by the names in the file,
    some of which are those of the tower's layers, too."""
    engine = opened(engine_of(base, torch.float32))
    policy = saved_policy(base.model(), engine, tmp_path)
    adapted = {name for name, _ in policy.named_parameters() if ".lora_" in name}
    assert {name.split(".layers.")[0] for name in adapted} == {"base_model.model.model.language_model"}
    assert len(adapted) == 2 * 7 * 3


Mistake = Callable[[], AbstractContextManager[object]]


def _positions_are_depths() -> AbstractContextManager[object]:
    def packed(*arguments: object, _rightly: Callable[..., Pack] = BaseModel.pack) -> Pack:
        pack = _rightly(*arguments)
        if pack.pictures is None:
            return pack
        depths_AT = pack.position_ids_T.expand_as(pack.pictures.positions_AT)
        return replace(pack, pictures=replace(pack.pictures, positions_AT=depths_AT))

    return patch.object(BaseModel, "pack", packed)


def _pictures_are_causal() -> AbstractContextManager[object]:
    return patch("trainer.engine.packing.build_tree", lambda *arguments, two_way: build_tree(*arguments))


def _levels_are_left_out() -> AbstractContextManager[object]:
    return patch.object(PackedPictures, "levels", lambda *_: {})


def _another_picture_is_seen() -> AbstractContextManager[object]:
    """The first of as many tokens."""
    rightly, firsts = Sight.features, dict[int, Media]()

    def features(sight: Sight, media: Media) -> Features:
        return rightly(sight, firsts.setdefault(media.num_tokens, media))

    return patch.object(Sight, "features", features)


MISTAKES: dict[str, tuple[Mistake, list[str]]] = {
    "positions that are depths": (_positions_are_depths, ["qwen2_5_vl", "qwen3_vl"]),
    "pictures that are causal": (_pictures_are_causal, ["gemma3"]),
    "levels that are left out": (_levels_are_left_out, ["qwen3_vl"]),
    "the other picture": (_another_picture_is_seen, list(FAMILIES)),
}
CASES = [(mistake, family) for mistake, (_, families) in MISTAKES.items() for family in families]


@pytest.mark.parametrize(("mistake", "family"), CASES)
def test_a_silent_mistake_would_be_seen(mistake: str, family: str) -> None:
    base = sighted(family)
    engine = opened(engine_of(base, torch.float32))
    with MISTAKES[mistake][0]():
        engine.forward_backward(MODEL, pictured_batch(base), REINFORCE)
    assert worst_relative_error(gradients(engine), float32_gradient(family)) > 0.05


@pytest.mark.parametrize(("mistake", "family"), CASES)
def test_a_base_that_would_be_computed_wrongly_is_served_as_text(mistake: str, family: str) -> None:
    base = sighted(family)
    with MISTAKES[mistake][0](), capture_logs() as logs:
        loaded = base.base()
    assert loaded.info.pictures is None
    (said,) = [line for line in logs if line["event"] == "base_takes_text_alone"]
    assert "differ from the model's own" in said["reason"]


def test_a_placeholder_that_is_text_is_text(tmp_path: Path) -> None:
    """Sampled or typed; the model's own forward would count it, so it is given embeddings and positions."""
    base = sighted("qwen2_5_vl")
    stray = base.rule.placeholder_id
    prompt = [[stray, 5], A, [6, stray, stray]]
    batch = Batch([rollout(base, prompt, ([stray, 9, 8], []), reward=1.0), rollout(base, [[3]], ([4], []), reward=0.0)])
    with norms_in_their_own_dtype():
        engine = opened(engine_of(base, torch.float64))
        (found, _) = engine.forward(MODEL, batch)
        policy = saved_policy(base.model(torch.float64), engine, tmp_path)
        turn = batch.trajectories[0].turns[0]
        ids = torch.tensor([[*turn.prompt_ids.tolist(), *turn.output_ids.tolist()]])
        embeddings = policy.get_input_embeddings()(ids)
        (item,) = turn.media
        embeddings[0, item.start : item.stop] = base.tower(policy.model).encode(PICTURES[item.digest], item).rows_ND
        sequence = replace(turn.prompt, ids=ids[0].int().numpy())
        positions = torch.from_numpy(positions_AN(sequence, base.rule))[:, None]
        logits = policy(inputs_embeds=embeddings, position_ids=positions).logits[0]
        expected = logits.log_softmax(-1)[len(turn.prompt_ids) - 1 : -1].gather(1, ids[0, -3:, None])[:, 0]
    assert found.logprobs[found.mask > 0] == pytest.approx(expected.tolist(), abs=1e-6)
