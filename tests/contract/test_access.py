"""Every route × every kind of key. A route without a line in the table fails; so does a line without a route."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy.dialects.postgresql import insert
from starlette.routing import WebSocketRoute
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.app import create_app
from server.audit.recording import COMMAND_LINE
from server.auth.issuing import Grant, issue
from server.auth.service import authenticate, ensure_team
from server.environments.sessions import open_session
from server.process.settings import ServerSettings
from server.runs.settings import RunConfig, StopRules
from server.upstreams.types import APIS
from store.database import AsyncDatabase
from store.tables import AlarmRow, CheckpointNameRow, ModelRow, RunRow, TracePictureRow
from tests.contract.conftest import batch, num_operations
from tests.contract.environments import deployed_environment_of
from tests.contract.stand_ins import add_checkpoint
from tests.contract.upstreams import add_to_catalog
from tests.unit.server.pictures.drawn import encoded, gradient
from tests.vendor import Vendor

PUBLIC, LINK, ANY, READ, USE, REPORT, SAMPLE, TRAIN, DEPLOY, DEPLOYED, KEYS, RUN, ADMIN = (
    "public", "signed link", "any key", "read", "use", "report", "sample", "train", "deploy", "see what is deployed",
    "keys", "runner", "admin",
)  # fmt: skip
SUFFICES = {
    ANY: {"read", "sample", "train", "deploy", "keys", "runner", "admin"},
    READ: {"read"},
    USE: {"read", "sample", "train"},
    REPORT: {"sample", "train"},
    SAMPLE: {"sample"},
    TRAIN: {"train"},
    DEPLOY: {"deploy"},
    DEPLOYED: {"read", "deploy"},
    KEYS: {"keys"},
    RUN: {"runner"},
    ADMIN: {"admin"},
}
CHAT = {"model": "{model}", "messages": [{"role": "user", "content": "6*6"}], "max_tokens": 2}
COMPLETION = {"model": "{model}", "prompt": "6*6", "max_tokens": 2}
CONTENTS = {"contents": [{"parts": [{"text": "6*6"}]}]}
STEP = {"learning_rate": 1e-3}
WHY = {"reason": "a test"}
SAMPLING_SESSION = {"session_id": "{heart_session}", "sampling_session_seq_id": 0, "base_model": "org/Tiny-Base"}
ASAMPLE = {
    "sampling_session_id": "{sampling_session_id}",
    "seq_id": 0,
    "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
    "sampling_params": {"max_tokens": 1},
}
DEPLOYMENT = {"source": "direct", "build_id": "{build_id}", "name": "{environment}"}
REGISTRATION = {"host": "h", "pid": 1, "slots": 1, "kinds": ["build"], "isolation": "none", "versions": {}}
HELD = "/runner/{runner_id}/placements/{placement_id}"
OF_A_RUN = {"model_id": "{trained}"}
JOBS = "/v1/fine_tuning/jobs"
GRADER = {"type": "string_check", "name": "g", "operation": "eq", "input": "{{sample.output_text}}", "reference": "7"}
METHOD = {"type": "reinforcement", "reinforcement": {"grader": GRADER}}
JOB = {"model": "{model}", "training_file": "{file_id}", "method": METHOD}
HUD_RL_TASK = {"env": {"name": "access-environment"}, "scenario": "t"}
HUD_RL_JOB = {"model_id": "{model}", "dataset": {"tasks": [HUD_RL_TASK]}}
UPLOAD = "/api/v1/external_weights_upload?base_model={base:path}&slug={new_name}"
NAMED = "/api/v1/training_runs/{run}/checkpoints/{checkpoint_id:path}"

# method and path: what a key needs, and a body. `{model}`, `{key}`, … are things of the team whose keys are tried; a
# line that names one is also tried by another team's keys.
ROUTES: dict[tuple[str, str], tuple[str, Any]] = {
    ("GET", "/healthz"): (PUBLIC, None),
    ("GET", "/readyz"): (PUBLIC, None),
    ("GET", "/readyz/server"): (PUBLIC, None),
    ("GET", "/metrics"): (ADMIN, None),
    ("GET", "/scaling/samplers/{base:path}"): (ADMIN, None),
    ("GET", "/scaling/runners"): (ADMIN, None),
    ("POST", "/sdk-events/cli"): (PUBLIC, {}),
    ("POST", "/v3/api/sdk-events/cli"): (PUBLIC, {}),
    ("GET", "/v2/auth/me"): (ANY, None),
    ("GET", "/v2/models"): (USE, None),
    ("GET", "/models/"): (USE, None),
    ("GET", "/v2/models/resolve?model={model}"): (USE, None),
    ("POST", "/v2/models/fork"): (TRAIN, {"source_model_id": "{model}", "name": "{new_name}"}),
    ("GET", "/v2/models/{model_id}"): (USE, None),
    ("GET", "/v2/models/{model_id}/checkpoints"): (READ, None),
    ("PATCH", "/v2/models/{model_id}"): (TRAIN, {}),
    ("DELETE", "/v2/models/{model_id}"): (TRAIN, None),
    ("GET", "/v2/models/{model_id}/contents"): (READ, None),
    ("DELETE", "/v2/models/{model_id}/checkpoints/{checkpoint}"): (TRAIN, None),
    ("GET", "/v2/models/{model_id}/checkpoints/{checkpoint}/adapter"): (READ, None),
    ("HEAD", "/v2/models/{model_id}/checkpoints/{checkpoint}/adapter"): (READ, None),
    ("GET", "/v2/models/{model_id}/head"): (READ, None),
    ("PUT", "/v2/models/{model_id}/head"): (TRAIN, {"checkpoint_id": None}),
    ("GET", "/v2/models/{model_id}/evals"): (READ, None),
    ("POST", "/v2/models/{model_id}/evals"): (TRAIN, {"benchmark": "b", "score": 0.5}),
    ("DELETE", "/v2/models/{model_id}/evals/{eval_id}"): (TRAIN, None),
    ("GET", "/v2/models/{model_id}/guard"): (READ, None),
    ("PUT", "/v2/models/{model_id}/guard"): (TRAIN, {}),
    ("GET", "/v2/models/{model_id}/alarms"): (READ, None),
    ("POST", "/v2/models/{model_id}/alarms/{alarm_id}/acknowledge"): (TRAIN, {}),
    ("POST", "/v2/models/{model_id}/alarms/{alarm_id}/undo"): (TRAIN, None),
    ("GET", "/v2/models/{model_id}/trainability"): (READ, None),
    ("POST", "/v2/models/{model_id}/pause"): (TRAIN, WHY),
    ("POST", "/v2/models/{model_id}/resume"): (TRAIN, None),
    ("GET", "/v1/models/{model_id}/train/losses"): (READ, None),
    ("POST", "/v1/models/{model_id}/train/forward-backward"): (TRAIN, batch()),
    ("POST", "/v1/models/{model_id}/train/forward"): (TRAIN, batch()),
    ("POST", "/v1/models/{model_id}/train/backward"): (TRAIN, {"forward_id": "{forward}", "weights": [[1.0] * 3] * 2}),
    ("POST", "/v1/models/{model_id}/train/optim-step"): (TRAIN, STEP),
    ("POST", "/chat/completions"): (SAMPLE, CHAT),
    ("POST", "/v1/chat/completions"): (SAMPLE, CHAT),
    ("POST", "/completions"): (SAMPLE, COMPLETION),
    ("POST", "/v1/completions"): (SAMPLE, COMPLETION),
    ("POST", "/responses"): (SAMPLE, {"model": "{model}", "input": "6*6"}),
    ("POST", "/v1/responses"): (SAMPLE, {"model": "{model}", "input": "6*6"}),
    ("POST", "/v1/messages"): (SAMPLE, CHAT),
    ("POST", "/v1/messages/count_tokens"): (SAMPLE, {name: CHAT[name] for name in ("model", "messages")}),
    ("POST", "/v1beta/models/{upstream}:generateContent"): (SAMPLE, CONTENTS),
    ("POST", "/v1beta/models/{upstream}:streamGenerateContent?alt=sse"): (SAMPLE, CONTENTS),
    ("GET", "/models"): (USE, None),
    ("GET", "/v1/models"): (USE, None),
    ("GET", "/models/{model}"): (USE, None),
    ("GET", "/v1/models/{model}"): (USE, None),
    ("POST", "/v2/trace/job/{job_id}/enter"): (REPORT, {"name": "run"}),
    ("GET", "/v2/jobs"): (READ, None),
    ("GET", "/v2/jobs/{job_id}"): (READ, None),
    ("GET", "/v2/jobs/{job_id}/traces"): (READ, None),
    ("POST", "/v2/jobs/{job_id}/evaluation"): (TRAIN, {}),
    ("PUT", "/v2/jobs/{job_id}/pin"): (TRAIN, None),
    ("DELETE", "/v2/jobs/{job_id}/pin"): (TRAIN, None),
    ("DELETE", "/v2/jobs/{job_id}"): (TRAIN, None),
    ("POST", "/v2/rollouts/cancel"): (TRAIN, {}),
    ("POST", "/v2/rollouts/cancel_job"): (TRAIN, {}),
    ("POST", "/v2/rollouts/cancel_user_jobs"): (TRAIN, {}),
    ("POST", "/v2/trace/{trace_id}/enter"): (REPORT, {}),
    ("POST", "/v2/trace/{trace_id}/exit"): (REPORT, {"status": "completed"}),
    ("GET", "/v2/trace/{trace_id}"): (READ, None),
    ("GET", "/v2/trace/{trace_id}/events"): (READ, None),
    ("GET", "/v2/traces"): (READ, None),
    ("GET", "/v2/traces/export"): (READ, None),
    ("POST", "/v2/traces/import"): (TRAIN, {"prompt_token_ids": [1], "output_token_ids": [2], "reward": 1.0}),
    ("POST", "/v2/pictures"): (TRAIN, None),
    ("GET", "/v2/traces/{trace_id}"): (READ, None),
    ("GET", "/v2/traces/{trace_id}/pictures/{picture}"): (READ, None),
    ("GET", "/v2/traces/{trace_id}/spans"): (READ, None),
    ("POST", "/v2/traces/{trace_id}/logprobs"): (TRAIN, {"model": "{model_id}"}),
    ("PUT", "/v2/traces/{trace_id}/pin"): (TRAIN, None),
    ("DELETE", "/v2/traces/{trace_id}/pin"): (TRAIN, None),
    ("DELETE", "/v2/traces/{trace_id}"): (TRAIN, None),
    ("POST", "/v2/traces/{trace_id}/labels"): (TRAIN, {"add": ["odd"]}),
    ("GET", "/v2/traces/{trace_id}/comments"): (READ, None),
    ("POST", "/v2/traces/{trace_id}/comments"): (TRAIN, {"text": "odd"}),
    ("DELETE", "/v2/traces/{trace_id}/comments/{comment_id}"): (TRAIN, None),
    ("POST", "/trace/{trace_id}/telemetry-upload"): (REPORT, {"telemetry": []}),
    ("POST", "/v3/api/trace/{trace_id}/telemetry-upload"): (REPORT, {"telemetry": []}),
    ("POST", "/runtime/sessions"): (TRAIN, {"environment": "{environment}"}),
    ("DELETE", "/runtime/sessions/{environment_session_id}"): (TRAIN, None),
    ("GET", "/v2/tasksets"): (READ, None),
    ("POST", "/v2/tasksets"): (TRAIN, {"name": "{new_name}"}),
    ("GET", "/v2/tasksets/by-name/{name:path}"): (READ, None),
    ("GET", "/v2/tasksets/{taskset_id}"): (READ, None),
    ("GET", "/v2/tasksets/{taskset_id}/export"): (READ, None),
    ("DELETE", "/v2/tasksets/{taskset_id}/tasks/{name:path}"): (TRAIN, None),
    ("DELETE", "/v2/tasksets/{taskset_id}"): (TRAIN, None),
    ("POST", "/v2/tasks/upload"): (TRAIN, {"taskset_id": "{taskset_id}", "tasks": []}),
    ("POST", "/v2/runs"): (TRAIN, {"model": "{model}", "taskset": "shared", "config": {"max_tokens": 1_000_000}}),
    ("GET", "/v2/runs"): (READ, None),
    ("GET", "/v2/runs/{run_id}"): (READ, None),
    ("PATCH", "/v2/runs/{run_id}"): (TRAIN, {"tags": ["nightly"]}),
    ("GET", "/v2/runs/{run_id}/events"): (READ, None),
    ("GET", "/v2/runs/{run_id}/metrics"): (READ, None),
    ("GET", "/v2/runs/{run_id}/steps"): (READ, None),
    ("POST", "/v2/runs/{run_id}/pause"): (TRAIN, None),
    ("POST", "/v2/runs/{run_id}/resume"): (TRAIN, None),
    ("POST", "/v2/runs/{run_id}/cancel"): (TRAIN, None),
    ("DELETE", "/v2/runs/{run_id}"): (TRAIN, None),
    ("GET", "/v2/projects"): (DEPLOYED, None),
    ("GET", "/v2/projects/{project_id}"): (DEPLOYED, None),
    ("POST", "/v2/projects"): (TRAIN, {"name": "default"}),
    ("GET", "/v2/registry"): (DEPLOYED, None),
    ("GET", "/v2/registry/{environment_id}"): (DEPLOYED, None),
    ("DELETE", "/v2/registry/{environment_id}"): (DEPLOY, None),
    ("GET", "/registry/envs"): (DEPLOYED, None),
    ("GET", "/registry/envs/{environment_id}"): (DEPLOYED, None),
    ("POST", "/v2/rollouts/submit"): (TRAIN, {}),
    ("POST", "/v2/builds/upload-url"): (DEPLOY, None),
    ("POST", "/builds/upload-url"): (DEPLOY, None),
    ("PUT", "/v2/builds/{build_id}/archive"): (LINK, None),
    ("POST", "/v2/builds/trigger"): (DEPLOY, DEPLOYMENT),
    ("POST", "/builds/trigger"): (DEPLOY, DEPLOYMENT),
    ("GET", "/v2/builds/{build_id}/status"): (DEPLOYED, None),
    ("GET", "/builds/{build_id}/status"): (DEPLOYED, None),
    ("GET", "/v2/team"): (READ, None),
    ("GET", "/v2/team/keys"): (KEYS, None),
    ("POST", "/v2/team/keys"): (KEYS, {"name": "k"}),
    ("POST", "/v2/team/keys/{key_id}/rotate"): (KEYS, None),
    ("DELETE", "/v2/team/keys/{key_id}"): (KEYS, None),
    ("GET", "/v2/team/events"): (KEYS, None),
    ("GET", "/v2/admin/teams"): (ADMIN, None),
    ("POST", "/v2/admin/teams"): (ADMIN, {"name": "{new_name}"}),
    ("GET", "/v2/admin/teams/{team_id}"): (ADMIN, None),
    ("PATCH", "/v2/admin/teams/{team_id}"): (ADMIN, {}),
    ("PUT", "/v2/admin/teams/{team_id}/quotas"): (ADMIN, {}),
    ("GET", "/v2/admin/teams/{team_id}/contents"): (ADMIN, None),
    ("DELETE", "/v2/admin/teams/{team_id}"): (ADMIN, None),
    ("GET", "/v2/admin/events"): (ADMIN, None),
    ("GET", "/v2/admin/keys"): (ADMIN, None),
    ("POST", "/v2/admin/keys"): (ADMIN, {"name": "k", "team_id": "{team}"}),
    ("POST", "/v2/admin/keys/{key_id}/rotate"): (ADMIN, None),
    ("DELETE", "/v2/admin/keys/{key_id}"): (ADMIN, None),
    ("GET", "/v2/admin/bases"): (ADMIN, None),
    ("POST", "/v2/admin/bases"): (ADMIN, {"name": "{new_name}", "weights": "org/name"}),
    ("GET", "/v2/admin/trainers"): (ADMIN, None),
    ("POST", "/v2/admin/trainers/{trainer_id}/drain"): (ADMIN, None),
    ("POST", "/v2/admin/trainers/{trainer_id}/undrain"): (ADMIN, None),
    ("GET", "/v2/admin/samplers"): (ADMIN, None),
    ("POST", "/v2/admin/samplers/{sampler_id}/drain"): (ADMIN, None),
    ("POST", "/v2/admin/samplers/{sampler_id}/undrain"): (ADMIN, None),
    ("GET", "/v2/admin/models"): (ADMIN, None),
    ("POST", "/v1/files"): (TRAIN, {}),
    ("GET", "/v1/files"): (READ, None),
    ("GET", "/v1/files/{file_id}"): (READ, None),
    ("GET", "/v1/files/{file_id}/content"): (READ, None),
    ("DELETE", "/v1/files/{file_id}"): (TRAIN, None),
    ("POST", "/v1/fine_tuning/jobs"): (TRAIN, JOB),
    ("GET", "/v1/fine_tuning/jobs"): (READ, None),
    ("GET", f"{JOBS}/{{fine_tuning_job_id}}"): (READ, None),
    ("GET", f"{JOBS}/{{fine_tuning_job_id}}/events"): (READ, None),
    ("GET", f"{JOBS}/{{fine_tuning_job_id}}/checkpoints"): (READ, None),
    ("POST", f"{JOBS}/{{fine_tuning_job_id}}/pause"): (TRAIN, None),
    ("POST", f"{JOBS}/{{fine_tuning_job_id}}/resume"): (TRAIN, None),
    ("POST", f"{JOBS}/{{fine_tuning_job_id}}/cancel"): (TRAIN, None),
    ("POST", "/training/jobs"): (TRAIN, HUD_RL_JOB),
    ("POST", "/v1/training/jobs"): (TRAIN, HUD_RL_JOB),
    ("GET", "/training/jobs/{job_or_model}/raw-status"): (READ, None),
    ("GET", "/v1/training/jobs/{job_or_model}/raw-status"): (READ, None),
    ("GET", "/tasks/evalset/{name:path}"): (READ, None),
    ("GET", "/tasks/evalsets/{taskset_id}/tasks-by-id"): (READ, None),
    ("GET", "/environments/{environment}/mcp-config"): (READ, None),
    ("POST", "/tasks/upload"): (TRAIN, {}),
    ("POST", "/tasks/resolve-evalset"): (TRAIN, {}),
    ("POST", "/v1/rollouts/run_list"): (TRAIN, {}),
    ("GET", "/api/v1/healthz"): (PUBLIC, None),
    ("POST", "/api/v1/client/config"): (ANY, {}),
    ("POST", "/api/v1/client/dynamic_config"): (ANY, {}),
    ("GET", "/api/v1/get_server_capabilities"): (ANY, None),
    ("POST", "/api/v1/create_session"): (REPORT, {}),
    ("POST", "/api/v1/create_model"): (
        TRAIN,
        {"session_id": "{heart_session}", "model_seq_id": 1, "base_model": "org/Tiny-Base"},
    ),
    ("POST", "/api/v1/load_weights"): (TRAIN, {**OF_A_RUN, "seq_id": 7, "path": "tinker://{run}/weights/access"}),
    ("POST", "/api/v1/unload_model"): (TRAIN, OF_A_RUN),
    ("POST", "/api/v1/get_info"): (REPORT, OF_A_RUN),
    ("POST", "/api/v1/forward_backward"): (TRAIN, {**OF_A_RUN, "seq_id": 1}),
    ("POST", "/api/v1/forward"): (TRAIN, {**OF_A_RUN, "seq_id": 2}),
    ("POST", "/api/v1/optim_step"): (TRAIN, {**OF_A_RUN, "seq_id": 3}),
    ("POST", "/api/v1/save_weights"): (TRAIN, {**OF_A_RUN, "seq_id": 4}),
    ("POST", "/api/v1/save_weights_for_sampler"): (TRAIN, {**OF_A_RUN, "seq_id": 5}),
    ("POST", "/api/v1/save_weights_external"): (TRAIN, {**OF_A_RUN, "seq_id": 6}),
    ("POST", "/api/v1/retrieve_future"): (REPORT, {"request_id": "{future}"}),
    ("POST", "/api/v1/cancel_future"): (REPORT, {"request_id": "{future}"}),
    ("POST", "/api/v1/session_heartbeat"): (REPORT, {"session_id": "{heart_session}"}),
    ("POST", "/api/v1/sessions/{session_id}/finish"): (REPORT, {}),
    ("POST", "/api/v1/telemetry"): (ANY, {}),
    ("POST", "/api/v1/create_sampling_session"): (SAMPLE, SAMPLING_SESSION),
    ("GET", "/api/v1/samplers/{sampling_session_id}"): (REPORT, None),
    ("POST", "/api/v1/join_sampling_session"): (REPORT, {"sampling_session_id": "{sampling_session_id}"}),
    ("POST", "/api/v1/asample"): (SAMPLE, ASAMPLE),
    ("POST", "/api/v1/retrieve_futures"): (
        REPORT,
        {"target": {"sampling_session_id": "{sampling_session_id}"}, "timeout": 0},
    ),
    ("GET", "/api/v1/tokenizers/{base:path}"): (ANY, None),
    ("GET", "/api/v1/training_runs"): (READ, None),
    ("GET", "/api/v1/training_runs/{run}"): (READ, None),
    ("GET", "/api/v1/training_runs/{run}/checkpoints"): (READ, None),
    ("GET", f"{NAMED}/archive"): (READ, None),
    ("GET", f"{NAMED}/external_weights_urls"): (READ, None),
    ("GET", "/api/v1/files/{token}/{file_name}"): (LINK, None),
    ("POST", f"{NAMED}/publish"): (TRAIN, None),
    ("DELETE", f"{NAMED}/publish"): (TRAIN, None),
    ("PUT", f"{NAMED}/ttl"): (TRAIN, {"ttl_seconds": 3600}),
    ("DELETE", NAMED): (TRAIN, None),
    ("GET", "/api/v1/checkpoints"): (READ, None),
    ("POST", "/api/v1/checkpoints/search"): (READ, {}),
    ("POST", UPLOAD): (TRAIN, {}),
    ("POST", "/api/v1/copy_weights"): (TRAIN, {"source_path": "tinker://{run}/weights/access"}),
    ("POST", "/api/v1/weights_info"): (USE, {"tinker_path": "tinker://{run}/weights/access"}),
    ("GET", "/api/v1/sessions"): (READ, None),
    ("POST", "/api/v1/sessions/search"): (READ, {}),
    ("GET", "/api/v1/sessions/{session_id}"): (READ, None),
    ("PUT", "/api/v1/sessions/{session_id}/project"): (TRAIN, {"project_id": "p"}),
    ("GET", "/api/v1/sessions/{session_id}/trace_export"): (READ, None),
    ("GET", "/v2/runners"): (ADMIN, None),
    ("POST", "/v2/runners/{runner_id}/drain"): (ADMIN, None),
    ("POST", "/v2/runners/{runner_id}/undrain"): (ADMIN, None),
    ("POST", "/runner/register"): (RUN, REGISTRATION),
    ("POST", "/runner/{runner_id}/heartbeat"): (RUN, {}),
    ("POST", "/runner/{runner_id}/lease"): (RUN, {"slots": 1, "kinds": ["session"]}),
    ("POST", f"{HELD}/ready"): (RUN, {"attempt": 1}),
    ("POST", f"{HELD}/log"): (RUN, {"attempt": 1, "first": 0, "lines": []}),
    ("POST", f"{HELD}/end"): (RUN, {"attempt": 1, "outcome": "failed"}),
    ("GET", "/runner/{runner_id}/builds/{build_id}/archive"): (RUN, None),
    ("POST", "/runner/{runner_id}/stop"): (RUN, None),
    ("POST", "/v2/admin/models/{model_id}/pause"): (ADMIN, WHY),
    ("POST", "/v2/admin/models/{model_id}/resume"): (ADMIN, None),
    ("PUT", "/v2/admin/models/{model_id}/head"): (ADMIN, {"checkpoint_id": None, **WHY}),
}
WEBSOCKETS = {
    "/v2/builds/{build_id}/logs": DEPLOYED,
    "/builds/{build_id}/logs": DEPLOYED,
    "/runtime/tunnels/{environment_session_id}": TRAIN,
}
SHOWN_BY_THE_FRAMEWORK = ("/docs", "/docs/oauth2-redirect", "/redoc")
CLIENT_MINTED = ("/v2/trace/job/{job_id}/enter", "/v2/trace/{trace_id}/enter", "/v2/trace/{trace_id}/exit")
"""Ids that clients mint are unique per team: another team's report of the same id is a thing of its own."""
DELETED = (
    "/v2/jobs/{job_id}",
    "/v2/traces/{trace_id}",
    "/v2/traces/{trace_id}/comments/{comment_id}",
    "/v2/models/{model_id}/evals/{eval_id}",
    "/v1/files/{file_id}",
    "/v2/registry/{environment_id}",
    "/v2/tasksets/{taskset_id}",
    "/v2/runs/{run_id}",
    "/v2/tasksets/{taskset_id}/tasks/{name:path}",
    NAMED,
)
NOTHING_THERE = "/runner/{runner_id}/builds/{build_id}/archive"
"""Where the scene has nothing that could be answered with."""
SHARED_BY_ALL = (
    "/api/v1/tokenizers/{base:path}",
    UPLOAD,
    "/v1beta/models/{upstream}:generateContent",
    "/v1beta/models/{upstream}:streamGenerateContent?alt=sse",
)
"""Answered to everybody alike."""
SHARED_TASK = {"name": "shared", "env": {"name": "access-environment"}, "task_id": "t"}
SHARED = {"taskset_name": "shared", "tasks": [SHARED_TASK]}


