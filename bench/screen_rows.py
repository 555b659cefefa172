"""What code on top of transformers and PEFT makes of rollouts with screenshots: a row a turn, which holds the whole
history again, and the pixels of every picture in it."""

# R rows, T tokens of a row with its padding, P patches of all pictures of the rows

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from PIL import Image

from bench.baselines import Step, padded_cost
from bench.rows import Padded, in_micro_batches, pad, turn_rows
from bench.screens import ScreenBatch


@dataclass(frozen=True, slots=True)
class Pixels:
    """pixels_P, grid: of one picture, as the model's own image processor makes them."""

    pixels_P: torch.Tensor
    grid: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Rows:
    """digests: of the pictures of all rows, in order; one that comes twice is there twice."""

    padded: Padded
    digests: Sequence[bytes]


def a_row_a_turn(policy: PeftModel, batch: ScreenBatch, pixels_of: Any, *, at_once: bool = False) -> Step:
    """Pixels are made before the clock runs, once a picture. pixels_of: the image processor. at_once: all rows in one
    micro-batch, padded to the longest; else one by one, without padding."""
    pixels = {digest: _pixels(pixels_of, png) for digest, png in batch.pictures.items()}
    micro_batches = list(_micro_batches(batch, policy.device, at_once=at_once))

    def step() -> None:
        for rows in micro_batches:
            shown = [pixels[digest] for digest in rows.digests]
            seen = {
                "pixel_values": torch.cat([each.pixels_P for each in shown]),
                "image_grid_thw": torch.cat([each.grid for each in shown]),
                "mm_token_type_ids": (rows.padded.ids_RT == policy.config.image_token_id).int(),
            }
            padded_cost(policy, rows.padded, **seen).backward()

    return step


def num_tokens(batch: ScreenBatch) -> int:
    """That it computes."""
    return sum(len(row.ids_T) for row in turn_rows(batch.batch, torch.device("cpu")))


def _micro_batches(batch: ScreenBatch, device: torch.device, *, at_once: bool) -> Iterator[_Rows]:
    digests = [[item.digest for item in turn.media] for one in batch.batch.trajectories for turn in one.turns]
    paired = list(zip(turn_rows(batch.batch, device), digests, strict=True))
    for rows in in_micro_batches(paired, len(paired) if at_once else 1):
        yield _Rows(pad([row for row, _ in rows]), [digest for _, shown in rows for digest in shown])


def _pixels(pixels_of: Any, png: bytes) -> Pixels:
    made = pixels_of(images=[Image.open(io.BytesIO(png))], return_tensors="pt")
    return Pixels(made["pixel_values"], made["image_grid_thw"])
