"""What of a base's files is known by an adapter's names for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampler.backends.vllm.base_tensors import BaseTensors
from tests.unit.sampler.conftest import save_base
from tests.vision.families import FAMILIES, make_vision_model, save_vision_family

Q_PROJ = "model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_layers_of_a_text_part_are_found_and_those_of_the_tower_are_not_chosen(family: Any, tmp_path: Path):
    save_vision_family(family, tmp_path)
    tensors, model = BaseTensors.read(tmp_path), make_vision_model(family)
    text, head = model.model.language_model, model.lm_head
    assert tensors.any_linear() == Q_PROJ, "by the name that adapters of the trainer have"
    for path, module in (("layers.2.mlp.down_proj", text.layers[2].mlp.down_proj), ("embed_tokens", text.embed_tokens)):
        assert tensors.linear(f"model.language_model.{path}") == tuple(module.weight.shape)
    assert tensors.linear("lm_head") == tuple(head.weight.shape)
    assert tensors.linear("model.language_model.layers.3.mlp.down_proj") is None


def test_a_text_base_is_as_its_files_name_it(tmp_path: Path):
    save_base(tmp_path)
    tensors = BaseTensors.read(tmp_path)
    assert not tensors.has_vision
    assert tensors.any_linear() == "model.layers.0.self_attn.q_proj"
    assert tensors.linear("layers.0.self_attn.q_proj") is None
    assert tensors.linear("lm_head") is not None
