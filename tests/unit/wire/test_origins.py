from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from wire.process.metrics_page import metrics_page
from wire.process.origins import advertised_host, http_origin, listen, local_host
from wire.process.tokens import Tokens


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1", "http://127.0.0.1:8420"),
        ("::1", "http://[::1]:8420"),
        ("0.0.0.0", "http://127.0.0.1:8420"),
        ("", "http://127.0.0.1:8420"),
        ("::", "http://[::1]:8420"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:8420"),
        ("gpu-1.local", "http://gpu-1.local:8420"),
    ],
)
def test_an_ipv6_address_stands_in_brackets_and_any_address_is_reached_here(host: str, origin: str):
    assert http_origin(local_host(host), 8420) == origin


def test_what_listens_everywhere_is_advertised_by_the_machines_name():
    assert advertised_host("::") == advertised_host("0.0.0.0") != "::"
    assert advertised_host("::1") == "::1"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::", "localhost"])
def test_sockets_listen_on_either_family(host: str):
    with listen(host, 0) as listening:
        assert listening.getsockname()[1] > 0


def test_metrics_are_served_over_ipv6():
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with metrics_page(CollectorRegistry(), "::1", 0, Tokens()) as port:
        assert opener.open(f"{http_origin('::1', port)}/metrics", timeout=10).status == 200
