"""The chart's planes over TLS: certificates from Secrets, checked by all who connect, and renewed in running pods."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import pytest

from tests.certificates import Authority, Certificate
from tests.fleet.commands import missing
from tests.fleet.installation import SERVER, Installation, installation
from tests.fleet.network import Network
from tests.fleet.pod import Pod
from tests.fleet.users import load

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(900)]

PLANES = "planes.headway.internal"
ONE_OF_EACH = {
    "tls": {"enabled": True, "planeName": PLANES},
    "server": {"replicas": 1},
    "samplers": {"tiny-arith": {"replicas": 1}},
    "runners": {"default": {"replicas": 1}},
}


def secret(certificate: Certificate) -> dict[str, str]:
    """As cert-manager writes it."""
    return {"tls.crt": certificate.cert.read_text(), "tls.key": certificate.key.read_text()}


def certificates(authority: Authority) -> dict[str, dict[str, str]]:
    """By the names of the chart's values."""
    return {
        "headway-server-tls": secret(authority.certify(f"{SERVER}.headway.svc")),
        "headway-sampler-tls": secret(authority.certify(PLANES)),
        "headway-runner-tls": secret(authority.certify(PLANES)),
    }


def shown_by(headway: Installation, pod: Pod, port: int, authority: Authority, name: str) -> bytes:
    """The certificate of a pod, which must be the authority's for that name."""
    trusted = ssl.create_default_context(cafile=str(authority.file))
    with headway.client.inside():
        plain = socket.create_connection((pod.host.address, port), 10)
    with trusted.wrap_socket(plain, server_hostname=name) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def all_shown(headway: Installation, authority: Authority) -> set[bytes]:
    """By the pods of all planes that listen."""
    listening = {"server": (8420, f"{SERVER}.headway.svc"), "sampler": (8430, PLANES), "runner": (8440, PLANES)}
    pods = [(pod, *where) for plane, where in listening.items() for pod in headway.fleet.pods(component=plane)]
    return {shown_by(headway, pod, port, authority, name) for pod, port, name in pods}


def test_planes_of_the_chart_speak_tls_and_no_request_fails_while_certificates_are_renewed(tmp_path: Path):
    lacks = missing()
    assert not lacks, f"simulated hosts need: {'; '.join(lacks)}"
    (tmp_path / "authority").mkdir()
    (tmp_path / "users").mkdir()
    authority = Authority(tmp_path / "authority")
    given = {**certificates(authority), "headway-planes-ca": {"ca.crt": authority.file.read_text()}}
    values = {**ONE_OF_EACH, "networkPolicy": {"enabled": False}}
    with Network() as network, installation(network, tmp_path, values, given, authority.file) as headway:
        before = all_shown(headway, authority)
        with load(headway, tmp_path / "users") as users:
            for name, data in certificates(authority).items():
                headway.fleet.put_secret(name, data)
            headway.fleet.wait_until(lambda: before.isdisjoint(all_shown(headway, authority)), 60)
            time.sleep(2)
        assert users.failures == []
        assert all(number > 0 for number in users.done.values())
        headway.fleet.wait_until_ready(30)
        assert [run.restarts for pod in headway.fleet.pods() for run in pod.runs] == [0] * 4
