"""Graders of OpenAI's fine-tuning API, as the environment that comes with runners grades by them."""

from __future__ import annotations

import asyncio
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from runner.environments.builtin.failures import GradingFailed
from runner.environments.builtin.graded import env
from runner.environments.builtin.grading import grade
from runner.environments.builtin.programs import run
from tests.http_servers import serving
from wire.graders.formulas import Formula, FormulaError
from wire.graders.shapes import GRADER, models_of
from wire.graders.templates import NoSuchValue, Template, TemplateError

ITEM = {"messages": [], "answer": "Paris", "parts": [{"n": 3}], "a b": "x"}


def check(
    operation: str = "eq", said: str = "{{sample.output_text}}", as_in: str = "{{item.answer}}"
) -> dict[str, Any]:
    return {"type": "string_check", "name": "c", "operation": operation, "input": said, "reference": as_in}


def alike(metric: str) -> dict[str, Any]:
    said = {"input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
    return {"type": "text_similarity", "name": "s", "evaluation_metric": metric, **said}


def program(source: str) -> dict[str, Any]:
    return {"type": "python", "name": "p", "source": source}


def multi(formula: str, **graders: Any) -> dict[str, Any]:
    return {"type": "multi", "name": "m", "graders": graders, "calculate_output": formula}


async def score(grader: dict[str, Any], output: str, item: dict[str, Any] = ITEM) -> float:
    return (await grade(GRADER.validate_python(grader), item, output)).score


@pytest.mark.parametrize(
    ("operation", "output", "expected"),
    [("eq", "Paris", 1), ("eq", "paris", 0), ("ne", "paris", 1), ("like", "It is Paris.", 1), ("like", "paris", 0),
     ("ilike", "it is PARIS", 1), ("ilike", "Rome", 0)],
)  # fmt: skip
async def test_texts_are_compared(operation, output, expected):
    assert await score(check(operation), output) == expected


@pytest.mark.parametrize("metric", ["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_l"])
async def test_similarity_is_1_for_the_same_words_and_less_for_others(metric):
    item = {"answer": "the cat sat on the mat"}
    assert await score(alike(metric), "the cat sat on the mat", item) == pytest.approx(1)
    near, far = await score(alike(metric), "the cat sat on a mat", item), await score(alike(metric), "no", item)
    assert 0 <= far < near < 1
    assert await score(alike(metric), "", item) == pytest.approx(0)


async def test_fuzzy_match_by_hand():
    assert await score(alike("fuzzy_match"), "abcd", {"answer": "abce"}) == pytest.approx(0.75)
    assert await score(alike("rouge_1"), "a b", {"answer": "a c"}) == pytest.approx(0.5)


async def test_templates_reach_into_the_line_and_into_json_that_was_answered():
    assert (
        await score(check(said="{{ sample.output_json.steps[1] }}", as_in="{{item.parts[0].n}}"), '{"steps": [1, 3]}')
        == 1
    )
    assert await score(check(said="<{{item['a b']}}>", as_in="<x>"), "") == 1
    assert Template("{{item.parts}}").render({"item": ITEM}) == '[{"n": 3}]'


async def test_an_answer_that_is_not_the_json_that_is_asked_for_scores_0():
    for output in ("no JSON", '{"other": 1}', "[]"):
        assert await score(check(said="{{sample.output_json.answer}}", as_in=""), output) == 0


async def test_a_line_without_the_field_is_no_score():
    with pytest.raises(GradingFailed, match=r"the line of the file has no item\.answer"):
        await score(check(), "x", {})


@pytest.mark.parametrize(
    "text",
    ["{{answer}}", "{{item}}", "{{sample.other}}", "{{sample.output_tools[0]}}", "{{item.a + 1}}", "{{}}",
     "{{sample.output_text.x}}"],
)  # fmt: skip
def test_a_hole_that_means_nothing_is_refused(text):
    with pytest.raises(TemplateError):
        Template(text)
    with pytest.raises(ValidationError):
        GRADER.validate_python(check(said=text))


def test_braces_that_hold_nothing_are_text_and_cost_nothing():
    for text in ("{", "{{", "a {{ b", "{{" * 100_000, "}}", "{ {item.answer} }"):
        assert Template(text).render({}) == text


def test_what_a_template_names_and_is_not_there_says_so():
    with pytest.raises(NoSuchValue, match=r"item\.parts\[4\]"):
        Template("{{item.parts[4]}}").render({"item": ITEM})


async def test_a_program_grades():
    source = "print('noise')\ndef grade(sample, item):\n    return 0.5 * (sample['output_text'] == item['answer'])"
    assert await score(program(source), "Paris") == 0.5
    assert await score(program("def grade(sample, item): return sample['output_json']['x']"), '{"x": 2}') == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [("raise ValueError('bad')", "ValueError: bad"), ("return None", "float"), ("return float('nan')", "nan"),
     ("import os; os._exit(3)", "ended with 3"), ("import os; os.kill(os.getpid(), 9)", "signal 9"),
     ("return bytearray(3 * 1024**3)[0]", "MemoryError")],
)  # fmt: skip
async def test_a_program_that_fails_is_no_score(body, reason):
    with pytest.raises(GradingFailed, match=reason):
        await score(program(f"def grade(sample, item):\n    {body}"), "x")


