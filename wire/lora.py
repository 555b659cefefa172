"""The shape of an adapter. It imports nothing heavy: commands have options of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

LORA_PARTS = ("attn", "mlp", "unembed")
"""Parts of a base that an adapter may be on."""
MAX_LORA_RANK, MAX_LORA_ALPHA, MAX_INIT_SEED = 1024, 2**16, 2**63 - 1


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Shape and start of an adapter. `init_seed` makes A's random start the same for equal configurations.

    attn, mlp, unembed: which of the base's linear layers are adapted: those that mix tokens, all others inside of the
    layers, and the unembedding (of tied embeddings the unembedding alone). At least one.
    """

    rank: int = 16
    alpha: int = 32
    init_seed: int = 0
    attn: bool = True
    mlp: bool = True
    unembed: bool = False

    @property
    def parts(self) -> list[str]:
        """Names of the parts that are adapted."""
        return [part for part in LORA_PARTS if getattr(self, part)]

    def on(self, parts: Collection[str]) -> LoraConfig:
        """The same, on these parts alone."""
        return replace(self, **{part: part in parts for part in LORA_PARTS})

    @property
    def sentence(self) -> str:
        """Its shape, for people."""
        return f"rank {self.rank}, alpha {self.alpha} on {', '.join(self.parts)}"
