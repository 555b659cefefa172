"""The base that calls a tool: games that follow the rules, in a form that samplers and vLLM read."""

from __future__ import annotations

import random
from itertools import islice
from statistics import fmean

import pytest
from transformers import PreTrainedTokenizerFast

from examples.guessing.game import HIGHEST, LOWEST, MAX_GUESSES, OVER, RIGHT, Game
from examples.tiny_tools.build import QUESTION, ids_of
from examples.tiny_tools.corpus import TEXTBOOK, PlayedGame, PlayerConfig, play, read_games
from examples.tiny_tools.measuring import CALL, TOOL
from examples.tiny_tools.tokenizer import build_tokenizer
from sampler.backends.vllm.parsers import ChatFormat, choose_parsers
from sampler.chat.call_forms import HERMES
from sampler.chat.reading import SymbolReader, joined
from sampler.chat.rendering import ChatRenderer
from sampler.vocabulary import Vocabulary
from wire.sampling import ParseOptions, RenderRequest

NUMBERS = range(LOWEST, HIGHEST + 1)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(2048)


def test_who_halves_what_is_left_finds_every_number_in_time():
    games = [play(secret, TEXTBOOK, random.Random(0)) for secret in NUMBERS]
    assert [Game(game.secret).score(game.answer) for game in games] == [1.0] * len(NUMBERS)
    assert max(len(game.guesses) for game in games) == MAX_GUESSES


def test_behind_the_last_guess_the_tool_says_no_more():
    game = Game(9)
    assert [game.guess(number) for number in (1, 12, 3, 11, 9)] == ["higher", "lower", "higher", "lower", OVER]
    assert Game(9).guess(9) == RIGHT


def test_the_corpus_is_right_about_three_times_in_ten():
    games = list(islice(read_games(PlayerConfig(), random.Random(0)), 2000))
    assert 0.2 < fmean(Game(game.secret).score(game.answer) for game in games) < 0.4
    with pytest.raises(ValueError, match="must add up to 1"):
        PlayerConfig(halving=0.5)


def test_calls_are_in_the_form_that_samplers_and_vllm_read(tokenizer: PreTrainedTokenizerFast):
    renderer = ChatRenderer(tokenizer)
    chat = ChatFormat(str(tokenizer.chat_template), "", "qwen3", tokenizer.get_vocab())
    assert renderer.calls.form == HERMES
    assert choose_parsers(None, None, chat).tool_call == "hermes"


def test_a_call_that_is_sampled_token_by_token_is_read(tokenizer: PreTrainedTokenizerFast):
    vocabulary, written = (
        Vocabulary(tokenizer),
        '<tool_call>\n{"name": "guess", "arguments": {"number": 12}}\n</tool_call>',
    )
    ids = tokenizer.encode(written, add_special_tokens=False)
    reader = SymbolReader(vocabulary, ChatRenderer(tokenizer).calls.form, [], ParseOptions(tools=[TOOL]))
    deltas = [delta for token in ids for delta in reader.read([token], tokenizer.decode([token]), ended=False)]
    message = joined([*deltas, *reader.read([], "", ended=True)])
    assert [(call.name, call.arguments) for call in message.tool_calls] == [("guess", '{"number": 12}')]
    assert CALL.fullmatch(written)
    assert len(ids) <= 10


def test_the_model_reads_in_training_what_a_sampler_renders(tokenizer: PreTrainedTokenizerFast):
    """The prompt of each turn, as the gateway continues it: the ids so far, and what is rendered behind them."""
    played = play(11, TEXTBOOK, random.Random(0))
    renderer, whole = ChatRenderer(tokenizer), ids_of(tokenizer, played)
    prompt = renderer.render(RenderRequest(messages=[QUESTION], tools=[TOOL])).token_ids
    for turn in range(0, len(played.messages), 2):
        assert whole[: len(prompt)] == prompt
        end = whole.index(tokenizer.eos_token_id, len(prompt)) + 1
        messages = [QUESTION, *played.messages[: turn + 2]]
        if turn + 1 < len(played.messages):
            continued = RenderRequest(
                messages=messages, tools=[TOOL], continued_ids=whole[:end], continued_messages=turn + 2
            )
            prompt = renderer.render(continued).token_ids
    assert len(whole) < 150


def test_a_game_without_a_guess_is_one_answer():
    assert PlayedGame(3, answer="?").messages == [{"role": "assistant", "content": "?"}]
