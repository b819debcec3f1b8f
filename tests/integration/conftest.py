"""One API server for all of these tests, with the CRDs and the chart's rights; operators as processes beside it."""

import json
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import Cluster
from support import deploy
from support.api_tier import Fleet, apply_crds, operator_kubeconfig
from support.operator_process import OperatorProcess


@pytest.fixture(scope="session")
def api(api_cluster: Cluster) -> Cluster:
    """The API tier with the CRDs and the operator's namespace."""
    apply_crds(api_cluster)
    try:
        api_cluster.kubectl("create", "namespace", deploy.NAMESPACE)
    except Exception as error:
        if "AlreadyExists" not in str(error):
            raise
    return api_cluster


@pytest.fixture(scope="session")
def kubeconfig(api: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return operator_kubeconfig(api, tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="session")
def _fleet(api: Cluster, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(api, kubeconfig, tmp_path_factory.mktemp("operators"))
    fleet.clear()
    yield fleet
    fleet.clear()


@pytest.fixture
def operator(_fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[OperatorProcess]:
    """An operator that serves, shared with other tests."""
    resident = _fleet.resident()
    yield resident
    if getattr(request.node, "failed", False):
        print(resident.tail())


@pytest.fixture
def fleet(_fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """No operator runs but those that the test starts."""
    _fleet.clear()
    yield _fleet
    if getattr(request.node, "failed", False):
        for guest in _fleet._guests[-2:]:
            print(f"--- {guest.name}\n{guest.tail()}")
    _fleet.clear()


@pytest.fixture
def ns(api: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace named after the test. It goes in the background: waiting for it would double the time of a run."""
    readable = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:36].strip("-")
    # The same test may be run again while its former namespace is still on its way out.
    name = f"{readable}-{secrets.token_hex(2)}"
    api.kubectl("create", "namespace", name)
    yield name
    if getattr(request.node, "failed", False):
        print(api.kubectl("get", "mdep,tjob,deploy,job,pods", "-n", name, "-o", "wide"))
        print(api.kubectl("get", "mdep,tjob", "-n", name, "-o", "yaml"))
    api.kubectl("delete", "namespace", name, "--wait=false")


Apply = Callable[..., None]


@pytest.fixture
def apply(api: Cluster, ns: str) -> Apply:
    """Applies manifests to the test's namespace."""

    def go(*manifests: dict[str, object], options: tuple[str, ...] = ()) -> None:
        together = {"apiVersion": "v1", "kind": "List", "items": manifests}
        api.kubectl("apply", "-n", ns, *options, "-f", "-", input=json.dumps(together))

    return go
