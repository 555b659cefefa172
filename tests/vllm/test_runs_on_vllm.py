"""A run with the Tinker SDK's defaults is sampled from as it was trained, by vLLM."""

from __future__ import annotations

import pytest

from tests.e2e.box import Box
from tests.tinker.parity import differences, service_of, trained_run

pytestmark = pytest.mark.vllm


def test_the_sampler_s_policy_is_the_trainer_s_with_the_sdk_s_defaults(box: Box):
    with service_of(box.env) as service:
        found = differences(trained_run(service, "tiny-arith"), scores_prompts=False)  # it only attached
    print(found)
    assert max(found.values()) < 1e-4, found
