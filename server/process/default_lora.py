"""The adapter of forks that do not choose one. Nothing heavy is imported: `headway up` has the same options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from wire.lora import LORA_PARTS, MAX_LORA_ALPHA, MAX_LORA_RANK, LoraConfig
from wire.process.options import Option

_USUAL = LoraConfig()


def parts(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(filter(None, text.replace(" ", "").split(",")))


LORA_RANK = Option(
    "LoRA rank of forks that do not choose one",
    "HEADWAY_LORA_RANK",
    "--lora-rank",
    minimum=1,
    maximum=MAX_LORA_RANK,
)
LORA_ALPHA = Option(
    "LoRA alpha of forks that do not choose one; updates are scaled by alpha / rank",
    "HEADWAY_LORA_ALPHA",
    "--lora-alpha",
    minimum=1,
    maximum=MAX_LORA_ALPHA,
)
LORA_TARGETS = Option(
    "Parts of the base that adapters of forks are on where these do not choose: attn, mlp, unembed; with commas",
    "HEADWAY_LORA_TARGETS",
    "--lora-targets",
    shown_default=",".join(_USUAL.parts),
    parse=parts,
)


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """targets: parts of the base; none: attn and mlp."""

    rank: Annotated[int, LORA_RANK] = _USUAL.rank
    alpha: Annotated[int, LORA_ALPHA] = _USUAL.alpha
    targets: Annotated[tuple[str, ...], LORA_TARGETS] = ()

    @property
    def config(self) -> LoraConfig:
        """Raises ValueError for targets that no base has."""
        lora = LoraConfig(rank=self.rank, alpha=self.alpha)
        for target in self.targets:
            if target not in LORA_PARTS:
                raise ValueError(f"--lora-targets: {target!r} is none of {', '.join(LORA_PARTS)}")
        return lora.on(self.targets) if self.targets else lora
