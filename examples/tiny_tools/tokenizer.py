"""The byte-level ChatML tokenizer of the arithmetic base, with a token for each phrase of a tool call.

Calls take nine tokens instead of fifty, so that a game of five turns fits in 150.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from examples.tiny_base.tokenizer import END, MARKERS, PAD, START, WHOLE_WORDS

# A merge wins over those after it: longer phrases come first.
PHRASES = ('\n{"name": "', '", "arguments": {"', '": ', "}}\n", "higher", "lower", "right", "number", "guess")

TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")


def build_tokenizer(context_length: int) -> PreTrainedTokenizerFast:
    """ChatML tokens are special; the markers of tool calls are ordinary text, as in Qwen."""
    return with_phrases(PHRASES, (PAD, START, END), TEMPLATE_FILE, context_length)


def with_phrases(
    phrases: Sequence[str], special: Sequence[str], template: Path, context_length: int
) -> PreTrainedTokenizerFast:
    """Byte-level, with a token for each of these phrases."""
    vocab, merges = _vocabulary(phrases)
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    bpe.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKERS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


def _vocabulary(phrases: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The bytes, and each phrase with all its beginnings, built up from the left."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for phrase in (*phrases, *WHOLE_WORDS):
        word = byte_level.pre_tokenize_str(phrase)[0][0]
        for end in range(1, len(word)):
            merge = (word[:end], word[end])
            if merge not in merges:
                merges.append(merge)
                symbols.append(word[: end + 1])
    return {symbol: index for index, symbol in enumerate(symbols)}, merges
