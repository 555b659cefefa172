"""What makes a turn trainable, for the server, which refuses early, and the engine, which checks again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wire.engine import BaseModelInfo
from wire.errors import InvalidRequest
from wire.picture_rule import PictureRule
from wire.picture_runs import sequence_of
from wire.trajectories import Turn


def check_turn(where: str, turn: Turn, info: BaseModelInfo, *, logprobs_optional: bool) -> None:
    """Raises InvalidRequest, with a sentence that begins with `where`, unless every output token can be trained on.

    Ids may be of any integer type. logprobs_optional: there may be no sampling logprobs at all (supervised data).
    """
    if len(turn.prompt_ids) == 0:
        raise InvalidRequest(f"{where}: prompt_token_ids is empty, so nothing predicts the first output token")
    if len(turn.output_ids) == 0:
        raise InvalidRequest(f"{where}: output_token_ids is empty, so there is nothing to train on")
    _check_ids(f"{where}: prompt_token_ids", turn.prompt_ids, info.vocab_size)
    _check_ids(f"{where}: output_token_ids", turn.output_ids, info.vocab_size)
    if turn.media:
        _check_media(f"{where}: the prompt", turn, info)
    length = len(turn.prompt_ids) + len(turn.output_ids)
    if length > info.context_length:
        raise InvalidRequest(f"{where}: its {length} tokens are more than the model's context of {info.context_length}")
    _check_logprobs(where, turn, logprobs_optional)


def _check_ids(what: str, ids: npt.NDArray[np.integer[Any]], vocab_size: int) -> None:
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= vocab_size:
        bad = lowest if lowest < 0 else highest
        raise InvalidRequest(f"{what} holds {bad}, which is outside the vocabulary of {vocab_size} tokens")


def _check_media(what: str, turn: Turn, info: BaseModelInfo) -> None:
    if info.pictures is None:
        raise InvalidRequest(f"{what} has pictures, and the base of this model reads texts alone")
    sequence_of(PictureRule.from_json(info.pictures), what, turn.prompt_ids, turn.media)


def _check_logprobs(where: str, turn: Turn, optional: bool) -> None:
    found, expected = len(turn.sampling_logprobs), len(turn.output_ids)
    if found == 0 and optional:
        return
    if found != expected:
        raise InvalidRequest(f"{where} has {expected} output tokens but {found} output_logprobs; each needs one")
    if not np.isfinite(turn.sampling_logprobs).all():
        raise InvalidRequest(f"{where}: output_logprobs holds a value that is not a finite number")
