"""OpenAI's fine-tuning jobs, with OpenAI's client."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import openai
import pytest
from sqlalchemy import select, update

from store.database import AsyncDatabase
from store.tables import ModelRow, OperationRow, RunRow, RunStepRow
from tests.contract.runs_scene import deploy
from tests.contract.stand_ins import add_checkpoint

GRADER = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
ASKED = {
    "messages": [
        {"role": "developer", "content": "Answer with a number."},
        {"role": "user", "content": [{"type": "text", "text": "3+4?"}]},
    ],
    "answer": "7",
}


def reinforcement(grader: Any = GRADER, **hyperparameters: Any) -> Any:
    return {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": hyperparameters}}


def lines(*objects: Any) -> bytes:
    return b"\n".join(json.dumps(one).encode() for one in objects)


def named_tasks(number: int = 4) -> bytes:
    return lines(*({"env": "sums", "task": "sum", "args": {"a": n}, "slug": f"sum-{n}"} for n in range(number)))


@pytest.fixture
async def client(team, origin, database):
    await deploy(database, team.name)
    client = openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key=team.key, max_retries=0)
    yield client
    async for job in client.fine_tuning.jobs.list():  # nobody plays their rollouts
        if job.status in ("queued", "running", "paused"):
            await client.fine_tuning.jobs.cancel(job.id)


async def upload(client: openai.AsyncOpenAI, content: bytes) -> str:
    return (await client.files.create(file=("lines.jsonl", content), purpose="fine-tune")).id


async def run_of(database: AsyncDatabase, job: Any) -> RunRow:
    async with database.session() as session:
        query = select(RunRow).where(RunRow.id == uuid.UUID(job.id.removeprefix("ftjob-")))
        run = (await session.scalars(query)).one()
        await session.refresh(run, ["tasks", "held_out_tasks"])
        return run


async def end(database: AsyncDatabase, job: Any, state: str, **values: Any) -> None:
    """As the run's controller would."""
    async with database.session() as session:
        of = RunRow.id == uuid.UUID(job.id.removeprefix("ftjob-"))
        await session.execute(update(RunRow).where(of).values(state=state, **values))


def job_time() -> datetime:
    return datetime.now(UTC)


def step_of(job: Any, number: int, checkpoint_id: uuid.UUID) -> RunStepRow:
    """A step that is done."""
    return RunStepRow(
        run_id=uuid.UUID(job.id.removeprefix("ftjob-")),
        step=number,
        kind="train",
        generation=0,
        phase="done",
        chosen={},
        checkpoint_id=checkpoint_id,
        metrics={"reward": 0.5},
        ended_at=job_time(),
    )


async def test_lines_that_name_tasks_are_the_tasks_of_a_run(client, team, model, database):
    file = await upload(client, named_tasks())
    job = await client.fine_tuning.jobs.create(
        model=model["model_name"], training_file=file, seed=7, metadata={"who": "me"}, method=reinforcement(n_epochs=3)
    )
    assert (job.object, job.status, job.model, job.seed) == ("fine_tuning.job", "queued", model["model_name"], 7)
    assert (job.training_file, job.metadata, job.fine_tuned_model) == (file, {"who": "me"}, None)
    assert job.method.reinforcement.grader.name == "same"
    run = await run_of(database, job)
    assert (run.config["seed"], run.config["steps"], run.config["tasks_per_step"]) == (7, 3, 4)
    assert [task["name"] for task in json.loads(run.tasks)] == ["sum-0", "sum-1", "sum-2", "sum-3"]
    events = (await client.fine_tuning.jobs.list_events(job.id)).data
    assert [event.level for event in events[-2:]] == ["warn", "info"]
    assert "the grader of this job is kept, and grades nothing" in events[-2].message
    assert events[-1].message.startswith("3 steps of 4 tasks × 8 rollouts")
    await client.fine_tuning.jobs.cancel(job.id)


