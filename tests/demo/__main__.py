"""The demo, step by step: cluster, images, Helm, training, serving, predictions, load, and what is left to play with.

It fails (exit 1) when a model is less than 0.95 accurate on digits it never saw, when the replicas do not follow the
load up and down, or when a single request fails on the way.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from tritonclient.utils import InferenceServerException

from cluster import Cluster, ClusterError, Unavailable, open_cluster
from cluster.progress import Progress
from support import deploy, digits, infer
from support.load import Load

LEAST_ACCURACY = 0.95
MODELS = {"digits": "torch", "digits-triton": "triton"}
QUICKSTART = deploy.ROOT / "examples/quickstart"
console = Console(highlight=False, soft_wrap=True)


class DemoFailed(Exception):
    """What the demo was to show did not happen; the message says what."""


@contextmanager
def step(title: str) -> Iterator[None]:
    console.print(f"[bold]▸ {title}[/bold]")
    start = time.monotonic()
    yield
    console.print(f"  [dim]{time.monotonic() - start:.1f} s[/dim]")


def short(condition: dict[str, Any]) -> str:
    return f"{condition['status']} {condition['reason']}".strip()


def watch_until_ready(cluster: Cluster, timeout: float = 300) -> None:
    """Prints a line whenever what a user would see in the status has changed."""
    end, last = time.monotonic() + timeout, ""
    while True:
        job = deploy.get(cluster, "trainingjob", "digits")
        served = {name: deploy.get(cluster, "modeldeployment", name) for name in MODELS}
        progress = ((job or {}).get("status") or {}).get("progress") or {}
        metrics = ((job or {}).get("status") or {}).get("metrics") or {}
        done = deploy.condition(job, "Succeeded")
        ready = {name: deploy.condition(obj, "Ready") for name, obj in served.items()}
        line = (
            f"  training {progress.get('percent', 0):>3} % "
            + (f"accuracy {float(metrics['accuracy']):.3f} " if "accuracy" in metrics else "")
            + f"[{short(done)}] · "
            + " · ".join(f"{name} {short(c)}" for name, c in ready.items())
        )
        if line != last:
            console.print(line, markup=False)
            last = line
        if done["status"] == "False":
            raise DemoFailed(f"training failed: {done['message']}")
        if done["status"] == "True" and all(c["status"] == "True" for c in ready.values()):
            return
        for name, c in ready.items():
            if c["status"] == "False" and deploy.current(served[name]):
                raise DemoFailed(f"{name} failed: {c['message']}")
        if time.monotonic() > end:
            raise DemoFailed(f"not ready after {timeout:.0f} s")
        time.sleep(0.5)


def predict(cluster: Cluster) -> None:
    """The held-out digits through each Service, with the protocol's own clients."""
    x, truth = digits.held_out()
    table = Table("model", "runtime", "version", "replicas", "accuracy", "p50 ms", "p99 ms")
    worst = 1.0
    for name, runtime in MODELS.items():
        port, ask = (8080, infer.over_http) if runtime == "torch" else (8081, infer.over_grpc)
        with cluster.door("default", name, port) as address:
            answers = ask(address, name, x)
        status = (deploy.get(cluster, "modeldeployment", name) or {})["status"]
        accuracy = answers.accuracy(truth)
        worst = min(worst, accuracy)
        table.add_row(
            name, runtime, status["model"]["version"], status["replicasSummary"], f"{accuracy:.4f}",
            f"{answers.percentile_ms(50):.1f}", f"{answers.percentile_ms(99):.1f}",
        )  # fmt: skip
    console.print(table)
    if worst < LEAST_ACCURACY:
        raise DemoFailed(f"accuracy {worst:.4f} on the held-out digits is below {LEAST_ACCURACY}")


def scale(cluster: Cluster, seconds: float = 30) -> None:
    """Load for half a minute (longer where pods start slowly beside it), then a trickle until the replicas are gone."""
    x, _ = digits.held_out()
    most, last = 0, ""

    def look(note: str) -> tuple[int, int]:
        """(ready, wanted) replicas; printed when something changed."""
        nonlocal most, last
        status = (deploy.get(cluster, "modeldeployment", "digits") or {}).get("status") or {}
        ready, wanted = int(status.get("readyReplicas") or 0), int(status.get("desiredReplicas") or 0)
        line = f"  {note}: {ready}/{wanted} ready, {(status.get('scaling') or {}).get('reason', '')}"
        if line != last:
            console.print(line, markup=False)
            last = line
        most = max(most, ready)
        return ready, wanted

    with cluster.door("default", "digits", 8080) as address:
        url = f"http://{address}/v2/models/digits/infer"
        rest = time.monotonic() + 90
        while max(look("before")) > 1 and time.monotonic() < rest:
            time.sleep(1)  # an earlier demo's load is still wearing off
        most = before = look("before")[0]
        with Load(url, infer.request_body(x[:16]), workers=24, max_seconds=300) as heavy:
            start = time.monotonic()
            while (age := time.monotonic() - start) < seconds or (most <= before and age < 4 * seconds):
                look("load")
                time.sleep(1)
        with Load(url, infer.request_body(x[:1]), workers=4, rate=20, max_seconds=300) as light:
            end = time.monotonic() + 120
            while max(look("after")) > before and time.monotonic() < end:
                time.sleep(1)
            time.sleep(8)  # the pods that were told to go are still draining: failures would come now
        after, _ = look("after")
    sent, failed = heavy.sent + light.sent, heavy.failed + light.failed
    console.print(f"  replicas {before} → {most} → {after}; {sent} requests, [bold]{failed} failed[/bold]")
    if failed:
        raise DemoFailed(f"{failed} requests failed: {dict(heavy.failures + light.failures)}")
    if most <= before or after > before:
        raise DemoFailed(f"replicas did not follow the load: {before} → {most} → {after}")


def main() -> int:
    start = time.monotonic()
    try:
        cluster = open_cluster()
        progress = Progress()
        with step(f"a cluster ({cluster.driver})"):
            cluster.up(progress)
        with step("images"):
            images = cluster.images(progress)
        with step("helm install"):
            deploy.install(cluster, images)
        with step("kubectl apply -f examples/quickstart"):
            if deploy.condition(deploy.get(cluster, "trainingjob", "digits"), "Succeeded")["status"] == "False":
                # An earlier demo's training failed, and a failed TrainingJob stays so: this one starts anew.
                cluster.kubectl("delete", "tjob", "digits")
            cluster.kubectl("apply", "-f", str(QUICKSTART))
        with step("training, then serving"):
            watch_until_ready(cluster)
        with step("360 held-out digits through the Services"):
            predict(cluster)
        with step("load"):
            scale(cluster)
        with step("kubectl get mdep,tjob"):
            console.print(cluster.kubectl("get", "mdep,tjob"), markup=False)
    except Unavailable as reason:
        console.print(f"[bold red]the demo cannot run here:[/bold red] {reason}")
        return 2
    except (DemoFailed, ClusterError, AssertionError, httpx.HTTPError, InferenceServerException) as error:
        console.print(f"[bold red]the demo failed:[/bold red] {error}")
        return 1
    console.print(f"[bold green]done[/bold green] in {time.monotonic() - start:.0f} s. Go on playing:")
    console.print(
        f"  export KUBECONFIG={cluster.kubeconfig}    # `make cluster-up` prints a line for PATH, too\n"
        "  kubectl get mdep,tjob            kubectl describe mdep digits\n"
        "  kubectl explain mdep.spec.runtime.torch\n"
        "  kubectl scale mdep digits-triton --replicas=2\n"
        "  make cluster-down                when you are done",
        markup=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
