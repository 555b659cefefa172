from __future__ import annotations

import pytest

from tests.fleet.variables import NotConfigured, Objects, environment, expanded, service_links

OBJECTS = Objects({"tokens": {"sampler": "s3cret"}}, {"settings": {"MODE": "fast"}})


def test_variables_come_from_values_secrets_config_maps_and_fields_in_order():
    container = {
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "env": [
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "URL", "value": "http://$(IP):80/$(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "sampler"}}},
            {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "nobody", "key": "k", "optional": True}}},
        ],
    }
    assert environment(container, {"status.podIP": "10.0.0.1"}, OBJECTS) == {
        "MODE": "fast",
        "IP": "10.0.0.1",
        "URL": "http://10.0.0.1:80/$(LATER)",
        "LATER": "x",
        "TOKEN": "s3cret",
    }


@pytest.mark.parametrize(
    "source",
    [
        {"secretKeyRef": {"name": "tokens", "key": "other"}},
        {"configMapKeyRef": {"name": "nobody", "key": "k"}},
        {"fieldRef": {"fieldPath": "status.phase"}},
    ],
)
def test_what_refers_to_nothing_is_not_started(source: dict[str, dict[str, str]]):
    with pytest.raises(NotConfigured):
        environment({"env": [{"name": "A", "valueFrom": source}]}, {}, OBJECTS)


def test_a_doubled_dollar_is_left_for_the_program():
    assert expanded("$$(A) $(A) $(B) $C", {"A": "1"}) == "$(A) 1 $(B) $C"


def test_links_of_services_would_set_a_port_to_a_url():
    service = {"metadata": {"name": "headway-server"}, "spec": {"ports": [{"port": 8420}]}}
    links = service_links([service], {"headway-server": "10.96.0.1"})
    assert links["HEADWAY_SERVER_PORT"] == "tcp://10.96.0.1:8420"