async def test_lines_of_messages_are_graded_tasks(client, model, database):
    held_out = await upload(client, lines({**ASKED, "answer": "8"}))
    job = await client.fine_tuning.jobs.create(
        model=model["id"],
        training_file=await upload(client, lines(ASKED, ASKED, ASKED)),
        validation_file=held_out,
        method=reinforcement(batch_size=2, compute_multiplier=0.5, learning_rate_multiplier=10, eval_interval=7,
                             eval_samples=3, n_epochs=2, reasoning_effort="low"),
    )  # fmt: skip
    run = await run_of(database, job)
    task = json.loads(run.tasks)[0]
    assert (task["name"], task["env"], task["scenario"]) == ("line-1", "headway-graded", "grade")
    assert task["args"] == {"messages": [{"role": "user", "content": "3+4?"}], "item": ASKED, "grader": GRADER}
    assert task["agent_config"] == {"system_prompt": "Answer with a number."}
    figures = {name: run.config[name] for name in ("steps", "tasks_per_step", "group_size", "max_tokens")}
    assert figures == {"steps": 4, "tasks_per_step": 2, "group_size": 4, "max_tokens": 256}  # half of the context
    assert run.config["learning_rate"] == pytest.approx(1e-4)
    assert (run.held_out["every"], run.held_out["group_size"], run.held_out["num_tasks"]) == (7, 3, 1)
    assert json.loads(run.held_out_tasks)[0]["args"]["item"]["answer"] == "8"
    assert (await client.fine_tuning.jobs.retrieve(job.id)).validation_file == held_out
    assert {event.level for event in (await client.fine_tuning.jobs.list_events(job.id)).data} == {"info"}


async def test_a_base_is_forked_first_and_the_suffix_names_the_fork(client, base, database):
    file = await upload(client, lines(ASKED))
    job = await client.fine_tuning.jobs.create(
        model=base.slug, training_file=file, suffix="sums", method=reinforcement()
    )
    assert job.model == base.slug
    await end(database, job, "completed", ended_at=job_time())
    done = await client.fine_tuning.jobs.retrieve(job.id)
    assert done.fine_tuned_model.startswith("ft-Tiny-Base-sums-")
    assert (await client.models.retrieve(done.fine_tuned_model)).id == done.fine_tuned_model
    with pytest.raises(openai.BadRequestError, match="suffix names a new fork"):
        await client.fine_tuning.jobs.create(
            model=done.fine_tuned_model, training_file=file, suffix="x", method=reinforcement()
        )


async def test_a_refused_run_leaves_no_fork(client, team, base):
    before = {one.id for one in (await client.models.list()).data}
    file = await upload(client, lines({"env": "nowhere", "task": "t"}))
    with pytest.raises(openai.NotFoundError, match="no environment 'nowhere' is deployed"):
        await client.fine_tuning.jobs.create(model=base.slug, training_file=file, method=reinforcement())
    assert {one.id for one in (await client.models.list()).data} == before
    assert (await client.fine_tuning.jobs.list()).data == []


@pytest.mark.parametrize(
    ("state", "status"),
    [("running", "running"), ("pausing", "running"), ("paused", "paused"), ("completed", "succeeded"),
     ("stopped", "succeeded"), ("failed", "failed"), ("cancelling", "running"), ("cancelled", "cancelled")],
)  # fmt: skip
async def test_states_of_a_run_are_statuses_of_a_job(client, model, database, state, status):
    job = await client.fine_tuning.jobs.create(
        model=model["id"], training_file=await upload(client, lines(ASKED)), method=reinforcement()
    )
    await end(database, job, state, error="it broke" if state == "failed" else None)
    job = await client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == status
    assert job.fine_tuned_model == (model["model_name"] if status == "succeeded" else None)
    assert (job.error.message if job.error else None) == ("it broke" if state == "failed" else None)


