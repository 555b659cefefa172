"""What encoding a picture costs, next to tokens."""

from __future__ import annotations

import pytest
from torch.utils.flop_counter import FlopCounterMode

from tests.unit.trainer.pictured import WIDE, A, Shown, Sighted, pictured_batch, shown, sighted
from tests.vision.families import FAMILIES
from trainer.engine.tower_cost import picture_cost, products_per_patch
from wire.conversion import to_datums


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
