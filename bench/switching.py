"""What it costs to go from one model of a base to another, by where the other one was.

Models of one LoRA shape share the layers: a resident one is switched to by pointing them at its buffer. One that was
parked is read back first, with its gradient and moments, while the one before it leaves. Beside that stands what PEFT
offers, which brings weights only. `python -m bench.switching`; prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import peft
import structlog
import torch
from peft import set_peft_model_state_dict
from transformers import LlamaConfig, LlamaForCausalLM

from bench.figures import write_figures
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings, TrainingEngine
from wire.engine import LoraConfig

LORA = LoraConfig(rank=16)
MODELS = UUID(int=1), UUID(int=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--switches", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

    def model() -> LlamaForCausalLM:
        return _model(options.hidden, options.layers).to(options.device)

    with tempfile.TemporaryDirectory() as folder:
        unlimited = EngineSettings(threads=1)
        on_host = EngineSettings(threads=1, max_resident_bytes=1)
        on_disk = EngineSettings(threads=1, max_resident_bytes=1, max_host_bytes=0, spill_root=Path(folder))
        switches = {
            "resident": _switch(TrainingEngine(BaseModel(model()), unlimited)),
            **({"from host": _switch(TrainingEngine(BaseModel(model()), on_host))} if options.device != "cpu" else {}),
            "from disk": _switch(TrainingEngine(BaseModel(model()), on_disk)),
            "set_peft_model_state_dict": _peft_switch(model()),
        }
        _report({name: _measure(switch, options) for name, switch in switches.items()}, options)


def _model(hidden: int, layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    return LlamaForCausalLM(config)


def _switch(engine: TrainingEngine) -> Callable[[UUID], None]:
    for model in MODELS:
        engine.open(model, LORA, None, None)

    def switch(model: UUID) -> None:
        assert engine.holds(model)
        engine._base.bind(engine._sessions.get(model))

    return switch


def _peft_switch(base: LlamaForCausalLM) -> Callable[[UUID], None]:
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=targets, task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(base, config)
    state = {name: tensor.clone() for name, tensor in peft.get_peft_model_state_dict(wrapped).items()}
    states = {model: {name: tensor + i for name, tensor in state.items()} for i, model in enumerate(MODELS)}
    return lambda model: set_peft_model_state_dict(wrapped, states[model])


def _measure(switch: Callable[[UUID], None], options: argparse.Namespace) -> list[float]:
    """Milliseconds of each switch, the first few left out."""
    measured = []
    for model in itertools.islice(itertools.cycle(MODELS), options.switches + 4):
        started = time.perf_counter()
        switch(model)
        if options.device != "cpu":
            torch.cuda.synchronize()
        measured.append((time.perf_counter() - started) * 1e3)
    return measured[4:]


def _report(measured: dict[str, list[float]], options: argparse.Namespace) -> None:
    layout = BaseModel(_model(options.hidden, options.layers)).adapter(LORA).layout
    figures = {
        name: {"median_ms": round(statistics.median(ms), 3), "p90_ms": round(statistics.quantiles(ms, n=10)[-1], 3)}
        for name, ms in measured.items()
    }
    size_mib = layout.num_parameters * 4 / 2**20
    print(f"rank {LORA.rank} on {options.layers} layers of {options.hidden}: weights {size_mib:.1f} MiB, session ×4")
    print(f"{'switch to a model that is':28}{'median ms':>10}{'p90 ms':>10}")
    for name, row in figures.items():
        print(f"{name:28}{row['median_ms']:>10}{row['p90_ms']:>10}")
    about = {"device": options.device, "lora_parameters": layout.num_parameters, "switches": options.switches}
    write_figures("switching", {**about, **figures})


if __name__ == "__main__":
    main()
