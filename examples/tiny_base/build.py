"""Build the base model: make it, school it, write it in Hugging Face layout.

Plain torch, no trainer library. Deterministic: the same config on the same kind of machine gives the same files.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from examples.arithmetic.problems import Problem, score, split_problems
from examples.tiny_base.architecture import make_model
from examples.tiny_base.corpus import TEXTBOOK, read_corpus
from examples.tiny_base.publishing import publish
from examples.tiny_base.recipe import RECIPE_FILE, TinyBaseConfig, fingerprint, is_built
from examples.tiny_base.tokenizer import build_tokenizer, save_tokenizer

# B batch, T tokens, A answer tokens, V vocabulary

LONGEST_ANSWER = 3  # tokens: two digits and the end of the turn
IGNORED = -100  # label of a token that is not learned
Say = Callable[[str], None]


def build_tiny_base(out: Path, config: TinyBaseConfig | None = None, say: Say = print) -> Path:
    """The folder `out` with the base model in it; returns at once when it is there already, from the same recipe.

    `out` appears whole or not at all: it is built beside and renamed. An older tiny base at `out` is replaced,
    anything else is left alone: FileExistsError.
    """
    config = config or TinyBaseConfig()
    if is_built(out, config):
        say(f"{out}: already built")
        return out
    publish(out, RECIPE_FILE, lambda folder: _build_into(folder, config, say), lambda: is_built(out, config))
    return out


def _build_into(folder: Path, config: TinyBaseConfig, say: Say) -> None:
    started = time.monotonic()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            tokenizer = build_tokenizer(config.context_length)
            model = make_model(config, tokenizer)
        say(f"base model: {model.num_parameters():,} weights, vocabulary {len(tokenizer)}")
        _school(model, tokenizer, config, say)
        figures = measure(model, tokenizer, config.seed)
    finally:
        torch.set_num_threads(threads_before)
    figures["seconds"] = round(time.monotonic() - started, 1)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    recipe = {"fingerprint": fingerprint(config), "config": dataclasses.asdict(config), "figures": figures}
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")
    say("base model ready: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))


def _school(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, config: TinyBaseConfig, say: Say) -> None:
    """Supervised next-token training: the textbook first, then the corpus."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, config.num_steps, pct_start=config.warmup_steps / config.num_steps
    )
    model.train()
    for step, (input_BT, labels_BA) in enumerate(_batches(tokenizer, config), start=1):
        logits_BAV = model(input_ids=input_BT, logits_to_keep=LONGEST_ANSWER).logits
        loss = F.cross_entropy(logits_BAV.flatten(0, 1), labels_BA.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == config.num_steps:
            book = "textbook" if step <= config.num_textbook_steps else "corpus"
            say(f"reading the {book}: step {step}/{config.num_steps}, loss {loss.item():.3f}")
    model.eval()


def _batches(tokenizer: PreTrainedTokenizerFast, config: TinyBaseConfig) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """input_BT (its last A positions predict the answer) and labels_BA. Short answers are padded on the right."""
    # A chat template takes longer to render than the model takes to read the row.
    prompt_of = functools.cache(functools.partial(prompt_ids, tokenizer))
    rng = random.Random(config.seed)
    textbook = islice(read_corpus(TEXTBOOK, rng), config.num_textbook_steps * config.batch_size)
    corpus = islice(read_corpus(config.corpus, rng), config.num_corpus_steps * config.batch_size)
    lines = chain(textbook, corpus)
    while batch := list(islice(lines, config.batch_size)):
        rows: list[list[int]] = []
        labels: list[list[int]] = []
        for problem, answer in batch:
            written = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
            padding = LONGEST_ANSWER - len(written)
            rows.append((prompt_of(problem) + written + [tokenizer.pad_token_id] * padding)[:-1])
            labels.append(written + [IGNORED] * padding)
        yield torch.tensor(rows), torch.tensor(labels)


def prompt_ids(tokenizer: PreTrainedTokenizerFast, problem: Problem) -> list[int]:
    """A problem as a user's message, ready for the assistant to answer."""
    messages = [{"role": "user", "content": problem.prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)


@torch.inference_mode()
def measure(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> dict[str, float]:
    """Mean reward at temperature 1, and of the most likely answer, one answer a problem."""
    training, held_out = split_problems()
    generator = torch.Generator().manual_seed(seed)
    return {
        "sampled_reward": _mean_reward(model, tokenizer, training, generator),
        "held_out_sampled_reward": _mean_reward(model, tokenizer, held_out, generator),
        "held_out_greedy_reward": _mean_reward(model, tokenizer, held_out, None),
    }


def _mean_reward(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[Problem],
    generator: torch.Generator | None,
) -> float:
    input_BT = torch.tensor([prompt_ids(tokenizer, problem) for problem in problems])
    prompt_length = input_BT.shape[1]
    for _ in range(LONGEST_ANSWER):
        logits_BV = model(input_ids=input_BT, logits_to_keep=1).logits[:, -1]
        if generator is None:
            next_B1 = logits_BV.argmax(-1, keepdim=True)
        else:
            next_B1 = torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)
        input_BT = torch.cat([input_BT, next_B1], dim=1)
    answers = [_before_end(tokenizer, row) for row in input_BT[:, prompt_length:].tolist()]
    return sum(map(score, problems, answers)) / len(problems)


def _before_end(tokenizer: PreTrainedTokenizerFast, row: list[int]) -> str:
    end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
    return tokenizer.decode(row[:end])
