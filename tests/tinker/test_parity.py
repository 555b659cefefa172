"""A run with the SDK's defaults is sampled from as it was trained, by the local sampler."""

from __future__ import annotations

from tests.e2e.box import Box
from tests.tinker.parity import differences, service_of, trained_run


def test_the_sampler_s_policy_is_the_trainer_s_with_the_sdk_s_defaults(box: Box):
    with service_of(box.env) as service:
        found = differences(trained_run(service, "tiny-arith"))
    assert max(found.values()) < 1e-4, found