async def test_a_program_that_does_not_end_is_ended_with_what_it_started():
    source = "import subprocess\ndef grade(sample, item):\n    subprocess.Popen(['sleep', '60'])\n    while True: pass"
    with pytest.raises(GradingFailed, match=r"did not end within 0\.5 s"):
        await asyncio.wait_for(run(source, {}, {}, timeout_s=0.5), 5)


async def test_scores_are_combined_by_a_formula():
    grader = multi("min(1, 0.25 * same + alike ^ 2) - -0.5", same=check(), alike=alike("fuzzy_match"))
    assert await score(grader, "Paris") == pytest.approx(1.5)
    done = await grade(GRADER.validate_python(grader), ITEM, "Paros")
    assert done.info["scores"] == {"same": 0.0, "alike": pytest.approx(0.8)}
    assert done.score == pytest.approx(0.8**2 + 0.5)


async def test_a_formula_without_a_value_is_no_score():
    with pytest.raises(GradingFailed, match="division by zero"):
        await score(multi("1 / c", c=check()), "Rome")


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "c.real", "c if c else 0", "[c]", "d", "c(1)", "'a' * 9", "min()", "sqrt(1, 2)", "True",
     "lambda: 1", "c; c", "", "1" + " + 1" * 600],
)  # fmt: skip
def test_a_formula_is_arithmetic_and_nothing_else(text):
    with pytest.raises(FormulaError):
        Formula(text, {"c"})


def test_large_powers_cost_nothing():
    with pytest.raises(FormulaError, match="no value"):
        Formula("9 ^ 9 ^ 9 ^ 9", ()).value({})


ASKED = [{"role": "user", "content": "x"}]
SHOWN = [{"role": "user", "content": {"type": "input_image", "image_url": "x"}}]
SCORES = {"type": "score_model", "name": "j", "model": "m"}
LABELS = {"type": "label_model", "name": "j", "model": "m", "input": ASKED}
REFUSED = {
    "unknown type": ({**check(), "type": "regex"}, "type"),
    "unknown field": ({**check(), "weight": 1}, "weight"),
    "cosine": (alike("cosine"), "'cosine' is not offered"),
    "meteor": (alike("meteor"), "'meteor' is not offered"),
    "image": ({**program("def grade(sample, item): return 1"), "image_tag": "2025-05-08"}, "images are not offered"),
    "no function": (program("x = 1"), "needs a function"),
    "no program": (program("def grade(:"), "cannot be parsed"),
    "unknown grader": (multi("d", c=check()), "names 'd'"),
    "multi in multi": (multi("c", c=multi("d", d=check())), "multi"),
    "range": ({**SCORES, "input": ASKED, "range": [1, 0]}, "range"),
    "image to a model": ({**SCORES, "input": SHOWN}, "input_image"),
    "label": ({**LABELS, "labels": ["a"], "passing_labels": ["b"]}, "'b' is none of the labels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_offered_is_refused_by_name(case):
    grader, reason = REFUSED[case]
    with pytest.raises(ValidationError, match=reason):
        GRADER.validate_python(grader)


JUDGE = {"model": "judge", "input": [{"role": "user", "content": "Is {{sample.output_text}} like {{item.answer}}?"}]}


async def test_a_model_grades_through_the_gateway(monkeypatch):
    asked = list[dict[str, Any]]()
    answers = iter([{"result": 0.75}, {"result": "good"}, {"result": 7}])

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            answer = {"choices": [{"message": {"content": json.dumps(next(answers))}}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Gateway)
    with serving(server):
        monkeypatch.setenv("HUD_GATEWAY_URL", f"http://127.0.0.1:{server.server_port}")
        judge = {"type": "score_model", "name": "j", "sampling_params": {"temperature": 0, "max_completions_tokens": 9}}
        assert await score({**judge, **JUDGE}, "paris") == 0.75
        labels = {"labels": ["good", "bad"], "passing_labels": ["good"]}
        assert await score({"type": "label_model", "name": "l", **labels, **JUDGE}, "paris") == 1
        with pytest.raises(GradingFailed, match="gave no score from 0 to 1"):
            await score({**judge, **JUDGE}, "paris")
    assert (asked[0]["path"], asked[0]["key"], asked[0]["model"]) == ("/chat/completions", None, "judge")
    assert asked[0]["messages"] == [{"role": "user", "content": "Is paris like Paris?"}]
    assert (asked[0]["temperature"], asked[0]["max_completion_tokens"]) == (0, 9)
    assert asked[1]["response_format"]["json_schema"]["schema"]["properties"]["result"]["enum"] == ["good", "bad"]
    both = GRADER.validate_python(multi("a", a={"type": "score_model", "name": "j", **JUDGE}))
    assert models_of(both) == {"judge"}


async def test_without_a_gateway_no_model_grades(monkeypatch):
    monkeypatch.delenv("HUD_GATEWAY_URL", raising=False)
    with pytest.raises(GradingFailed, match="no gateway"):
        await score({"type": "score_model", "name": "j", **JUDGE}, "x")


async def test_the_environment_asks_and_grades():
    from hud.environment.server import TaskRunner

    messages = [{"role": "user", "content": "Capital of France?"}]
    runner = TaskRunner(env.tasks["grade"], {"messages": messages, "item": ITEM, "grader": check("ilike")})
    assert (await runner.start())["prompt"] == messages
    assert (await runner.grade({"answer": "It is paris"}))["score"] == 1
