"""Reading an answer while it comes, for backends without a parser that can: text that may turn out to be reasoning or
a tool call is held back to the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from wire.sampling import CallDelta, DerenderRequest, GenerateEvent, MessageDelta, ParsedMessage, Reading

_REASONING_TAG = "<think>"

Derender = Callable[[DerenderRequest], Awaitable[ParsedMessage]]


class HoldingBack:
    """An AnswerReader. `always`: nothing is told before the end."""

    def __init__(self, reading: Reading, derender: Derender, *, always: bool = False) -> None:
        self._reading = reading
        self._derender = derender
        self._always = always or bool(reading.tools)
        self._token_ids: list[int] = []
        self._text = ""
        self._num_told = 0

    async def take(self, event: GenerateEvent) -> list[MessageDelta]:
        """See AnswerReader."""
        self._token_ids += event.tokens.ids
        self._text += event.text
        deltas = list[MessageDelta]()
        if not self._holds_back() and len(self._text) > self._num_told:
            deltas.append(MessageDelta(content=self._text[self._num_told :]))
            self._num_told = len(self._text)
        if event.finish_reason is not None and not self._num_told:
            request = DerenderRequest(token_ids=self._token_ids, text=self._text, **dict(self._reading))
            deltas += as_deltas(await self._derender(request))
        return deltas

    def _holds_back(self) -> bool:
        start = self._text.lstrip()[: len(_REASONING_TAG)]
        return self._always or (not self._num_told and _REASONING_TAG.startswith(start))


def as_deltas(parsed: ParsedMessage) -> list[MessageDelta]:
    """A whole message as a stream tells it."""
    calls = [
        CallDelta(index=index, name=call.name, arguments=call.arguments) for index, call in enumerate(parsed.tool_calls)
    ]
    deltas = [
        MessageDelta(reasoning_content=parsed.reasoning_content),
        MessageDelta(content=parsed.content),
        MessageDelta(tool_calls=calls),
    ]
    return [delta for delta in deltas if delta.reasoning_content or delta.content or delta.tool_calls]
