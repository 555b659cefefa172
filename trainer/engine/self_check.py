"""Compares a base model's packed logprobs and gradients with transformers' own when it loads, a row a sequence.

A wrong attention, position, state or logit treatment raises no error by itself; it costs 0.3 nats or more a token.
Short sequences that share prefixes on several levels are enough to distinguish that from rounding. Most of the time
goes into reading the weights, so transformers' own pass has all sequences in one batch. What this leaves out: windows
longer than the sequences.
"""

# D hidden size, N predictions of all sequences, B sequences of a batch, L tokens of the longest of them, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from trainer.engine.attention import IMPLEMENTATION
from trainer.engine.frozen_linears import FrozenLinears
from trainer.engine.gathers import Gathers
from trainer.engine.packing import Pack
from trainer.engine.products import TORCH
from trainer.engine.ranks import Ranks
from trainer.engine.text_part import attend_by, text_config
from wire.datums import Datum, Origin
from wire.extension import Int32Array, TokenSequence

# Mean absolute difference in nats, and difference of gradients by their size: well above rounding, well below the
# cheapest mistake.
_TOLERANCES = {torch.float64: (1e-5, 1e-4), torch.float32: (1e-3, 1e-2)}
_LOW_PRECISION_TOLERANCES = (0.1, 0.3)