@dataclass
class Scene:
    """Two teams, the keys of each kind, and things of the first one."""

    origin: str
    keys: dict[str, str]
    other_keys: dict[str, str]
    things: dict[str, str]
    http: httpx.AsyncClient
    database: AsyncDatabase

    async def report(self) -> None:
        """A job with a rollout, a held-out score, and a taskset with a task."""
        for path, body in (("job/{job_id}/enter", {}), ("{trace_id}/enter", {"job_id": "{job_id}"})):
            (await self.call("POST", f"/v2/trace/{path}", body, self.keys["member"])).raise_for_status()
        said = await self.call("POST", "/v2/traces/{trace_id}/comments", {"text": "odd"}, self.keys["member"])
        self.things["comment_id"] = said.json()["id"]
        score = {"benchmark": "access", "score": 0.5}
        reply = await self.call("POST", "/v2/models/{model_id}/evals", score, self.keys["member"])
        self.things["eval_id"] = reply.json()["id"]
        taskset = await self.call("POST", "/v2/tasks/upload", SHARED, self.keys["member"])
        self.things |= {"taskset_id": taskset.json()["taskset_id"], "name:path": "shared"}
        file = {"file": ("tasks.jsonl", b'{"messages": [{"role": "user", "content": "3+4?"}]}')}
        headers = {"Authorization": f"Bearer {self.keys['member']}"}
        uploaded = await self.http.post("/v1/files", data={"purpose": "fine-tune"}, files=file, headers=headers)
        self.things["file_id"] = uploaded.json()["id"]
        await self._name_a_picture(headers)
        await self._name_a_checkpoint()
        await self._end_a_run()
        await self._deploy()

    async def _deploy(self) -> None:
        """An environment with a version that serves, and a session of it."""
        team_id = uuid.UUID(self.things["team"])
        async with self.database.session() as session:
            row = await deployed_environment_of(session, team_id, "access-environment")
            opened = await open_session(session, await authenticate(session, self.keys["member"]), row.name, None)
            self.things |= {"environment": row.name, "environment_id": str(row.id), "environment_session_id": opened}
            self.things["build_id"] = str(row.current_build_id)

    async def _name_a_picture(self, headers: dict[str, str]) -> None:
        """One that the rollout shows."""
        taken = await self.http.post("/v2/pictures", content=encoded(gradient()), headers=headers)
        self.things["picture"] = taken.json()["name"]
        ids = {"team_id": uuid.UUID(self.things["team"]), "trace_id": uuid.UUID(self.things["trace_id"])}
        row = insert(TracePictureRow).values(**ids, name=self.things["picture"])
        async with self.database.session() as session:
            await session.execute(row.on_conflict_do_nothing())

    async def _name_a_checkpoint(self) -> None:
        async with self.database.session() as session:
            model = await session.get_one(ModelRow, uuid.UUID(self.things["run"]))
            checkpoint = await add_checkpoint(session, model)
            await session.flush()
            name = {"model_id": model.id, "kind": "training", "name": "access", "checkpoint_id": checkpoint.id}
            row = insert(CheckpointNameRow).values(id=uuid.uuid4(), size_bytes=1, **name)
            await session.execute(row.on_conflict_do_nothing())

    async def _end_a_run(self) -> None:
        """A run of the model that was cancelled long ago."""
        things = self.things
        named = {"id": things["run_id"], "team_id": things["team"], "model_id": things["model"]}
        settings = {"config": RunConfig().model_dump(mode="json"), "stop": StopRules().model_dump(mode="json")}
        run = insert(RunRow).values(
            **{name: uuid.UUID(value) for name, value in named.items()},
            **settings,
            taskset="shared",
            num_tasks=0,
            tasks="[]",
            job_id=uuid.uuid4(),
            state="cancelled",
        )
        async with self.database.session() as session:
            await session.execute(run.on_conflict_do_nothing())

    async def call(self, method: str, path: str, body: Any, key: str | None) -> httpx.Response:
        things = {**self.things, "new_name": f"n-{uuid.uuid4().hex[:8]}"}
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return await self.http.request(method, _filled(path, things), json=_filled(body, things), headers=headers)


