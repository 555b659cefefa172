"""One local backend for each family, on a base of random weights under its tokenizer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from transformers import PreTrainedTokenizerFast

from sampler.backends.local import LocalBackend, LocalSettings
from tests.families.bases import FAMILIES, TOKENIZERS, Family, save_family, tokenizer_of


@dataclass(frozen=True)
class Base:
    """A family's tokenizer, and a backend that has `base` loaded."""

    family: Family
    tokenizer: PreTrainedTokenizerFast
    backend: LocalBackend


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=FAMILIES)
async def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Base]:
    family = FAMILIES[request.param]
    if not (TOKENIZERS / family.name / "tokenizer.json").is_file():
        pytest.skip(f"no tokenizer in {TOKENIZERS / family.name}: `make test-slow` brings it, and fails without npm")
    folder = tmp_path_factory.mktemp(family.name)
    save_family(family, folder)
    backend = LocalBackend(str(folder), LocalSettings(seed=0, num_threads=1))
    backend.load_adapter("base", None)
    yield Base(family, tokenizer_of(family), backend)
    await backend.close()
