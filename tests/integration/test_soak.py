"""Three minutes of steady change wear nothing out. The hour, with tighter bounds, is `make soak`."""

import pytest

from bench import endurance
from bench.churn import Churn
from bench.client import Api
from cluster import Cluster

SECONDS, WARM_SECONDS = 120, 40


@pytest.mark.timeout(600)
async def test_under_steady_change_nothing_grows_and_nothing_is_left(api: Cluster, fleet, ns: str) -> None:
    # A lease of 15 s is lost where all programs of a cluster share two cores with others, and the run with it.
    patient = {"lease_duration_seconds": 60, "lease_renew_deadline_seconds": 45}
    operator = fleet.start("enduring", log_level="info", **patient).until("serves")
    async with Api(api.kubeconfig) as client:
        churn = Churn(client, [ns], 60)
        course = await endurance.run(operator, churn, rate=3, seconds=SECONDS, tell=print, settle_seconds=150)
    assert course.after is not None
    assert course.memory_growth(WARM_SECONDS) < 20
    assert course.queue_growth() <= 20
    assert course.after.queue_depth + course.after.queue_delayed == 0
    assert course.new_files() <= 5
    assert (course.new_tasks() or 0) <= 5
    assert course.wrong_children == []
    assert churn.done["create"] and churn.done["change"] and churn.done["scale"] and churn.done["delete"]
