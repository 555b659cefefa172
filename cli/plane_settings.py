"""What commands that start planes take besides `cli.settings`; it imports parts of the planes."""

from __future__ import annotations

from typing import Annotated

import typer

from sampler.backends.vllm.settings import REASONING_PARSER, TOOL_CALL_PARSER
from sampler.settings import TENSOR_PARALLEL
from server.process.default_lora import LORA_ALPHA, LORA_RANK, LORA_TARGETS
from store.planes.promotion_policy import PromotionPolicy
from wire.lora import MAX_LORA_ALPHA, MAX_LORA_RANK

ToolCallParser = Annotated[str | None, typer.Option(envvar=TOOL_CALL_PARSER.envvar, help=TOOL_CALL_PARSER.help)]
ReasoningParser = Annotated[str | None, typer.Option(envvar=REASONING_PARSER.envvar, help=REASONING_PARSER.help)]
SamplerTensorParallel = Annotated[int, typer.Option(envvar=TENSOR_PARALLEL.envvar, help=TENSOR_PARALLEL.help, min=1)]
LoraRank = Annotated[int, typer.Option(envvar=LORA_RANK.envvar, help=LORA_RANK.help, min=1, max=MAX_LORA_RANK)]
LoraAlpha = Annotated[int, typer.Option(envvar=LORA_ALPHA.envvar, help=LORA_ALPHA.help, min=1, max=MAX_LORA_ALPHA)]
LoraTargets = Annotated[str, typer.Option(envvar=LORA_TARGETS.envvar, help=LORA_TARGETS.help)]

Promotion = Annotated[
    PromotionPolicy,
    typer.Option(
        envvar="HEADWAY_PROMOTION",
        help="Live samplers that must hold a checkpoint before the head moves: one, quorum (most) or all",
    ),
]
