"""TLS between planes: certificates are checked, always, and replaced without a restart."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs

from tests.certificates import Authority, Certificate, replace
from wire.process.tls import PlaneTrust, TlsSettings, TrustSettings, check_files, listening_context

NAME = "samplers.headway.internal"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def listening(certificate: Certificate) -> AsyncIterator[int]:
    """Echoes, over TLS."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    context = listening_context(TlsSettings(certificate.cert, certificate.key))
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def connected(port: int, trust: PlaneTrust) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, **trust.connection_options("127.0.0.1", is_tls=True))


async def serial_of(port: int, trust: PlaneTrust) -> int:
    _, writer = await connected(port, trust)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


@pytest.mark.parametrize(("name", "certified"), [(NAME, NAME), (None, "127.0.0.1")])
async def test_a_new_handshake_uses_the_replaced_certificate_and_open_connections_go_on(
    authority: Authority, name: str | None, certified: str
):
    ours, renewed = authority.certify(certified), authority.certify(certified)
    first, trust = ours.serial, PlaneTrust(TrustSettings(authority.file, name))
    async with listening(ours) as port:
        reader, writer = await connected(port, trust)
        assert await serial_of(port, trust) == first
        ours.replace_by(renewed)
        assert await serial_of(port, trust) == renewed.serial
        writer.write(b"still here")
        assert await reader.read(100) == b"still here"
        writer.close()


async def test_half_replaced_files_leave_the_last_certificate_in_force(authority: Authority):
    ours, renewed = authority.certify(NAME), authority.certify(NAME)
    first, trust = ours.serial, PlaneTrust(TrustSettings(authority.file, NAME))
    async with listening(ours) as port:
        with capture_logs() as logs:
            replace(ours.cert, renewed.cert.read_text())
            assert await serial_of(port, trust) == first
        assert "is not the key of" in logs[0]["error"]
        replace(ours.key, renewed.key.read_text())
        assert await serial_of(port, trust) == renewed.serial


async def test_another_name_or_another_authority_is_refused_and_the_log_says_why(authority: Authority, tmp_path: Path):
    other = Authority(tmp_path, "another")
    async with listening(authority.certify(NAME)) as port:
        for trust in (
            PlaneTrust(TrustSettings(authority.file, "runners.headway.internal")),
            PlaneTrust(TrustSettings(authority.file)),  # 127.0.0.1, which it does not carry
            PlaneTrust(TrustSettings(other.file, NAME)),
            PlaneTrust(TrustSettings(None, NAME)),
        ):
            with pytest.raises(ssl.SSLCertVerificationError) as refused:
                await connected(port, trust)
            with capture_logs() as logs:
                trust.note_failure("127.0.0.1", refused.value)
                trust.note_failure("127.0.0.1", refused.value)
            assert [entry["event"] for entry in logs] == ["plane_not_trusted"]


async def test_an_authority_is_added_by_replacing_the_file(authority: Authority, tmp_path: Path):
    other, trusted = Authority(tmp_path, "another"), tmp_path / "cas.pem"
    trusted.write_text(authority.file.read_text())
    trust = PlaneTrust(TrustSettings(trusted, NAME))
    async with listening(other.certify(NAME)) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await connected(port, trust)
        replace(trusted, authority.file.read_text() + other.file.read_text())
        await serial_of(port, trust)


def test_a_plane_without_tls_is_not_called_silently_where_others_have_it(authority: Authority):
    trust = PlaneTrust(TrustSettings(authority.file, NAME))
    with capture_logs() as logs:
        assert not trust.connection_options("10.0.0.7", is_tls=False)
        assert not trust.connection_options("10.0.0.7", is_tls=False)
        assert not trust.connection_options("127.0.0.1", is_tls=False)
        assert not PlaneTrust().connection_options("10.0.0.7", is_tls=False)
    assert [(entry["event"], entry["host"]) for entry in logs] == [("plane_without_tls", "10.0.0.7")]


def test_files_that_make_no_certificate_are_refused_by_name(authority: Authority, tmp_path: Path):
    ours, other, nothing = authority.certify(NAME), authority.certify(NAME), tmp_path / "nothing.pem"
    nothing.write_text("nothing\n")
    encrypted = tmp_path / "encrypted.pem"
    key = load_pem_private_key(ours.key.read_bytes(), None)
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")))
    for settings, sentence in [
        (TlsSettings(ours.cert, None), "give --tls-cert and --tls-key"),
        (TlsSettings(None, ours.key), "give --tls-cert and --tls-key"),
        (TlsSettings(ours.cert, other.key), "is not the key of"),
        (TlsSettings(nothing, ours.key), "nothing.pem"),
        (TlsSettings(ours.cert, nothing), "nothing.pem"),
        (TlsSettings(ours.cert, encrypted), "is encrypted"),
        (TlsSettings(ours.cert, tmp_path / "nowhere"), "nowhere"),
    ]:
        with pytest.raises((ValueError, OSError), match=sentence):
            check_files(settings)
    for file in (nothing, tmp_path / "nowhere"):
        with pytest.raises((ValueError, OSError), match=file.name):
            PlaneTrust(TrustSettings(file))
