"""The README of an adapter that is taken home: where it comes from, what it scored, how to load it.

Everything that people wrote is quoted: in the header as JSON strings, which YAML reads, in tables without their marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from server.catalog.bases import is_at_hub, public_name
from server.catalog.lora import lora_of
from store.tables import CheckpointRow, EvalRow, ModelRow

_FIGURES = ("mean_reward", "num_traces", "num_datums", "num_tokens", "learning_rate")
_OF_THE_MACHINE = re.compile(
    r"seconds|threads|tokens_per_s|micro_batches|max_tokens_per_pass|sharing_ratio|tokens_.*:sum"
)
"""Metrics of how a step was computed, and not of what it learned."""
_MARKS = str.maketrans({"|": "\\|", "\n": " ", "\r": " ", "<": "&lt;", "`": "'"})

_LOADING = """\
## Load it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, ".")
tokenizer = AutoTokenizer.from_pretrained({base})
```
"""


@dataclass(frozen=True, slots=True)
class Card:
    """What it says. `weights_sha256`: of `adapter_model.safetensors`."""

    model: ModelRow
    base: ModelRow
    checkpoint: CheckpointRow
    scores: Sequence[EvalRow]
    weights_sha256: str | None

    def text(self) -> str:
        """The same for the same checkpoint and scores."""
        return "\n".join([*self._header(), *self._facts(), *self._metrics(), *self._scores(), *self._loading()])

    def _header(self) -> Iterator[str]:
        yield from ("---", "library_name: peft")
        if is_at_hub(self.base):
            yield f"base_model: {json.dumps(public_name(self.base))}"
        yield from ("tags:", "- lora", "- headway", *(f"- {json.dumps(tag)}" for tag in self.model.tags), "---", "")

    def _facts(self) -> Iterator[str]:
        model, checkpoint, lora = self.model, self.checkpoint, lora_of(self.model)
        yield from (f"# {_cell(model.slug)}", "")
        if model.description:
            yield from (_cell(model.description), "")
        yield f"A LoRA adapter that Headway trained on {_cell(public_name(self.base))}."
        yield from ("", "| | |", "| --- | --- |")
        yield from _row("checkpoint", f"{checkpoint.name} ({checkpoint.id})")
        yield from _row("step", checkpoint.step)
        yield from _row("made", checkpoint.committed_at and f"{checkpoint.committed_at:%Y-%m-%d %H:%M:%S} UTC")
        yield from _row("base", public_name(self.base))
        yield from _row("LoRA", f"{lora.sentence}, seed {lora.init_seed}")
        yield from _row("loss", checkpoint.loss_fn)
        yield from _row("SHA-256 of adapter_model.safetensors", self.weights_sha256)
        yield ""

    def _metrics(self) -> Iterator[str]:
        found: dict[str, Any] = {name: getattr(self.checkpoint, name) for name in _FIGURES}
        for name, value in sorted(self.checkpoint.metrics.items()):
            if isinstance(value, int | float) and not _OF_THE_MACHINE.match(name):
                found[name] = value
        rows = [row for name, value in found.items() for row in _row(name, value)]
        if rows:
            yield from ("## The step that made it", "", "| metric | value |", "| --- | --- |", *rows, "")

    def _scores(self) -> Iterator[str]:
        if self.scores:
            yield from ("## Held-out scores", "", "| benchmark | score |", "| --- | --- |")
            for score in self.scores:
                yield from _row(score.benchmark, score.score)
            yield ""

    def _loading(self) -> Iterator[str]:
        name = public_name(self.base)
        yield _LOADING.format(base=json.dumps(name if is_at_hub(self.base) else f"/path/to/{name}"))


def _row(name: str, value: Any) -> Iterator[str]:
    if value is not None and value != "":
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        yield f"| {_cell(name)} | {_cell(shown)} |"


def _cell(text: str) -> str:
    return text.translate(_MARKS)
