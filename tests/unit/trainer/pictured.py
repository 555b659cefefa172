"""Engines on tiny bases that see, batches with pictures, and what transformers' own forward takes of these."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers import PreTrainedModel

from tests.unit.trainer.tiny import BatchEngine, trajectory
from tests.vision.families import FAMILIES, VisionFamily, drawn, make_vision_model, png_of
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings
from trainer.engine.vision.tower import Tower, opened
from wire.extension import Media
from wire.picture_rule import PictureRule, rule_of
from wire.process.product_dtype import ProductDtype
from wire.trajectories import Batch, Trajectory, Turn

NUM_LETTERS = 200
"""Ids of text are below it: none of them is a placeholder."""


@dataclass(frozen=True)
class Shown:
    """A canonical PNG and its size."""

    png: bytes
    width: int
    height: int

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.png).digest()


Part: TypeAlias = Sequence[int] | Shown


def shown(seed: int, width: int = 64, height: int = 48) -> Shown:
    return Shown(png_of(drawn(seed, width, height)), width, height)


A, B, WIDE = shown(1), shown(2), shown(3, 80, 32)
PICTURES = {each.digest: each.png for each in (A, B, WIDE)}


@dataclass(frozen=True)
class Sighted:
    """A family's tiny model under a rule, and what is told to it."""

    family: VisionFamily
    rule: PictureRule

    def model(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        return make_vision_model(self.family, dtype=dtype)

    def tower(self, model: PreTrainedModel) -> Tower:
        return Tower(model, self.family.make_image_processor(), self.rule)

    def base(self, dtype: torch.dtype = torch.float32, products: ProductDtype = ProductDtype.FLOAT32) -> BaseModel:
        model = self.model(dtype)
        return BaseModel(model, tower=self.tower(model), products=products)

    def engine(
        self, dtype: torch.dtype = torch.float32, max_tokens_per_pass: int = 4096, base: BaseModel | None = None
    ) -> BatchEngine:
        """base: one that others use, too; None for one of its own."""
        settings = EngineSettings(max_tokens_per_pass=max_tokens_per_pass, threads=1)
        engine = BatchEngine(base or self.base(dtype), settings)
        engine.pictures = PICTURES
        assert engine.info.pictures is not None
        return engine

    def media(self, picture: Shown, start: int = 0) -> Media:
        num_tokens = self.rule.num_tokens(picture.width, picture.height)
        return Media(start, num_tokens, picture.digest, picture.width, picture.height)

    def prompt(self, *parts: Part) -> tuple[list[int], tuple[Media, ...]]:
        """Ids and media of parts that are text or pictures."""
        ids, media = list[int](), list[Media]()
        for part in parts:
            if isinstance(part, Shown):
                media.append(self.media(part, len(ids)))
                ids += [self.rule.placeholder_id] * media[-1].num_tokens
            else:
                ids += part
        return ids, tuple(media)

    def turn(self, prompt: Sequence[Part], output: Sequence[int]) -> Turn:
        ids, media = self.prompt(*prompt)
        logprobs = np.full(len(output), -5.0, np.float32)
        return Turn(np.array(ids, np.int32), np.array(output, np.int32), logprobs, media)

    def own_inputs(self, model: PreTrainedModel, turn: Turn) -> Mapping[str, Any]:
        """What transformers' processor makes of a turn's pictures, all in one batch, beside the ids."""
        ids = torch.tensor([[*turn.prompt_ids.tolist(), *turn.output_ids.tolist()]])
        types = torch.zeros_like(ids, dtype=torch.int)
        for item in turn.media:
            types[0, item.start : item.stop] = 1
        if not turn.media:
            return {}
        pictures = [opened(PICTURES[item.digest], item) for item in turn.media]
        made = self.family.make_image_processor()(images=pictures, return_tensors="pt")
        pixels = {"pixel_values": made["pixel_values"].to(model.dtype)}
        if self.family.name == "gemma3":
            return {**pixels, "token_type_ids": types}
        return {**pixels, "image_grid_thw": made["image_grid_thw"], "mm_token_type_ids": types}


@cache
def sighted(name: str, **text_config: Any) -> Sighted:
    """text_config: what is otherwise than in `tests.vision.families`."""
    family = FAMILIES[name]
    if text_config:
        family = replace(family, make_model=partial(family.make_model, **text_config))
    model = make_vision_model(family)
    rule = rule_of(model.config.to_dict(), family.make_image_processor().to_dict())
    assert rule is not None
    return Sighted(family, rule)


def text(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, NUM_LETTERS, length).tolist()


def rollout(
    base: Sighted, prompt: Sequence[Part], *steps: tuple[list[int], Sequence[Part]], reward: float
) -> Trajectory:
    """Turns that extend one another: each step is an output and what stands behind it in the next prompt."""
    history, turns = list(prompt), []
    for output, behind in steps:
        turns.append(base.turn(history, output))
        history = [*history, output, *behind]
    return trajectory(*turns, reward=reward)


def pictured_batch(base: Sighted) -> Batch:
    """Two groups: single turns on one prompt, of which one shows another picture behind equal ids; and several turns
    with a picture each, of which one answers alike and then sees another picture."""
    begin, middle = text(1, 5), text(2, 3)
    one, other = [begin, A, middle], [begin, B, middle]
    nothing: list[Part] = []
    turns = [(text(3, 3), [text(4, 2), WIDE, text(5, 2)]), (text(6, 2), [A, text(7, 1)]), (text(8, 4), nothing)]
    seen_b = [turns[0], (text(6, 2), [B, text(7, 1)]), (text(9, 2), nothing)]
    return Batch(
        [
            rollout(base, one, (text(10, 4), nothing), reward=1.0),
            rollout(base, one, (text(11, 2), nothing), reward=0.0),
            rollout(base, other, (text(10, 4), nothing), reward=0.3),
            rollout(base, [A, begin, WIDE, middle, B], *turns, reward=1.0),
            rollout(base, [A, begin, WIDE, middle, B], *seen_b, reward=0.2),
            rollout(base, [begin], (text(12, 3), nothing), reward=-0.5),
        ],
        group_size=3,
    )


def any_batch(base: Sighted, seed: int) -> Batch:
    """Single turns whose prompts branch off from one another, before, between and behind pictures of equal ids."""
    rng = np.random.default_rng(seed)
    prompts = list[list[Part]]()
    for _ in range(rng.integers(2, 7)):
        parent = prompts[rng.integers(len(prompts))] if prompts and rng.random() < 0.8 else []
        prompt = parent[: rng.integers(len(parent) + 1)]
        for _ in range(rng.integers(1, 4)):
            # transformers takes pictures without text between them for one.
            prompt = [*prompt, text(int(rng.integers(3)), int(rng.integers(1, 6)))]
            prompt += [(A, B, WIDE)[rng.integers(3)]] if rng.random() < 0.7 else []
        prompts.append([*prompt, text(int(rng.integers(3)), 2)])
    outputs = [text(int(rng.integers(2)), 3) for _ in prompts]
    pairs = zip(prompts, outputs, strict=True)
    return Batch([rollout(base, prompt, (output, []), reward=float(n)) for n, (prompt, output) in enumerate(pairs)])
