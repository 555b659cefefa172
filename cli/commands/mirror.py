"""`headway mirror`: step metrics in TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from cli.ending import or_stop, sentence_of
from cli.settings import (
    DEFAULT_DATA_DIR,
    DataDir,
    LogFormatOption,
    OptionalDatabaseUrl,
    database_url_or_embedded,
    stop_with,
)


def mirror(
    to: Annotated[str, typer.Option("--to", help="tensorboard:DIR, wandb:PROJECT or mlflow:URI")],
    model: Annotated[list[str] | None, typer.Option(help="A model (SLUG or TEAM/SLUG); repeat; default: all")] = None,
    once: Annotated[bool, typer.Option("--once", help="End when every step so far is copied")] = False,
    every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between two queries")] = 5.0,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    log_format: LogFormatOption = None,
) -> None:
    """Copy the metrics of every committed step to another tool, and go on as steps are committed.

    The x axis is the order of commits; `tree_step` is the step in the model's tree, which falls at a rollback. Goes on
    where it stopped.
    """
    from server.mirror import open_target
    from server.mirror.following import Mirror
    from store.database import Database
    from wire.errors import HeadwayError
    from wire.process.lifeline import follow_parent
    from wire.process.logging import configure_logging

    configure_logging("mirror", log_format and log_format.value)
    follow_parent()
    database = Database(database_url_or_embedded(database_url, data_dir))
    target = None
    try:
        target = open_target(to, data_dir.resolve() / "mirrors" / re.sub(r"[^A-Za-z0-9-]", "_", to)[:100])
        mirror = Mirror(database, target, to, model or ())
        or_stop(lambda: mirror.follow(every_s, _say, once=once))
    except ModuleNotFoundError as missing:
        stop_with(f"this mirror needs {missing.name}; install headway[{to.partition(':')[0]}]")
    except (HeadwayError, OSError, ValueError) as error:
        stop_with(sentence_of(error))
    except KeyboardInterrupt:
        pass
    finally:
        if target is not None:
            target.close()
        database.close()


def _say(model: str, num_steps: int) -> None:
    typer.echo(f"{model}: {num_steps} steps")
