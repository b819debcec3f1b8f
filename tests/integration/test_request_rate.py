"""However the API server behaves, it is not asked more often than is of use: an operator must not make trouble worse.

Counted by a proxy between the two.
"""

import time
from collections import Counter
from pathlib import Path

import pytest

from cluster import Cluster
from moorage.kube.kinds import CHILDREN, GRANDCHILDREN, OWNERS
from support import deploy
from support.fault_proxy import FaultProxy, Faults
from support.resources import model_deployment, without_volumes

RESOURCES = 10
SECONDS = 8.0
PATIENT = {"lease_duration_seconds": 40, "lease_renew_deadline_seconds": 30}
KINDS = len((*OWNERS, *CHILDREN, *GRANDCHILDREN))


def spare_the_lease(verb: str, path: str) -> bool:
    return "/leases" not in path


def only_watches(verb: str, path: str) -> bool:
    return verb == "WATCH"


@pytest.mark.parametrize(
    ("faults", "bound"),
    [
        # Retries double: eight within eight seconds, of three requests at most. Watches and the resync have their own.
        pytest.param(
            Faults(share=1, ways=("error",), watch_seconds=2, only=spare_the_lease), RESOURCES * 8 * 3 + KINDS * 16,
            id="every request fails",
        ),
        # Told to wait a second, each resource and each watch asks once a second at most.
        pytest.param(
            Faults(share=1, ways=("throttled",), watch_seconds=2, only=spare_the_lease),
            (RESOURCES * 3 + KINDS) * SECONDS,
            id="every request is throttled",
        ),
        # A line that breaks at once is tried ten times a second at most.
        pytest.param(Faults(watch_seconds=0, only=only_watches), KINDS * 10 * 2 * SECONDS, id="no watch lasts"),
        pytest.param(Faults(expired=1, only=only_watches), KINDS * 10 * 2 * SECONDS, id="every version is too old"),
    ],
)  # fmt: skip
def test_the_api_server_is_asked_with_patience(
    api: Cluster, fleet, kubeconfig: Path, ns: str, apply, tmp_path: Path, faults: Faults, bound: float
) -> None:
    names = [f"m{number}" for number in range(RESOURCES)]
    with FaultProxy(kubeconfig) as proxy:
        way = proxy.kubeconfig(tmp_path)
        operator = fleet.start("patient", kubeconfig=way, namespaces=ns, **PATIENT).until("serves")
        proxy.faults = faults
        proxy.cut()
        began = time.monotonic()
        apply(*(model_deployment(name, **without_volumes()) for name in names))
        time.sleep(max(0.0, SECONDS - (time.monotonic() - began)))
        # A busy machine takes longer to apply them all: then more is due.
        bound *= max(1.0, (time.monotonic() - began) / SECONDS)
        asked = [each for each in proxy.since(began) if not each.of_lease]
        proxy.faults = Faults()
        verbs = dict(Counter(each.verb for each in asked))
        print(f"{len(asked)} requests in {SECONDS:.0f} s, at most {bound:.0f} were due: {verbs}")
        for name in names:
            deploy.wait_for_condition(api, "mdep", name, "Ready", namespace=ns)
        assert operator.running
    assert len(asked) <= bound
