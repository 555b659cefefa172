"""The pictures of a call, and a base's way to their features."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from trainer.engine.vision.features import FeatureCache, Features
from trainer.engine.vision.tower import Tower
from wire.engine import NO_PICTURES, Pictures
from wire.extension import Media
from wire.picture_rule import PictureRule

MAX_FEATURE_BYTES = 1 << 30
"""Of pictures that are kept from one pass to the next: 60 screenshots of 1,000 tokens above a hidden size of 4,096."""


class Sight:
    """Of one base. Each distinct picture goes through the tower once, as long as there is room for what it gives."""

    def __init__(self, tower: Tower) -> None:
        self.tower = tower
        self.cache = FeatureCache(MAX_FEATURE_BYTES)
        self._pictures: Pictures = NO_PICTURES

    @property
    def rule(self) -> PictureRule:
        """How the base turns pictures into tokens."""
        return self.tower.rule

    @contextmanager
    def of(self, pictures: Pictures) -> Generator[None]:
        """Packs that are made inside show these pictures."""
        before, self._pictures = self._pictures, pictures
        try:
            yield
        finally:
            self._pictures = before

    def features(self, media: Media) -> Features:
        """Of a picture of this call. Raises InvalidRequest, naming it, where its bytes are not what they should be."""
        return self.cache.get(media, lambda: self.tower.encode(self._pictures[media.digest], media))
