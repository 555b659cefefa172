"""Facts of a base go through the database, between planes of different versions."""

from __future__ import annotations

from dataclasses import asdict

from wire.engine import BaseModelInfo

INFO = BaseModelInfo(89, 64, "Qwen3ForCausalLM", "float32", 1000, lora_layers={"attn": ["q_proj"]})


def test_it_is_read_as_it_was_written():
    assert BaseModelInfo.read(asdict(INFO)) == INFO


def test_what_a_later_trainer_says_more_is_left_out():
    assert BaseModelInfo.read({**asdict(INFO), "of_a_later_version": 1}) == INFO


def test_what_an_earlier_trainer_did_not_say_has_its_default():
    said = {name: value for name, value in asdict(INFO).items() if name not in ("sharing", "lora_layers")}
    assert BaseModelInfo.read(said).sharing == "prefixes"
    assert BaseModelInfo.read(said).lora_layers == {}
