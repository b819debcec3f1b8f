"""Which driver is chosen; above all, never a cluster that the user did not ask for."""

import os
from pathlib import Path

import pytest

from cluster import choice, names, native
from cluster.interface import ClusterError


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with root and without Docker, whose checkout is empty, and no wishes."""
    for variable in ("KUBECONFIG", "MOORAGE_USE_EXISTING_CLUSTER", "MOORAGE_CLUSTER_DRIVER", "MOORAGE_NODES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(choice, "docker_answers", lambda: False)
    monkeypatch.setattr(native, "why_not", lambda: None)
    monkeypatch.setattr(names.Names.__init__, "__defaults__", (tmp_path,))
    return monkeypatch


def tools(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in ("kubectl", "helm"):
        (folder / tool).write_text("#!/bin/sh\n")
        (folder / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_kubeconfig_alone_never_leads_to_an_existing_cluster(tmp_path: Path, machine: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("")
    machine.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert choice.open_cluster().driver == "native"
    machine.setenv("MOORAGE_USE_EXISTING_CLUSTER", "0")
    assert choice.open_cluster().driver == "native"


def test_an_existing_cluster_is_used_when_asked_for(tmp_path: Path, machine: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("")
    tools(tmp_path, machine)
    machine.setenv("KUBECONFIG", str(tmp_path / "config"))
    machine.setenv("MOORAGE_USE_EXISTING_CLUSTER", "1")
    cluster = choice.open_cluster()
    assert cluster.driver == "existing"
    assert cluster.kubeconfig == tmp_path / "config"


def test_asking_for_an_existing_cluster_without_saying_which_is_an_error(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("MOORAGE_USE_EXISTING_CLUSTER", "1")
    with pytest.raises(ClusterError, match="needs KUBECONFIG"):
        choice.open_cluster()


def test_the_api_tier_is_ours_even_then(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("MOORAGE_USE_EXISTING_CLUSTER", "1")
    machine.setenv("KUBECONFIG", "/nowhere")
    assert choice.open_cluster("api").driver == "api"


def test_docker_means_kind(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(choice, "docker_answers", lambda: True)
    assert choice.choose(names.Names("x")) == "kind"


def test_what_is_up_is_used_whatever_else_could_be(machine: pytest.MonkeyPatch) -> None:
    wanted = names.Names("x")
    wanted.state.mkdir(parents=True)
    (wanted.state / "driver").write_text("native")
    machine.setattr(choice, "docker_answers", lambda: True)
    assert choice.choose(wanted) == "native"


def test_without_root_and_docker_the_reason_says_what_it_takes(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(native, "why_not", lambda: "without Docker a cluster needs root")
    assert choice.unavailable("full") == "without Docker a cluster needs root"
    assert choice.unavailable("api") is None


def test_a_driver_can_be_asked_for(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(choice, "docker_answers", lambda: True)
    machine.setenv("MOORAGE_CLUSTER_DRIVER", "native")
    assert choice.open_cluster().driver == "native"
    machine.setenv("MOORAGE_CLUSTER_DRIVER", "minikube")
    with pytest.raises(ClusterError, match="one of native, kind, not 'minikube'"):
        choice.open_cluster()


@pytest.mark.parametrize("text", ["0", "10", "two", "-1"])
def test_a_number_of_nodes_that_cannot_be_is_refused(machine: pytest.MonkeyPatch, text: str) -> None:
    machine.setenv("MOORAGE_NODES", text)
    with pytest.raises(ClusterError, match="from 1 to 9"):
        choice.open_cluster()


def test_nodes_are_as_many_as_asked_for_or_as_it_has(machine: pytest.MonkeyPatch) -> None:
    assert len(choice.open_cluster(name="x").nodes) == 2
    assert len(choice.open_cluster(name="x", nodes=1).nodes) == 1
    state = names.Names("x").state
    state.mkdir(parents=True)
    (state / "nodes").write_text("3")
    assert len(choice.open_cluster(name="x").nodes) == 3
    machine.setenv("MOORAGE_NODES", "4")
    assert len(choice.open_cluster(name="x").nodes) == 4
