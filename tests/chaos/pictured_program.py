"""What a model that sees is put through: as `tests.chaos.program`, with screenshots in its prompts.

Pictures come with every call, in base64, as clients send them; rollouts of a group see the same ones, and each a last
one of its own.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from tests.chaos.client import PatientClient
from tests.chaos.program import Call, Progress, custom, forward_backward, optim_step, sampled
from tests.vision.families import drawn, png_of

NUM_STEPS = 3
_LETTERS = 200
"""Ids of text are below it."""
_GROUP = 3


def pictured_program(seed: int, num_steps: int = NUM_STEPS) -> list[Call]:
    """The calls of one model."""
    rng = np.random.default_rng(seed)
    calls: list[Call] = []
    for step in range(num_steps):
        calls.append(forward_backward(_inputs(rng, 2), _GROUP))
        calls.append(custom(_inputs(rng, 1), int(rng.integers(0, 2**31))))
        calls += [optim_step(1e-3 * (1 + step)), _greedy_at(_picture(rng))]
    return calls


def _greedy_at(picture: str) -> Call:
    """A chat at temperature 0 about a picture."""
    url = f"data:image/png;base64,{picture}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]

    def call(client: PatientClient, _model_id: str, slug: str, progress: Progress) -> None:
        chat = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0.0}
        answer = client.expect("POST", "/v1/chat/completions", {"model": slug, **chat, "return_token_ids": True})
        assert answer["checkpoint"]["id"] == progress.checkpoints[-1], "the head is the last step's checkpoint"
        progress.answers.append(("greedy", answer["choices"][0]["token_ids"]))

    return call


def _inputs(rng: np.random.Generator, num_groups: int) -> list[dict[str, Any]]:
    return [rollout for _ in range(num_groups) for rollout in _group(rng)]


def _group(rng: np.random.Generator) -> list[dict[str, Any]]:
    prompt = [_text(rng, 4), _image(rng), _text(rng, 3)]
    return [_rollout(rng, prompt) for _ in range(_GROUP)]


def _rollout(rng: np.random.Generator, prompt: list[dict[str, Any]]) -> dict[str, Any]:
    first = sampled(rng, _LETTERS)
    history = [*prompt, {"type": "encoded_text", "tokens": first["output_token_ids"]}, _image(rng), _text(rng, 2)]
    samples = [{"prompt_chunks": prompt, **first}, {"prompt_chunks": history, **sampled(rng, _LETTERS)}]
    return {"samples": samples, "reward": float(rng.integers(0, 3))}


def _text(rng: np.random.Generator, length: int) -> dict[str, Any]:
    return {"type": "encoded_text", "tokens": rng.integers(0, _LETTERS, length).tolist()}


def _image(rng: np.random.Generator) -> dict[str, Any]:
    return {"type": "image", "data": _picture(rng), "format": "png"}


def _picture(rng: np.random.Generator) -> str:
    return base64.b64encode(png_of(drawn(int(rng.integers(0, 2**31)), 48, 32))).decode()
