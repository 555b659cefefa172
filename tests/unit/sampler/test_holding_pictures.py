"""Pictures in a sampler's memory: by the SHA-256 of their bytes, within bounds, and there while a request uses them."""

from __future__ import annotations

from hashlib import sha256

import pytest

from sampler.pictures.holding import HeldPictures, PicturesMissing
from wire.errors import InvalidRequest, Unavailable

PNGS = [bytes([number]) * 100 for number in range(5)]
NAMES = [sha256(png).hexdigest() for png in PNGS]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def holding(*numbers: int, clock: Clock | None = None) -> HeldPictures:
    held = HeldPictures(max_bytes=300, unused_s=60.0, clock=clock or Clock())
    for number in numbers:
        await held.add(NAMES[number], PNGS[number])
    return held


def has(held: HeldPictures, *numbers: int) -> bool:
    try:
        with held.using({NAMES[number] for number in numbers}) as pictures:
            return pictures == {NAMES[number]: PNGS[number] for number in numbers}
    except PicturesMissing:
        return False


async def test_bytes_of_another_name_are_refused():
    held = await holding()
    for name in (NAMES[1], NAMES[0].upper(), "x", ""):
        with pytest.raises(InvalidRequest, match="SHA-256"):
            await held.add(name, PNGS[0])
    assert len(held) == 0


async def test_all_that_are_missing_are_named():
    held = await holding(1)
    with pytest.raises(PicturesMissing) as missing, held.using(NAMES[:3]):
        raise AssertionError("never in here")
    assert missing.value.names == sorted([NAMES[0], NAMES[2]])
    with pytest.raises(PicturesMissing):
        held.require([NAMES[1], NAMES[3]])
    held.require([NAMES[1]])


async def test_what_was_used_longest_ago_makes_room():
    held = await holding(0, 1, 2)
    assert has(held, 0)
    await held.add(NAMES[3], PNGS[3])
    assert has(held, 0, 2, 3)
    assert not has(held, 1)


async def test_what_came_again_is_kept_once():
    held = await holding(0, 1, 2, 0, 1, 2, 2)
    assert len(held) == 3
    assert has(held, 0, 1, 2)


async def test_what_a_request_uses_stays():
    held = await holding(0, 1, 2)
    with held.using(NAMES[:2]), held.using(NAMES[:1]):
        await held.add(NAMES[3], PNGS[3])
        assert has(held, 0, 1, 3)
    with held.using([NAMES[0], NAMES[1], NAMES[3]]), pytest.raises(Unavailable, match="no room"):
        await held.add(NAMES[4], PNGS[4])
    await held.add(NAMES[4], PNGS[4])
    assert has(held, 4)


async def test_what_nobody_uses_any_more_is_forgotten():
    clock = Clock()
    held = await holding(0, 1, clock=clock)
    with held.using([NAMES[0]]):
        clock.now = 61.0
        assert has(held, 0)
        assert not has(held, 1)
    clock.now = 120.0
    assert has(held, 0)
    clock.now = 181.0
    assert not has(held, 0)
    assert len(held) == 0
