"""Many adapters in one batch: each adds its low-rank update to its own slice of the packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sampler.backends.local.adapter_files import Adapter

# An adapter, and the packed rows [start, stop) that it owns.
RowSlice = tuple[Adapter, int, int]


class LoraHooks:
    """Hooks on every linear layer of a model's text part, and on its head. Call `route` before each forward; without
    slices nothing is added."""

    def __init__(self, model: nn.Module, text_part: nn.Module, head: nn.Module | None) -> None:
        adapted = {id(module) for module in (*text_part.modules(), head)}
        linears = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
        self.linears = {path: linear for path, linear in linears.items() if id(linear) in adapted}
        self._token_rows: Sequence[RowSlice] = ()
        self._logit_rows: Sequence[RowSlice] = ()
        self._num_tokens = self._num_logits = 0
        for path, linear in self.linears.items():
            # The head sees one row a sequence, everything else one row a token.
            linear.register_forward_hook(self._hook(path, of_logits=linear is head))

    def route(
        self, token_rows: Sequence[RowSlice], logit_rows: Sequence[RowSlice], num_tokens: int, num_logits: int
    ) -> None:
        """Say whose rows the next forward packs. Zero adapters are left out."""
        self._token_rows, self._logit_rows = token_rows, logit_rows
        self._num_tokens, self._num_logits = num_tokens, num_logits

    def _hook(self, path: str, *, of_logits: bool) -> Any:
        def add_updates(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            rows = self._logit_rows if of_logits else self._token_rows
            if not rows:
                return
            packed, updated = args[0].flatten(0, -2), output.flatten(0, -2)
            assert packed.shape[0] == (self._num_logits if of_logits else self._num_tokens), f"{path} is not packed"
            for adapter, start, stop in rows:
                pair = adapter.pairs.get(path)
                if pair is None:
                    continue
                # float32 as PEFT computes it, whatever the base's dtype.
                update = packed[start:stop].to(pair.a_Ir.dtype) @ pair.a_Ir @ pair.b_rO
                updated[start:stop] += update.to(output.dtype)

        return add_updates
