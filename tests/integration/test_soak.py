"""Three minutes of steady change wear nothing out. The hour, with tighter bounds, is `make soak`."""

import json

import pytest

from bench import endurance
from bench.churn import Churn
from bench.client import Api
from cluster import Cluster
from support import deploy

SECONDS, WARM_SECONDS = 120, 40


def leaving(api: Cluster) -> list[str]:
    """Namespaces on their way out: their pods still fill the nodes."""
    found = json.loads(api.kubectl("get", "namespaces", "-o", "json"))["items"]
    return [each["metadata"]["name"] for each in found if each["status"]["phase"] != "Active"]


@pytest.mark.timeout(1200)
async def test_under_steady_change_nothing_grows_and_nothing_is_left(api: Cluster, fleet, ns: str) -> None:
    # A lease of 15 s is lost where all programs of a cluster share two cores with others, and the run with it.
    patient = {"lease_duration_seconds": 60, "lease_renew_deadline_seconds": 45}
    deploy.eventually(lambda: not leaving(api), 240, "what tests before this one left is gone")
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