async def test_jobs_are_paused_resumed_and_cancelled(client, model):
    job = await client.fine_tuning.jobs.create(
        model=model["id"], training_file=await upload(client, lines(ASKED)), method=reinforcement()
    )
    assert (await client.fine_tuning.jobs.pause(job.id)).status in ("running", "paused")
    assert (await client.fine_tuning.jobs.resume(job.id)).status in ("queued", "running")
    assert (await client.fine_tuning.jobs.cancel(job.id)).status in ("running", "cancelled")
    assert (await client.fine_tuning.jobs.cancel(job.id)).status in ("running", "cancelled")


async def test_lists_go_on_after_the_last_and_find_by_metadata(client, team, base):
    file = await upload(client, lines(ASKED))
    made = []
    for number in range(3):
        fork = await team.fork(str(base.id))
        metadata = {"number": str(number)}
        job = await client.fine_tuning.jobs.create(
            model=fork["id"], training_file=file, method=reinforcement(), metadata=metadata
        )
        made.append(job.id)
    assert [job.id async for job in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    found = await client.fine_tuning.jobs.list(extra_query={"metadata[number]": "1"})
    assert [job.id for job in found.data] == [made[1]]
    events = [event async for event in client.fine_tuning.jobs.list_events(made[0], limit=1)]
    assert {event.type for event in events} == {"message"}


async def test_another_team_finds_nothing(client, other_team, origin, model):
    job = await client.fine_tuning.jobs.create(
        model=model["id"], training_file=await upload(client, lines(ASKED)), method=reinforcement()
    )
    other = openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key=other_team.key, max_retries=0)
    jobs = other.fine_tuning.jobs
    assert (await jobs.list()).data == []
    for call in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list):
        with pytest.raises(openai.NotFoundError):
            await call(job.id)
    with pytest.raises(openai.BadRequestError, match="training_file"):
        await jobs.create(model="org/Tiny-Base", training_file=job.training_file, method=reinforcement())


async def test_a_repeated_request_is_answered_with_the_job_that_it_made(client, base, model):
    file = await upload(client, lines(ASKED))
    asked = {"model": base.slug, "training_file": file, "method": reinforcement()}
    keyed = {"extra_headers": {"Idempotency-Key": f"key-{uuid.uuid4().hex}"}}
    first = await client.fine_tuning.jobs.create(**asked, **keyed)
    assert (await client.fine_tuning.jobs.create(**asked, **keyed)).id == first.id
    with pytest.raises(openai.BadRequestError, match="used for another job"):
        await client.fine_tuning.jobs.create(**{**asked, "seed": 1}, **keyed)
    tried_again = {"extra_headers": {"x-stainless-retry-count": "1"}}
    assert (await client.fine_tuning.jobs.create(**asked, **tried_again)).id == first.id
    another = await client.fine_tuning.jobs.create(**asked)
    assert another.id != first.id


async def test_a_busy_model_is_refused_naming_its_run(client, model):
    asked = {"model": model["id"], "training_file": await upload(client, lines(ASKED)), "method": reinforcement()}
    await client.fine_tuning.jobs.create(**asked)
    with pytest.raises(openai.BadRequestError, match="is being trained by the run"):
        await client.fine_tuning.jobs.create(**asked)


async def test_checkpoints_are_names_that_chats_take(client, team, model, database):
    job = await client.fine_tuning.jobs.create(
        model=model["id"], training_file=await upload(client, lines(ASKED)), method=reinforcement()
    )
    assert (await client.fine_tuning.jobs.checkpoints.list(job.id)).data == []
    async with database.session() as session:
        row = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        names = []
        for number in (11, 12):  # not those that the run is at
            checkpoint = await add_checkpoint(session, row)
            await session.flush()
            row.head_checkpoint_id = checkpoint.id
            names.append(checkpoint.name)
            session.add(step_of(job, number, checkpoint.id))
    found = [one async for one in client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)]
    assert [one.step_number for one in found] == [12, 11]
    assert found[0].fine_tuned_model_checkpoint == f"{model['model_name']}:{names[1]}"
    assert found[0].fine_tuning_job_id == job.id
    assert found[0].metrics.to_dict()["reward"] == 0.5
    shown = await client.models.retrieve(found[0].fine_tuned_model_checkpoint)
    assert shown.id == found[0].fine_tuned_model_checkpoint


