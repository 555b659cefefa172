"""The local sampler serves whatever parts of a base an adapter changes, the unembedding among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ports.lora_parts import PARTS, Policies, differences, load_policies
from tests.unit.sampler.conftest import save_base


@pytest.mark.parametrize("tied", [False, True], ids=["own unembedding", "tied to the embeddings"])
async def test_what_is_sampled_is_what_the_trainer_computes(open_backend, tied: bool, tmp_path: Path):
    save_base(tmp_path / "base", tie_word_embeddings=tied)
    policies = Policies(tmp_path / "base", tmp_path)
    backend = open_backend(tmp_path / "base", seed=0)
    load_policies(backend, policies)
    found = await differences(backend, policies)
    assert found.keys() == {*PARTS, "base"}
    assert max(found.values()) < 1e-4, found
