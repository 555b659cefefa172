"""What every sampler backend does, and what those with weights compute, holds for vLLM: the same suites, whole."""

# ruff: noqa: F403 - collected from here

from __future__ import annotations

import pytest

from tests.ports.test_sampler_port import *
from tests.ports.test_sampler_weights import *

pytestmark = pytest.mark.vllm
