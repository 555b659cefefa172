"""The whole of Headway with a vLLM that sees as its sampler: rollouts of several turns with pictures, and two steps."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.e2e.rollouts import step, worst_disagreement
from tests.vision.families import FAMILIES, drawn, png_of, save_vision_family
from tests.vllm.conftest import START_TIMEOUT_S

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def seeing_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    base = tmp_path_factory.mktemp("base")
    save_vision_family(FAMILIES["qwen3_vl"], base)
    with database_folder() as folder:
        box = Box(folder / "data", base, "--sampler-backend", "vllm", start_timeout_s=START_TIMEOUT_S, slug="tiny-eyes")
        try:
            yield box.start()
        finally:
            if box.process is not None:
                box.stop()


def shown(seed: int, width: int, height: int) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(png_of(drawn(seed, width, height))).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def rollout(box: Box, model: str, seed: int, num_turns: int = 3) -> list[dict[str, Any]]:
    """Two pictures a turn; each turn goes on from the tokens of the one before."""
    messages: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for number in range(num_turns):
        pictures = [shown(number, 64, 48), shown(10 * seed + number, 40, 90)]
        messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": "what?"}]})
        request = {"model": model, "messages": messages, "max_tokens": 6, "seed": seed, "logprobs": True}
        request |= {"return_token_ids": True}
        if samples:
            request["prompt_token_ids"] = [*samples[-1]["prompt_token_ids"], *samples[-1]["output_token_ids"]]
            request["continuation_from"] = len(messages) - 1
        (choice,) = box.call("POST", "/v1/chat/completions", request)["choices"]
        samples.append(
            {
                "prompt_token_ids": choice["prompt_token_ids"],
                "prompt_chunks": choice["prompt_chunks"],
                "output_token_ids": choice["token_ids"],
                "output_logprobs": [token["logprob"] for token in choice["logprobs"]["content"]],
            }
        )
        messages.append({"role": "assistant", "content": choice["message"]["content"] or ""})
    return samples


def test_steps_on_screenshots_are_served_by_vllm_the_moment_they_are_done(seeing_box: Box):
    box, found = seeing_box, list[float]()
    model_id = box.fork("sees")
    for number in range(3):
        inputs = [
            {
                "samples": [
                    {name: value for name, value in sample.items() if name != "prompt_token_ids"} for sample in samples
                ],
                "reward": float(seed % 2),
            }
            for seed, samples in ((seed, rollout(box, "sees", 4 * number + seed)) for seed in range(4))
        ]
        assert all(
            sum(chunk["type"] == "image_asset_pointer" for chunk in each["samples"][-1]["prompt_chunks"]) == 6
            for each in inputs
        )
        found.append(worst_disagreement(box, model_id, inputs))
        if number < 2:
            step(box, model_id, inputs, 1e-2, group_size=4)
    print(f"largest difference of sampler and trainer: {max(found):.2g} nats")
    assert max(found) < 1e-4