def _filled(value: Any, things: dict[str, str]) -> Any:
    if isinstance(value, str):
        for name, thing in things.items():
            value = value.replace("{" + name + "}", thing)
        return value
    if isinstance(value, dict):
        return {key: _filled(item, things) for key, item in value.items()}
    return [_filled(item, things) for item in value] if isinstance(value, list) else value


GRANTS = {
    "viewer": Grant("viewer", "viewer"),
    "member": Grant("member", "member"),
    "sampler": Grant("sampler", "member", frozenset({"sample"})),
    "team_admin": Grant("team_admin", "team_admin"),
    "admin": Grant("admin", "admin"),
    "runner": Grant("runner", "runner"),
}


@pytest.fixture(scope="session")
async def scene(origin, database: AsyncDatabase, base, vendor: Vendor) -> AsyncIterator[Scene]:
    teams, spare = list[dict[str, str]](), Grant("spare", "viewer")
    async with database.session() as session:
        for name in ("access-a", "access-b"):
            team_id = await ensure_team(session, name)
            issued = {kind: (await issue(session, team_id, grant, COMMAND_LINE))[0] for kind, grant in GRANTS.items()}
            _, key = await issue(session, team_id, spare, COMMAND_LINE)
            teams.append({**issued, "team": str(team_id), "spare": str(key.id)})
    things = {name: teams[0].pop(name) for name in ("team", "spare")}
    things = {"team": things["team"], "team_id": things["team"], "key_id": things["spare"]}
    things["project_id"] = things["team"]
    things["upstream"] = "access-gemini"
    for api in APIS:
        await add_to_catalog(database, vendor, f"access-{api}", api)
    things |= {name: str(uuid.uuid4()) for name in ("job_id", "trace_id", "placement_id", "build_id", "run_id")}
    async with httpx.AsyncClient(base_url=origin, timeout=30, trust_env=False) as http:
        member = {"Authorization": f"Bearer {teams[0]['member']}"}
        admin = {"Authorization": f"Bearer {teams[0]['admin']}"}
        fork = {"source_model_id": str(base.id), "name": "access-model"}
        model = (await http.post("/v2/models/fork", json=fork, headers=member)).json()
        things |= {"model": model["id"], "model_id": model["id"], "run": model["id"], "alarm_id": str(uuid.uuid4())}
        async with database.session() as session:
            alarm = AlarmRow(id=uuid.UUID(things["alarm_id"]), model_id=uuid.UUID(model["id"]), rule="spread")
            alarm.subject_id, alarm.step, alarm.message, alarm.state = uuid.uuid4(), 0, "noted", "noted"
            alarm.evidence, alarm.outcome, alarm.actions = {}, {}, []
            session.add(alarm)
        forward = await http.post(f"/v1/models/{model['id']}/train/forward", json=batch(), headers=member)
        things |= {"checkpoint_id:path": "weights/access", "checkpoint": "head"}
        things["base:path"] = base.slug
        things["forward"] = forward.json()["forward_id"]
        for name in ("session_id", "heart_session"):
            opened = await http.post("/api/v1/create_session", json={}, headers=member)
            things[name] = opened.json()["session_id"]
        sampled = _filled(SAMPLING_SESSION, things)
        opened = await http.post("/api/v1/create_sampling_session", json=sampled, headers=member)
        things["sampling_session_id"] = opened.json()["sampling_session_id"]
        run = {"session_id": things["heart_session"], "model_seq_id": 0, "base_model": base.slug}
        made = await http.post("/api/v1/create_model", json=run, headers=member)
        things |= {"trained": made.json()["model_id"], "future": made.json()["request_id"]}
        registered = await http.post("/runner/register", json=REGISTRATION, headers=admin)
        things["runner_id"] = registered.json()["runner_id"]
        for plane in ("trainer", "sampler"):
            reply = await http.get(f"/v2/admin/{plane}s", headers=admin)
            stopped = [row["id"] for row in reply.json()["items"]]
            things[f"{plane}_id"] = stopped[-1]
        scene = Scene(origin, teams[0], teams[1], things, http, database)
        await scene.report()
        job = await http.post(JOBS, json={**_filled(JOB, things), "model": base.slug}, headers=member)
        things |= {"fine_tuning_job_id": job.json()["id"], "job_or_model": things["run_id"]}
        yield scene


