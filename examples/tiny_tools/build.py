"""Build the base model: make it, have it read games, write it in Hugging Face layout.

Plain torch, no trainer library. Deterministic: the same config on the same kind of machine gives the same files.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from examples.guessing.game import PROMPT
from examples.tiny_base.architecture import make_model
from examples.tiny_base.publishing import publish
from examples.tiny_base.tokenizer import save_tokenizer
from examples.tiny_tools.corpus import TEXTBOOK, PlayedGame, read_games
from examples.tiny_tools.labels import IGNORED, labels_of
from examples.tiny_tools.measuring import TOOL, mean_reward
from examples.tiny_tools.recipe import RECIPE_FILE, TinyToolsConfig, fingerprint, is_built
from examples.tiny_tools.tokenizer import build_tokenizer

# B batch, T tokens, V vocabulary

QUESTION: dict[str, Any] = {"role": "user", "content": PROMPT}
Say = Callable[[str], None]


def build_tiny_tools(out: Path, config: TinyToolsConfig | None = None, say: Say = print) -> Path:
    """The folder `out` with the base model in it; returns at once when it is there already, from the same recipe.

    `out` appears whole or not at all. An older base of this kind at `out` is replaced, anything else is left alone:
    FileExistsError.
    """
    config = config or TinyToolsConfig()
    if is_built(out, config):
        say(f"{out}: already built")
        return out
    publish(out, RECIPE_FILE, lambda folder: _build_into(folder, config, say), lambda: is_built(out, config))
    return out


def _build_into(folder: Path, config: TinyToolsConfig, say: Say) -> None:
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
            figures = {
                "sampled_reward": mean_reward(model, tokenizer, PROMPT, games=8, greedy=False),
                "greedy_reward": mean_reward(model, tokenizer, PROMPT, games=1, greedy=True),
            }
    finally:
        torch.set_num_threads(threads_before)
    figures["seconds"] = round(time.monotonic() - started, 1)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    recipe = {"fingerprint": fingerprint(config), "config": dataclasses.asdict(config), "figures": figures}
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")
    say("base model ready: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))


def _school(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, config: TinyToolsConfig, say: Say) -> None:
    """Supervised next-token training on what players wrote: the textbook first, then the corpus."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, config.num_steps, pct_start=config.warmup_steps / config.num_steps
    )
    model.train()
    for step, (input_BT, labels_BT) in enumerate(_batches(tokenizer, config), start=1):
        logits_BTV = model(input_ids=input_BT).logits
        loss = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == config.num_steps:
            book = "textbook" if step <= config.num_textbook_steps else "corpus"
            say(f"reading the {book}: step {step}/{config.num_steps}, loss {loss.item():.3f}")
    model.eval()


def _batches(
    tokenizer: PreTrainedTokenizerFast, config: TinyToolsConfig
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """input_BT, and labels_BT at the same positions: what players wrote. Padded on the right."""
    rng = random.Random(config.seed)
    textbook = islice(read_games(TEXTBOOK, rng), config.num_textbook_steps * config.batch_size)
    corpus = islice(read_games(config.corpus, rng), config.num_corpus_steps * config.batch_size)
    games = chain(textbook, corpus)
    while batch := list(islice(games, config.batch_size)):
        rows = [torch.tensor(ids_of(tokenizer, played)) for played in batch]
        input_BT = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        yield input_BT, labels_of(tokenizer, input_BT)


def ids_of(tokenizer: PreTrainedTokenizerFast, played: PlayedGame) -> list[int]:
    """A whole game as the chat template writes it, up to the end of the last answer."""
    text = tokenizer.apply_chat_template([QUESTION, *played.messages], tools=[TOOL], tokenize=False)
    return tokenizer.encode(str(text).removesuffix("\n"), add_special_tokens=False)
