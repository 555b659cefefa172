"""How the weights of a base come together for a pass, where no process holds all of them.

Then every rank must make the same gathers in the same order, whatever it computes: layers have equal sizes, so that a
rank which leaves one out takes another layer of its peers for the one that it asked for, and no error says so.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Gathers(Protocol):
    """One forward is the blocks of the embedding, L layers and the blocks of the unembedding; its backward is L layers
    from the last to the first."""

    def forward(self) -> AbstractContextManager[None]:
        """The backbone and the head run once inside. If that raises half way, the gathers that it did not make are
        made."""
        ...

    def backward(self) -> AbstractContextManager[None]:
        """The backward of the last forward with gradient runs inside; as `forward`."""
        ...

    def recomputing_head(self, on: bool) -> AbstractContextManager[None]:
        """Whether backwards inside begin with the blocks of the unembedding, since some rank's pass makes its logits
        again. All ranks say the same; a pass that does not need them may be among them."""
        ...

    def idle_forward(self) -> None:
        """The gathers of a forward, by a rank that has nothing to compute."""
        ...

    def idle_backward(self) -> None:
        """The gathers of a backward, by a rank that has nothing to compute, or drops what it computed."""
        ...


class WholeWeights:
    """This process holds all weights: there is nothing to gather."""

    def forward(self) -> AbstractContextManager[None]:
        """The block itself."""
        return nullcontext()

    def backward(self) -> AbstractContextManager[None]:
        """The block itself."""
        return nullcontext()

    def recomputing_head(self, on: bool) -> AbstractContextManager[None]:
        """The block itself."""
        return nullcontext()

    def idle_forward(self) -> None:
        """Nothing."""

    def idle_backward(self) -> None:
        """Nothing."""
