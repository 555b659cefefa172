"""The process of `sampler.chat.worker`: one large prompt after the other, until the sampler's end of the socket closes.

Requests and answers are bytes: first the base, what ends its answers, how it takes pictures, and its limits, then
requests as `chat_worker` writes them.
"""

from __future__ import annotations

import json
import os
from multiprocessing.connection import Connection

from pydantic import ValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sampler.admission.prompt_limits import PromptLimits
from sampler.chat.answers import REFUSED, packed_tokens
from sampler.chat.rendering import ChatRenderer
from wire.errors import HeadwayError, InvalidRequest
from wire.picture_rule import PictureRule
from wire.sampling import RenderRequest, TokenIds, TokenizeRequest

_STDIN = 0
_NICE = 5


def main() -> None:
    """Serve the sampler that started this process."""
    connection = Connection(_STDIN)
    os.nice(_NICE)  # sampling goes first
    try:
        base, end_ids, pictures, *limits = json.loads(connection.recv_bytes())
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base)
        rule = PictureRule.from_json(pictures) if pictures else None
        renderer = ChatRenderer(tokenizer, PromptLimits(*limits), end_ids, rule)
        connection.send_bytes(b"ready")
        while True:
            connection.send_bytes(_answer(renderer, connection.recv_bytes()))
    except (EOFError, ConnectionError):
        return


def _answer(renderer: ChatRenderer, request: bytes) -> bytes:
    kind, body = request[:1], request[1:]
    try:
        if kind == b"r":
            tokens = renderer.render(RenderRequest.model_validate_json(body))
        else:
            ids = renderer.tokenize(TokenizeRequest.model_validate_json(body).text)
            tokens = TokenIds.model_construct(token_ids=ids, media=[])
    except (ValidationError, RecursionError):
        return _refusal(InvalidRequest("the messages are nested too deeply to be rendered"))
    except HeadwayError as error:
        return _refusal(error)
    return packed_tokens(tokens)


def _refusal(error: HeadwayError) -> bytes:
    return REFUSED + json.dumps([error.code, error.message]).encode()


if __name__ == "__main__":
    main()
