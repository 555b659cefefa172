"""What one request of a sampling session asks for, in no protocol's words, and how it is written down."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from server.sampling.requests import PicturedPrompt
from server.sampling.scoring import Scoring
from wire.extension import Media
from wire.media_items import media_items
from wire.payload import decode, encode
from wire.sampling import SamplingParams

_NOTHING = -1
_APART = ("prompt", "targets", "media")


@dataclass(frozen=True, slots=True)
class TargetMatrix:
    """Ids whose logprobs are asked for in the places of the prompt's tokens after the first, −1 for none: a matrix of
    `shape`, row by row; or, with row pointers and column indices, only its listed entries."""

    values: npt.NDArray[np.int32]
    shape: tuple[int, int]
    row_pointers: npt.NDArray[np.int32] | None = None
    columns: npt.NDArray[np.int32] | None = None

    def rows(self) -> list[list[int]]:
        """The ids of each row, all rows of one length."""
        if self.row_pointers is None:
            return self.values.reshape(self.shape).tolist()
        pointers = self.row_pointers.tolist()
        rows = [self.values[a:b].tolist() for a, b in pairwise(pointers)]
        width = max(map(len, rows), default=0)
        return [[*row, *[_NOTHING] * (width - len(row))] for row in rows]

    def in_layout(self, found: list[list[float | None]]) -> npt.NDArray[np.float32]:
        """What was found for `rows`, in the order of `values`; 0 for none."""
        pointers = self.row_pointers
        lengths = [self.shape[1]] * self.shape[0] if pointers is None else np.diff(pointers).tolist()
        flat = [value or 0.0 for row, n in zip(found, lengths, strict=True) for value in row[:n]]
        return np.array(flat, np.float32)


@dataclass(frozen=True, slots=True)
class SampleCall:
    """`num_answers` to a prompt of token ids, and logprobs of the prompt itself. media: pictures that some of the ids
    stand for.

    max_tokens 0: no answer, only the prompt's logprobs. seed: of 63 bits; each answer has one of its own that follows
    from it. draws_seed: the client gave none. top_prompt_logprobs and last_n: see `ScoreRequest`.
    """

    prompt: list[int]
    num_answers: int
    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    stop: tuple[str, ...]
    stop_ids: tuple[int, ...]
    ignore_eos: bool
    seed: int
    draws_seed: bool
    top_logprobs: int = 0
    wants_prompt_logprobs: bool = False
    top_prompt_logprobs: int = 0
    last_n: int | None = None
    targets: TargetMatrix | None = None
    media: tuple[Media, ...] = ()

    @property
    def pictured(self) -> list[int] | PicturedPrompt:
        """The prompt, for samplers."""
        return PicturedPrompt(self.prompt, media_items(self.media)) if self.media else self.prompt

    @property
    def params(self) -> SamplingParams:
        """For the sampler. Raises ValueError (of pydantic) for figures out of their bounds."""
        return SamplingParams(
            max_tokens=self.max_tokens or None,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=list(self.stop),
            stop_token_ids=list(self.stop_ids),
            ignore_eos=self.ignore_eos,
            skip_special_tokens=False,
            top_logprobs=self.top_logprobs,
        )

    @property
    def scoring(self) -> Scoring | None:
        """What is asked of the prompt's own tokens; None: nothing."""
        if not (self.wants_prompt_logprobs or self.top_prompt_logprobs or self.targets is not None):
            return None
        last_n = None if self.targets is not None else self.last_n
        return Scoring(self.top_prompt_logprobs, last_n, None if self.targets is None else self.targets.rows())

    def is_like(self, other: SampleCall) -> bool:
        """Whether a client asks for the same."""
        return self.draws_seed == other.draws_seed and (
            replace(self, seed=0).encoded() == replace(other, seed=0).encoded()
            if self.draws_seed
            else self.encoded() == other.encoded()
        )

    def encoded(self) -> bytes:
        """To be kept."""
        header = {key: value for key, value in asdict(self).items() if key not in _APART}
        if self.media:
            header["media"] = [[one.start, one.num_tokens, one.name, one.width, one.height] for one in self.media]
        arrays = {"prompt": np.array(self.prompt, np.int32)}
        if self.targets is not None:
            header["target_shape"] = self.targets.shape
            arrays["targets"] = self.targets.values
            if self.targets.row_pointers is not None and self.targets.columns is not None:
                arrays |= {"row_pointers": self.targets.row_pointers, "columns": self.targets.columns}
        return encode(header, arrays)

    @classmethod
    def decoded(cls, data: bytes) -> SampleCall:
        """What `encoded` made."""
        header, arrays = decode(data)
        shape: Any = header.pop("target_shape", None)
        targets = None
        if shape is not None:
            pointers, columns = arrays.get("row_pointers"), arrays.get("columns")
            targets = TargetMatrix(arrays["targets"], (shape[0], shape[1]), pointers, columns)
        media = tuple(
            Media(start, num_tokens, bytes.fromhex(name), width, height)
            for start, num_tokens, name, width, height in header.pop("media", ())
        )
        header |= {"stop": tuple(header["stop"]), "stop_ids": tuple(header["stop_ids"])}
        return cls(prompt=arrays["prompt"].tolist(), targets=targets, media=media, **header)
