"""Everything on one real cluster, brought up once: images, the chart, and a namespace for each test that wants one.

Several workers may use it at the same time; `support.spread` says which files.
"""

import json
import re
from collections.abc import Iterator
from secrets import token_hex

import pytest

from cluster import Cluster, cache
from cluster.fixtures import seen
from cluster.progress import Progress
from support import deploy


@pytest.fixture(scope="session")
def images(cluster: Cluster, pytestconfig: pytest.Config) -> dict[str, str]:
    with seen(pytestconfig):
        return cluster.images(Progress())


@pytest.fixture(scope="session")
def moorage(cluster: Cluster, images: dict[str, str]) -> Cluster:
    """The cluster with Moorage installed by its chart."""
    with cache.lock(f"install-{cluster.name}", Progress()):
        deploy.install(cluster, images)
    return cluster


@pytest.fixture
def ns(moorage: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace named after the test, gone afterwards. On failure, what a person would look at first is printed."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-") + f"-{token_hex(2)}"
    with deploy.namespace(moorage, name, wait=False):
        yield name
        if getattr(request.node, "failed", False):
            for args in (("mdep,tjob,pods,pvc", "-o", "wide"), ("mdep,tjob", "-o", "yaml"), ("events",)):
                print(moorage.kubectl("get", *args, "-n", name))


@pytest.fixture(scope="session")
def model(moorage: Cluster, images: dict[str, str]) -> dict[str, object]:
    """A claim `models` in namespace `default` that holds the digits model, trained by the quickstart itself."""
    moorage.kubectl("apply", "-f", str(deploy.ROOT / "examples/quickstart"))
    job = deploy.wait_for_condition(moorage, "trainingjob", "digits", "Succeeded", timeout=180)
    return json.loads(json.dumps(job["status"]["output"]))