def test_every_route_has_a_line_in_the_table(tmp_path):
    app = create_app(ServerSettings("postgresql://nowhere/nothing", f"file://{tmp_path}", "token"))
    routes = {
        (method, route.path)
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
        and route.path not in SHOWN_BY_THE_FRAMEWORK
        and not route.original_route.endpoint.__module__.startswith("server.pages.")  # sessions: see test_pages
        for method in route.methods or ()
    }
    assert {(method, path.partition("?")[0]) for method, path in ROUTES} == routes
    sockets = {
        context.path
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, WebSocketRoute)
    }
    assert set(WEBSOCKETS) == sockets


async def _outcome(socket: ClientConnection) -> str:
    """The refusal that the server gives to whoever it has let in; `open` where it gives none for a while."""
    try:
        async with asyncio.timeout(0.3):
            frame = json.loads(await socket.recv())
    except TimeoutError:
        return "open"
    return frame["error"] if isinstance(frame.get("error"), str) else str(frame.get("error", {}).get("message", "open"))


async def _opened(scene: Scene, path: str, key: str) -> str:
    """What becomes of a websocket: `denied`, a refusal, or `open`."""
    url = scene.origin.replace("http", "ws") + _filled(path, scene.things)
    in_query = "logs" in path
    headers = {} if in_query else {"Authorization": f"Bearer {key}"}
    try:
        async with connect(
            f"{url}?api_key={key}" if in_query else url, additional_headers=headers, proxy=None
        ) as socket:
            await socket.send(b'{"id":1}\n')
            return await _outcome(socket)
    except InvalidStatus as refused:
        assert refused.response.status_code in (401, 403)
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        assert closed.rcvd.code == 4003
    return "denied"


