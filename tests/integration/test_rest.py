"""A healthy system writes nothing but its Lease, and a restarted operator finds nothing to write.

Counted twice: by the API server's audit log, and by the operator's own metrics.
"""

import time
from datetime import UTC, datetime

from cluster import Cluster
from support import audit, deploy
from support.resources import model_deployment, training_job, without_volumes

WINDOW = 7.0


def audited_writes(api: Cluster, ns: str, since: datetime) -> list[str]:
    return [audit.told(event) for event in audit.writes(api, since=since, namespace=ns)]


def test_nothing_is_written_at_rest_nor_after_a_restart(api: Cluster, fleet, ns: str, apply) -> None:
    operator = fleet.start("first", resync_seconds=3, namespaces=ns).until("serves")
    scaling = {"maxReplicas": 3, "metrics": [{"type": "Concurrency", "target": 4}]}
    apply(
        *(model_deployment(f"plain{i}", **without_volumes(replicas=2)) for i in range(3)),
        model_deployment("triton", **without_volumes(runtime={"triton": {}})),
        model_deployment("scaled", **without_volumes(scaling=scaling)),
        model_deployment(
            "gpus", **without_volumes(resources={"gpus": 1, "requests": {"cpu": "1000m", "memory": "1024Mi"}})
        ),
        training_job("done", data={"uri": "https://data.example/x.csv"}, output={"uri": "s3://models/done"}),
    )
    for name in ("plain0", "plain1", "plain2", "triton", "scaled", "gpus"):
        deploy.wait_for_condition(api, "mdep", name, "Ready", namespace=ns)
    deploy.wait_for_condition(api, "tjob", "done", "Succeeded", namespace=ns)
    time.sleep(3)

    start, written = datetime.now(UTC), operator.writes()
    time.sleep(WINDOW)  # more than two resyncs
    assert audited_writes(api, ns, start) == []
    assert operator.writes() == written
    assert operator.metric("moorage_operator_needless_applies_total") == 0, "stored otherwise than it is sent"

    start = datetime.now(UTC)
    assert operator.stop() == 0
    second = fleet.start("second", resync_seconds=3, namespaces=ns).until("serves")
    time.sleep(WINDOW)
    assert audited_writes(api, ns, start) == []
    assert second.writes() == 0
    assert second.metric("moorage_operator_resync_duration_seconds_count") >= 2
