"""What encoding a picture costs next to tokens, and what it takes of the memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch.utils.flop_counter import FlopCounterMode

from bench.memory import peak_bytes
from tests.unit.trainer.pictured import PICTURES, WIDE, A, Shown, Sighted, pictured_batch, shown, sighted
from tests.unit.trainer.tiny import MODEL, opened, session, tiny_engine
from tests.vision.families import CONTEXT, FAMILIES
from trainer.engine.tower_cost import encoding_bytes, picture_cost, products_per_patch
from trainer.engine.vision.tower import opened as opened_picture
from wire.conversion import to_datums
from wire.engine import LossChoice


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest) -> Sighted:
    return sighted(request.param)


@pytest.mark.parametrize("picture", [A, WIDE, shown(4, 128, 128)])
def test_products_are_those_that_torch_counts(base: Sighted, picture: Shown) -> None:
    """Without attention, which it does not know on a CPU. SigLIP's pooling is a twelfth of so small a tower."""
    model = base.model()
    with FlopCounterMode(display=False) as counter:
        base.tower(model).encode(picture.png, base.media(picture))
    num_patches = base.rule.num_patches(picture.width, picture.height)
    assert products_per_patch(model, base.rule) * num_patches * 2 == pytest.approx(
        counter.get_total_flops(), rel=0.1 if base.family.name == "gemma3" else 0.01
    )


def test_a_picture_costs_what_its_tower_multiplies_next_to_the_text_part(base: Sighted) -> None:
    model = base.model()
    cost, num_patches = picture_cost(model, base.rule), base.rule.num_patches(A.width, A.height)
    layers = sum(p.numel() for p in model.get_decoder().layers.parameters())
    expected = products_per_patch(model, base.rule) * num_patches / (2 * layers)
    without_pairs = cost.of(base.media(A)) - num_patches**2 * cost.tokens_per_pair
    assert without_pairs == pytest.approx(expected, rel=0.01)
    full_layers = {"qwen2_5_vl": 1, "qwen3_vl": 3, "gemma3": 2}[base.family.name]
    assert cost.tokens_per_pair == pytest.approx(2 * 32 * full_layers / (2 * layers), rel=0.01)


def test_a_base_that_sees_plans_by_it(base: Sighted) -> None:
    loaded, datums = base.base(), to_datums(pictured_batch(base))
    budget = loaded.budget(100)
    assert budget.pictures is not None
    assert any(budget.pictures.of(item) > 1 for datum in datums for item in datum.model_input.media)


def test_a_tower_holds_no_more_than_is_counted(base: Sighted) -> None:
    """Of the largest picture, 16×16 patches of Qwen's. Pixels, which come from numpy, are counted besides."""
    model, largest = base.model(), shown(4, 128, 128)
    tower, media = base.tower(model), base.media(largest)
    tower.encode(largest.png, media)
    held = peak_bytes(lambda: tower.encode(largest.png, media))
    pixels = 2 * sum(each.nbytes for each in tower.pixels_of([opened_picture(largest.png, media)]).values())
    counted = encoding_bytes(model, base.rule, CONTEXT)
    assert held <= counted
    assert counted <= 1.5 * held + pixels


def test_a_short_context_has_no_room_for_the_largest_picture() -> None:
    base = sighted("qwen3_vl")
    assert encoding_bytes(base.model(), base.rule, 16) * 4 == encoding_bytes(base.model(), base.rule, 64)
    assert encoding_bytes(base.model(), base.rule, 64) == encoding_bytes(base.model(), base.rule, CONTEXT)


def test_a_pass_leaves_room_for_what_is_kept_of_pictures(base: Sighted, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = base.base()
    assert loaded.sight is not None
    loaded.sight.cache.max_bytes = 1 << 30
    monkeypatch.setattr("trainer.engine.base_model.free_bytes", lambda device: 3 << 30)
    room = loaded.room_for_activations()
    assert room == ((2 << 30) - encoding_bytes(base.model(), base.rule, CONTEXT)) // 2
    loaded.sight.cache.max_bytes = 4 << 30
    assert loaded.room_for_activations() == 0, "layers are computed again"


def test_what_a_pass_keeps_counts_its_pictures(base: Sighted) -> None:
    engine, datums = opened(base.engine()), to_datums(pictured_batch(base))
    loaded = engine._base
    loaded.bind(session(engine))
    loaded.measure_activations()
    with loaded.seeing(PICTURES):
        pack = loaded.pack(datums)
    without = replace(pack, pictures=None)
    kept = sum(features.num_bytes for features in pack.pictures.features)
    assert kept > 0
    assert loaded.activation_bytes(pack) - loaded.activation_bytes(without) == kept


def test_what_came_of_pictures_is_counted(base: Sighted) -> None:
    engine, loss = opened(base.engine()), LossChoice("importance_sampling")
    at_load = engine.encoded()
    assert at_load.encoded == 2, "by the self-check"
    engine.forward_backward(MODEL, pictured_batch(base), loss)
    first = engine.encoded()
    assert first.encoded - at_load.encoded == len(PICTURES)
    assert first.seconds > at_load.seconds
    engine.forward_backward(MODEL, pictured_batch(base), loss)
    again = engine.encoded()
    assert (again.encoded, again.seconds, again.num_bytes) == (first.encoded, first.seconds, first.num_bytes)
    assert again.reused - first.reused == first.reused - at_load.reused + len(PICTURES)
    assert opened(tiny_engine()).encoded() is None
