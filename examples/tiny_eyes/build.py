"""Build the base model: make it, show it pictures, write it in Hugging Face layout.

Plain torch, no trainer library. Deterministic: the same config on the same kind of machine gives the same files.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator
from itertools import chain, cycle, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import Qwen3VLForConditionalGeneration

from examples.pictures.drawing import draw
from examples.tiny_base.publishing import publish
from examples.tiny_base.tokenizer import save_tokenizer
from examples.tiny_eyes.architecture import make_model
from examples.tiny_eyes.chats import CHATS
from examples.tiny_eyes.corpus import TEXTBOOK, read_corpus
from examples.tiny_eyes.inputs import Eyes
from examples.tiny_eyes.measuring import measure
from examples.tiny_eyes.recipe import RECIPE_FILE, TinyEyesConfig, fingerprint, is_built
from examples.tiny_tools.labels import IGNORED, labels_of

# B batch, T tokens, V vocabulary

Say = Callable[[str], None]


def build_tiny_eyes(out: Path, config: TinyEyesConfig | None = None, say: Say = print) -> Path:
    """The folder `out` with the base model in it; returns at once when it is there already, from the same recipe.

    `out` appears whole or not at all. An older base of this kind at `out` is replaced, anything else is left alone:
    FileExistsError.
    """
    config = config or TinyEyesConfig()
    if is_built(out, config):
        say(f"{out}: already built")
        return out
    publish(out, RECIPE_FILE, lambda folder: _build_into(folder, config, say), lambda: is_built(out, config))
    return out


def _build_into(folder: Path, config: TinyEyesConfig, say: Say) -> None:
    started = time.monotonic()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    eyes = Eyes(config)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = make_model(config, eyes.tokenizer)
        say(f"base model: {model.num_parameters():,} weights, vocabulary {len(eyes.tokenizer)}")
        _school(model, eyes, config, say)
        figures = measure(model, eyes, config.seed)
    finally:
        torch.set_num_threads(threads_before)
    figures["seconds"] = round(time.monotonic() - started, 1)
    model.save_pretrained(folder)
    save_tokenizer(eyes.tokenizer, folder)
    eyes.save_picture_processor(folder)
    recipe = {"fingerprint": fingerprint(config), "config": dataclasses.asdict(config), "figures": figures}
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")
    say("base model ready: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))


def _school(model: Qwen3VLForConditionalGeneration, eyes: Eyes, config: TinyEyesConfig, say: Say) -> None:
    """Supervised next-token training on what was written under pictures: the textbook first, then the corpus."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, config.num_steps, pct_start=config.warmup_steps / config.num_steps
    )
    model.train()
    for step, (inputs, labels_BT) in enumerate(_batches(eyes, config), start=1):
        logits_BTV = model(**inputs).logits
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


def _batches(eyes: Eyes, config: TinyEyesConfig) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """What the model is called with, one form of chat a batch, and labels_BT at the positions of its tokens."""
    rng = random.Random(config.seed)
    textbook = islice(read_corpus(TEXTBOOK, rng), config.num_textbook_steps * config.batch_size)
    corpus = islice(read_corpus(config.corpus, rng), config.num_corpus_steps * config.batch_size)
    lines = chain(textbook, corpus)
    for form in cycle(CHATS):
        batch = list(islice(lines, config.batch_size))
        if not batch:
            return
        pictures = [draw(number, rng) for number, _ in batch]
        inputs = eyes.inputs(form, pictures, [answer for _, answer in batch])
        yield inputs, labels_of(eyes.tokenizer, inputs["input_ids"])
