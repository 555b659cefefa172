from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

import server.background.garbage_collection as module
from server.background.garbage_collection import collecting_garbage
from server.process.settings import GarbageCollectionSettings, ServerSettings
from store.database import Database
from store.retention.collecting import Collector, Removal
from store.retention.lock import keeping_files


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> ServerSettings:
    url = database.url.render_as_string(hide_password=False)
    return ServerSettings(
        url,
        f"file://{tmp_path}/blobs",
        "token",
        garbage_collection=GarbageCollectionSettings(f"file://{tmp_path}/c", every_s=0.02),
    )


async def test_a_server_collects_now_and_then_off_its_event_loop(settings: ServerSettings, monkeypatch):
    collected: list[bool] = []

    def collect(collector: Collector) -> list[Removal]:
        collected.append(_on_loop())
        return [Removal("blob", "x", 1)]

    monkeypatch.setattr(Collector, "collect", collect)
    async with collecting_garbage(settings):
        while len(collected) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not any(collected)


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def test_a_collection_that_cannot_be_does_not_end_those_to_come(
    settings: ServerSettings, database: Database, monkeypatch
):
    calls = 0
    collect = Collector.collect

    def counted(collector: Collector) -> list[Removal]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("the disk is read-only")
        return collect(collector)

    monkeypatch.setattr(Collector, "collect", counted)
    with keeping_files(database):
        async with collecting_garbage(settings):
            while calls < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "without",
    [{"garbage_collection": None}, {"garbage_collection": GarbageCollectionSettings("file:///x", every_s=0.0)}],
)
async def test_a_server_can_do_without(settings: ServerSettings, monkeypatch, without):
    monkeypatch.setattr(module, "Collector", None)
    async with collecting_garbage(dataclasses.replace(settings, **without)):
        pass
