"""Settings of a sampler process, with the options that give them. Importing this imports no backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from wire.process.exits import DRAIN_S
from wire.process.options import Option
from wire.process.product_dtype import PRODUCTS, ProductDtype
from wire.process.tls_settings import TlsSettings

LINGER_S = 60.0

TENSOR_PARALLEL = Option(
    "With vLLM: GPUs over which it splits each layer of the base", "HEADWAY_SAMPLER_TENSOR_PARALLEL", minimum=1
)


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """Where things are, which base to serve, and how. backend_options: what the backend alone understands."""

    database_url: str
    base_slug: str
    checkpoint_store_url: str
    token: str
    host: Annotated[str, Option("Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Option("Port to listen on; 0: any free one", minimum=0, maximum=65535)] = 0
    advertise: Annotated[str | None, Option("URL under which the gateway reaches this sampler")] = None
    backend: Annotated[str, Option("Backend that generates: local or vllm")] = "local"
    seed: Annotated[int | None, Option("Seed of requests that have none, which makes them reproducible")] = None
    threads: Annotated[int, Option("CPU threads for torch; 0: one for a tiny base, else one a core", minimum=0)] = 0
    tensor_parallel: Annotated[int, TENSOR_PARALLEL] = 1
    products: Annotated[ProductDtype, PRODUCTS] = ProductDtype.FLOAT32
    backend_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    linger_s: Annotated[
        float,
        Option(
            "Seconds for which an adapter that is not served any more stays loaded",
            "HEADWAY_SAMPLER_LINGER_S",
            minimum=0.0,
        ),
    ] = LINGER_S
    metrics_token: str | None = None
    token_file: Path | None = None
    metrics_token_file: Path | None = None
    """Read in place of the tokens (`wire.process.tokens`)."""
    tls: TlsSettings = field(default_factory=TlsSettings)
    drain_s: Annotated[
        float,
        Option("Seconds after SIGTERM in which requests under way may end", "HEADWAY_DRAIN_S", "--drain", minimum=0.0),
    ] = DRAIN_S
