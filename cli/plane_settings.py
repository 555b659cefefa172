"""What commands that start planes take besides `cli.settings`; it imports parts of the planes."""

from __future__ import annotations

from typing import Annotated

import typer

from sampler.backends.vllm.settings import REASONING_PARSER, TOOL_CALL_PARSER
from sampler.settings import TENSOR_PARALLEL
from store.planes.promotion_policy import PromotionPolicy

ToolCallParser = Annotated[str | None, typer.Option(envvar=TOOL_CALL_PARSER.envvar, help=TOOL_CALL_PARSER.help)]
ReasoningParser = Annotated[str | None, typer.Option(envvar=REASONING_PARSER.envvar, help=REASONING_PARSER.help)]
SamplerTensorParallel = Annotated[int, typer.Option(envvar=TENSOR_PARALLEL.envvar, help=TENSOR_PARALLEL.help, min=1)]

Promotion = Annotated[
    PromotionPolicy,
    typer.Option(
        envvar="HEADWAY_PROMOTION",
        help="Live samplers that must hold a checkpoint before the head moves: one, quorum (most) or all",
    ),
]