SPOKEN = {"messages": [*ASKED["messages"], {"role": "assistant", "content": "7"}]}


def until_over(client: openai.AsyncOpenAI, job: Any) -> Any:
    async def wait() -> Any:
        async with asyncio.timeout(30):
            while True:
                found = await client.fine_tuning.jobs.retrieve(job.id)
                if found.status in ("succeeded", "failed", "cancelled"):
                    return found
                await asyncio.sleep(0.05)

    return wait()


async def test_a_supervised_job_imitates_the_assistant_alone(client, model, database, sampler_script):
    two = [*SPOKEN["messages"], {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2", "weight": 0}]
    content = lines(SPOKEN, {"messages": two}, {"prompt": "5+5?", "completion": "10"})
    hyperparameters = {"n_epochs": 2, "batch_size": 3, "learning_rate_multiplier": 10}
    job = await client.fine_tuning.jobs.create(
        model=model["id"],
        training_file=await upload(client, content),
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )
    assert job.hyperparameters.n_epochs == 2
    job = await until_over(client, job)
    assert (job.status, job.error, job.fine_tuned_model) == ("succeeded", None, model["model_name"])
    run = await run_of(database, job)
    assert (run.config["loss_fn"], run.config["steps"]) == ("cross_entropy", 2)
    async with database.session() as session:
        query = select(OperationRow).where(OperationRow.model_id == run.model_id).order_by(OperationRow.sequence)
        operations = list(await session.scalars(query))
    assert [operation.kind for operation in operations] == ["forward_backward", "optim_step"] * 2
    steps = [event for event in (await client.fine_tuning.jobs.list_events(job.id)).data if event.type == "metrics"]
    assert len(steps) == 2
    assert len((await client.fine_tuning.jobs.checkpoints.list(job.id)).data) == 2


async def test_without_a_method_a_job_is_supervised_and_tokens_are_imitated_as_they_are(client, model):
    trajectory = {"prompt_token_ids": [1, 2], "output_token_ids": [3, 4], "reward": 0.5}
    file = await upload(client, lines(trajectory, trajectory))
    job = await client.fine_tuning.jobs.create(model=model["id"], training_file=file, hyperparameters={"n_epochs": 1})
    assert job.method.type == "supervised"
    assert (await until_over(client, job)).status == "succeeded"


async def test_examples_that_the_base_cannot_take_end_the_job_with_a_sentence(client, model):
    trajectory = {"prompt_token_ids": [1, 2], "output_token_ids": [500], "reward": 0.5}
    file = await upload(client, lines(trajectory))
    job = await client.fine_tuning.jobs.create(model=model["id"], training_file=file)
    job = await until_over(client, job)
    assert job.status == "failed"
    assert "output_token_ids holds 500, which is outside the vocabulary" in job.error.message


async def test_examples_are_made_by_jobs_alone(team, model):
    example = {"env": "headway-examples", "id": "example", "args": {"turns": []}}
    body = {"model": model["id"], "taskset": {"name": "x", "tasks": [example]}, "config": {"max_tokens": 8}}
    refused = await team.http.post("/v2/runs", json={**body, "config": {"method": "supervised", "max_tokens": 8}})
    assert (refused.status_code, "for fine-tuning jobs" in refused.json()["detail"]) == (422, True)
    assert (await team.http.post("/v2/runs", json=body)).status_code == 404


REFUSED = {
    "dpo": ({"method": {"type": "dpo"}}, "'dpo' is not offered"),
    "no grader": ({"method": {"type": "reinforcement"}}, "reinforcement is missing"),
    "unknown field": ({"epochs": 3}, "unknown field epochs"),
    "unknown hyperparameter": ({"method": reinforcement(beta=1)}, "beta"),
    "wandb": ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations: are not offered"),
    "two places": ({"hyperparameters": {"n_epochs": 1}}, "stand under the method"),
    "many epochs": ({"method": reinforcement(n_epochs=20_000)}, "n_epochs is 20000, which is 20000 steps"),
    "many rollouts": ({"method": reinforcement(compute_multiplier=1000)}, "group_size"),
    "batch": ({"method": reinforcement(batch_size=2)}, "batch_size is 2, but training_file has 1 lines"),
    "zero": ({"method": reinforcement(learning_rate_multiplier=0)}, "learning_rate_multiplier"),
    "cosine": (
        {"method": reinforcement({"type": "text_similarity", "name": "s", "evaluation_metric": "cosine",
                                  "input": "x", "reference": "y"})},
        "'cosine' is not offered",
    ),
    "field that no line has": (
        {"method": reinforcement({**GRADER, "reference": "{{item.solution}}"})},
        "training_file, line 1: has no item.solution, which the grader names",
    ),
    "judge that is not here": (
        {"method": reinforcement({"type": "score_model", "name": "j", "model": "gpt-none",
                                  "input": [{"role": "user", "content": "x"}]})},
        "names the model 'gpt-none', which is not here",
    ),
    "supervised with a validation file": (
        {"method": {"type": "supervised"}, "validation_file": "{file}"},
        "validation_file is for the method 'reinforcement'",
    ),
    "supervised without answers": (
        {"method": {"type": "supervised"}},
        "training_file, line 1: holds no message of the assistant's",
    ),
    "no file": ({"training_file": "file-nothing"}, "training_file: the team has no such file"),
    "no validation file": ({"validation_file": "x"}, "validation_file: the team has no such file"),
    "suffix": ({"suffix": "a/b"}, "suffix: has a form that is not allowed here: it must match ^[A-Za-z0-9._-]+$"),
    "seed": ({"seed": -1}, "seed"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_wrong_is_refused_by_name(client, base, case):
    changes, sentence = REFUSED[case]
    file = await upload(client, lines(ASKED))
    asked = {"model": base.slug, "training_file": file, "method": reinforcement()}
    if changes.get("validation_file") == "{file}":
        changes = {**changes, "validation_file": file}
    with pytest.raises(openai.BadRequestError) as refused:
        await client.post("/fine_tuning/jobs", body={**asked, **changes}, cast_to=object)
    assert sentence in refused.value.body["message"]
    assert (await client.fine_tuning.jobs.list()).data == []


BAD_LINES = {
    "ends with the assistant": {"messages": [*ASKED["messages"], {"role": "assistant", "content": "7"}], "answer": "7"},
    "tools": {**ASKED, "tools": [{"type": "function", "function": {"name": "add"}}]},
    "system in between": {"messages": [ASKED["messages"][1], *ASKED["messages"]], "answer": "7"},
    "nothing asked": {"messages": [ASKED["messages"][0]], "answer": "7"},
    "no words": {"prompt_token_ids": [1], "output_token_ids": [2]},
}


@pytest.mark.parametrize("case", BAD_LINES)
async def test_a_line_that_cannot_be_graded_is_refused_by_its_number(client, base, case):
    asked = {"model": base.slug, "training_file": await upload(client, lines(BAD_LINES[case]))}
    with pytest.raises(openai.BadRequestError, match="training_file, line 1: "):
        await client.fine_tuning.jobs.create(**asked, method=reinforcement())


async def test_exported_rollouts_are_asked_again(client, model, database):
    spoken = [{"role": "user", "content": "3+4?"}], [{"role": "assistant", "content": "7"}]
    row = {"prompt": spoken[0], "completion": spoken[1], "reward": 1.0}
    grader = {**GRADER, "reference": "{{item.completion[0].content}}"}
    turns = {**row, "turns": [{"prompt_token_ids": [1], "output_token_ids": [2]}]}
    for line in (row, turns):
        job = await client.fine_tuning.jobs.create(
            model=model["id"], training_file=await upload(client, lines(line)), method=reinforcement(grader)
        )
        task = json.loads((await run_of(database, job)).tasks)[0]
        assert task["args"]["messages"] == spoken[0]
        assert task["args"]["item"] == row
        await end(database, job, "cancelled")
