"""For whom a promotion waits, and for how long. Apart from `store.planes.promotion`, for settings need no database."""

from __future__ import annotations

from enum import StrEnum

PATIENCE_S = 60.0
"""How long chats, steps and moves of a head wait for a sampler: for one that lives, answers, and holds the checkpoint.
(A head that is moved while none lives does not wait: whoever comes loads it.)"""


class PromotionPolicy(StrEnum):
    """Whom a promotion waits for: one live sampler, more than half of them, or all."""

    ONE = "one"
    QUORUM = "quorum"
    ALL = "all"

    def num_needed(self, num_live: int) -> int:
        """Of so many live samplers."""
        return {self.ONE: 1, self.QUORUM: num_live // 2 + 1, self.ALL: num_live}[self]