@pytest.mark.parametrize("path", WEBSOCKETS)
async def test_a_websocket_is_opened_by_the_scopes_that_its_line_names_and_by_no_other_team(scene: Scene, path: str):
    for key in ("", "hw_nobody-knows-this-one"):
        assert await _opened(scene, path, key) == "denied"
    outcomes = await asyncio.gather(*(_opened(scene, path, scene.keys[kind]) for kind in GRANTS))
    for kind, own in zip(GRANTS, outcomes, strict=True):
        if not _scopes(kind) & SUFFICES[WEBSOCKETS[path]]:
            assert own == "denied", kind
            continue
        assert own == "open", kind
        if kind != "admin":
            assert "there is no" in await _opened(scene, path, scene.other_keys[kind])


def _scopes(kind: str) -> set[str]:
    return set(GRANTS[kind].effective)


def _refusal(reply: httpx.Response) -> tuple[int, str]:
    """The answer to HEAD has no body, which would have the code of its status."""
    if reply.request.method == "HEAD":
        return reply.status_code, {401: "unauthenticated", 403: "forbidden"}.get(reply.status_code, "")
    return reply.status_code, reply.json()["code"]


def _names_a_thing(path: str, body: Any) -> bool:
    things = ("{model}", "{taskset_id}", "{environment}", "{build_id}", "{heart_session}", "{run}")
    things += ("{sampling_session_id}", "{trained}", "{future}")
    return "{" in path or any(name in str(body) for name in things)


