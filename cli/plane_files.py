"""Files of tokens and certificates that a plane is given: looked at before anything starts, so that a mistake in one is
a sentence."""

from __future__ import annotations

from pathlib import Path

from cli.ending import sentence_of
from cli.settings import stop_with
from wire.process.tls import PlaneTrust, TlsSettings, TrustSettings
from wire.process.tokens import Tokens


def check_tls(tls: TlsSettings, trust: TrustSettings | None = None) -> None:
    """Ends the command where no handshake could succeed."""
    try:
        tls.check()
        PlaneTrust(trust)
    except (OSError, ValueError) as error:
        stop_with(sentence_of(error))


def check_tokens(sampler: tuple[str | None, Path | None], metrics_file: Path | None) -> None:
    """Ends the command where there is no token between server and samplers (plain, or in the file), or a file has
    none."""
    try:
        tokens, _ = Tokens(*sampler), Tokens(file=metrics_file)
    except (OSError, ValueError) as error:
        stop_with(sentence_of(error))
    if not tokens:
        stop_with(
            "server and samplers share a token: set HEADWAY_SAMPLER_TOKEN, or --sampler-token-file to a file of it"
        )
