"""Commands that call the service's API, as any client does, and do not use its database."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.service.environment import MEMBER_ENV, read_env
from cli.settings import stop_with

if TYPE_CHECKING:
    import httpx

_READ_S, _CONNECT_S = 600.0, 10.0
_PAGE = 500

Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="HUD_API_URL", help="The service; default: the one in the data folder", show_envvar=True
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key", envvar="HUD_API_KEY", help="Its API key; default: likewise", show_envvar=True, show_default=False
    ),
]


@contextmanager
def service_client(url: str | None, key: str | None, data_dir: Path) -> Generator[httpx.Client]:
    """A client of the service. Ends the command with a sentence where it cannot be reached, or its connection
    breaks."""
    import httpx

    known = read_env(data_dir / MEMBER_ENV)
    url, key = url or known.get("HUD_API_URL"), key or known.get("HUD_API_KEY")
    if not url or not key:
        stop_with(
            "which service? Give --url and --key (or HUD_API_URL and HUD_API_KEY), or the --data-dir of one that is up"
        )
    headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"}
    try:
        timeout = httpx.Timeout(_READ_S, connect=_CONNECT_S)
        with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=not _is_local(url)) as http:
            yield http
    except httpx.RemoteProtocolError:
        stop_with("the service broke off in the middle, so nothing was kept here; its log says why. Try again")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        stop_with(f"{url} does not answer: {error}")


def checked(reply: httpx.Response) -> httpx.Response:
    """The answer. Ends the command with the service's own sentence where it is a refusal."""
    if not reply.is_success:
        reply.read()
        try:
            detail: Any = reply.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = reply.text[:200]
        stop_with(f"the service answers {reply.status_code}: {detail}")
    return reply


def pages(http: httpx.Client, path: str, **params: Any) -> Iterator[dict[str, Any]]:
    """All items of a list that the service returns in pages."""
    cursor: str | None = None
    while True:
        more = {"cursor": cursor} if cursor else {}
        page = checked(http.get(path, params={"limit": _PAGE, **params, **more})).json()
        yield from page["items"]
        if not (cursor := page["next_cursor"]):
            return


def _is_local(url: str) -> bool:
    """A proxy must not catch calls to this machine."""
    return any(f"//{host}" in url for host in ("127.0.0.1", "localhost", "[::1]"))
