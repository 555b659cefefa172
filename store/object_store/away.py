"""What a store on the network raises when it does not answer."""

from __future__ import annotations

from wire.errors import Unavailable


class StoreAway(Unavailable):
    """An object store does not answer, or refuses; what was stored is not lost."""
