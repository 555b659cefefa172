"""What each token says, in bytes.

Byte-level tokenizers (GPT-2's way: Qwen, Llama 3, Mistral's newer ones) cut characters in half, so text is put
together from bytes, never from decoded tokens. Sentencepiece's "▁word" and "<0xE2>" are read as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class Vocabulary:
    """Token id → bytes, and which tokens are control tokens. Raises ValueError for other kinds of tokenizers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        read_piece = _piece_reader(tokenizer)
        added = tokenizer.added_tokens_decoder
        pieces: dict[str, int] = tokenizer.get_vocab()
        self._bytes = [b""] * (max(pieces.values()) + 1)
        for piece, token_id in pieces.items():
            self._bytes[token_id] = (
                _added_bytes(added[token_id], read_piece) if token_id in added else read_piece(piece)
            )
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        names = sorted((added[token_id].content for token_id in self.special_ids), key=len, reverse=True)
        self.control_names = frozenset(names)
        self._control = re.compile("|".join(map(re.escape, filter(None, names))) or r"(?!)")
        unlike = {i: self.bytes_of(i).hex() for i in self.special_ids if i < len(self._bytes) and self.text_of(i)}
        parts = {i: part.hex() for i, part in enumerate(self._bytes) if i not in unlike and not _is_text(part)}
        self._raw = parts | unlike

    def bytes_of(self, token_id: int) -> bytes:
        """The token's part of the text: empty for control tokens, and for ids that only pad the vocabulary."""
        if token_id in self.special_ids or token_id >= len(self._bytes):
            return b""
        return self._bytes[token_id]

    def named_bytes_of(self, token_id: int) -> bytes:
        """The same, but for control tokens their names."""
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    @property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self._bytes))

    def text_of(self, token_id: int) -> str:
        """The token alone, control tokens by their name; empty for part of a character."""
        if token_id >= len(self._bytes):
            return ""
        try:
            return self._bytes[token_id].decode()
        except UnicodeDecodeError:
            return ""

    def symbols_of(self, text: str) -> tuple[str, ...]:
        """A text as its characters, and the control tokens that it names, each in one piece."""
        symbols, at = list[str](), 0
        for found in self._control.finditer(text):
            symbols += [*text[at : found.start()], found[0]]
            at = found.end()
        return (*symbols, *text[at:])

    def ids_of(self, name: str) -> list[int]:
        """The control tokens of this name."""
        return [token_id for token_id in sorted(self.special_ids) if self.text_of(token_id) == name]

    def raw_of(self, token_ids: Iterable[int]) -> dict[int, str]:
        """The bytes, in hexadecimal, of those of these tokens that are not their text. (See SampledTokens.raw.)"""
        return {token_id: self._raw[token_id] for token_id in token_ids if token_id in self._raw}


def _piece_reader(tokenizer: PreTrainedTokenizerBase) -> Any:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.loads(backend.decoder.__getstate__()) if backend and backend.decoder else {}
    kinds = {step["type"] for step in decoder.get("decoders", [decoder]) if step}
    if "ByteLevel" in kinds:
        return _byte_level_piece
    if "ByteFallback" in kinds:
        return _sentencepiece_piece
    raise ValueError(f"samplers read byte-level and byte-fallback tokenizers, not decoder {sorted(kinds)}")


def _added_bytes(token: Any, read_piece: Any) -> bytes:
    """Decoders of sentencepiece read added tokens, too: Gemma's runs of blanks are such. Byte-level ones do not."""
    if read_piece is _sentencepiece_piece and not token.special:
        return read_piece(token.content)
    return token.content.encode()


def _is_text(part: bytes) -> bool:
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True


def _byte_level_piece(piece: str) -> bytes:
    try:
        return piece.translate(_BYTES_OF_CHARACTERS).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode()


def _sentencepiece_piece(piece: str) -> bytes:
    match = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else piece.replace("▁", " ").encode()


def _bytes_of_characters() -> dict[int, str]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and on, in order. Each byte is
    the Latin-1 character of its number; the characters that stand for none become one that Latin-1 does not have."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return dict.fromkeys(others, "\uffff") | {256 + n: chr(byte) for n, byte in enumerate(others)}


_BYTES_OF_CHARACTERS = _bytes_of_characters()
