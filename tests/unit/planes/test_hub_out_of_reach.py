"""A base that the hub does not give: nothing waits for it, and whoever asks is told why."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from cli.commands.bases import choose_bases
from sampler.main import run as run_sampler
from sampler.settings import SamplerSettings
from store.catalog import ensure_base
from store.database import Database
from store.planes.trainer_availability import trainer_availability
from trainer.main import run as run_trainer
from trainer.settings import TrainerSettings
from wire.process.hub_weights import WeightsOutOfReach

NOWHERE = "someone/nowhere"


@pytest.fixture(autouse=True)
def a_hub_that_refuses_connections(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("trainer.leader.signal.signal", lambda *_: None)


def test_up_registers_nothing(database: Database):
    with pytest.raises(WeightsOutOfReach, match=NOWHERE):
        choose_bases(database, [f"new={NOWHERE}"])
    with database.session() as session:
        assert trainer_availability(session) == []


def test_a_trainer_leaves_word_for_status_and_for_those_who_wait(database: Database, tmp_path: Path):
    with database.session() as session:
        ensure_base(session, "base", NOWHERE)
    url = database.url.render_as_string(hide_password=False)
    settings = TrainerSettings(url, "base", f"file://{tmp_path}/c", f"file://{tmp_path}/blobs", 1, "cpu")
    with pytest.raises(WeightsOutOfReach, match=NOWHERE):
        run_trainer(settings)
    with database.session() as session:
        (supply,) = trainer_availability(session)
    assert "the last one could not start: the Hugging Face hub at http://127.0.0.1:9 cannot" in (supply.shortage or "")


def test_a_sampler_ends_with_the_sentence(database: Database, tmp_path: Path):
    with database.session() as session:
        ensure_base(session, "base", NOWHERE)
    url = database.url.render_as_string(hide_password=False)
    settings = SamplerSettings(url, "base", f"file://{tmp_path}/c", "token", "127.0.0.1", 0, None, "local", 0, 1)
    with pytest.raises(WeightsOutOfReach, match=NOWHERE):
        run_sampler(settings)
