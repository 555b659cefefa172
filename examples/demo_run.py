"""Deploy an environment, have the box train on it, and leave: HUD's documented workflow with HUD's own commands.

    source <data dir>/env
    python -m examples.demo_run

Runs `hud models fork`, `hud deploy`, `hud sync tasks`, `hud eval`, `hud rl run`, `hud rl status` and `hud eval` again,
one after the other, each of them as it is typed in a terminal. `hud rl` is a command of hud-python 0.5.41, which has an
environment of its own; `--without-hud-rl` starts the run with `headway runs start`, and with held-out tasks. Exits 0 if
the mean reward climbed from below 0.4 to above 0.85, 1 if it did not, 2 if a command failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
HUD = BIN / "hud"
HUD_RL = HERE.parent / ".venv-hud-rl" / "bin" / "hud"
HEADWAY = BIN / "headway"
TASKSET, HELD_OUT = "arithmetic", "arithmetic-held-out"
START_BELOW, END_ABOVE = 0.4, 0.85
ENDED = ("completed", "stopped", "failed", "cancelled")
POLL_S = 2.0


class CommandFailed(RuntimeError):
    """A command that the workflow needs."""


def main() -> int:
    args = parse_args()
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            before, after = workflow(args, Path(folder))
    except (CommandFailed, httpx.HTTPError) as error:
        print(f"the demo could not go on: {error}")
        return 2
    climbed = before < START_BELOW and after > END_ABOVE
    word = "climbed" if climbed else "did NOT climb"
    print(f"{word}: mean reward of `hud eval` {before:.2f} → {after:.2f} ({time.monotonic() - started:.0f} s)")
    return 0 if climbed else 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.demo_run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base-model", default="tiny-arith", help="slug of the base to fork")
    parser.add_argument("--name", default="my-agent", help="name of the fork")
    parser.add_argument(
        "--without-hud-rl", action="store_true", help="start the run with `headway runs start`, with held-out tasks"
    )
    parser.add_argument(
        "--start-args", default="", help="with --without-hud-rl: more arguments of `headway runs start`, as typed"
    )
    return parser.parse_args()


def workflow(args: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """The mean reward of the evaluations before and after."""
    environment = folder / "arithmetic"
    shutil.copytree(HERE / "deployed", environment)  # deploying leaves a link file in the folder
    run(HUD, "models", "fork", args.base_model, "--name", args.name, "--yes", cwd=environment)
    run(HUD, "deploy", "--yes", cwd=environment)
    run(HUD, "sync", "tasks", TASKSET, "tasks.py", "--yes", cwd=environment)
    before = evaluate(args.name, environment)
    if args.without_hud_rl:
        run(HUD, "sync", "tasks", HELD_OUT, "held_out.jsonl", "--yes", cwd=environment)
        over = ("-m", args.name, "-t", TASKSET, "--held-out", HELD_OUT, *shlex.split(args.start_args))
        run(HEADWAY, "runs", "start", *over, cwd=environment)
    else:
        run(HUD_RL, "rl", "run", TASKSET, "-m", args.name, "--yes", cwd=environment)
    print("the client has ended; the box trains", flush=True)
    follow(args.name)
    if args.without_hud_rl:
        run(HEADWAY, "runs", "list", cwd=environment)
    else:
        run(HUD_RL, "rl", "status", args.name, cwd=environment)
    return before, evaluate(args.name, environment)


def run(*command: str | Path, cwd: Path) -> None:
    """A command as it is typed, its output as it comes. Raises CommandFailed."""
    done = subprocess.run(shown(command), cwd=cwd, env=quiet(), check=False)
    if done.returncode:
        raise CommandFailed(f"`{typed(command)}` ended with {done.returncode}")


def evaluate(model: str, cwd: Path) -> float:
    """`hud eval` of the whole taskset: the rollouts run on the box. Its mean reward. Raises CommandFailed."""
    command = (HUD, "eval", TASKSET, model, "--full", "--yes", "--json")
    done = subprocess.run(shown(command), cwd=cwd, env=quiet(), check=False, capture_output=True, text=True)
    if done.returncode:
        raise CommandFailed(f"`{typed(command)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    runs = json.loads(done.stdout)["runs"]
    errors = [one["trace_error"] for one in runs if one["is_error"]]
    if errors:
        raise CommandFailed(f"{len(errors)} of {len(runs)} rollouts failed: {errors[0]}")
    reward = fmean(one["reward"] for one in runs)
    print(f"{len(runs)} rollouts on the box, mean reward {reward:.2f}", flush=True)
    return reward


def follow(model: str) -> None:
    """A line for each step of the model's newest run, until it ends. Raises CommandFailed where it failed."""
    key = {"Authorization": f"Bearer {os.environ['HUD_API_KEY']}"}
    with httpx.Client(base_url=os.environ["HUD_API_URL"], headers=key, trust_env=False) as client:
        for event in events(client, model):
            print(f"  {event['kind']}: {event['message']}", flush=True)
            if event["kind"] in ("failed", "cancelled"):
                raise CommandFailed(f"the run {event['kind']}: {event['message']}")


def events(client: httpx.Client, model: str) -> Iterator[dict[str, Any]]:
    """What happens to the model's newest run, as it happens, up to its end."""
    run_id = get(client, "/v2/runs", model=model, limit=1)["items"][0]["id"]
    after = 0
    while True:
        has_ended = get(client, f"/v2/runs/{run_id}")["state"] in ENDED
        page = get(client, f"/v2/runs/{run_id}/events", after=after)
        yield from page["items"]
        after = page["next_after"]
        if has_ended and not page["items"]:
            return
        time.sleep(0 if has_ended else POLL_S)


def get(client: httpx.Client, path: str, **parameters: str | int) -> dict[str, Any]:
    """Raises HTTPError."""
    return client.get(path, params=parameters).raise_for_status().json()


def shown(command: Sequence[str | Path]) -> list[str]:
    """Print it, as a terminal would show it."""
    print(f"$ {typed(command)}", flush=True)
    return [str(word) for word in command]


def typed(command: Sequence[str | Path]) -> str:
    """With the program's name alone."""
    return shlex.join([Path(command[0]).name, *map(str, command[1:])])


def quiet() -> dict[str, str]:
    """The environment, without questions to the package index and without usage reports."""
    return {**os.environ, "HUD_SKIP_VERSION_CHECK": "1", "HUD_CLI_ANALYTICS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}


if __name__ == "__main__":
    sys.exit(main())
