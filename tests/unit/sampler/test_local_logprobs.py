"""What the local sampler reports is what transformers and PEFT compute for the same tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ports.test_sampler_weights import expected_logprobs, prompt_of


async def test_a_sliding_window_is_honoured(open_backend, ask_on, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    from tests.unit.sampler.conftest import save_base

    save_base(tmp_path, sliding_window=6, use_sliding_window=True, max_window_layers=1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert set(model.config.layer_types) == {"full_attention", "sliding_attention"}
    backend = open_backend(tmp_path)
    for prompt in (prompt_of(0), prompt_of(3)):
        answer = await ask_on(backend, prompt, max_tokens=20, seed=1, ignore_eos=True)
        expected = expected_logprobs(model, prompt, answer.ids, {})
        assert answer.logprobs == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}, "dynamic"),
    ],
)
def test_a_base_that_would_be_computed_wrongly_is_refused_by_name(open_backend, tmp_path: Path, config, reason):
    from tests.unit.sampler.conftest import save_base

    try:
        save_base(tmp_path, **config)
    except Exception as error:
        pytest.skip(f"transformers itself refuses: {error}")
    with pytest.raises(ValueError, match=reason):
        open_backend(tmp_path)
