"""docs/losses.md, from docstrings and defaults: `python -m trainer.engine.losses.reference` writes it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping

from trainer.engine.losses import LOSSES, Loss, LossOptions

_INTRODUCTION = """\
# Losses

Written by `make docs` from the docstrings in `trainer/engine/losses/`; change those, not this file.

A loss is named by `loss_fn` and tuned by `loss_fn_config`, a mapping of keys to floats:

```python
await trainer.forward_backward(runs, group_size=8, loss_fn="ppo", loss_fn_config={"epsilon": 0.1})
```

In the formulas, for each action token (a token that the policy sampled) t:

- π_t is its logprob under the current policy, q_t the one its sampler reported, in nats;
- r_t = exp(π_t − q_t) is the importance ratio;
- A_t is the advantage of its trajectory: `reward_scale` · (reward − group mean);
- sg(x) is x without a gradient.

C is minimised. It is a **sum** over the action tokens of all datums, never a mean, unless an
[option](#options-of-every-loss) says else; `loss:sum` reports it. A datum is one sequence: the turns of a trajectory
that extend one another. How a call is split into micro-batches or `num_substeps` changes rounding only.
"""

_CHOOSING_A_LEARNING_RATE = """\
## Choosing a learning rate

Adapters here are LoRA on all linear layers, attention and MLP alike. "LoRA Without Regret" (Thinking Machines, 2025)
found that this is where LoRA keeps up with full fine-tuning, that its best learning rate is about 10 times that of
full fine-tuning, and that for reinforcement learning the rank barely matters, down to 1: a reward carries few bits.
So do not raise the rank to learn faster, and do not copy a rate from a full fine-tuning recipe.

For reinforcement learning with the defaults (rank 16, alpha 32, AdamW) start between 1e-5 and 1e-4. AdamW divides
the scale of the gradient out, so a sum in place of a mean asks for no other rate. The scale matters only where
gradients meet a bound (a clipped norm, AdamW's `eps`) or each other (several calls before one step). Then look at:

- `grad_norm`: it should drift, not jump. A jump after a step means that the rate is too high; a norm near 0 that the
  groups have no spread (`groups_without_spread`) or that everything is clipped (`clip_fraction:mean`).
- `kl_sampling_trainer:mean`: on policy it is near 0 and shows only how far the sampler's numerics are from the
  trainer's. If it grows from step to step, the policy moves faster than it is sampled anew: lower the rate, or take
  fewer steps on each batch.
- `ratio:max`: on policy close to 1. Values far above say that single tokens dominate an unclipped loss; choose a loss
  that bounds them (`cispo`, `truncated_importance_sampling`), or lower the rate.
"""


def render() -> str:
    """The whole of docs/losses.md."""
    sections = [_section(name, loss) for name, loss in LOSSES.items()]
    return "\n".join([_INTRODUCTION, _overview(), *sections, _options(), _CHOOSING_A_LEARNING_RATE])


def _overview() -> str:
    rows = [f"| [`{name}`](#{name}) | {_first_line(loss)} |" for name, loss in LOSSES.items()]
    return "\n".join(["| name | what it is |", "| --- | --- |", *rows, ""])


def _section(name: str, loss: type[Loss]) -> str:
    return "\n".join([f"## {name}", "", _first_line(loss), "", _docstring(loss), "", _keys(loss.defaults()), ""])


def _options() -> str:
    options = [_docstring(LossOptions), "", _keys(LossOptions.defaults()), ""]
    return "\n".join(["## Options of every loss", "", "Further keys of `loss_fn_config`.", "", *options])


def _keys(defaults: Mapping[str, float | None]) -> str:
    if not defaults:
        return "No keys of its own."
    rows = [f"| `{key}` | {'not set' if value is None else f'{value:g}'} |" for key, value in defaults.items()]
    return "\n".join(["| key | default |", "| --- | --- |", *rows])


def _first_line(loss: type[Loss]) -> str:
    return _docstring(sys.modules[loss.__module__]).splitlines()[0]


def _docstring(of: object) -> str:
    text = inspect.getdoc(of)
    assert text, f"{of} says nothing of itself"
    return text


if __name__ == "__main__":
    sys.stdout.write(render())
