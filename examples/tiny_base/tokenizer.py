"""A byte-level tokenizer with ChatML, small enough to read.

Every byte has a token, so any text can be encoded. The only merges spell the role names; digits stay apart, which
is what lets a tiny model learn sums.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
WHOLE_WORDS = ("assistant", "system", "user", "tool")

TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")


def build_tokenizer(context_length: int) -> PreTrainedTokenizerFast:
    """ChatML tokens are special; the tool and reasoning markers are ordinary text, as in Qwen, so that decoding
    keeps them for a parser to see."""
    vocab, merges = _vocabulary()
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (PAD, START, END)])
    bpe.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKERS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE_FILE.read_text(encoding="utf-8")
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """`save_pretrained`, under the class name that transformers 4 knows too: a sampler's environment may have it."""
    tokenizer.save_pretrained(folder)
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config_file.write_text(json.dumps(config, indent=2) + "\n")


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in WHOLE_WORDS:
        for end in range(1, len(word)):
            merge = (word[:end], word[end])
            if merge not in merges:
                merges.append(merge)
                symbols.append(word[: end + 1])
    return {symbol: index for index, symbol in enumerate(symbols)}, merges
