from __future__ import annotations

import socket

import pytest

from server.guard.webhooks import WebhookFailed, check_receiver, deliver
from server.process.settings import GuardSettings
from server.values.addresses import is_allowed, why_refused
from wire.errors import InvalidRequest

NOWHERE = [
    "169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd20:ce::254",
    "224.0.0.1",
    "255.255.255.255",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "127.0.0.1",
    "127.8.9.10",
    "::1",
    "::ffff:127.0.0.1",
]


@pytest.mark.parametrize("address", NOWHERE)
def test_no_webhook_goes_there(address: str):
    assert why_refused(address)


@pytest.mark.parametrize("address", ["10.0.0.7", "fd00::7", "::ffff:10.0.0.7", "64:ff9b::a00:7", "93.184.216.34"])
def test_private_networks_are_where_receivers_are(address: str):
    assert why_refused(address) is None


def test_every_address_of_an_interface_is_this_very_machine():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outwards:
        try:
            outwards.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no interface but the loopback")
        ours = outwards.getsockname()[0]
    assert why_refused(ours) == "this very machine"


@pytest.mark.parametrize("receiver", ["127.0.0.1", "127.0.0.1:9000", "localhost", "LOCALHOST:9000", "127.0.0.0/8"])
def test_an_operator_names_receivers_by_host_port_or_network(receiver: str):
    assert is_allowed(["elsewhere", receiver], "localhost", 9000, "127.0.0.1") or receiver.startswith("127.0.0.1:")
    assert is_allowed([receiver], "127.0.0.1", 9000, "127.0.0.1") or "local" in receiver.lower()
    assert not is_allowed([receiver], "other", 9001, "10.0.0.1")


async def test_a_refused_address_is_not_connected_to():
    with pytest.raises(WebhookFailed, match="credentials"):
        await deliver(GuardSettings(), "http://169.254.169.254/latest/meta-data", "id", {})


@pytest.mark.parametrize("host", ["169.254.169.254", "localhost", "2130706433", "[::ffff:7f00:1]", "127.1"])
async def test_a_refused_address_is_refused_when_it_is_set_however_it_is_written(host: str):
    with pytest.raises(InvalidRequest, match="where no webhook goes; an operator can allow it"):
        await check_receiver(GuardSettings(), f"http://{host}:9000/secret")


async def test_a_name_that_is_not_known_yet_may_be_set():
    await check_receiver(GuardSettings(), "http://not-started-yet.invalid/hook")


async def test_what_a_name_means_is_looked_at_again_when_it_is_connected_to(monkeypatch: pytest.MonkeyPatch):
    means = ["10.255.255.1"]

    def resolve(host: str, port: int, *_: object, **__: object):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (means[0], port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    await check_receiver(GuardSettings(), "http://rebinding.example/")
    means[0] = "127.0.0.1"
    with pytest.raises(WebhookFailed, match="this very machine"):
        await deliver(GuardSettings(), "http://rebinding.example/", "id", {})
