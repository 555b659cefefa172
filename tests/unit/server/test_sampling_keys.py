"""A chat's key is known before its body is read, with one question a chat."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from server.process.shared_lookups import SharedLookups
from server.sampling import admission
from server.sampling.admission import SamplingKeys
from store.keys import KeyFacts
from store.planes.serving import ServingInfo, ServingQuery
from wire.errors import Forbidden, Unauthenticated

KEY = KeyFacts(uuid.uuid4(), uuid.uuid4(), "team", "member", ["sample"], None, False, False, False)
NOTHING = (None,) * 13


class Uses:
    """Notes nothing."""

    def note(self, key_id: uuid.UUID) -> None:
        """See KeyUses."""


class Catalog:
    """What the database knows: one key, and every model that is asked for."""

    def __init__(self) -> None:
        self.key: KeyFacts | None = KEY
        self.asked = list[ServingQuery]()

    async def find(self, question: ServingQuery) -> ServingInfo | None:
        self.asked.append(question)
        if self.key is None:
            return None
        found = ServingInfo(self.key, None, *NOTHING, samplers=())
        return found if question.reference is None else replace(found, model_id=uuid.uuid4(), slug=question.reference)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def keys(catalog: Catalog) -> SamplingKeys:
    return SamplingKeys(SharedLookups(catalog.find, good_for_s=0.0), Uses())  # pyright: ignore[reportArgumentType]


async def chat(keys: SamplingKeys, model: str) -> ServingInfo:
    """A request: its head, and then its body."""
    admitted = await keys.admit("hw_key")
    return (await keys.ask(admitted, ServingQuery(admitted.hashed, None, model))).found


async def test_a_key_s_second_chat_with_a_model_is_one_question(keys, catalog):
    await chat(keys, "a")
    assert [question.reference for question in catalog.asked] == [None, "a"]
    for _ in range(3):
        assert (await chat(keys, "a")).slug == "a"
    assert [question.reference for question in catalog.asked] == [None, "a", "a", "a", "a"]


async def test_a_chat_with_another_model_than_the_last_asks_again(keys, catalog):
    await chat(keys, "a")
    assert (await chat(keys, "b")).slug == "b"
    assert (await chat(keys, "b")).slug == "b"
    assert [question.reference for question in catalog.asked] == [None, "a", "a", "b", "b"]


async def test_a_body_that_takes_long_is_asked_for_anew(keys, catalog, monkeypatch):
    await chat(keys, "a")
    monkeypatch.setattr(admission, "_GOOD_FOR_S", 0.0)
    await chat(keys, "a")
    assert [question.reference for question in catalog.asked] == [None, "a", "a", "a"]


async def test_a_key_that_is_gone_or_may_not_sample_is_refused_before_the_body(keys, catalog):
    await chat(keys, "a")
    for key, refusal in ((replace(KEY, scopes=["read"]), Forbidden), (replace(KEY, is_revoked=True), Unauthenticated)):
        catalog.key = key
        with pytest.raises(refusal):
            await keys.admit("hw_key")
    catalog.key = None
    with pytest.raises(Unauthenticated):
        await keys.admit("hw_key")


async def test_keys_that_are_remembered_are_bounded(keys, monkeypatch):
    monkeypatch.setattr(admission, "_MOST_KEYS", 2)
    for number in range(5):
        admitted = await keys.admit(f"hw_{number}")
        await keys.ask(admitted, ServingQuery(admitted.hashed, None, "a"))
    assert len(keys._last) == 2
