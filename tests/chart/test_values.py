"""What values change: each switch makes a valid chart, and what cannot be is refused with a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.chart.house_rules import broken_rules
from tests.chart.pods import pods
from tests.chart.rendering import CHART, Document, NotRendered, render
from tests.chart.validation import problems

SAMPLER, TRAINER = "qwen3-8b", "qwen3-8b"
CLAIM = {"nodes": 2, "adapterClaim": "adapters"}

SWITCHES: dict[str, dict[str, Any]] = {
    "an ingress": {"ingress": {"enabled": True}},
    "another ingress": {"ingress": {"enabled": True, "nginxAnnotations": False, "annotations": {"a/b": "c"}}},
    "servers that scale": {"server": {"autoscaling": {"enabled": True}}},
    "narrow policies": {
        "networkPolicy": {
            "server": {"from": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]},
            "database": {"to": [{"ipBlock": {"cidr": "10.0.1.5/32"}}], "ports": [6432]},
            "hub": {"enabled": False},
        }
    },
    "roles of a cloud": {"objectStore": {"existingSecret": ""}, "serviceAccounts": {"annotations": {"role": "store"}}},
    "files for the database": {"database": {"filesSecret": "database-files"}},
    "a store of one's own": {
        "objectStore": {"endpoint": "https://store.example:9000"},
        "networkPolicy": {"objectStore": {"to": [{"ipBlock": {"cidr": "10.0.2.0/24"}}], "ports": [9000]}},
        **{
            plane: {
                "extraVolumes": [{"name": "cas", "secret": {"secretName": "cas", "defaultMode": 0o440}}],
                "extraVolumeMounts": [{"name": "cas", "mountPath": "/etc/cas", "readOnly": True}],
                "extraEnv": [{"name": "AWS_CA_BUNDLE", "value": "/etc/cas/ca.crt"}],
            }
            for plane in ("server", "samplerDefaults", "trainerDefaults", "runnerDefaults", "migrate")
        },
    },
    "a collector of traces": {
        "networkPolicy": {
            plane: {"egress": [{"ports": [{"port": 4318}]}]} for plane in ("server", "sampler", "trainer")
        }
    },
    "images by digest": {
        plane: {"image": {"digest": "sha256:" + "0a" * 32}}
        for plane in ("server", "samplerDefaults", "trainerDefaults", "runnerDefaults")
    },
    "a private registry": {"imageRegistry": "registry.example/team", "imagePullSecrets": [{"name": "registry"}]},
    "a member's weights": {"models": {"huggingFaceSecret": "hugging-face", "volume": {"emptyDir": {}}}},
    "vLLM of its own": {"samplers": {SAMPLER: {"attached": True, "toolCallParser": "hermes"}}},
    "a wide sampler": {"samplers": {SAMPLER: CLAIM}},
    "a wide trainer": {"trainers": {TRAINER: {"nodes": 2, "gpus": 8}}},
    "no migration": {"migrate": {"enabled": False}},
    "TLS": {"tls": {"enabled": True}, "ingress": {"enabled": True}},
    "IPv6": {"ipv6": True},
    "rules elsewhere": {"monitoring": {"rules": False, "labels": {"release": "prometheus"}}},
}


@pytest.mark.parametrize("values", SWITCHES.values(), ids=SWITCHES.keys())
def test_a_switch_makes_a_valid_chart(values: dict[str, Any]):
    documents = render("spot-samplers", values=values)
    assert problems(documents) == []
    assert list(broken_rules(documents)) == []


TOGETHER: dict[str, Any] = {
    "bases": {"a.base-of-0123456789-0123456789-0123456789-0123456789-0123456789": {"weights": "/models/other"}},
    "tls": {"enabled": True},
    "ipv6": True,
    "ingress": {"enabled": True, "className": "", "nginxAnnotations": False},
    "server": {"autoscaling": {"enabled": True}, "service": {"type": "NodePort", "port": 80}},
    "samplers": {
        SAMPLER: {"attached": True},
        "wide": {"base": SAMPLER, **CLAIM, "autoscaling": {"enabled": False}},
        "other-of-20-letters": {"base": "a.base-of-0123456789-0123456789-0123456789-0123456789-0123456789", **CLAIM},
    },
    "trainers": {"wide": {"base": TRAINER, "nodes": 2, "gpus": 8, "replicas": 2}},
    "runners": {"big": {"labels": ["big"], "autoscaling": {"enabled": True}, "slots": 4}},
}


@pytest.mark.parametrize("release", ["headway", "other", "team.rl", "r" * 12, "long-" * 10 + "one"])
def test_everything_at_once_makes_a_valid_chart_under_any_name(release: str):
    documents = render("spot-samplers", values=TOGETHER, release=release)
    assert problems(documents) == []
    assert list(broken_rules(documents)) == []


@pytest.mark.parametrize(("word", "namespace"), [("7", "123"), ("1e9", "0x1f"), ("true", "on"), ("null", "yes")])
def test_names_that_yaml_takes_for_something_else_stay_text(word: str, namespace: str):
    values = {
        "fullnameOverride": "hw",
        "bases": {word: {"weights": word}},
        "samplers": {
            word: {"attached": True, "toolCallParser": word, "reasoningParser": word},
            "w": {"base": word, **CLAIM},
        },
        "trainers": {word: {"gpus": 1, "networkInterface": word}},
        "runners": {word: {"team": word, "labels": [word]}},
        "database": {"existingSecret": word, "urlKey": word, "filesSecret": word},
        "objectStore": {"existingSecret": word, "accessKeyIdKey": word, "secretAccessKeyKey": word, "region": word},
        "tokens": dict.fromkeys(("existingSecret", "samplerTokenKey", "metricsTokenKey", "askingTokenKey"), word),
        "runnerKey": {"existingSecret": word, "key": word},
        "models": {"huggingFaceSecret": word, "huggingFaceKey": word},
        "imagePullSecrets": [{"name": word}],
        "tls": {"enabled": True} | dict.fromkeys(("serverSecret", "caSecret", "caKey", "planeName"), word),
        "ingress": {"enabled": True, "className": word, "host": "*.example", "tlsSecret": word},
        "server": {"priorityClassName": word, "runtimeClassName": word},
    }
    documents = render("spot-samplers", values=values, release=word, namespace=namespace)
    assert problems(documents) == []
    assert list(broken_rules(documents)) == []


def test_a_large_number_is_written_in_digits():
    values = {"server": {"samplerIdleSeconds": 2592000}, "migrate": {"deadlineSeconds": 1000000}}
    documents = render("spot-samplers", values=values)
    (server,) = (pod for pod in pods(documents) if pod.labels["app.kubernetes.io/component"] == "server")
    assert {"name": "HEADWAY_SAMPLER_IDLE_S", "value": "2592000"} in server.containers[0]["env"]
    assert of(documents, "Job", "headway-migrate")["spec"]["activeDeadlineSeconds"] == 1000000


@pytest.mark.parametrize("releases", [("headway", "other"), ("long-" * 10 + "one", "long-" * 10 + "two")])
def test_two_releases_in_a_namespace_share_no_object_and_no_folder(releases: tuple[str, str]):
    here, there = (render("spot-samplers", values=TOGETHER, release=release) for release in releases)
    assert not {_identity(document) for document in here} & {_identity(document) for document in there}
    folders = [
        {
            mount["subPathExpr"]
            for pod in pods(documents)
            for container in pod.containers
            for mount in container["volumeMounts"]
            if "subPathExpr" in mount
        }
        for documents in (here, there)
    ]
    assert len(folders[0]) == 2
    assert not folders[0] & folders[1]


def _identity(document: Document) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


def test_an_upgrade_changes_nothing_that_cannot_be_changed(tmp_path: Path):
    newer = tmp_path / "headway"
    shutil.copytree(CHART, newer)
    for file, old, new in (("Chart.yaml", "0.1.0", "0.2.0"), ("values.yaml", "drainSeconds: 30", "drainSeconds: 9")):
        (newer / file).write_text((newer / file).read_text().replace(old, new))
    changed = TOGETHER | {"imageRegistry": "registry.example", "tls": {"enabled": False}, "ipv6": False}
    changed["server"] = {
        "image": {"tag": "0.1.7"},
        "podAnnotations": {"a": "b"},
        "podLabels": {"a": "b"},
        "service": {"port": 80},
    }
    before, after = render("spot-samplers", values=TOGETHER), render("spot-samplers", values=changed, chart=newer)
    assert before != after
    assert _fixed(before) == _fixed(after)


def _fixed(documents: list[Document]) -> dict[tuple[str, str], Any]:
    """What the API lets nobody change: selectors of workloads; and those by which they are found meanwhile."""
    kinds = ("Deployment", "Service", "PodDisruptionBudget", "PodMonitor", "ServiceMonitor")
    named = {_identity(d): d["spec"]["selector"] for d in documents if d["kind"] in kinds}
    groups = [d for d in documents if d["kind"] == "LeaderWorkerSet"]
    return named | {_identity(d): d["spec"]["leaderWorkerTemplate"]["size"] for d in groups}


def test_labels_of_ones_own_are_on_the_pods_and_in_no_selector():
    own = {"kueue.x-k8s.io/queue-name": "team", "cost": "7"}
    planes = {
        "server": {"podLabels": own},
        **{f"{plane}Defaults": {"podLabels": own} for plane in ("sampler", "trainer", "runner")},
    }
    for profile in ("several-nodes", "spot-samplers"):
        documents, plain = render(profile, values=planes), render(profile)
        assert problems(documents) == []
        labels = [pod.labels for pod in pods(documents) if pod.labels["app.kubernetes.io/component"] != "migrate"]
        assert len(labels) >= 4
        assert all(own.items() <= one.items() for one in labels)
        assert _fixed(documents) == _fixed(plain)


@pytest.mark.parametrize("label", ["app.kubernetes.io/name", "headway.dev/group", "a b", "a/b/c"])
def test_a_label_of_ones_own_is_none_that_selects(label: str):
    with pytest.raises(NotRendered, match=f"invalid propertyName '{label}'"):
        render("one-gpu", values={"server": {"podLabels": {label: "x"}}})


def test_an_account_that_is_there_is_that_of_all_but_runners():
    documents = render("spot-samplers", values={"serviceAccounts": {"create": False, "name": "mine"}})
    assert problems(documents) == []
    assert [line for line in broken_rules(documents) if "ServiceAccount" not in line] == []
    names = {pod.labels["app.kubernetes.io/component"]: pod.spec["serviceAccountName"] for pod in pods(documents)}
    assert names == dict.fromkeys(("server", "sampler", "trainer", "migrate"), "mine") | {"runner": "headway-runner"}


def test_policies_can_be_left_out_and_runners_let_out_which_the_rules_notice():
    without = render("spot-samplers", values={"networkPolicy": {"enabled": False}})
    assert problems(without) == []
    assert not [document for document in without if document["kind"] == "NetworkPolicy"]
    index = {"to": [{"ipBlock": {"cidr": "10.0.7.4/32"}}], "ports": [{"port": 443}]}
    let_out = render("spot-samplers", values={"networkPolicy": {"runner": {"egress": [index]}}})
    assert problems(let_out) == []
    assert list(broken_rules(let_out)) == [
        "Deployment/headway-runner-default: reaches {'ipBlock': {'cidr': '10.0.7.4/32'}}"
    ]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"samplers": {"other": {}}}, 'samplers.other: bases has no "other"; add it there, or name one of qwen3-8b'),
        ({"trainers": {"x": {"base": "y"}}}, 'trainers.x: bases has no "y"'),
        ({"samplers": {SAMPLER: {"nodes": 2}}}, "name a ReadWriteMany claim in adapterClaim"),
        ({"samplers": {SAMPLER: {"backend": "local"}}}, "the backend local computes on the CPU of one pod"),
        (
            {"samplers": {SAMPLER: {"backend": "local", "gpus": 0, "vllmArgs": "--x"}}},
            "are of vLLM, and the backend is",
        ),
        ({"samplers": {SAMPLER: {"attached": True, "vllmArgs": "--x '{}'"}}}, "leave quotes out"),
        ({"trainers": {TRAINER: {"gpus": 0}}}, "the device cuda wants gpus"),
        ({"trainers": {TRAINER: {"device": "cpu"}}}, "the device cpu uses no GPU"),
        ({"trainers": {TRAINER: {"cacheGiB": 50}}}, "dataSize 60Gi does not hold copies of cacheGiB 50"),
        ({"samplers": {SAMPLER: {"maxLoraRank": 33}}}, "value must be one of 1, 8"),
        ({"samplers": {"Big": {}}}, "'Big' does not match pattern"),
        ({"objectStore": {"blobs": "file:///srv"}}, "does not match pattern"),
        ({"trainers": {TRAINER: {"gpu": 1}}}, "at '/trainers/qwen3-8b': additional properties 'gpu' not allowed"),
        (
            {"models": {"volume": {"emptyDir": {}, "nfs": {}}}},
            "models.volume has emptyDir, nfs: a volume has one source",
        ),
        ({"bases": {"team/base": {"weights": "x"}}}, "'team/base' does not match pattern"),
        ({"database": {"existingSecret": None}}, "missing property 'existingSecret'"),
        ({"samplerDefaults": {"drainSeconds": None}}, "missing property 'drainSeconds'"),
        ({"server": {"temporarySize": "20Gi"}}, "are more than the limit of ephemeral-storage, 30Gi"),
        ({"runners": {"default": {"dataSize": "55Gi"}}}, "are more than the limit of ephemeral-storage, 60Gi"),
        ({"runners": {"more": {"autoscaling": {"enabled": True}}}}, "runners.default is scaled by the same figure"),
        ({"server": {"image": {"tag": "sha256:" + "0a" * 32}}}, "at '/server/image/tag'"),
        ({"server": {"image": {"repository": "headway@sha256:" + "0a" * 32}}}, "at '/server/image/repository'"),
        (
            {"runnerDefaults": {"resources": {"requests": {"memory": "64Gi"}}}},
            "runners.default.resources: the request of memory, 64Gi, is more than its limit, 32Gi",
        ),
        ({"server": {"dataSize": "17000Mi", "cacheGiB": 9}}, "server: dataSize 17000Mi does not hold copies"),
        ({"server": {"podDisruptionBudget": {"maxUnavailable": 0}}}, "got 0, want 1"),
        ({"server": {"podDisruptionBudget": {"maxUnavailable": "0%"}}}, "'0%' does not match"),
        ({"server": {"autoscaling": {"enabled": True, "minReplicas": 9}}}, "minReplicas 9 is more than maxReplicas 8"),
        ({"runners": {"default": {"autoscaling": {"minReplicas": 51}}}}, "runners.default.autoscaling: minReplicas 51"),
        (
            {"server": {"extraEnv": [{"name": "HEADWAY_SAMPLER_TARGET", "value": "8"}]}},
            "server.extraEnv sets HEADWAY_SAMPLER_TARGET, which is set already",
        ),
        (
            {"trainers": {TRAINER: {"extraEnv": [{"name": "HEADWAY_TRAINER_GPUS", "value": "8"}]}}},
            f"trainers.{TRAINER}.extraEnv sets HEADWAY_TRAINER_GPUS",
        ),
        (
            {"server": {"extraEnv": [{"name": "HEADWAY_LORA_RNAK", "value": "8"}]}},
            "server.extraEnv sets HEADWAY_LORA_RNAK, which headway server does not read",
        ),
        (
            {"samplerDefaults": {"extraEnv": [{"name": "HEADWAY_BASE", "value": "x"}]}},
            f"samplers.{SAMPLER}.extraEnv sets HEADWAY_BASE, which headway sampler does not read",
        ),
        ({"objectStore": {"endpoint": "http://minio.example:9000"}}, "objectStore.endpoint is at port 9000"),
        ({"objectStore": {"endpoint": "http://minio.example"}}, "objectStore.endpoint is at port 80"),
        ({"networkPolicy": {"monitoring": {"from": []}}}, "networkPolicy.monitoring.from names nobody"),
        (
            {"serviceAccounts": {"create": False, "annotations": {"role": "store"}}},
            "serviceAccounts.annotations are of accounts that the chart makes",
        ),
        ({"server": {"extraVolumes": [{"name": "data", "emptyDir": {}}]}}, "at '/server/extraVolumes/0/name'"),
        ({"runners": {"default": {"labels": ["a,b"]}}}, "'a,b' does not match pattern"),
        ({"nameOverride": "a" * 41}, "at '/nameOverride'"),
        ({"fullnameOverride": "My_Service"}, 'names would begin with "My_Service"'),
        ({"fullnameOverride": "a" * 40, "trainers": {TRAINER: {"nodes": 2}}}, "and may have 48 characters"),
        ({"fullnameOverride": "a" * 40, "runners": {"b" * 24: {}}}, "and may have 63 characters"),
    ],
)
def test_values_that_cannot_be_are_refused_with_a_sentence(values: dict[str, Any], sentence: str):
    with pytest.raises(NotRendered) as refused:
        render("spot-samplers", values=values)
    assert sentence in " ".join(str(refused.value).split())


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({}, "a rule without `to`, which lets environments reach everything"),
        ({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}, "0.0.0.0/0 holds the metadata service of clouds"),
        ({"to": [{"ipBlock": {"cidr": "169.254.169.254/32"}}]}, "169.254.169.254/32 holds the metadata service"),
        ({"to": [{"ipBlock": {"cidr": "::/0"}}]}, "::/0 holds the metadata service"),
        ({"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}, "holds the metadata service"),
        ({"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}]}, None),
        ({"to": [{"namespaceSelector": {}}]}, None),
    ],
)
def test_environments_are_not_let_out_to_a_clouds_metadata(rule: dict[str, Any], sentence: str | None):
    values = {"networkPolicy": {"runner": {"egress": [rule]}}}
    if sentence is None:
        render("spot-samplers", values=values)
        return
    with pytest.raises(NotRendered) as refused:
        render("spot-samplers", values=values)
    assert sentence in str(refused.value)


def test_narrowed_servers_still_answer_to_who_scrapes():
    narrow = {"networkPolicy": {"server": {"from": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]}}}
    policy = of(render("spot-samplers", values=narrow), "NetworkPolicy", "headway-server")
    namespaces = [
        selector["matchLabels"]
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
        if (selector := peer.get("namespaceSelector"))
    ]
    assert namespaces == [{"name": "ingress"}, {"kubernetes.io/metadata.name": "monitoring"}]


def of(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def test_what_is_given_wins_over_the_defaults_even_if_it_is_nothing():
    given = {"replicas": 0, "tolerations": [], "podDisruptionBudget": {"enabled": False}}
    documents = render("one-node", values={"samplers": {"qwen3-32b": given}})
    sampler = of(documents, "Deployment", "headway-sampler-qwen3-32b")["spec"]
    assert sampler["replicas"] == 0
    assert "tolerations" not in sampler["template"]["spec"]
    budgets = [d["metadata"]["name"] for d in documents if d["kind"] == "PodDisruptionBudget"]
    assert budgets == ["headway-server", "headway-runner-default"]


def test_null_removes_what_a_profile_has():
    spot = "karpenter.sh/capacity-type"
    values = {
        "samplers": {SAMPLER: {"nodeSelector": {spot: None}, "tolerations": None, "drainSeconds": None}},
        "trainers": {TRAINER: None},
        "runners": {"default": None},
        "server": {"nodeSelector": {spot: None, "disk": "nvme"}},
    }
    documents = render("spot-samplers", values=values)
    assert problems(documents) == []
    assert [line for line in broken_rules(documents) if "takes no pod" not in line] == []
    made = {pod.labels["app.kubernetes.io/component"]: pod.spec for pod in pods(documents)}
    assert set(made) == {"server", "sampler", "migrate"}
    assert "nodeSelector" not in made["sampler"]
    assert [toleration["key"] for toleration in made["sampler"]["tolerations"]] == ["nvidia.com/gpu"]
    assert made["sampler"]["terminationGracePeriodSeconds"] == 50
    assert made["server"]["nodeSelector"] == {"disk": "nvme"}


def test_null_makes_room_for_another_volume_than_a_profiles():
    volume = {"persistentVolumeClaim": None, "nfs": {"server": "files.example", "path": "/models"}}
    documents = render("one-node", values={"models": {"volume": volume}})
    assert problems(documents) == []
    sources = [v for pod in pods(documents) for v in pod.spec["volumes"] if v["name"] == "models"]
    assert sources == [{"name": "models", "nfs": volume["nfs"]}] * 2


def test_who_scales_is_the_only_one_to_count_replicas():
    documents = render("spot-samplers", values={"samplers": {SAMPLER: CLAIM}})
    scaled = of(documents, "ScaledObject", f"headway-sampler-{SAMPLER}")["spec"]
    assert scaled["scaleTargetRef"]["kind"] == "LeaderWorkerSet"
    assert "replicas" not in of(documents, "LeaderWorkerSet", f"headway-sampler-{SAMPLER}")["spec"]
    (trigger,) = scaled["triggers"]
    assert trigger["metadata"]["url"] == "http://headway-server.headway.svc:8420/scaling/samplers/qwen3-8b"
    assert trigger["metadata"]["targetValue"] == "1"


def test_runners_are_counted_by_their_slots():
    documents = render("spot-samplers", values={"runners": {"default": {"slots": 24, "labels": ["big", "fast"]}}})
    (trigger,) = of(documents, "ScaledObject", "headway-runner-default")["spec"]["triggers"]
    assert trigger["metadata"]["targetValue"] == "24"
    assert trigger["metadata"]["url"].endswith("/scaling/runners?label=big")


def test_a_runner_has_no_credential_but_its_key_and_reaches_servers_alone():
    documents = render("no-gpu")
    (runner,) = [pod for pod in pods(documents) if pod.labels["app.kubernetes.io/component"] == "runner"]
    names = {variable["name"] for container in runner.all_containers for variable in container["env"]}
    assert not any("valueFrom" in v and "secretKeyRef" in v["valueFrom"] for v in runner.containers[0]["env"])
    assert not names & {"HEADWAY_DATABASE_URL", "AWS_ACCESS_KEY_ID", "HEADWAY_SAMPLER_TOKEN_FILE"}
    secrets = [volume["secret"]["secretName"] for volume in runner.spec["volumes"] if "secret" in volume]
    assert secrets == ["headway-runner-key"]
    ports = [rule["ports"] for rule in of(documents, "NetworkPolicy", "headway-runner")["spec"]["egress"]]
    assert [port["port"] for rule in ports for port in rule] == [53, 53, 8420]


def test_the_migration_comes_before_all_else():
    documents = render("no-gpu")
    hooks = {
        (d["kind"], d["metadata"]["annotations"].get("helm.sh/hook-weight"))
        for d in documents
        if "helm.sh/hook" in (d["metadata"].get("annotations") or {})
    }
    assert hooks == {("ServiceAccount", "-10"), ("NetworkPolicy", "-10"), ("Job", "0")}
