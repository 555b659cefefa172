from __future__ import annotations

import pytest

from server.guard.webhooks import WebhookFailed, deliver, refused
from server.settings import GuardSettings


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "224.0.0.1", "0.0.0.0", "::"]
)
def test_no_webhook_goes_there(address: str):
    assert refused(address, loopback=True)


def test_private_networks_are_where_receivers_are_and_this_machine_only_if_allowed():
    assert refused("10.0.0.7", loopback=False) is None
    assert refused("fd00::7", loopback=False) is None
    for here in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert refused(here, loopback=False)
        assert refused(here, loopback=True) is None


async def test_a_refused_address_is_not_connected_to():
    with pytest.raises(WebhookFailed, match="link-local"):
        await deliver(GuardSettings(), "http://169.254.169.254/latest/meta-data", "id", {})