MakePack = Callable[[Sequence[Datum]], Pack]
Score = Callable[[Pack], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Shown:
    """Sequences for a check, and what the model's own forward takes of each beside its ids."""

    datums: Sequence[Datum]
    own_inputs: Callable[[Datum], dict[str, Any]]


def probe(length: int, vocab_size: int, seed: int = 1, prefix: Sequence[int] = ()) -> Datum:
    """A sequence of ids without a pattern, each of which but the first is a target."""
    fresh = (np.arange(len(prefix), length) + seed) * 7919 % vocab_size
    ids = np.concatenate([np.asarray(prefix, np.int32), fresh.astype(np.int32)])
    return Datum(
        model_input=TokenSequence(ids[:-1]),
        spans=np.array([[0, length - 1]], np.int32),
        is_sampled=np.array([False]),
        targets=ids[1:],
        weights=np.ones(length - 1, np.float32),
        advantages=np.zeros(length - 1),
        sampling_logprobs=np.zeros(length - 1, np.float32),
        origin=Origin(0),
    )


def probe_ids(datum: Datum) -> Int32Array:
    """The ids of a probe, its last target included."""
    return np.append(datum.model_input.ids, datum.targets[-1:])


def disagreement(
    model: PreTrainedModel,
    linears: FrozenLinears,
    pack: MakePack,
    score: Score,
    gathers: Gathers,
    ranks: Ranks,
    *,
    alone: bool = False,
    shown: Shown | None = None,
) -> str | None:
    """How packed logprobs or their gradients differ from the model's own eager ones; None if they agree.

    linears: of the model, by torch's products where it computes by itself. gathers: of the model; `score` makes those
    of its forward. ranks: after each pass they agree that all came to its end. alone: sequences are packed, and
    computed by the model itself, one by one. shown: None for a family of sequences of text; the model itself computes
    these one by one. Gradients are those of the embedded tokens, through all of the model. A model that cannot be run
    as it is run here differs, too. Raises UnsupportedArchitecture for what no kernel computes.
    """
    datums = shown.datums if shown else _family(int(text_config(model).vocab_size))
    own_inputs = shown.own_inputs if shown else lambda _: dict[str, Any]()
    close, aligned = _TOLERANCES.get(model.dtype, _LOW_PRECISION_TOLERANCES)
    one_by_one = [[datum] for datum in datums]
    packs = [pack(each) for each in (one_by_one if alone else [datums])]
    try:
        found = [packed_figures(model, each, score, gathers, ranks) for each in packs]
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"packed computation fails: {error}"
    with _own_attention(model), linears.switched(TORCH):
        passes = one_by_one if alone or shown else [datums]
        own = [_own(model, each, gathers, ranks, own_inputs(each[0])) for each in passes]
    logprobs_N, own_N = (torch.cat([logprobs for logprobs, _ in each]).double() for each in (found, own))
    if not (difference := (logprobs_N - own_N).abs().mean().item()) <= close:
        return f"packed logprobs differ from the model's own by {difference:.2g} nats a token"
    slopes_D, own_D = (torch.stack([slope.double() for _, slope in each]).sum(0) for each in (found, own))
    if not (difference := ((slopes_D - own_D).norm() / own_D.norm()).item()) <= aligned:
        return f"gradients of packed logprobs differ from the model's own by {difference:.2g} of their size"
    return None


def _family(vocab_size: int) -> list[Datum]:
    """A root with two branches, one of which branches again, and a stranger."""
    trunk = probe_ids(probe(10, vocab_size, seed=3)).tolist()
    branch = probe_ids(probe(14, vocab_size, seed=11, prefix=trunk)).tolist()
    return [
        probe(16, vocab_size, seed=11, prefix=branch),
        probe(14, vocab_size, seed=5, prefix=trunk),
        probe(17, vocab_size, seed=17, prefix=branch),
        probe(5, vocab_size, seed=23),
    ]


def packed_figures(
    model: PreTrainedModel, pack: Pack, score: Score, gathers: Gathers, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor]:
    """logprobs_N of a pack's predictions, and slope_D, the gradient of a weighted sum of them."""
    with _embedded(model) as embedded, torch.enable_grad():
        with ranks.agreed():
            logprobs_N = score(pack)[0][pack.inverse_N]
        with ranks.agreed(), gathers.backward():
            return logprobs_N.detach(), _slope(logprobs_N, pack.datums, embedded[0])


def _own(
    model: PreTrainedModel, datums: Sequence[Datum], gathers: Gathers, ranks: Ranks, beside: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A row a sequence; what fills the shorter ones up comes behind them, where a causal model does not look."""
    ids = [torch.from_numpy(probe_ids(datum).astype(np.int64)).to(model.device) for datum in datums]
    ids_BL = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    with _embedded(model) as embedded, torch.enable_grad():
        with ranks.agreed(), gathers.forward():
            logits_BLV = model(input_ids=ids_BL[:, :-1], use_cache=False, **beside).logits
        exact = torch.promote_types(logits_BLV.dtype, torch.float32)
        logprobs_BL = logits_BLV.to(exact).log_softmax(-1).gather(-1, ids_BL[:, 1:, None])[..., 0]
        logprobs_N = torch.cat([row_L[: len(of) - 1] for row_L, of in zip(logprobs_BL, ids, strict=True)])
        with ranks.agreed(), gathers.recomputing_head(True), gathers.backward():
            return logprobs_N.detach(), _slope(logprobs_N, datums, embedded[0])


def _slope(logprobs_N: torch.Tensor, datums: Sequence[Datum], embedded_BLD: torch.Tensor) -> torch.Tensor:
    """Gradient of a weighted sum of logprobs, summed over tokens: what a token is worth to all that share it."""
    weights_N = torch.cat([torch.linspace(0.5, 1.5, datum.num_scored) for datum in datums]).to(logprobs_N)
    (gradient_BLD,) = torch.autograd.grad((logprobs_N * weights_N).sum(), embedded_BLD)
    return gradient_BLD.sum((0, 1))


@contextmanager
def _embedded(model: PreTrainedModel) -> Generator[list[torch.Tensor]]:
    """The embedded tokens of the pass inside, as a leaf that gradients reach."""
    caught: list[torch.Tensor] = []

    def catch(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        caught.append(output.detach().requires_grad_())
        return caught[-1]

    handle = model.get_input_embeddings().register_forward_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()


@contextmanager
def _own_attention(model: PreTrainedModel) -> Generator[None]:
    attend_by(model, "eager")
    try:
        yield
    finally:
        attend_by(model, IMPLEMENTATION)
