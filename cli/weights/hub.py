"""A folder to a hub of models, by `huggingface_hub`: HF_ENDPOINT says which, HF_TOKEN who."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from wire.errors import Conflict, Unavailable

_ANSWER_S = 5.0


def require_hub() -> str:
    """Who the token belongs to; asked before anything is downloaded or merged. Raises Unavailable, Conflict."""
    import httpx
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise Conflict("HF_HUB_OFFLINE forbids to use a hub; unset it")
    if get_token() is None:
        raise Conflict("no token for the hub: set HF_TOKEN to one that may write, or run 'hf auth login'")
    try:
        httpx.head(constants.ENDPOINT, timeout=_ANSWER_S)
        return str(HfApi().whoami()["name"])
    except HfHubHTTPError as error:
        raise Conflict(f"the hub at {constants.ENDPOINT} refuses the token: {_first_line(error)}") from None
    except (*_connection_errors(), httpx.InvalidURL) as error:
        raise Unavailable(
            f"the hub at {constants.ENDPOINT} cannot be reached ({error}); HF_ENDPOINT names another one"
        ) from None


def push(folder: Path, repo: str, message: str, *, private: bool) -> str:
    """Make the repository where it is not there, and commit the folder to it. Returns the commit's address.

    Raises Conflict for what the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message).commit_url)
    except (HfHubHTTPError, HFValidationError) as error:
        raise Conflict(f"the hub refuses {repo!r}: {_first_line(error)}") from None
    except _connection_errors() as error:
        raise Unavailable(f"the hub broke off ({_first_line(error)}); nothing was committed, try again") from None


def _connection_errors() -> tuple[type[Exception], ...]:
    """Ours, and those of the hub's client, which may bring an HTTP library of its own."""
    import httpx

    found: list[type[Exception]] = [httpx.HTTPError]
    with suppress(ModuleNotFoundError):
        import httpx2

        found.append(httpx2.HTTPError)
    return tuple(found)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
