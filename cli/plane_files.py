"""Files of tokens and certificates that a plane is given: looked at before anything starts, so that a mistake in one is
a sentence."""

from __future__ import annotations

from pathlib import Path

from cli.ending import sentence_of
from cli.settings import stop_with
from wire.process.tls_settings import TlsSettings, TrustSettings


def check_tls(tls: TlsSettings, trust: TrustSettings | None = None) -> None:
    """Ends the command where no handshake could succeed."""
    from wire.process.tls import PlaneTrust, check_files

    try:
        check_files(tls)
        PlaneTrust(trust)
    except (OSError, ValueError) as error:
        stop_with(sentence_of(error))


def check_tokens(sampler: tuple[str | None, Path | None], metrics: tuple[str | None, Path | None]) -> None:
    """Each plain, or in a file. Ends the command where there is none between server and samplers, or a file has none,
    or one is none."""
    from wire.process.tokens import Tokens

    try:
        tokens, _ = Tokens(*sampler), Tokens(*metrics)
    except (OSError, ValueError) as error:
        stop_with(sentence_of(error))
    if not tokens:
        stop_with(
            "server and samplers share a token: set HEADWAY_SAMPLER_TOKEN, or --sampler-token-file to a file of it"
        )
