"""The sampler backends that need no vLLM. (`tests/vllm/test_vllm_port.py` runs the suites on that.)"""

from __future__ import annotations

import pytest

from sampler.backends.base import SamplerInfo
from sampler.backends.local import LocalBackend, LocalSettings
from tests.ports.sampler_backends import CONTEXT, Sampler, load_all
from tests.ports.scripted_backend import END, SamplerScript, ScriptedBackend
from tests.unit.sampler import conftest as local

tokenizer, base, adapters, reference = local.tokenizer, local.base, local.adapters, local.reference
open_backend, backend, ask = local.open_backend, local.backend, local.ask


@pytest.fixture(scope="session")
def scripted_sampler(adapters) -> Sampler:
    def open_another() -> ScriptedBackend:
        return ScriptedBackend(SamplerScript(answer=None), SamplerInfo(128, CONTEXT, (END,), constrains=True))

    backend = open_another()
    load_all(backend, adapters)
    return Sampler(backend, adapters, "", open_another)


@pytest.fixture(scope="session")
def local_sampler(backend, base, adapters) -> Sampler:
    return Sampler(backend, adapters, "<|im_end|>", lambda: LocalBackend(str(base), LocalSettings(seed=0)))


@pytest.fixture(scope="session", params=["scripted", "local"])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return request.getfixturevalue(f"{request.param}_sampler")
