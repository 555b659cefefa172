from __future__ import annotations

import pytest
import torch

from trainer.engine.fingerprint import fingerprint


def a_module(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.LayerNorm(30))


def test_the_same_weights_have_the_same_fingerprint_in_either_precision():
    assert fingerprint(a_module()) == fingerprint(a_module()) == fingerprint(a_module().bfloat16())


def test_other_weights_shapes_and_names_have_another():
    plain = a_module()
    bent = a_module()
    with torch.no_grad():
        bent[0].weight *= 1.01
    names = torch.nn.ModuleDict({"a": plain[0], "b": plain[1]})
    assert len({fingerprint(m) for m in (plain, bent, a_module(1), names, plain[0])}) == 5


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 2**24 + 3, 151936 * 1024])
def test_parameters_of_any_size_are_sampled_from_end_to_end(length: int):
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.zeros(1).expand(length), requires_grad=False)
    assert len(fingerprint(module)) == 64
