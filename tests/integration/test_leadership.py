"""Two operators, one leader: the other takes over at once when asked to, and soon when it has to."""

import signal
import time
from datetime import UTC, datetime
from pathlib import Path

from cluster import Cluster
from support import audit, deploy
from support.fault_proxy import FaultProxy
from support.operator_process import OperatorProcess
from support.resources import model_deployment, without_volumes

QUICK = {"lease_duration_seconds": 4, "lease_renew_deadline_seconds": 3, "lease_retry_seconds": 0.5}


def stands_by(operator: OperatorProcess) -> OperatorProcess:
    deploy.eventually(
        lambda: any(line.get("event") == "standing by" for line in operator.lines()), 60, "it stands by", every=0.1
    )
    return operator


def seconds_until_it_leads(operator: OperatorProcess, timeout: float) -> float:
    began = time.monotonic()
    deploy.eventually(lambda: operator.leads, timeout, f"{operator.name} leads", every=0.02)
    return time.monotonic() - began


def test_one_leads_and_the_other_stands_by_in_good_health(api: Cluster, fleet, ns: str, apply, record_property) -> None:
    # With the times it has by default: a clean stop has nothing to do with them.
    first = fleet.start("first").until("serves")
    second = stands_by(fleet.start("second"))
    time.sleep(1)
    assert (first.leads, second.leads) == (True, False)
    assert first.probe("/readyz")[0] == second.probe("/readyz")[0] == second.probe("/healthz")[0] == 200
    assert second.writes() == 0

    first.signal(signal.SIGTERM)
    taken = seconds_until_it_leads(second, 10)
    print(f"led {taken:.2f} s after the leader was told to stop")
    record_property("clean stop", round(taken, 2))
    assert taken < 2  # asked is 0.5 s
    assert first.wait(30) == 0
    second.until("serves")
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def test_a_leader_that_is_killed_is_followed(api: Cluster, fleet, ns: str, apply, record_property) -> None:
    first = fleet.start("first").until("serves")
    second = stands_by(fleet.start("second"))
    first.kill()
    taken = seconds_until_it_leads(second, 40)
    print(f"led {taken:.1f} s after the leader was killed")
    record_property("killed", round(taken, 1))
    assert taken < 20  # asked is 17 s: the lease's 15 and a look
    second.until("serves")
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def test_a_leader_that_was_frozen_in_the_middle_of_its_work_does_no_harm(
    api: Cluster, fleet, kubeconfig: Path, ns: str, apply, tmp_path: Path
) -> None:
    """It was about to make children for one replica. By the time it wakes somebody else has made it, with two."""
    with FaultProxy(kubeconfig) as proxy:
        way = proxy.kubeconfig(tmp_path)
        first = fleet.start("frozen", kubeconfig=way, namespaces=ns, user_agent="frozen", **QUICK).until("serves")
        second = stands_by(fleet.start("second", namespaces=ns, **QUICK))
        with proxy.holding(lambda verb, path: verb == "GET" and path.endswith(f"/{ns}/services/digits")) as held:
            apply(model_deployment(**without_volumes(replicas=1)))
            assert held.wait(30), "it looks whether there is a Service"
            first.signal(signal.SIGSTOP)
        try:
            second.until("serves")
            apply(model_deployment(**without_volumes(replicas=2)))
            deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
            before, thawed = generations(api, ns), datetime.now(UTC)
        finally:
            first.signal(signal.SIGCONT)
        assert first.wait(30) == 1
    assert "leads now" in first.last_word() or "could not renew" in first.last_word()
    written = [audit.told(event) for event in audit.writes(api, since=thawed, namespace=ns, agent="frozen")]
    assert written == [], "it wrote what was no longer true"
    assert generations(api, ns) == before
    assert second.leads


def generations(api: Cluster, ns: str) -> dict[str, int]:
    objects = deploy.items(api, "mdep,deployments", ns)
    return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["generation"] for each in objects}
