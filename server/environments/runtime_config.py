"""What a task or a deployment asks of the machine. There are no containers here: what needs one is refused by name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError

from server.values.closed_requests import Closed
from server.values.validation_messages import first_problem
from wire.errors import InvalidRequest

_Positive = Annotated[float, Field(gt=0, le=1e9)]
_OUR_SYSTEMS = frozenset({"linux"})


class Gpu(Closed):
    """Accelerators."""

    type: str | list[str] | None = None
    count: int | None = None


class Tpu(Closed):
    """Of Google."""

    type: str | None = None
    topology: str | None = None


class Resources(Closed):
    """Caps on what an environment takes."""

    cpu: _Positive | None = None
    memory_mb: _Positive | None = None
    storage_mb: _Positive | None = None
    gpu: Gpu | None = None
    os: str | None = None
    tpu: Tpu | None = None


class RuntimeLimits(Closed):
    """Timeouts."""

    startup_timeout_s: _Positive | None = None
    run_timeout_s: _Positive | None = None


class RuntimeConfig(Closed):
    """The field `runtime_config` of HUD's API."""

    image: str | None = None
    compose: Any = None
    resources: Resources | None = None
    limits: RuntimeLimits | None = None


def check_runtime_config(value: Any) -> dict[str, Any] | None:
    """What of it was set. Raises InvalidRequest, naming the field, for what this service cannot do."""
    if value is None:
        return None
    try:
        config = RuntimeConfig.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest(f"runtime_config: {first_problem(error.errors())}", param="runtime_config") from None
    resources = config.resources or Resources()
    needs = {"image": config.image, "compose": config.compose}
    needs |= {"resources.gpu": resources.gpu, "resources.tpu": resources.tpu}
    for field, wanted in needs.items():
        if wanted is not None:
            raise InvalidRequest(
                f"runtime_config.{field} cannot be had: environments run as processes of this box, not in containers "
                "of their own; leave it out",
                param=f"runtime_config.{field}",
            )
    if resources.os is not None and resources.os.lower() not in _OUR_SYSTEMS:
        raise InvalidRequest(
            f"runtime_config.resources.os cannot be {resources.os[:50]!r}: environments run on Linux; leave it out",
            param="runtime_config.resources.os",
        )
    return config.model_dump(exclude_none=True) or None
