"""Admits a key before the body is read, with the one statement that also finds the chat's model.

The statement that finds a key also finds the model, and a model's name comes in the body. So a request's key is looked
up together with the model that this key asked for last. Nearly always the request asks for the same one, and has its
answer then. Otherwise, it asks again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from server.auth.key_uses import KeyUses
from server.auth.service import key_hash
from server.principals.callers import Caller, admitted
from server.process.shared_lookups import SharedLookups
from store.planes.serving import ServingInfo, ServingQuery

_MOST_KEYS = 4096
_GOOD_FOR_S = 1.0
"""A body that takes longer is asked for anew: samplers come and go."""


@dataclass(frozen=True, slots=True)
class SamplingKey:
    """A live key that may sample, and what it was looked up with. `asked_at`: when, by the monotonic clock."""

    hashed: bytes
    caller: Caller
    question: ServingQuery
    found: ServingInfo
    asked_at: float

    def answer_to(self, question: ServingQuery) -> ServingInfo | None:
        """What is known already, where that was the question."""
        is_recent = time.monotonic() - self.asked_at < _GOOD_FOR_S
        return self.found if is_recent and question == self.question else None


class SamplingKeys:
    """Of one server process. `lookups` also answer what teams ask that are known without a key."""

    def __init__(self, lookups: SharedLookups[ServingQuery, ServingInfo | None], key_uses: KeyUses) -> None:
        self.lookups = lookups
        self._key_uses = key_uses
        self._last: OrderedDict[bytes, ServingQuery] = OrderedDict()

    async def admit(self, key: str) -> SamplingKey:
        """Raises Unauthenticated, or Forbidden where the key may not sample."""
        hashed, asked_at = key_hash(key), time.monotonic()
        question = self._last.get(hashed) or ServingQuery(hashed, None, None)
        return self._admitted(hashed, question, await self.lookups.ask(question), asked_at)

    async def ask(self, key: SamplingKey, question: ServingQuery) -> SamplingKey:
        """The key with the answer to this question; the next request of the key is expected to have the same one.

        Raises what `admit` raises, where that has changed meanwhile.
        """
        if key.answer_to(question) is not None:
            return key
        asked_at = time.monotonic()
        key = self._admitted(key.hashed, question, await self.lookups.ask(question), asked_at)
        if key.found.model_id is not None:
            self._last[key.hashed] = question
            self._last.move_to_end(key.hashed)
            while len(self._last) > _MOST_KEYS:
                self._last.popitem(last=False)
        return key

    def _admitted(
        self, hashed: bytes, question: ServingQuery, found: ServingInfo | None, asked_at: float
    ) -> SamplingKey:
        caller = admitted(found.key if found else None)
        assert found is not None, "an unknown key is not admitted"
        self._key_uses.note(caller.key_id)
        caller.require("sample")
        return SamplingKey(hashed, caller, question, found, asked_at)
