"""Two operators, one leader: the other takes over at once when asked to, and soon when it has to."""

import signal
import time

from cluster import Cluster
from support import deploy
from support.resources import model_deployment, without_volumes

QUICK = {"lease_duration_seconds": 4, "lease_renew_deadline_seconds": 3, "lease_retry_seconds": 0.5}


def test_one_leads_and_the_other_stands_by_in_good_health(api: Cluster, fleet, ns: str, apply) -> None:
    first = fleet.start("first", **QUICK).until("serves")
    second = fleet.start("second", **QUICK)
    deploy.eventually(lambda: second.probe("/readyz")[0] == 200, 15, "the standby is ready", every=0.1)
    time.sleep(1)
    assert (first.leads, second.leads) == (True, False)
    assert second.probe("/healthz")[0] == 200
    assert second.writes() == 0

    assert first.stop() == 0
    second.until("serves", timeout=10)
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def test_a_leader_that_is_killed_is_followed(api: Cluster, fleet, ns: str, apply) -> None:
    first = fleet.start("first", **QUICK).until("serves")
    second = fleet.start("second", **QUICK)
    deploy.eventually(lambda: second.probe("/readyz")[0] == 200, 15, "the standby is ready", every=0.1)
    first.kill()
    second.until("serves", timeout=20)
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def test_a_leader_that_was_frozen_ends_when_it_sees_its_successor(api: Cluster, fleet) -> None:
    first = fleet.start("first", **QUICK).until("serves")
    second = fleet.start("second", **QUICK)
    deploy.eventually(lambda: second.probe("/readyz")[0] == 200, 15, "the standby is ready", every=0.1)
    first.signal(signal.SIGSTOP)
    try:
        second.until("serves", timeout=20)
    finally:
        first.signal(signal.SIGCONT)
    assert first.wait(15) == 1
    assert second.leads
