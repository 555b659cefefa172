"""A streamed answer is the same message as a whole one."""

from __future__ import annotations

from server.sampling.answers import Answer
from wire.sampling import CallDelta, GenerateEvent, MessageDelta, ParsedCall, ParsedMessage

WHOLE = GenerateEvent(
    finish_reason="stop",
    message=ParsedMessage(
        content="so",
        reasoning_content="hm, well",
        tool_calls=[ParsedCall(name="f", arguments='{"a": 1}'), ParsedCall(name="g", arguments="{}")],
    ),
)
PIECES = [
    GenerateEvent(deltas=[MessageDelta(reasoning_content="hm, ")]),
    GenerateEvent(deltas=[MessageDelta(reasoning_content="well"), MessageDelta(content="so")]),
    GenerateEvent(deltas=[MessageDelta(tool_calls=[CallDelta(index=0, name="f")])]),
    GenerateEvent(deltas=[MessageDelta(tool_calls=[CallDelta(index=0, arguments='{"a"')])]),
    GenerateEvent(deltas=[MessageDelta(tool_calls=[CallDelta(index=0, arguments=": 1}")])]),
    GenerateEvent(deltas=[MessageDelta(tool_calls=[CallDelta(index=1, name="g", arguments="{}")])]),
    GenerateEvent(finish_reason="stop"),
]


def answer_of(*events: GenerateEvent, single_call: bool = False) -> Answer:
    answer = Answer([1], single_call)
    for event in events:
        answer.add(event.model_copy(deep=True))
    return answer


def called(answer: Answer) -> list[tuple[str, str]]:
    calls = answer.as_message()["tool_calls"]
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def test_an_answer_in_pieces_is_the_message_of_the_whole_one():
    for answer in (answer_of(WHOLE), answer_of(*PIECES)):
        message = answer.as_message()
        assert list(message) == ["role", "content", "reasoning_content", "tool_calls"]
        assert (message["content"], message["reasoning_content"]) == ("so", "hm, well")
        assert called(answer) == [("f", '{"a": 1}'), ("g", "{}")]


def test_a_call_has_one_id_however_often_it_is_asked_for():
    answer = answer_of(*PIECES)
    first = answer.call_id(1)
    assert [call["id"] for call in answer.as_message()["tool_calls"]] == [answer.call_id(0), first]
    assert first != answer.call_id(0)


def test_of_several_calls_one_is_taken_where_there_may_be_no_more():
    for events in ([WHOLE], PIECES):
        assert called(answer_of(*events, single_call=True)) == [("f", '{"a": 1}')]


def test_an_empty_answer_has_no_content():
    assert answer_of(GenerateEvent(finish_reason="length")).as_message() == {"role": "assistant", "content": None}
