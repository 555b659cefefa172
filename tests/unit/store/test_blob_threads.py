from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from store.blob_stores.threads import THREADS_OF_BLOBS, BlobThreads
from store.object_store.away import StoreAway
from wire.errors import Unavailable


@pytest.fixture
def threads() -> Iterator[BlobThreads]:
    threads = BlobThreads(threads=2, most_waiting=2, patience_s=0.05, slow_s=0.05)
    yield threads
    threads.close()


class Store:
    """Whose calls hang until it is let go, and fail while it is away."""

    def __init__(self) -> None:
        self.goes_on, self.begun, self.is_away = threading.Event(), threading.Semaphore(0), False

    def call(self) -> str:
        self.begun.release()
        assert self.goes_on.wait(20)
        if self.is_away:
            raise StoreAway("away")
        return threading.current_thread().name


async def hang(threads: BlobThreads, store: Store, count: int = 2) -> list[asyncio.Task[str]]:
    calls = [asyncio.create_task(threads.run(store.call)) for _ in range(count)]
    for _ in calls:
        await asyncio.to_thread(store.begun.acquire)
    return calls


async def test_calls_run_in_threads_of_their_own(threads: BlobThreads):
    store = Store()
    store.goes_on.set()
    assert (await threads.run(store.call)).startswith(THREADS_OF_BLOBS)
    with pytest.raises(ValueError, match="invalid literal"):
        await threads.run(int, "no number")


async def test_what_finds_no_thread_is_refused_and_never_begins(threads: BlobThreads):
    store, begun = Store(), list[int]()
    calls = await hang(threads, store)
    with pytest.raises(Unavailable, match="more calls") as refused:
        await threads.run(begun.append, 1)
    assert refused.value.retry_after_s
    store.goes_on.set()
    await asyncio.gather(*calls)
    assert begun == []


async def test_few_wait_and_more_are_refused_at_once():
    patient, store = BlobThreads(threads=2, most_waiting=2, patience_s=60), Store()
    calls = await hang(patient, store)
    waiting = [asyncio.create_task(patient.run(store.call)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="more calls"):
        await patient.run(store.call)
    store.goes_on.set()
    assert len(await asyncio.gather(*calls, *waiting)) == 4
    patient.close()


async def test_while_the_store_is_away_one_call_at_a_time_finds_out_whether_it_is_back(threads: BlobThreads):
    store = Store()
    store.is_away = True
    calls = await hang(threads, store)
    store.goes_on.set()
    assert [type(one) for one in await asyncio.gather(*calls, return_exceptions=True)] == [StoreAway, StoreAway]
    store.goes_on.clear()
    (asking,) = await hang(threads, store, 1)
    with pytest.raises(Unavailable, match="does not answer"):
        await threads.run(store.call)
    store.is_away = False
    store.goes_on.set()
    await asking
    assert len(await asyncio.gather(*(threads.run(store.call) for _ in range(4)))) == 4


async def test_a_full_disk_is_no_store_that_is_away(threads: BlobThreads):
    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await threads.run(full)
    calls = await hang(threads, store := Store())
    store.goes_on.set()
    assert len(await asyncio.gather(*calls)) == 2


async def test_a_caller_that_goes_takes_what_has_not_begun_along():
    patient, store, begun = BlobThreads(threads=1, patience_s=60), Store(), list[int]()
    (call,) = await hang(patient, store, 1)
    waiting = asyncio.create_task(patient.run(begun.append, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    store.goes_on.set()
    await call
    await patient.run(begun.append, 2)
    assert begun == [2]
    patient.close()


async def test_calls_of_a_store_that_is_silent_are_refused_while_they_hang_and_a_slow_one_goes_on():
    store, is_answering = Store(), threading.Event()
    threads = BlobThreads(is_answering.is_set, threads=4, patience_s=60, slow_s=0.05)
    is_answering.set()
    (slow,) = await hang(threads, store, 1)
    await asyncio.sleep(0.3)
    assert not slow.done()
    is_answering.clear()
    calls = [slow, *(asyncio.create_task(threads.run(store.call)) for _ in range(2))]
    refused = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(one) for one in refused} == {Unavailable}
    assert all("does not answer" in str(one) for one in refused)
    with pytest.raises(Unavailable, match="does not answer"):
        await threads.run(store.call)

    is_answering.set()
    assert await until_taken(threads) == 4, "while the others still hang"
    store.goes_on.set()
    threads.close()


async def until_taken(threads: BlobThreads) -> int:
    """A call that is refused has the store asked whether it is back."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await threads.run(len, "back")
            except Unavailable:
                await asyncio.sleep(0.02)


async def test_a_question_without_an_answer_is_a_no():
    store, question = Store(), Store()
    threads = BlobThreads(lambda: bool(question.call()), threads=1, slow_s=0.05, answer_s=0.1)
    with pytest.raises(Unavailable, match="does not answer"):
        await threads.run(store.call)
    for one in (store, question):
        one.goes_on.set()
    threads.close()
