from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.unit.trainer.tiny import _SHAPE, tiny_model
from trainer.engine import base_memory
from trainer.engine.architectures import vocabulary_modules
from trainer.engine.base_memory import BaseTooLarge, base_bytes, outline_of, refuse_too_large
from trainer.engine.base_model import load_base_model

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen3 with experts", "qwen3-next"])
def test_one_process_takes_its_weights_in_their_dtype(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    model.save_pretrained(tmp_path)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert base_bytes(outline_of(str(tmp_path), torch.float32, None), 1) == weights
    assert base_bytes(outline_of(str(tmp_path), torch.bfloat16, None), 1) == weights // 2


class Hashed(torch.nn.Embedding):
    """Looks up other rows than those of its ids."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 as torch calls it
        return super().forward(input.flip(-1))


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gemma3"])
def test_ranks_divide_the_vocabulary_unless_its_rows_may_be_looked_up_in_another_way(architecture: str) -> None:
    model = tiny_model(architecture)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert vocabulary_modules(model) == (embedding, head)
    divided = base_bytes(model, 2)
    is_tied = embedding.weight is head.weight
    hashed = Hashed(*embedding.weight.shape, _weight=embedding.weight)
    hashed.weight = embedding.weight
    model.set_input_embeddings(hashed)
    assert vocabulary_modules(model) == (None, None if is_tied else head)
    assert base_bytes(model, 2) > divided


def test_a_base_that_does_not_fit_names_how_many_gpus_would_do() -> None:
    outline = LlamaForCausalLM(LlamaConfig(**{**_SHAPE, "num_hidden_layers": 24}))
    sizes = [base_bytes(outline, ranks) for ranks in range(1, 9)]
    for ranks in (1, 2):
        with patch.object(base_memory, "free_bytes", lambda _: sizes[4]), pytest.raises(BaseTooLarge) as raised:
            refuse_too_large(outline, GPU, ranks)
        assert str(raised.value).endswith("are free on cuda:0; 5 such GPUs would do: headway trainer --gpus 5")
    with patch.object(base_memory, "free_bytes", lambda _: sizes[4]):
        refuse_too_large(outline, GPU, 5)


def test_ranks_on_one_host_share_its_memory_and_each_has_a_gpu() -> None:
    outline = tiny_model()
    needed = base_bytes(outline, 2)
    with patch.object(base_memory, "free_bytes", lambda _: 2 * needed):
        refuse_too_large(outline, torch.device("cpu"), 2, on_host=2)
    with patch.object(base_memory, "free_bytes", lambda _: 2 * needed - 1):
        refuse_too_large(outline, torch.device("cpu"), 2, on_host=1)
        refuse_too_large(outline, GPU, 2, on_host=2)
        with pytest.raises(BaseTooLarge, match=r" are free for each of the 2 on this host; take a smaller base"):
            refuse_too_large(outline, torch.device("cpu"), 2, on_host=2)


def test_what_is_whole_on_each_gpu_must_fit_one() -> None:
    with patch.object(base_memory, "free_bytes", lambda _: 1000), pytest.raises(BaseTooLarge, match="no number of"):
        refuse_too_large(tiny_model(), GPU)


def test_a_base_that_the_machine_has_no_memory_for_is_not_read(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with patch.object(base_memory, "free_bytes", lambda _: 1000), pytest.raises(BaseTooLarge, match="smaller base"):
        load_base_model(str(tmp_path))