UNDONE_BY = {
    "/v2/admin/models/{model_id}/pause": "/v2/admin/models/{model_id}/resume",
    "/v2/runners/{runner_id}/drain": "/v2/runners/{runner_id}/undrain",
    "/v2/admin/samplers/{sampler_id}/drain": "/v2/admin/samplers/{sampler_id}/undrain",
    "/v2/admin/trainers/{trainer_id}/drain": "/v2/admin/trainers/{trainer_id}/undrain",
}
"""So that no other test finds what an operator did: it may come later, in any order."""


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda part: part.replace("/", " ").strip())
async def test_a_key_opens_what_its_scopes_say_and_no_other_team_s(scene: Scene, method: str, path: str):
    needs, body = ROUTES[method, path]
    if needs == PUBLIC:
        answered = {200, 503} if path == "/readyz" else {200}  # other tests register bases that nobody serves
        assert (await scene.call(method, path, body, None)).status_code in answered
        return
    if needs == LINK:
        assert (await scene.call(method, path, body, None)).status_code == 404
        return
    for key in (None, "hw_nobody-knows-this-one"):
        reply = await scene.call(method, path, body, key)
        assert _refusal(reply) == (401, "unauthenticated")
    own_tries, foreign_tries = dict[str, int](), dict[str, int]()
    for kind in GRANTS:
        allowed = bool(_scopes(kind) & SUFFICES[needs])
        if method == "DELETE" and needs == ADMIN and "team_id" in path:
            reply = await scene.call(method, path, body, scene.other_keys[kind])
        else:
            reply = await scene.call(method, path, body, scene.keys[kind])
        own_tries[kind] = reply.status_code
        if path in UNDONE_BY:
            await scene.call(method, UNDONE_BY[path], None, scene.keys[kind])
        if method == "DELETE" and path in DELETED and reply.status_code not in (401, 403):
            await scene.report()
        if not allowed:
            assert _refusal(reply) == (403, "forbidden"), (kind, reply.text)
            continue
        if path not in NOTHING_THERE:
            assert reply.status_code < 500, reply.text
            assert reply.status_code not in (401, 403, 404), (kind, reply.text)
        if (
            needs == ADMIN
            or not _names_a_thing(path, body)
            or path in (*CLIENT_MINTED, *SHARED_BY_ALL)
            or "telemetry" in path
        ):
            continue
        foreign = await scene.call(method, path, body, scene.other_keys[kind])
        foreign_tries[kind] = foreign.status_code
        assert foreign.status_code == 404, (kind, foreign.text)
        assert "access-model" not in foreign.text


