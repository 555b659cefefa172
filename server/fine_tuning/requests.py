"""What a fine-tuning job is asked to do. A field that is unknown or would have no effect is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from server.values.closed_requests import Closed
from wire.bounded import FEW_ENTRIES
from wire.graders.shapes import Grader

_AUTO: Literal["auto"] = "auto"
Count = Annotated[int, Field(ge=1, le=100_000)]
Multiplier = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Effort = Literal["default", "low", "medium", "high"]

MAX_METADATA = 16
_Key = Annotated[str, Field(max_length=64)]
_Value = Annotated[str, Field(max_length=512)]
_NOT_OFFERED = ("dpo",)


class SupervisedHyperparameters(Closed):
    """Of a job that imitates. `batch_size`: examples of a step."""

    n_epochs: Count | Literal["auto"] = _AUTO
    batch_size: Count | Literal["auto"] = _AUTO
    learning_rate_multiplier: Multiplier | Literal["auto"] = _AUTO


class ReinforcementHyperparameters(SupervisedHyperparameters):
    """Of a job that reinforces. `batch_size`: tasks of a step. `compute_multiplier`: of the rollouts of a task.
    `eval_interval`: steps between evaluations of the validation file. `eval_samples`: rollouts of each of its tasks.
    `reasoning_effort`: how long answers may be."""

    compute_multiplier: Multiplier | Literal["auto"] = _AUTO
    eval_interval: Count | Literal["auto"] = _AUTO
    eval_samples: Count | Literal["auto"] = _AUTO
    reasoning_effort: Effort = "default"


class Supervised(Closed):
    """Imitates the assistant's messages of the file."""

    hyperparameters: SupervisedHyperparameters = Field(default_factory=SupervisedHyperparameters)

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _null(cls, value: Any) -> Any:
        return {} if value is None else value


class Reinforcement(Closed):
    """Answers, is graded, and is trained towards what was graded better."""

    grader: Grader
    hyperparameters: ReinforcementHyperparameters = Field(default_factory=ReinforcementHyperparameters)

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _null(cls, value: Any) -> Any:
        return {} if value is None else value


class Method(Closed):
    """One of the methods, and its settings under its own name."""

    type: Literal["supervised", "reinforcement"]
    supervised: Supervised | None = None
    reinforcement: Reinforcement | None = None

    @field_validator("type", mode="before")
    @classmethod
    def _offered(cls, value: Any) -> Any:
        if value in _NOT_OFFERED:
            raise ValueError(f"{value!r} is not offered here; use 'supervised' or 'reinforcement'")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Method:
        if self.type == "supervised":
            if self.reinforcement is not None:
                raise ValueError("reinforcement: is for the method 'reinforcement' alone; leave it out")
            self.supervised = self.supervised or Supervised()
            return self
        if self.supervised is not None:
            raise ValueError("supervised: is for the method 'supervised' alone; leave it out")
        if self.reinforcement is None:
            raise ValueError("reinforcement is missing: it holds the grader")
        return self


class JobRequest(Closed):
    """A job to be made. Without a method it is supervised; `hyperparameters` beside it is the older place for those of
    such a job."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    training_file: Annotated[str, Field(max_length=200)]
    validation_file: Annotated[str, Field(max_length=200)] | None = None
    method: Method | None = None
    hyperparameters: SupervisedHyperparameters | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: Annotated[dict[_Key, _Value], FEW_ENTRIES] | None = None
    integrations: list[Any] | None = None

    @field_validator("integrations")
    @classmethod
    def _none(cls, value: list[Any] | None) -> None:
        if value:
            raise ValueError("are not offered here: metrics are mirrored by the service (docs/monitoring.md)")

    @field_validator("metadata")
    @classmethod
    def _few(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if value is not None and len(value) > MAX_METADATA:
            raise ValueError(f"may have {MAX_METADATA} keys")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> JobRequest:
        if self.hyperparameters is not None and self.method is not None:
            raise ValueError("hyperparameters: stand under the method; leave them out beside it")
        return self

    @property
    def chosen(self) -> Method:
        """The method, with what the older place says."""
        if self.method is not None:
            return self.method
        hyperparameters = self.hyperparameters or SupervisedHyperparameters()
        return Method(type="supervised", supervised=Supervised(hyperparameters=hyperparameters))
