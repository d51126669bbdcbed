"""The container, compose and Kubernetes files fit their schemas, each other and the server's settings."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from hope_server.api.http_server import CLOSE_CONNECTIONS_S
from hope_server.config import ServerConfig, variable
from hope_server.sessions.keyfile import KEYS_VARIABLE

SETTINGS = {variable(name) for name in ServerConfig.model_fields} | {KEYS_VARIABLE}
KUBERNETES = ("1.30", "1.33", "1.36")


def seconds(text: str) -> float:
    """Of a duration as compose has it."""
    assert text.endswith("s")
    return float(text.removesuffix("s"))


@pytest.fixture(scope="module")
def compose(deploy: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((deploy / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def manifests(deploy: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Every object by kind and name."""
    files = [file for file in (deploy / "k8s").glob("*.yaml") if file.name != "kustomization.yaml"]
    objects = [one for file in files for one in yaml.safe_load_all(file.read_text())]
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml"])
def test_compose_fits_its_schema(deploy: Path, name: str) -> None:
    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text())
    jsonschema.validate(yaml.safe_load((deploy / name).read_text()), schema)


def test_compose_mounts_what_there_is(deploy: Path, compose: dict[str, Any]) -> None:
    volumes = [volume.split(":") for service in compose["services"].values() for volume in service["volumes"]]
    for source, *_ in volumes:
        assert (deploy / source).exists() if source.startswith(".") else source in compose["volumes"], source


def test_the_stores_keep_what_they_acknowledge(
    compose: dict[str, Any], manifests: dict[tuple[str, str], dict[str, Any]]
) -> None:
    command = " ".join(compose["services"]["valkey"]["command"])
    (container,) = manifests["StatefulSet", "valkey"]["spec"]["template"]["spec"]["containers"]
    for text in (command, container["command"][-1].replace("\\\n", " ")):
        words = " ".join(text.split())
        for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
            assert option in words


def test_settings_are_the_servers(compose: dict[str, Any], deploy: Path) -> None:
    cuda = yaml.safe_load((deploy / "compose.cuda.yaml").read_text())
    named = {*compose["services"]["hope"]["environment"], *cuda["services"]["hope"]["environment"]}
    for file in ("Dockerfile", "k8s/hope.yaml"):
        named |= set(re.findall(r"\bHOPE_[A-Z_]+\b", (deploy / file).read_text()))
    assert named - {"REDIS_URL"} <= SETTINGS


def test_compose_leaves_a_drain_its_time(compose: dict[str, Any]) -> None:
    hope = compose["services"]["hope"]
    drain = float(hope["environment"]["HOPE_DRAIN_DEADLINE_S"])
    assert seconds(hope["stop_grace_period"]) >= drain + CLOSE_CONNECTIONS_S


def test_kubernetes_leaves_a_drain_its_time(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    pod = manifests["StatefulSet", "hope"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    drain = next(float(one["value"]) for one in container["env"] if one["name"] == "HOPE_DRAIN_DEADLINE_S")
    before = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= before + drain + CLOSE_CONNECTIONS_S
    readiness = container["readinessProbe"]
    assert before >= readiness["periodSeconds"] * readiness["failureThreshold"]


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_fit_the_api(manifests: dict[tuple[str, str], dict[str, Any]], version: str) -> None:
    assert manifests
    for one in manifests.values():
        kubernetes_validate.validate(one, version, strict=True)


def test_kustomization_names_every_file(deploy: Path) -> None:
    listed = yaml.safe_load((deploy / "k8s/kustomization.yaml").read_text())["resources"]
    files = {file.name for file in (deploy / "k8s").glob("*.yaml")} - {"kustomization.yaml"}
    assert sorted(listed) == sorted(files)


def test_selectors_select(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    pods = [one["spec"]["template"] for (kind, _), one in manifests.items() if kind == "StatefulSet"]
    labels = [pod["metadata"]["labels"].items() for pod in pods]
    for (kind, name), one in manifests.items():
        spec = one.get("spec", {})
        selector = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"].get("matchLabels", {}),
        }.get(kind)
        if selector is not None:
            assert any(selector(spec).items() <= found for found in labels), (kind, name)


def test_pods_are_locked_down_and_bounded(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    for (kind, name), one in manifests.items():
        if kind != "StatefulSet":
            continue
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True, container["name"]
            assert own["allowPrivilegeEscalation"] is False, container["name"]
            assert own["capabilities"] == {"drop": ["ALL"]}, container["name"]
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}, container["name"]


def test_secrets_are_referred_to_not_held(
    deploy: Path, manifests: dict[tuple[str, str], dict[str, Any]]
) -> None:
    assert not [key for key in manifests if key[0] == "Secret"]
    readme = (deploy / "README.md").read_text()
    text = (deploy / "k8s/hope.yaml").read_text() + (deploy / "k8s/valkey.yaml").read_text()
    named = set(re.findall(r"secretKeyRef: \{name: ([\w-]+)", text)) | set(
        re.findall(r"secretName: ([\w-]+)", text)
    )
    assert named
    for secret in named:
        assert f"create secret generic {secret}" in readme, secret


def test_the_image_does_not_run_as_root(deploy: Path) -> None:
    stages = (deploy / "Dockerfile").read_text().split("\nFROM ")
    for stage in stages:
        name = stage.splitlines()[0].rpartition(" AS ")[2]
        users = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)
        assert name == "build" or not name.isalpha() or users[-1:] == ["10001:10001"], name
    assert "HEALTHCHECK" in stages[2]


def test_grafana_finds_what_it_is_given(deploy: Path, compose: dict[str, Any]) -> None:
    provisioning, grafana = deploy / "grafana/provisioning", compose["services"]["grafana"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/hope.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    mounted = {inside: outside for outside, inside, _ in (one.split(":") for one in grafana["volumes"])}
    assert mounted[provider["options"]["path"]] == "./grafana/dashboards"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (deploy / "grafana/dashboards" / Path(home).name).exists()
    assert source["url"].removeprefix("http://").partition(":")[0] in compose["services"]
