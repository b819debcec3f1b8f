"""Three minutes of steady change wear nothing out. The hour, with tighter bounds, is `make soak`."""

import json
import time

import pytest

from bench import endurance
from bench.churn import Churn
from bench.client import Api
from cluster import Cluster

SECONDS, WARM_SECONDS = 120, 40


LEAVING_SECONDS = 120


def leaving(api: Cluster) -> list[str]:
    """Namespaces on their way out, and what is said to keep them."""
    found = json.loads(api.kubectl("get", "namespaces", "-o", "json"))["items"]
    going = [each for each in found if each["status"]["phase"] != "Active"]
    return [f"{each['metadata']['name']}: {said(each['status'].get('conditions') or [])}" for each in going]


def said(conditions: list[dict[str, str]]) -> str:
    return "; ".join(one["message"] for one in conditions if one["status"] == "True") or "nothing is said"


def until_others_have_left(api: Cluster) -> None:
    """Their pods take room on the nodes, and who deletes them is busy: quieter without. What stays longer is told, and
    no fault of what is tested here."""
    end = time.monotonic() + LEAVING_SECONDS
    while (left := leaving(api)) and time.monotonic() < end:
        time.sleep(1)
    print(*left, sep="\n")


@pytest.mark.timeout(1200)
async def test_under_steady_change_nothing_grows_and_nothing_is_left(api: Cluster, fleet, ns: str) -> None:
    # A lease of 15 s is lost where all programs of a cluster share two cores with others, and the run with it.
    patient = {"lease_duration_seconds": 60, "lease_renew_deadline_seconds": 45}
    until_others_have_left(api)
    # Of its own namespace: what others leave on the way out keeps it busy, and this waits until it is not.
    operator = fleet.start("enduring", log_level="info", namespaces=ns, **patient).until("serves")
    async with Api(api.kubeconfig) as client:
        churn = Churn(client, [ns], 60)
        course = await endurance.run(operator, churn, rate=3, seconds=SECONDS, tell=print, settle_seconds=240)
    assert course.after is not None
    assert course.memory_growth(WARM_SECONDS) < 20
    assert course.queue_growth() <= 20
    assert course.after.queue_depth + course.after.queue_delayed == 0
    assert course.new_files() <= 5
    assert (course.new_tasks() or 0) <= 5
    assert course.wrong_children == []
    assert churn.done["create"] and churn.done["change"] and churn.done["scale"] and churn.done["delete"]
