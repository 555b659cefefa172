"""How well a model plays: games against the rules themselves, without a server."""

from __future__ import annotations

import re

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from examples.guessing.game import HIGHEST, LOWEST, MAX_GUESSES, Game

# B games, T tokens

MAX_TOKENS = 16  # a call takes nine and the end of the turn
CALL = re.compile(r'<tool_call>\n\{"name": "guess", "arguments": \{"number": (-?\d+)\}\}\n</tool_call>')
TOOL = {
    "type": "function",
    "function": {
        "name": "guess",
        "description": "Guess.",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
}


@torch.inference_mode()
def mean_reward(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, question: str, *, games: int, greedy: bool
) -> float:
    """Mean reward over this many games of each number, sampled at temperature 1 or greedily."""
    secrets = [secret for secret in range(LOWEST, HIGHEST + 1) for _ in range(games)]
    playing = [(Game(secret), [{"role": "user", "content": question}]) for secret in secrets]
    total, num_games = 0.0, len(playing)
    for _ in range(MAX_GUESSES + 2):
        answers = _answers(model, tokenizer, [messages for _, messages in playing], greedy)
        going_on: list[tuple[Game, list[dict[str, str]]]] = []
        for (game, messages), answer in zip(playing, answers, strict=True):
            if called := CALL.fullmatch(answer):
                said = {"role": "tool", "content": game.guess(int(called[1]))}
                going_on.append((game, [*messages, {"role": "assistant", "content": answer}, said]))
            else:
                total += game.score(answer)
        playing = going_on
        if not playing:
            break
    return total / num_games


def _answers(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    chats: list[list[dict[str, str]]],
    greedy: bool,
) -> list[str]:
    texts = tokenizer.apply_chat_template(chats, tools=[TOOL], add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    sampled_BT = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        **({} if greedy else {"do_sample": True, "top_k": 0}),
    )
    answers_BT = sampled_BT[:, inputs["input_ids"].shape[1] :]
    return [tokenizer.decode(row).partition(tokenizer.eos_token)[0] for row in answers_BT.tolist()]
