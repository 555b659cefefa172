"""`headway doctor`: what this place reaches and may do there, and the database's invariants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.doctor.finding import Finding, State, is_healthy
from cli.doctor.plane import Plane
from cli.ending import or_stop, sentence_of
from cli.runner_key import runner_key
from cli.settings import (
    DEFAULT_DATA_DIR,
    BlobStoreUrl,
    CheckpointStoreUrl,
    DataDir,
    OptionalDatabaseUrl,
    SamplerToken,
    SamplerTokenFile,
    blob_store_url,
    checkpoint_store_url,
    database_url_or_embedded,
    open_blobs,
    open_checkpoints,
    stop_with,
)
from cli.terminal.settings_options import Given, takes_settings
from cli.terminal.tables import Json, Listing, print_json, show
from store.invariants.base import Violation
from wire.process.tls import TrustSettings, trusting_context
from wire.process.tokens import Tokens

if TYPE_CHECKING:
    from store.database import Database

_Check: TypeAlias = "Callable[[Database], list[Violation]]"


@takes_settings(TrustSettings)
def doctor(
    given: Given,
    as_json: Json = False,
    plane: Annotated[
        Plane, typer.Option("--as", help="Check what this plane needs; a runner has a server's URL and a key, no more")
    ] = Plane.SERVER,
    files: Annotated[
        bool, typer.Option("--files", help="Also check that files of checkpoints and blobs are there")
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(envvar="HEADWAY_SERVER_URL", help="Origin of the server, to be called; --as runner needs it"),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="HEADWAY_RUNNER_KEY_FILE", help="File with a runner's key; default: the key in HEADWAY_RUNNER_KEY"
        ),
    ] = None,
    sampler_token: SamplerToken = None,
    sampler_token_file: SamplerTokenFile = None,
    checkpoint_store: CheckpointStoreUrl = None,
    blob_store: BlobStoreUrl = None,
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Check what this place reaches and may do there, and the invariants of the database.

    PostgreSQL, stores, clocks, disk, samplers and runners, and the server that --server names. Exit status 1 if
    anything is not as it should be. In each store an object of its own is written and removed.
    """
    from cli.doctor.calling import Trust
    from cli.doctor.place import Place

    settings = TrustSettings(**given[TrustSettings])
    trust = or_stop(lambda: Trust(trusting_context(settings.plane_ca), settings.plane_tls_name))
    if plane is Plane.RUNNER:
        if server is None:
            stop_with("a runner needs a server: give --server, or set HEADWAY_SERVER_URL")
        key = runner_key(key_file)
        place = Place(plane, data_dir, trust, server, _token(key, key_file))
    else:
        url = database_url_or_embedded(database_url, data_dir)
        stores = {"checkpoints": _store(checkpoint_store, data_dir / "checkpoints", checkpoint_store_url, data_dir)}
        if plane is not Plane.SAMPLER:
            stores["blobs"] = _store(blob_store, data_dir / "blobs", blob_store_url, data_dir)
        place = Place(plane, data_dir, trust, server, None, url, stores, _token(sampler_token, sampler_token_file))
    findings, is_usable = place.examine()
    violations, num_checked, reason = list[Violation](), 0, None
    if place.database_url and is_usable:
        checks = _of_files(plane, checkpoint_store, blob_store, data_dir) if files else []
        violations, num_checked, reason = _invariants(place.database_url, checks)
    _print(findings, violations, num_checked, as_json=as_json)
    if reason is not None:
        stop_with(f"the invariants were not checked: {reason}")
    if place.database_url and not is_usable:
        _stop_without_database(findings)
    raise typer.Exit(0 if is_healthy(findings) and not violations else 1)


def _store(url: str | None, folder: Path, url_of: Callable[[str | None, Path], str], data_dir: Path) -> str | None:
    """The URL of a store; None where none is named, and planes have made no folder for it here."""
    try:
        return url_of(url, data_dir) if url or folder.exists() else None
    except PermissionError:  # which the check of the store says
        return url_of(url, data_dir)


def _token(plain: str | None, file: Path | None) -> str | None:
    """The one to show, if there is any."""
    tokens = or_stop(lambda: Tokens(plain, file).all())
    return tokens[0] if tokens else None


def _of_files(plane: Plane, checkpoint_store: str | None, blob_store: str | None, data_dir: Path) -> list[_Check]:
    """Of the stores that this plane uses."""
    from store.invariants import check_blobs, check_files

    checkpoints = open_checkpoints(checkpoint_store, data_dir)
    checks: list[_Check] = [lambda database: check_files(database, checkpoints)]
    if plane is not Plane.SAMPLER:
        blobs = open_blobs(blob_store, data_dir)
        checks.append(lambda database: check_blobs(database, blobs))
    return checks


def _invariants(url: str, more: Sequence[_Check]) -> tuple[list[Violation], int, str | None]:
    """Those that do not hold, how many were checked, and why they could not be."""
    from store.database import DATABASE_UNUSABLE, Database, unusable_reason
    from store.invariants import INVARIANTS, check_all
    from wire.errors import Unavailable

    database = Database(url)

    def examine() -> list[Violation]:
        with database.session() as session:
            found = check_all(session)
        return [*found, *(violation for check in more for violation in check(database))]

    try:
        return examine(), len(INVARIANTS) + len(more), None
    except (*DATABASE_UNUSABLE, Unavailable, OSError) as error:
        reason = unusable_reason(error) if isinstance(error, DATABASE_UNUSABLE) else sentence_of(error)
        if reason is None:
            raise
        return [], 0, reason
    finally:
        database.close()


def _print(findings: list[Finding], violations: list[Violation], num_checked: int, *, as_json: bool) -> None:
    if as_json:
        checks, broken = [asdict(finding) for finding in findings], [asdict(violation) for violation in violations]
        print_json({"checks": checks, "violations": broken, "num_invariants": num_checked})
        return
    table = Listing("part", "check", "result", "found", "what to do", prose=("found", "what to do"))
    for each in findings:
        table.add_row(each.part, each.what, each.state.value, each.found, each.remedy)
    show(table)
    for violation in violations:
        typer.echo(f"{violation.name}: does not hold. {violation.sentence}")
        for row in violation.rows:
            typer.echo("  " + ", ".join(f"{name}={value}" for name, value in row.items()))
    if num_checked:
        typer.echo(f"{num_checked - len(violations)} of {num_checked} invariants hold")


def _stop_without_database(findings: list[Finding]) -> None:
    reason = next(f for f in findings if f.state is State.NOT_OK and f.what in ("reachable", "schema"))
    said = "the database does not answer" if reason.what == "reachable" else "the invariants were not checked"
    stop_with(f"{said}: {reason.found}")
