"""What a plane is told of TLS. Apart from `wire.process.tls`, for commands show these options in a moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wire.process.options import Option

PLANE_CA = Option(
    "PEM file of the CAs by which it checks the certificates of the planes that it calls; default: the system's",
    "HEADWAY_PLANE_CA",
    shown_default="the system's",
)


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """With both, a plane listens over TLS alone; with neither, without."""

    tls_cert: Annotated[
        Path | None,
        Option(
            "PEM file of the certificate to listen with, and its chain; read again when replaced", "HEADWAY_TLS_CERT"
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        Option("PEM file of that certificate's key, not encrypted; read again when replaced", "HEADWAY_TLS_KEY"),
    ] = None

    @property
    def is_on(self) -> bool:
        """Whether it listens over TLS."""
        return self.tls_cert is not None


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """By what a server checks samplers and runners."""

    plane_ca: Annotated[Path | None, PLANE_CA] = None
    plane_tls_name: Annotated[
        str | None,
        Option(
            "Name that certificates of samplers and runners must carry, whatever address these advertise",
            "HEADWAY_PLANE_TLS_NAME",
            shown_default="the address",
        ),
    ] = None
