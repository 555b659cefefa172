"""Pictures on their way through the engine: which are refused, how often a tower sees one, and what it changes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from structlog.testing import capture_logs

from tests.unit.trainer.pictured import (
    PICTURES,
    WIDE,
    A,
    B,
    Part,
    Sighted,
    pictured_batch,
    rollout,
    shown,
    sighted,
    text,
)
from tests.unit.trainer.tiny import LORA, MODEL, BatchEngine, gradients, mixed_batch, opened, session, tiny_model
from tests.vision.families import FAMILIES, drawn, save_vision_family
from trainer.engine.architectures import decoder_layers
from trainer.engine.base_memory import base_bytes, outline_of
from trainer.engine.base_model import BaseModel, load_base_model
from trainer.engine.engine import EngineSettings, TrainingEngine
from trainer.engine.ranks import Alone
from trainer.engine.text_part import text_part
from trainer.engine.vision.tower import Tower
from wire.conversion import to_datums
from wire.datums import Datum
from wire.engine import LossChoice
from wire.errors import InvalidRequest
from wire.extension import Media, TokenSequence
from wire.picture_rule import PictureRule
from wire.process.product_dtype import ProductDtype
from wire.trajectories import Batch

REINFORCE = LossChoice("importance_sampling")


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest) -> Sighted:
    return sighted(request.param)


@pytest.fixture(scope="module")
def engine() -> BatchEngine:
    return opened(sighted("qwen3_vl").engine())


@cache
def proven_base(family: str) -> BaseModel:
    """One for all tests that leave it as it is, and do not ask what its tower has seen."""
    return sighted(family).base()


@cache
def batch_gradients(family: str) -> dict[str, torch.Tensor]:
    """Of `pictured_batch`, by an engine as tests open them."""
    base = sighted(family)
    engine = opened(base.engine(base=proven_base(family)))
    engine.forward_backward(MODEL, pictured_batch(base), REINFORCE)
    return gradients(engine)


def one_datum(base: Sighted, *prompt: Part) -> Datum:
    (datum,) = to_datums(Batch([rollout(base, list(prompt), (text(1, 3), []), reward=1.0)]))
    return datum


class Counted:
    """Which pictures went through the tower."""

    def __init__(self) -> None:
        self.digests = list[bytes]()
        rightly = Tower.encode

        def encode(tower: Tower, png: bytes, media: Media) -> Any:
            self.digests.append(media.digest)
            return rightly(tower, png, media)

        self.patch = patch.object(Tower, "encode", encode)


def test_a_tower_sees_each_picture_of_a_pass_once(base: Sighted) -> None:
    engine, counted = opened(base.engine(max_tokens_per_pass=60)), Counted()
    with counted.patch:
        result = engine.forward_backward(MODEL, pictured_batch(base), REINFORCE)
    assert result.metrics["micro_batches:sum"] > 1
    assert sorted(counted.digests) == sorted(PICTURES)
    with counted.patch:
        engine.forward_backward(MODEL, pictured_batch(base), REINFORCE)
    assert len(counted.digests) == len(PICTURES), "what the tower made of them is kept"


def test_what_is_kept_of_pictures_is_bounded_and_changes_no_bit(base: Sighted) -> None:
    engines = [opened(base.engine(max_tokens_per_pass=60, base=each)) for each in (proven_base(base.family.name), None)]
    sight, counted = engines[1]._base.sight, Counted()
    assert sight is not None
    sight.cache.max_bytes = 1
    for _ in range(2):
        engines[0].forward_backward(MODEL, pictured_batch(base), REINFORCE)
        with counted.patch:
            engines[1].forward_backward(MODEL, pictured_batch(base), REINFORCE)
    assert len(counted.digests) > 2 * len(PICTURES)
    assert len(sight.cache._kept) == 1
    kept, made_anew = (gradients(engine) for engine in engines)
    assert all(torch.equal(kept[name], made_anew[name]) for name in kept)


def test_features_do_not_depend_on_what_else_is_in_a_call(base: Sighted) -> None:
    alone, beside_others = base.base(), base.base()
    assert alone.sight is not None
    assert beside_others.sight is not None
    with alone.seeing(PICTURES), beside_others.seeing(PICTURES):
        beside_others.pack(to_datums(pictured_batch(base)))
        for picture in (A, B, WIDE):
            pack = alone.pack([one_datum(base, text(2, 2), picture)])
            assert pack.pictures is not None
            expected = beside_others.sight.features(base.media(picture))
            assert torch.equal(pack.pictures.features[0].rows_ND, expected.rows_ND)
            for mine, theirs in zip(pack.pictures.features[0].levels, expected.levels, strict=True):
                assert torch.equal(mine, theirs)


def test_shared_runs_are_there_once_and_others_are_not_merged(base: Sighted) -> None:
    held = proven_base(base.family.name)
    begin = text(1, 4)
    datums = [one_datum(base, begin, A, text(2, 2)), one_datum(base, begin, A), one_datum(base, begin, B, text(2, 2))]
    with held.seeing(PICTURES):
        pack = held.pack(datums)
    assert pack.pictures is not None
    assert len(pack.pictures.features) == 2
    assert len(pack.pictures.rows_V) == 2 * base.media(A).num_tokens


def test_recomputing_changes_no_bit(base: Sighted) -> None:
    engines = [
        opened(BatchEngine(held, EngineSettings(threads=1, max_activation_bytes=limit)))
        for held, limit in ((proven_base(base.family.name), 1 << 40), (base.base(), 1))
    ]
    for engine in engines:
        engine.pictures = PICTURES
        engine.forward_backward(MODEL, pictured_batch(base), REINFORCE)
    keeping, recomputing = (gradients(engine) for engine in engines)
    assert all(torch.equal(keeping[name], recomputing[name]) for name in keeping)


def test_evaluation_and_a_client_side_loss_see_the_same_bits(base: Sighted) -> None:
    engine, batch = opened(base.engine(base=proven_base(base.family.name))), pictured_batch(base)
    datums = engine.datums(batch)
    plan = TrainingEngine.plan(engine, datums)
    trained = TrainingEngine.forward_backward(engine, MODEL, datums, REINFORCE, plan, PICTURES)
    evaluated = TrainingEngine.evaluate(engine, MODEL, datums, REINFORCE, plan, PICTURES)
    scored = TrainingEngine.forward(engine, MODEL, datums, plan, PICTURES)
    assert trained.logprobs is not None
    assert evaluated.logprobs is not None
    for one, other, third in zip(trained.logprobs, evaluated.logprobs, scored, strict=True):
        assert one.tolist() == other.tolist() == third.logprobs[third.mask > 0].tolist()
    before = gradients(engine)
    weights = [each.mask for each in scored]
    TrainingEngine.backward(engine, MODEL, datums, weights, plan, PICTURES)
    assert all(not torch.equal(before[name], after) for name, after in gradients(engine).items())


def test_layers_and_memory_are_those_of_the_text_part(base: Sighted, tmp_path: Path) -> None:
    save_vision_family(base.family, tmp_path)
    outline = outline_of(str(tmp_path), torch.float32, None)
    assert len(decoder_layers(outline)) == 3
    weights = sum(parameter.nbytes for parameter in outline.parameters())
    tower = weights - sum(parameter.nbytes for parameter in text_part(outline).parameters())
    assert base_bytes(outline, 1) == weights
    assert base_bytes(outline, 2) > tower, "which is whole on each rank"


def test_a_base_is_loaded_with_its_tower_and_says_so(base: Sighted, tmp_path: Path) -> None:
    save_vision_family(base.family, tmp_path)
    loaded = load_base_model(str(tmp_path))
    assert loaded.info.pictures is not None
    assert loaded.info.pictures["placeholder_id"] == base.rule.placeholder_id
    engine = opened(BatchEngine(loaded, EngineSettings(threads=1)))
    engine.pictures = PICTURES
    engine.forward_backward(MODEL, pictured_batch(base), REINFORCE)
    found = gradients(engine)
    assert all(torch.equal(found[name], each) for name, each in batch_gradients(base.family.name).items())


def test_a_base_without_an_image_processor_takes_text_alone(base: Sighted, tmp_path: Path) -> None:
    save_vision_family(base.family, tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with capture_logs() as logs:
        loaded = load_base_model(str(tmp_path))
    assert loaded.info.pictures is None
    assert [line["reason"] for line in logs if line["event"] == "base_takes_text_alone"]
    engine = opened(BatchEngine(loaded, EngineSettings(threads=1)))
    engine.pictures = PICTURES
    engine.forward_backward(MODEL, mixed_batch(), REINFORCE)
    assert session(engine).gradient.any()
    with pytest.raises(InvalidRequest, match="has pictures, and this base takes text alone"):
        TrainingEngine.forward_backward(engine, MODEL, [one_datum(base, text(1, 2), A)], REINFORCE, None, PICTURES)


def test_a_tower_that_cannot_be_run_leaves_a_base_of_text(base: Sighted) -> None:
    with patch.object(Tower, "pixels_of", side_effect=RuntimeError("no pixels")), capture_logs() as logs:
        loaded = base.base()
    assert loaded.info.pictures is None
    assert any("no pixels" in line.get("reason", "") for line in logs)


class BesideABlindOne(Alone):
    """Of two ranks, the one whose host has the settings of the image processor."""

    def gathered(self, mine: Any) -> list[Any]:
        return [mine, None] if isinstance(mine, PictureRule) else [mine]


def test_a_rank_that_sees_takes_text_alone_beside_one_that_does_not() -> None:
    base = sighted("qwen3_vl")
    model = base.model()
    with capture_logs() as logs:
        loaded = BaseModel(model, ranks=BesideABlindOne(), tower=base.tower(model))
    assert loaded.info.pictures is None
    assert any("not the same on all ranks" in line.get("reason", "") for line in logs)


@pytest.mark.parametrize("products", ProductDtype)
def test_a_low_precision_base_sees(base: Sighted, products: ProductDtype) -> None:
    engine = BatchEngine(base.base(torch.bfloat16, products), EngineSettings(threads=1))
    assert engine.info.pictures is not None
    engine.pictures = PICTURES
    opened(engine).forward_backward(MODEL, pictured_batch(base), REINFORCE)
    found, exact = gradients(engine), batch_gradients(base.family.name)
    errors = [((found[name] - each).norm() / each.norm()).item() for name, each in exact.items()]
    assert sum(errors) / len(errors) < 0.1


def test_text_on_a_base_that_sees_is_computed_without_its_tower(base: Sighted) -> None:
    seeing = opened(base.engine(base=proven_base(base.family.name)))
    model = base.model()
    blind = opened(BatchEngine(BaseModel(model), EngineSettings(threads=1)))
    for engine in (seeing, blind):
        engine.forward_backward(MODEL, mixed_batch(), REINFORCE)
    expected = gradients(blind)
    assert all(torch.equal(found, expected[name]) for name, found in gradients(seeing).items())


def refusals(datum: Datum) -> dict[str, tuple[Datum, dict[bytes, bytes], str]]:
    """What is sent in the place of a datum, with which pictures, and what the refusal says."""
    ids, (item,) = datum.model_input.ids, datum.model_input.media

    def said(**changes: Any) -> Datum:
        return replace(datum, model_input=TokenSequence(ids, (replace(item, **changes),)))

    def with_bytes(png: bytes) -> dict[bytes, bytes]:
        return {item.digest: png}

    other_ids = ids.copy()
    other_ids[item.start] = 3
    jpeg, gray = io.BytesIO(), io.BytesIO()
    drawn(1).save(jpeg, "JPEG")
    drawn(1).convert("L").save(gray, "PNG")
    name = item.digest.hex()
    return {
        "no bytes": (datum, {}, f"its picture {name} did not come with the call"),
        "another length": (said(num_tokens=item.num_tokens - 1), dict(PICTURES), "has 11 tokens: one of 64×48 pixels"),
        "another size": (said(width=48, height=64), dict(PICTURES), "is 64×48 pixels, and its input says 48×64"),
        "a stripe": (said(width=8000, height=8), dict(PICTURES), "input 0 .datum 1.: picture 0: a picture of 8000"),
        "other ids": (
            replace(datum, model_input=TokenSequence(other_ids, (item,))),
            dict(PICTURES),
            "stands on tokens other than",
        ),
        "a cut file": (datum, with_bytes(A.png[: len(A.png) // 2]), "is no PNG that can be read"),
        "nothing": (datum, with_bytes(b""), "is no PNG that can be read"),
        "a JPEG": (datum, with_bytes(jpeg.getvalue()), "is no PNG that can be read"),
        "gray": (datum, with_bytes(gray.getvalue()), "its mode is L, not RGB"),
    }


@pytest.mark.parametrize("case", refusals(one_datum(sighted("qwen3_vl"), text(1, 2), A)))
def test_a_picture_that_is_not_what_it_should_be_is_named_and_leaves_nothing_behind(
    case: str, engine: BatchEngine
) -> None:
    base = sighted("qwen3_vl")
    datum, pictures, sentence = refusals(one_datum(base, text(1, 2), A))[case]
    sight = engine._base.sight
    assert sight is not None
    sight.cache._kept.clear()

    def call(datums: Sequence[Datum]) -> None:
        TrainingEngine.forward_backward(engine, MODEL, datums, REINFORCE, None, pictures)

    before = gradients(engine)
    with pytest.raises(InvalidRequest, match=sentence):
        call([one_datum(base, text(1, 4)), datum])
    after = gradients(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_size_is_refused_also_where_the_picture_was_seen_in_its_own(engine: BatchEngine) -> None:
    base = sighted("qwen3_vl")
    datum = one_datum(base, text(1, 2), A)
    (item,) = datum.model_input.media
    turned = replace(item, width=item.height, height=item.width)
    assert base.rule.num_tokens(turned.width, turned.height) == item.num_tokens
    TrainingEngine.forward(engine, MODEL, [datum], None, PICTURES)
    lying = replace(datum, model_input=TokenSequence(datum.model_input.ids, (turned,)))
    with pytest.raises(InvalidRequest, match="is 64×48 pixels, and its input says 48×64"):
        TrainingEngine.forward(engine, MODEL, [lying], None, PICTURES)


def test_pictures_that_nobody_names_are_ignored(engine: BatchEngine) -> None:
    base, other = sighted("qwen3_vl"), shown(9)
    datums = [one_datum(base, text(1, 2), A)]
    pictures = {**PICTURES, other.digest: b"no picture at all"}
    TrainingEngine.forward_backward(engine, MODEL, datums, REINFORCE, None, pictures)


def test_a_base_of_text_refuses_pictures_by_name() -> None:
    engine = BatchEngine(BaseModel(tiny_model()), EngineSettings(threads=1))
    engine.open(MODEL, LORA, None, None)
    datum = one_datum(sighted("qwen3_vl"), [1, 2], A)
    short = replace(datum, model_input=TokenSequence(datum.model_input.ids % 80, datum.model_input.media))
    with pytest.raises(InvalidRequest, match="has pictures, and this base takes text alone"):
        TrainingEngine.forward_backward(engine, MODEL, [short], REINFORCE, None, PICTURES)