@pytest.fixture(scope="module")
async def narrowed(scene: Scene, database: AsyncDatabase, base) -> dict[str, Any]:
    """A key that opens one of two models; a job with a rollout of each."""
    member = {"Authorization": f"Bearer {scene.keys['member']}"}
    jobs = dict[str, dict[str, str]]()
    for name in ("narrow-own", "narrow-other"):
        fork = {"source_model_id": str(base.id), "name": name}
        model = (await scene.http.post("/v2/models/fork", json=fork, headers=member)).json()["id"]
        ids = {"model": model, "job_id": str(uuid.uuid4()), "trace_id": str(uuid.uuid4())}
        enter = {"job_id": ids["job_id"], "model": model, "task_slug": name}
        await scene.http.post(f"/v2/trace/job/{ids['job_id']}/enter", json={"name": name}, headers=member)
        await scene.http.post(f"/v2/trace/{ids['trace_id']}/enter", json=enter, headers=member)
        jobs[name] = ids
    grant = Grant("narrowed", "member", None, frozenset({uuid.UUID(jobs["narrow-own"]["model"])}))
    async with database.session() as session:
        team_id = await ensure_team(session, "access-a")
        key = (await issue(session, team_id, grant, COMMAND_LINE))[0]
    return {"key": key, "own": jobs["narrow-own"], "other": jobs["narrow-other"]}


OF_ROLLOUTS = [route for route in ROUTES if "{trace_id}" in route[1] or "{job_id}" in route[1]]


@pytest.mark.parametrize(("method", "path"), OF_ROLLOUTS, ids=lambda part: part.replace("/", " ").strip())
async def test_a_key_for_one_model_opens_its_rollouts_and_jobs_and_no_others(scene, narrowed, method, path):
    headers = {"Authorization": f"Bearer {narrowed['key']}"}
    body = ROUTES[method, path][1]
    other = await scene.http.request(method, _filled(path, narrowed["other"]), json=body, headers=headers)
    assert (other.status_code, other.json()["code"]) == (403, "forbidden"), other.text
    if (method != "DELETE" or "pin" in path) and not path.endswith(("logprobs", "{picture}")):
        own = await scene.http.request(method, _filled(path, narrowed["own"]), json=body, headers=headers)
        assert own.status_code == 200, own.text


async def test_lists_show_a_key_for_one_model_what_is_of_that_model(scene, narrowed):
    headers = {"Authorization": f"Bearer {narrowed['key']}"}
    jobs = (await scene.http.get("/v2/jobs", headers=headers)).json()
    assert ([job["id"] for job in jobs["items"]], jobs["total"]) == ([narrowed["own"]["job_id"]], 1)
    traces = (await scene.http.get("/v2/traces", headers=headers)).json()["items"]
    assert {trace["id"] for trace in traces} == {narrowed["own"]["trace_id"]}
    exported = await scene.http.get("/v2/traces/export", headers=headers)
    assert exported.headers["X-Total-Count"] == "1"
    for path, body in (("cancel", {"trace_id": "trace_id"}), ("cancel_job", {"job_id": "job_id"})):
        named = {name: narrowed["other"][thing] for name, thing in body.items()}
        refused = await scene.http.post(f"/v2/rollouts/{path}", json=named, headers=headers)
        assert refused.status_code == 403, refused.text
    refused = await scene.http.post("/v2/rollouts/cancel_user_jobs", headers=headers)
    assert (refused.status_code, "some models alone" in refused.json()["detail"]) == (403, True)


async def test_a_job_with_rollouts_of_several_models_is_not_of_one_alone(scene, narrowed):
    member, headers = ({"Authorization": f"Bearer {key}"} for key in (scene.keys["member"], narrowed["key"]))
    job, own, other = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())
    for trace, whose in ((own, "own"), (other, "other")):
        enter = {"job_id": job, "model": narrowed[whose]["model"]}
        (await scene.http.post(f"/v2/trace/{trace}/enter", json=enter, headers=member)).raise_for_status()
    (await scene.http.post(f"/v2/trace/job/{job}/enter", json={"name": "both"}, headers=member)).raise_for_status()
    assert (await scene.http.get(f"/v2/jobs/{job}", headers=headers)).status_code == 403
    assert (await scene.http.get(f"/v2/trace/{own}", headers=headers)).status_code == 200
    for trace in (own, other):
        (await scene.http.delete(f"/v2/traces/{trace}", headers=member)).raise_for_status()
    (await scene.http.delete(f"/v2/jobs/{job}", headers=member)).raise_for_status()


