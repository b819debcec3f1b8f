"""The commands that the kind driver gives; Docker itself is not needed to know them."""

from pathlib import Path
from typing import Any

import pytest

from cluster import docker, kind
from cluster.images import Image
from cluster.interface import ClusterError

KUBECONFIG = Path("/state/kubeconfig")


def test_the_cluster_has_the_nodes_asked_for_and_one_folder_in_all_of_them() -> None:
    made = kind.config(2, Path("/state/volumes"))
    assert made["apiVersion"] == "kind.x-k8s.io/v1alpha4"
    assert [node["role"] for node in made["nodes"]] == ["control-plane", "worker", "worker"]
    for node in made["nodes"]:
        assert node["extraMounts"] == [{"hostPath": "/state/volumes", "containerPath": "/state/volumes"}]
        assert node["image"].startswith("kindest/node:v1.34.") and "@sha256:" in node["image"]


def test_it_never_touches_the_users_own_kubeconfig() -> None:
    for command in (kind.create_command("kind", "c", KUBECONFIG), kind.delete_command("kind", "c", KUBECONFIG)):
        assert "--name=c" in command
        assert f"--kubeconfig={KUBECONFIG}" in command


def test_create_reads_the_config_from_its_input_and_waits() -> None:
    assert kind.create_command("/bin/kind", "c", KUBECONFIG) == [
        "/bin/kind", "create", "cluster", "--name=c", f"--kubeconfig={KUBECONFIG}", "--config=-", "--wait=300s",
    ]  # fmt: skip
    assert kind.list_command("kind") == ["kind", "get", "clusters"]


def test_kind_is_installed_at_a_pinned_version() -> None:
    command = kind.install_command("/bin/go", Path("/cache/kind"), Path("/scratch"))
    assert command[-3:] == ["/bin/go", "install", f"sigs.k8s.io/kind@{kind.VERSION}"]
    assert "GOBIN=/cache/kind" in command
    assert all("/scratch" in word for word in command if "CACHE=" in word)


def test_nodes_are_named_as_kind_names_them() -> None:
    assert [kind.worker("c", i) for i in (1, 2, 3)] == ["c-worker", "c-worker2", "c-worker3"]
    assert kind.control_plane("c") == "c-control-plane"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (kind.pull_plug_command("n"), "docker stop --time=0 n"),
        (kind.boot_command("n"), "docker start n"),
        (kind.cut_command("n"), "docker network disconnect kind n"),
        (kind.join_command("n"), "docker network connect kind n"),
        (kind.signal_kubelet_command("n", "STOP"), "docker exec n systemctl kill --signal=STOP kubelet"),
        (kind.inspect_command("n"), "docker inspect n"),
        (kind.empty_command("n", Path("/v/shared-01")), "docker exec n find /v/shared-01 -mindepth 1 -delete"),
    ],
)
def test_node_commands(command: list[str], words: str) -> None:
    assert " ".join(command) == words


class Commands:
    """Answers `docker inspect` and remembers everything else."""

    def __init__(self, networks: str) -> None:
        self.networks = networks
        self.given: list[str] = []

    def __call__(self, *argv: str, **_: Any) -> str:
        if argv[:2] == ("docker", "inspect"):
            return f'[{{"NetworkSettings": {{"Networks": {self.networks}}}}}]'
        self.given.append(" ".join(argv))
        return ""


@pytest.mark.parametrize(
    ("networks", "fault", "given"),
    [
        ('{"kind": {}}', "cut", ["docker network disconnect kind c-worker"]),
        ("{}", "cut", []),
        ("{}", "join", ["docker network connect kind c-worker"]),
        ('{"kind": {}}', "join", []),
        ("{}", "freeze", ["docker exec c-worker systemctl kill --signal=STOP kubelet"]),
        ("{}", "thaw", ["docker exec c-worker systemctl kill --signal=CONT kubelet"]),
        ("{}", "restart_kubelet", ["docker exec c-worker systemctl kill --signal=KILL kubelet"]),
    ],
)
def test_a_fault_that_is_there_already_is_not_given_again(
    networks: str, fault: str, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(networks)
    monkeypatch.setattr(kind, "run", commands)
    getattr(kind.KindNode("c-worker"), fault)()
    assert commands.given == given


def service(**spec: Any) -> dict[str, Any]:
    ports = [{"port": 80, "targetPort": "http"}, {"port": 81}]
    return {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": {"a": "b"}, "ports": ports, **spec}}


def test_a_door_is_a_node_port_to_the_same_pods() -> None:
    made = kind.twin(service(), 80)
    assert made["metadata"] == {"generateName": "web-door-", "namespace": "shop"}
    ports = [{"port": 80, "targetPort": "http"}]
    assert made["spec"] == {"type": "NodePort", "selector": {"a": "b"}, "ports": ports}
    assert kind.twin(service(), 81)["spec"]["ports"] == [{"port": 81, "targetPort": 81}]


def test_a_door_to_a_port_that_is_not_there_says_so() -> None:
    with pytest.raises(ClusterError, match="web has no port 8080"):
        kind.twin(service(), 8080)


def test_docker_builds_with_the_images_own_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in docker.PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    image = Image("ghcr.io/moorage/triton", {"Dockerfile": b""}, {"BASE_IMAGE": "torch:1"})
    assert docker.build_command(image, Path("/context"), {"VERSION": "1"}) == [
        "docker", "build", "--progress=plain", "--build-arg=VERSION=1", "--build-arg=BASE_IMAGE=torch:1",
        "--build-arg=HTTPS_PROXY", f"--tag={image.name}", "/context",
    ]  # fmt: skip


def test_images_are_loaded_into_the_cluster_of_that_name() -> None:
    assert docker.load_command("kind", "c", ["a:1", "b:2"]) == [
        "kind", "load", "docker-image", "a:1", "b:2", "--name=c",
    ]  # fmt: skip
    assert docker.has_command("a:1") == ["docker", "image", "inspect", "a:1"]


def test_the_device_plugin_is_built_from_the_sources_of_the_native_one() -> None:
    files = kind.fakegpu_image().files
    assert set(files) == {"Dockerfile", "go.mod", "go.sum", "cmd/fakegpu/main.go"}
    dockerfile = files["Dockerfile"]
    assert isinstance(dockerfile, bytes) and b"./cmd/fakegpu" in dockerfile
