"""What decides this base model: its config and the code that makes it. Light to import, so that a model that is already
there is found at once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from examples.pictures import drawing
from examples.tiny_eyes.corpus import CorpusConfig

RECIPE_FILE = "recipe.json"


@dataclass(frozen=True, slots=True)
class TinyEyesConfig:
    """Shape and schooling. One thread: two of them wait for each other when the cores are shared."""

    seed: int = 0
    num_layers: int = 2
    hidden_size: int = 128
    intermediate_size: int = 256
    num_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    context_length: int = 2048
    tower_layers: int = 2
    tower_hidden_size: int = 64
    tower_intermediate_size: int = 128
    tower_heads: int = 4
    patch_size: int = 8  # pixels
    merge_size: int = 2  # patches: a token of a picture is 16 × 16 pixels
    max_picture_tokens: int = 256
    num_textbook_steps: int = 400
    num_corpus_steps: int = 160
    batch_size: int = 64
    learning_rate: float = 3e-3
    warmup_steps: int = 40
    num_threads: int = 1
    corpus: CorpusConfig = field(default_factory=CorpusConfig)

    @property
    def num_steps(self) -> int:
        return self.num_textbook_steps + self.num_corpus_steps


def fingerprint(config: TinyEyesConfig) -> str:
    """Changes with the config and with every source file that the weights depend on."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    here = Path(__file__).parent
    shared = [here.parent / folder / "tokenizer.py" for folder in ("tiny_base", "tiny_tools")]
    for source in sorted([*here.glob("*.py"), *here.glob("*.jinja"), *shared, Path(drawing.__file__)]):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def is_built(out: Path, config: TinyEyesConfig) -> bool:
    """Whether `out` holds exactly the model that this config makes."""
    recipe = out / RECIPE_FILE
    return recipe.is_file() and json.loads(recipe.read_text()).get("fingerprint") == fingerprint(config)