async def test_a_key_for_one_model_reports_rollouts_whose_model_nobody_has_told_yet(scene, narrowed):
    headers, job, trace = {"Authorization": f"Bearer {narrowed['key']}"}, str(uuid.uuid4()), str(uuid.uuid4())
    reports = [
        (f"/v2/trace/job/{job}/enter", {"name": "new"}),
        (f"/v2/trace/{trace}/enter", {"job_id": job}),
        (f"/v2/trace/job/{job}/enter", {"name": "new"}),
        (f"/v2/trace/{trace}/exit", {"status": "completed"}),
    ]
    for path, body in reports:
        assert (await scene.http.post(path, json=body, headers=headers)).status_code == 200, path
    for path in (f"/v2/trace/{trace}", f"/v2/jobs/{job}"):
        assert (await scene.http.get(path, headers=headers)).status_code == 403, path


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/v1/messages", "/responses"])
async def test_a_chat_does_not_take_over_the_rollout_of_another_model(path, stream, scene, narrowed, sampler_script):
    headers, trace = {"Authorization": f"Bearer {narrowed['key']}"}, narrowed["other"]["trace_id"]
    asked = {"/completions": COMPLETION, "/responses": {"input": "6*6"}}.get(path, CHAT)
    body = {**asked, "model": narrowed["own"]["model"], "stream": stream}
    refused = await scene.http.post(path, json=body, headers={**headers, "Trace-Id": trace})
    assert (refused.status_code, refused.json()["code"], trace in refused.text) == (403, "forbidden", True)
    assert sampler_script.requests == []
    assert (await scene.http.get(f"/v2/trace/{trace}", headers=headers)).status_code == 403
    for taken in (narrowed["own"]["trace_id"], new := str(uuid.uuid4())):
        reply = await scene.http.post(path, json=body, headers={**headers, "Trace-Id": taken})
        assert reply.status_code == 200, reply.text
    assert (await scene.http.get(f"/v2/trace/{new}", headers=headers)).json()["model_id"] == narrowed["own"]["model"]
    await scene.http.delete(f"/v2/traces/{new}", headers=headers)


async def test_a_key_for_one_model_imports_rollouts_of_that_model_alone(scene, narrowed):
    headers = {"Authorization": f"Bearer {narrowed['key']}"}
    own, other = narrowed["own"], narrowed["other"]

    async def bring(query: str = "", **line: Any) -> httpx.Response:
        line = {"trace_id": str(uuid.uuid4()), "prompt_token_ids": [1], "output_token_ids": [2], "reward": 1.0, **line}
        lines = {name: value for name, value in line.items() if value is not None}
        return await scene.http.post(f"/v2/traces/import?rescore=true{query}", json=lines, headers=headers)

    tokens = {"prompt_token_ids": [1], "output_token_ids": [2]}
    turn = {**tokens, "served_at": "2026-01-01T00:00:00Z", "model_id": other["model"]}
    for refused in (
        {"model": "narrow-other"},
        {"turns": [turn], "prompt_token_ids": None, "output_token_ids": None},
        {"trace_id": other["trace_id"]},
        {"job_id": other["job_id"]},
    ):
        result = (await bring(**refused)).json()
        assert (result["num_refused"], result["imported"]) == (1, 0), result
        assert "this key is" in result["refused"][0]["detail"]
    trace = str(uuid.uuid4())
    for reward, outcome in ((1.0, "imported"), (1.0, "unchanged"), (0.5, "rescored")):
        line = {"trace_id": trace, "model": "narrow-own", "job_id": own["job_id"], "reward": reward}
        assert (await bring(**line)).json()[outcome] == 1
    (await scene.http.delete(f"/v2/traces/{trace}", headers=headers)).raise_for_status()


async def test_a_key_for_one_model_imports_into_no_job_with_rollouts_of_others(scene, narrowed):
    member, headers = ({"Authorization": f"Bearer {key}"} for key in (scene.keys["member"], narrowed["key"]))
    line = {"prompt_token_ids": [1], "output_token_ids": [2], "reward": 1.0}
    theirs = {**line, "model": "narrow-other", "trace_id": str(uuid.uuid4())}
    path = "/v2/traces/import?job=of-another"
    told = (await scene.http.post(path, json=theirs, headers=member)).json()
    assert told["imported"] == 1, told
    job = told["job_id"]
    refused = await scene.http.post(path, json={**line, "model": "narrow-own"}, headers=headers)
    assert (refused.status_code, job in refused.json()["detail"]) == (403, True), refused.text
    (await scene.http.delete(f"/v2/jobs/{job}", headers=member)).raise_for_status()


@pytest.mark.parametrize("whose", ["model", "job_id"])
async def test_a_key_for_one_model_begins_no_rollout_of_another_one_or_in_its_job(whose, scene, narrowed):
    headers, trace = {"Authorization": f"Bearer {narrowed['key']}"}, str(uuid.uuid4())
    path, own = f"/v2/trace/{trace}/enter", {name: narrowed["own"][name] for name in ("model", "job_id")}
    refused = await scene.http.post(path, json={**own, whose: narrowed["other"][whose]}, headers=headers)
    assert (refused.status_code, "this key is" in refused.json()["detail"]) == (403, True), refused.text
    assert (await scene.http.get(f"/v2/trace/{trace}", headers=headers)).status_code == 404
    assert (await scene.http.post(path, json={**own, "model": "of nobody"}, headers=headers)).status_code == 200
    assert (await scene.http.post(path, json=own, headers=headers)).status_code == 200
    (await scene.http.delete(f"/v2/traces/{trace}", headers=headers)).raise_for_status()


@pytest.mark.parametrize("call", ["forward-backward", "forward"])
async def test_a_key_for_one_model_trains_on_no_rollout_of_another_one(call, scene, narrowed, database):
    member, headers = ({"Authorization": f"Bearer {key}"} for key in (scene.keys["member"], narrowed["key"]))
    traces, own = dict[str, str](), narrowed["own"]["model"]
    for name in ("narrow-own", "narrow-other", None):
        traces[name or ""] = line_id = str(uuid.uuid4())
        line = {"trace_id": line_id, "model": name, "prompt_token_ids": [1], "output_token_ids": [2], "reward": 1.0}
        if call == "forward-backward":
            line["output_logprobs"] = [-0.5]
        await scene.http.post("/v2/traces/import", json=line, headers=member)
    path = f"/v1/models/{own}/train/{call}"
    for name in ("narrow-other", ""):
        before = await num_operations(database, own)
        inputs = {"inputs": [traces["narrow-own"], traces[name]]}
        refused = await scene.http.post(path, json=inputs, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), refused.text
        assert f"input 1 (trace {uuid.UUID(traces[name]).hex})" in refused.json()["detail"]
        assert await num_operations(database, own) == before
        assert (await scene.http.post(path, json=inputs, headers=member)).status_code == 200
    trained = await scene.http.post(path, json={"inputs": [traces["narrow-own"]] * 2}, headers=headers)
    assert trained.status_code == 200, trained.text
    for trace in traces.values():
        (await scene.http.delete(f"/v2/traces/{trace}", headers=member)).raise_for_status()
