"""The shapes of graders. A field that is unknown, or that asks for what is not offered, is refused by its name."""

from __future__ import annotations

import ast
from typing import Annotated, Any, Literal, TypeAlias, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from wire.bounded import FEW_ENTRIES
from wire.graders.formulas import Formula
from wire.graders.templates import Template

MAX_SOURCE_BYTES = 256 * 1024
MAX_GRADERS = 32
_NOT_OFFERED = {
    "cosine": "it compares embeddings, which nothing here computes",
    "meteor": "it needs the dictionary WordNet, which runners do not have",
}
Metric = Literal["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]


def _template(text: str) -> str:
    Template(text)
    return text


TemplateText: TypeAlias = Annotated[str, Field(max_length=256 * 1024), AfterValidator(_template)]
"""May hold {{item.…}} and {{sample.…}}."""
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: _Name

    def templates(self) -> list[str]:
        """Its texts that may hold templates."""
        return []


class StringCheck(_Shape):
    """1 if the comparison holds, else 0. `like`: the reference is in the input; `ilike`: in any case of letters."""

    type: Literal["string_check"]
    input: TemplateText
    reference: TemplateText
    operation: Literal["eq", "ne", "like", "ilike"]

    def templates(self) -> list[str]:
        return [self.input, self.reference]


class TextSimilarity(_Shape):
    """How alike two texts are, from 0 to 1."""

    type: Literal["text_similarity"]
    input: TemplateText
    reference: TemplateText
    evaluation_metric: Metric

    @field_validator("evaluation_metric", mode="before")
    @classmethod
    def _offered(cls, value: Any) -> Any:
        if value in _NOT_OFFERED:
            raise ValueError(f"{value!r} is not offered: {_NOT_OFFERED[value]}")
        return value

    def templates(self) -> list[str]:
        return [self.input, self.reference]


class Python(_Shape):
    """A program with `def grade(sample, item)`, which returns the score."""

    type: Literal["python"]
    source: str
    image_tag: None = None

    @field_validator("image_tag", mode="before")
    @classmethod
    def _no_image(cls, value: Any) -> Any:
        if value is not None:
            raise ValueError("images are not offered: the program runs in the Python of the runner; leave it out")
        return value

    @field_validator("source")
    @classmethod
    def _has_grade(cls, source: str) -> str:
        if len(source.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
            raise ValueError(f"the program is longer than {MAX_SOURCE_BYTES} bytes")
        try:
            body = ast.parse(source).body
        except SyntaxError as error:
            raise ValueError(f"the program cannot be parsed: {error.msg}, line {error.lineno}") from None
        except (ValueError, RecursionError, MemoryError):
            raise ValueError("the program cannot be parsed") from None
        named = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "grade"]
        if not named or len(named[-1].args.args) != 2:
            raise ValueError("the program needs a function 'def grade(sample, item):'")
        return source


class TextPart(BaseModel):
    """A piece of a message to a grading model."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["input_text", "output_text", "text"]
    text: TemplateText


_Parts = Annotated[list[TemplateText | TextPart], FEW_ENTRIES]


class GradingMessage(BaseModel):
    """A message to a grading model."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant", "system", "developer"]
    content: TemplateText | TextPart | _Parts
    type: Literal["message"] | None = None

    @property
    def text(self) -> str:
        """Its content in one piece."""
        parts: list[str | TextPart] = [*self.content] if isinstance(self.content, list) else [self.content]
        return "\n".join(part if isinstance(part, str) else part.text for part in parts)


class SamplingParams(BaseModel):
    """How the grading model answers."""

    model_config = ConfigDict(extra="forbid")

    max_completions_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)


class ScoreModel(_Shape):
    """The number that a model gives, within `range`."""

    type: Literal["score_model"]
    model: _Name
    input: list[GradingMessage] = Field(min_length=1, max_length=100, fail_fast=True)
    range: Annotated[list[float], Field(min_length=2, max_length=2, fail_fast=True)] | None = None
    sampling_params: SamplingParams | None = None

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and not (-1e6 <= value[0] < value[1] <= 1e6):
            raise ValueError("must be two numbers, the smaller one first, within a million of 0")
        return value

    def templates(self) -> list[str]:
        return [message.text for message in self.input]


class LabelModel(_Shape):
    """1 if the label that a model chooses is among `passing_labels`, else 0."""

    type: Literal["label_model"]
    model: _Name
    input: list[GradingMessage] = Field(min_length=1, max_length=100, fail_fast=True)
    labels: list[_Name] = Field(min_length=1, max_length=100, fail_fast=True)
    passing_labels: list[_Name] = Field(min_length=1, max_length=100, fail_fast=True)
    sampling_params: SamplingParams | None = None

    @field_validator("passing_labels")
    @classmethod
    def _among_labels(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if unknown := next((label for label in value if label not in info.data.get("labels", value)), None):
            raise ValueError(f"{unknown!r} is none of the labels")
        return value

    def templates(self) -> list[str]:
        return [message.text for message in self.input]


Single: TypeAlias = Annotated[
    Union[StringCheck, TextSimilarity, Python, ScoreModel, LabelModel],  # noqa: UP007 - pydantic reads it
    Field(discriminator="type"),
]


class Multi(_Shape):
    """What `calculate_output` makes of the scores of several graders, which it calls by their keys."""

    type: Literal["multi"]
    graders: Annotated[dict[_Name, Single], FEW_ENTRIES] = Field(min_length=1, max_length=MAX_GRADERS)
    calculate_output: str = Field(max_length=2000)

    @field_validator("graders", mode="before")
    @classmethod
    def _keyed(cls, value: Any) -> Any:
        """One grader, or a list of them, is called by its name."""
        if isinstance(value, dict) and isinstance(value.get("type"), str):
            value = [value]
        if isinstance(value, list):
            return {str(one.get("name") if isinstance(one, dict) else number): one for number, one in enumerate(value)}
        return value

    @model_validator(mode="after")
    def _knows_its_graders(self) -> Multi:
        Formula(self.calculate_output, self.graders)
        return self

    def templates(self) -> list[str]:
        return [text for one in self.graders.values() for text in one.templates()]


Grader: TypeAlias = Annotated[
    Union[StringCheck, TextSimilarity, Python, ScoreModel, LabelModel, Multi],  # noqa: UP007 - pydantic reads it
    Field(discriminator="type"),
]
GRADER: TypeAdapter[Grader] = TypeAdapter(Grader)


def models_of(grader: Grader) -> set[str]:
    """The models that it asks."""
    parts = grader.graders.values() if isinstance(grader, Multi) else [grader]
    return {one.model for one in parts if isinstance(one, ScoreModel | LabelModel)}
