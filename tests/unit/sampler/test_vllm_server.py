"""A vLLM process that dies: why, how often, and when that is enough. The process is a stand-in with vLLM's routes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from transformers import LlamaConfig

from sampler.backends import open_backend
from sampler.backends.vllm import server as server_module
from sampler.backends.vllm.client import VllmClient
from sampler.backends.vllm.command import served_num_seqs, served_tensor_parallel, server_command
from sampler.backends.vllm.parsers import Parsers
from sampler.backends.vllm.server import OwnServer
from sampler.backends.vllm.server_log import facts_in, reason_in
from sampler.backends.vllm.settings import VllmSettings
from sampler.backends.vllm.tensor_parallel import check_ranks
from tests.unit.sampler.conftest import save_base

FAKE = Path(__file__).with_name("fake_vllm.py")
REASON = "NotImplementedError: head size 16 is not supported"


@pytest.fixture
def lives(tmp_path, monkeypatch) -> Path:
    """How many tokens each process samples before it dies."""
    path = tmp_path / "lives"
    monkeypatch.setenv("FAKE_VLLM_LIVES", str(path))
    monkeypatch.setattr(server_module, "_BACK_OFF_S", (0.0,))
    return path


@pytest.fixture
def losses() -> list[bool]:
    return []


@pytest.fixture
def server(lives, losses, tmp_path):
    client = VllmClient()
    settings = VllmSettings(python=str(FAKE), start_timeout_s=60.0)
    server = OwnServer(tmp_path, 1, settings, Parsers(None, None), client, lambda: losses.append(server.ready))
    yield server
    server.stop()
    client.close()


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_dies_over_its_first_request_is_not_ready_and_says_why(server, lives):
    lives.write_text("0")
    with pytest.raises(OSError, match=f"vLLM died over its first request: {REASON}"):
        server.start()
    assert not server.ready


def test_ready_is_one_that_has_sampled_a_token(server, lives):
    lives.write_text("1")
    server.start()
    assert server.ready
    assert server.trouble() is None
    assert not server._client.generates(server.url), "its only token was sampled before it was called ready"


def test_one_that_dies_again_and_again_is_given_up_with_the_reason(server, lives, losses):
    lives.write_text("1")
    server.start()
    for _ in range(5):
        until(lambda: server.ready or server.final_trouble())
        server._client.generates(server.url)
        until(lambda: not server.ready)
    until(server.final_trouble)
    assert server.final_trouble() == server.trouble()
    assert f"vLLM died 5 times in a row and is not started again, the last time of: {REASON}" in server.trouble()
    assert losses == [False] * 5, "nobody is sent there while its adapters are forgotten"


def test_one_that_cannot_start_again_is_given_up_too(server, lives):
    lives.write_text("1")
    server.start()
    lives.write_text("0")
    server._client.generates(server.url)
    until(server.final_trouble)
    final = server.final_trouble()
    assert f"not started again, the last time of: vLLM died over its first request: {REASON}" in final


def test_deaths_count_from_anew_after_a_server_that_was_well(server, lives, monkeypatch):
    monkeypatch.setattr(server_module, "_WELL_AFTER_S", 0.0)
    lives.write_text("1")
    server.start()
    for _ in range(7):
        until(lambda: server.ready)
        server._client.generates(server.url)
        until(lambda: not server.ready)
    assert server.final_trouble() is None
    until(lambda: server.ready)


def test_the_reason_is_the_last_exception_that_is_not_about_another_process():
    engine = "(EngineCore pid=1) ERROR 11-28 10:00:00 [core.py:1] "
    assert reason_in([f"{engine}ValueError: a", f"{engine}KeyError: 'b'", "EngineDeadError: c"]) == "KeyError: 'b'"
    assert (
        reason_in(["torch.OutOfMemoryError: CUDA out of memory.", ""]) == "torch.OutOfMemoryError: CUDA out of memory."
    )
    start = ["ValueError: too long", "RuntimeError: Engine core initialization failed. See root cause above."]
    assert reason_in(start) == "ValueError: too long"
    assert reason_in(["usage: api_server", "api_server: error: unrecognized arguments: --x", ""]) == (
        "api_server: error: unrecognized arguments: --x"
    )
    assert reason_in([]) == "it said nothing"


def test_the_number_of_sequences_is_what_vllm_is_told(tmp_path):
    settings = VllmSettings(python="python", max_num_seqs=24)
    command = server_command(tmp_path, 1, settings, Parsers(None, None))
    assert command[command.index("--max-num-seqs") + 1] == "24"
    assert served_num_seqs(settings) == 24
    for own in (("--max-num-seqs", "7"), ("--max-num-seqs=7",), ("--max_num_seqs", "7", "--other", "x")):
        assert served_num_seqs(VllmSettings(extra_args=own)) == 7
    for wrong in ("x", "0"):
        with pytest.raises(ValueError, match="max-num-seqs"):
            served_num_seqs(VllmSettings(extra_args=("--max-num-seqs", wrong)))


def test_the_number_of_ranks_is_what_vllm_is_told(tmp_path):
    settings = VllmSettings(python="python", tensor_parallel=4)
    command = server_command(tmp_path, 1, settings, Parsers(None, None))
    assert command[command.index("--tensor-parallel-size") + 1] == "4"
    assert served_tensor_parallel(settings) == 4
    for own in (("--tensor-parallel-size", "8"), ("--tensor_parallel_size=8",), ("-tp", "8", "--other", "x")):
        assert served_tensor_parallel(VllmSettings(tensor_parallel=4, extra_args=own)) == 8
    with pytest.raises(ValueError, match="tensor-parallel-size is 0"):
        served_tensor_parallel(VllmSettings(extra_args=("-tp", "0")))


@pytest.mark.parametrize(
    ("heads", "keys", "possible"),
    [(32, 8, "1, 2, 4, 8, 16, 32"), (40, 8, "1, 2, 4, 8, 40"), (14, 2, "1, 2, 14"), (12, None, "1, 2, 3, 4, 6, 12")],
)
def test_ranks_that_do_not_divide_the_heads_are_refused_with_those_that_do(heads, keys, possible):
    config = LlamaConfig(hidden_size=64 * heads, num_attention_heads=heads, num_key_value_heads=keys)
    with pytest.raises(ValueError, match=f"{heads} attention heads of this llama.*it may be {possible}$"):
        check_ranks(config, 5)
    for ranks in possible.split(", "):
        check_ranks(config, int(ranks))


def test_ranks_are_refused_where_there_is_one_process_or_it_is_not_ours(tmp_path):
    with pytest.raises(ValueError, match="local sampler computes in one process: --tensor-parallel 2"):
        open_backend("local", str(tmp_path), tensor_parallel=2)
    save_base(tmp_path)
    with pytest.raises(ValueError, match="--vllm-url names one that runs"):
        open_backend("vllm", str(tmp_path), tensor_parallel=2, url="http://127.0.0.1:1")
    with pytest.raises(ValueError, match="--tensor-parallel 3 does not divide the 4 attention heads"):
        open_backend("vllm", str(tmp_path), tensor_parallel=3)


def test_what_vllm_has_loaded_is_read_from_its_log():
    lines = [
        "(EngineCore pid=3) INFO [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/m', "
        "dtype=torch.bfloat16, max_seq_len=512, kv_cache_dtype=auto, device_config=cuda, seed=0",
        "(EngineCore pid=3) INFO [cuda.py:507] Using FLASH_ATTN attention backend out of potential backends: ['X'].",
        "(EngineCore pid=3) INFO [kv_cache_utils.py:2327] GPU KV cache size: 1,048,576 tokens, Maximum concurrency: 9x",
    ]
    cache = "GPU KV cache size: 1,048,576 tokens"
    assert facts_in(lines) == {"dtype": "bfloat16", "device": "cuda", "kernel": "FLASH_ATTN", "cache": cache}
    assert facts_in(["a server that says nothing of that"]) == {}
