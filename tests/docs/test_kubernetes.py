"""The manifests fit together, and ask only for what is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from typer.testing import CliRunner

from threadmill.cli.program import program
from threadmill.server import operations
from threadmill.settings import describe
from threadmill.stores.operations import Queue

_KEDA_SPEC = {
    "advanced",
    "cooldownPeriod",
    "fallback",
    "idleReplicaCount",
    "initialCooldownPeriod",
    "maxReplicaCount",
    "minReplicaCount",
    "pollingInterval",
    "scaleTargetRef",
    "triggers",
}
_KEDA_TARGET = {"apiVersion", "envSourceContainerName", "kind", "name"}
_KEDA_TRIGGER = {
    "authenticationRef",
    "metadata",
    "metricType",
    "name",
    "type",
    "useCachedMetrics",
}
_KEDA_METRICS_API = {
    "activationTargetValue",
    "authMode",
    "format",
    "targetValue",
    "unsafeSsl",
    "url",
    "valueLocation",
}

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"


def _documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text("utf-8")))


def _kind(kind: str) -> list[dict[str, Any]]:
    return [d for d in _documents("threadmill.yaml") if d["kind"] == kind]


DEPLOYMENTS = _kind("Deployment")
SCALED = _documents("keda.yaml")


def _name(document: dict[str, Any]) -> str:
    return str(document["metadata"]["name"])


def _pod(deployment: dict[str, Any]) -> dict[str, Any]:
    return deployment["spec"]["template"]["spec"]


def _container(deployment: dict[str, Any]) -> dict[str, Any]:
    (container,) = _pod(deployment)["containers"]
    return container


def _probes(deployment: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for kind in ("readinessProbe", "livenessProbe"):
        yield _container(deployment)[kind]["httpGet"]


@pytest.mark.parametrize("document", _documents("threadmill.yaml"), ids=_name)
def test_kubernetes_knows_every_field(document: dict[str, Any]) -> None:
    """By the schemas of its API; a misspelt field would be left out in silence."""
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(document, version, strict=True)
    wrong = {**document, "metadata": {**document["metadata"], "lables": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.parametrize("scaled", SCALED, ids=_name)
def test_keda_knows_every_field(scaled: dict[str, Any]) -> None:
    """By the page "ScaledObject specification" of its documentation, 2.10 to 2.17."""
    assert set(scaled) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(scaled["spec"]) <= _KEDA_SPEC
    assert set(scaled["spec"]["scaleTargetRef"]) <= _KEDA_TARGET
    for trigger in scaled["spec"]["triggers"]:
        assert set(trigger) <= _KEDA_TRIGGER
        assert trigger["type"] == "metrics-api"
        assert trigger.get("metricType", "AverageValue") in {"AverageValue", "Value"}
        assert {"url", "valueLocation", "targetValue"} <= set(trigger["metadata"])
        assert set(trigger["metadata"]) <= _KEDA_METRICS_API


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=_name)
def test_pods_are_those_that_are_selected(deployment: dict[str, Any]) -> None:
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    chosen = [d for d in DEPLOYMENTS if d["spec"]["selector"]["matchLabels"] == labels]
    assert chosen == [deployment], "two deployments would own the same pods"


def test_the_service_leads_to_the_servers() -> None:
    (service,) = _kind("Service")
    labels = {
        _name(d): d["spec"]["template"]["metadata"]["labels"] for d in DEPLOYMENTS
    }
    found = [n for n, own in labels.items() if service["spec"]["selector"] == own]
    assert found == ["threadmill-server"]
    (port,) = service["spec"]["ports"]
    server = next(d for d in DEPLOYMENTS if _name(d) == "threadmill-server")
    assert port["targetPort"] in {p["name"] for p in _container(server)["ports"]}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=_name)
def test_commands_and_probes_exist(deployment: dict[str, Any]) -> None:
    container = _container(deployment)
    _, command, *options = container["command"]
    told = CliRunner().invoke(program(), [command, "--help"]).output
    names = [option for option in options if option.startswith("--")]
    assert [name for name in names if name not in told] == []
    (port,) = container["ports"]
    own = options[options.index(names[-1]) + 1]
    assert own == str(port["containerPort"]), "the process listens elsewhere"
    for probe in _probes(deployment):
        assert probe["port"] == port["name"]
        assert urlsplit(probe["path"]).path == "/ok"


def test_settings_exist_and_leave_time_to_drain() -> None:
    (config,) = _kind("ConfigMap")
    known = {name for setting in describe() for name in setting.names}
    assert set(config["data"]) <= known
    grace = int(config["data"]["BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS"])
    assert all(_pod(d)["terminationGracePeriodSeconds"] > grace for d in DEPLOYMENTS)


@pytest.mark.parametrize("scaled", SCALED, ids=_name)
def test_the_autoscaler_finds_its_figures(scaled: dict[str, Any]) -> None:
    target = scaled["spec"]["scaleTargetRef"]["name"]
    (deployment,) = [d for d in DEPLOYMENTS if _name(d) == target]
    assert "replicas" not in deployment["spec"], "two would decide how many there are"
    (config,) = _kind("ConfigMap")
    command = _container(deployment)["command"]
    label = command[command.index("--labels") + 1] if "--labels" in command else ""
    routes = {getattr(route, "path", "") for route in operations.router.routes}
    for trigger in scaled["spec"]["triggers"]:
        asked = trigger["metadata"]
        url = urlsplit(asked["url"])
        assert url.path in routes
        assert parse_qs(url.query, keep_blank_values=True) == {"labels": [label]}
        place, figure = asked["valueLocation"].split(".")
        assert place == "0"
        assert isinstance(Queue(labels=()).as_json()[figure], int | float)
        if figure == "running":
            assert asked["targetValue"] == config["data"]["THREADMILL_SLOTS"]
