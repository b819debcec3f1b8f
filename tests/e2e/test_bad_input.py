"""What only shows when it runs: a container, an image, a model, a volume, a training. Each says what went wrong within
ten seconds, in the words of whoever knows, and nobody is busy with it afterwards.

The cases run a few at a time, in one namespace. What a schema, admission or the scheduler can see is in
tests/integration.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster import Cluster
from support import deploy
from support.bad_input import Case, Event, Shown, check, watch
from support.resources import Manifest, model_deployment, training_job

TOLD_WITHIN = 10
"""Seconds from the event, as the issue asks."""

REQUESTS_PER_MINUTE = 12
"""For each bad resource: a container that is started again costs a status now and then, and Events that are read more
and more seldom. Nothing here is a reason for a request every few seconds."""

TOGETHER = 6
# Cheap ones whose containers end or wait again and again, and the one that is mended at the end.
KEPT = ("no model at all", "no such image", "server that ends", "key of a Secret missing", "Secret missing")

SMALL = {"requests": {"cpu": "10m", "memory": "32Mi"}}
TABLE = "x0,x1,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(64))
GAPS = TABLE.replace("3,1,1", "3,,1")
UNICODE = "größe 七 🚢"

# Models that are none, made where torch is: a small one is good, and what is wrong with the others says their name.
PREPARE = """
import os, pathlib, torch
root = pathlib.Path("/m")
def folder(name):
    (root / name).mkdir(exist_ok=True)
    return root / name
model = torch.nn.Linear(4, 2).eval()
dim = torch.export.Dim("batch")
torch.export.save(torch.export.export(model, (torch.zeros(2, 4),), dynamic_shapes=({0: dim},)), folder("good") / "model.pt2")
whole = (root / "good/model.pt2").read_bytes()
(folder("truncated") / "model.pt2").write_bytes(whole[: len(whole) * 2 // 3])
torch.save(model, folder("pickled") / "model.pt2")
(folder("random") / "model.pt2").write_bytes(os.urandom(100_000))
torch.jit.script(model).save(str(folder("script") / "model.pt"))
(folder("others") / "notes.txt").write_text("not a model")
repository = folder("repository/broken") if folder("repository") else None
(repository / "config.pbtxt").write_text('name: "broken" backend: "no_such_backend"')
(folder("repository/broken/1") / "model.bin").write_bytes(b"x")
folder("locked").chmod(0o555)
"""  # noqa: E501


def ended(pods: list[Manifest]) -> bool:
    """A container ended badly, or cannot be started."""
    return any(_is_bad(c) for pod in pods for c in _containers(pod))


def _containers(pod: Manifest) -> list[dict[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _is_bad(container: dict[str, Any]) -> bool:
    state, before = container.get("state") or {}, container.get("lastState") or {}
    waits = (state.get("waiting") or {}).get("reason", "")
    end = state.get("terminated") or before.get("terminated") or {}
    return bool(end.get("exitCode")) or waits not in ("", "PodInitializing", "ContainerCreating")


def has_run_for_a_minute(pods: list[Manifest]) -> bool:
    now = datetime.now(UTC)
    since = [((c.get("state") or {}).get("running") or {}).get("startedAt") for pod in pods for c in _containers(pod)]
    return any(time and (now - datetime.fromisoformat(time)).total_seconds() >= 60 for time in since)


def is_placed(pods: list[Manifest]) -> bool:
    return any((pod.get("spec") or {}).get("nodeName") for pod in pods)


def claim(path: str, **more: Any) -> dict[str, Any]:
    return {"uri": f"pvc://models/{path}", **more}


def served(name: str, **spec: Any) -> Manifest:
    return model_deployment(name, **{"resources": SMALL, "model": claim("good"), **spec})


def container(name: str, image: str, *program: str, **more: Any) -> Manifest:
    own = {"image": image, "port": 8080, **({"command": list(program)} if program else {}), **more}
    return served(name, model=None, runtime={"container": own})


def python(name: str, image: str, program: str, **more: Any) -> Manifest:
    return container(name, image, "python", "-c", program, **more)


def script(name: str, program: str, **spec: Any) -> Manifest:
    resources = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    trainer = {"script": {"command": ["python", "-c", program]}}
    return training_job(name, **{"resources": resources, "trainer": trainer, "data": None, "output": None, **spec})


def recipe(name: str, key: str, **fields: Any) -> Manifest:
    made = {"task": "Classification", "target": "y", "epochs": 2, **fields}
    return training_job(
        name, resources=SMALL, trainer={"recipe": made}, data={"uri": f"configmap://data/{key}"},
        output={"uri": f"pvc://models/{name}"},
    )  # fmt: skip


def unloaded(manifest: Manifest, reason: str, words: str, *, code: int, stalled: bool = True) -> Case:
    """The server's or the store's own words, with the exit code of the contract."""
    return Case(
        manifest, "ModelLoaded", "False", reason, words, stalled=stalled, last={"exitCode": code}, event=ended
    )  # fmt: skip


def unready(manifest: Manifest, reason: str, words: str, *, status: str = "False", event: Event = ended) -> Case:
    return Case(manifest, "Ready", status, reason, words, event=event)


def failed(manifest: Manifest, reason: str, words: str, **last: Any) -> Case:
    return Case(manifest, "Succeeded", "False", reason, words, stalled=True, last=last, event=ended)


def unbegun(manifest: Manifest, reason: str, words: str, *, event: Event = ended) -> Case:
    """Somebody may still bring what is missing: the training waits."""
    return Case(manifest, "Succeeded", "Unknown", reason, words, event=event)


def serving_cases(torch: str) -> dict[str, Case]:
    squatter = {
        "name": "squatter", "image": torch, "restartPolicy": "Always",
        "command": ["python", "-m", "http.server", "8080"],
        "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 60},
    }  # fmt: skip
    hungry = {
        "name": "hungry", "image": torch, "command": ["python", "-c", "x = b'x' * 10**9"],
        "resources": {"limits": {"memory": "64Mi"}},
    }  # fmt: skip
    keyless = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "absent"}}}
    return {
        "model missing": unloaded(served("missing", model=claim("not/here")), "ModelNotFound", "not/here", code=65),
        "model in another alphabet": unloaded(
            served("unicode-path", model=claim(f"{UNICODE}/1")), "ModelNotFound", UNICODE, code=65
        ),
        "model cut short": unloaded(
            served("truncated", model=claim("truncated")), "ModelCorrupt", "damaged or cut short", code=65
        ),
        "wrong digest": unloaded(
            served("digest", model=claim("good", sha256="0" * 64)), "DigestMismatch", "0000", code=65
        ),
        "no model at all": unloaded(
            served("random", model=claim("random")), "FormatMismatch", "neither a torch.export archive nor", code=65
        ),
        "another format": unloaded(
            served("script", model=claim("script")), "FormatMismatch", "set the format to TorchScript", code=65
        ),
        "pickled code": unloaded(served("pickled", model=claim("pickled")), "UnsafeModel", "is a pickle", code=65),
        "no GPU in the pod": unloaded(
            served("no-gpu", runtime={"torch": {"device": "CUDA"}}), "DeviceUnavailable", "sees no CUDA device", code=78
        ),
        "port in use": unloaded(
            served("port", podTemplate={"spec": {"initContainers": [squatter]}}),
            "PortInUse", "8080", code=78,
        ),
        "out of memory": unready(
            served("memory", resources={**SMALL, "limits": {"memory": "48Mi"}}), "OutOfMemory", "raise limits.memory"
        ),
        "out of memory before it starts": unready(
            served("memory-init", podTemplate={"spec": {"initContainers": [hungry]}}), "OutOfMemory", "limits.memory"
        ),
        "not a model for Triton": unloaded(
            served("triton", model=claim("random"), runtime={"triton": {}}), "FormatMismatch", "torch.export", code=65
        ),
        "Triton's own words": unready(
            served("triton-repository", model=claim("repository", format="TritonRepository"), runtime={"triton": {}}),
            "CrashLoop", "no_such_backend",
        ),
        "no such image": unready(
            container("image", "registry.invalid/no/such:1"), "ImagePullFailed", "registry.invalid/no/such:1"
        ),
        "image that cannot be": unready(
            container("image-name", "registry.invalid/No Such"), "ImagePullFailed", "registry.invalid/No Such"
        ),
        "no such program": unready(container("program", torch, "/no/such/server"), "StartFailed", "/no/such/server"),
        "never ready": unready(
            container("never", torch, "python", "-m", "http.server", "8080", readinessPath="/nowhere"),
            "ProbeFailing", "startupProbe GET /nowhere on port http fails: Startup probe failed: HTTP probe failed "
            "with statuscode: 404", status="Unknown", event=has_run_for_a_minute,
        ),
        "nobody listens": unready(
            python("deaf", torch, "import time; time.sleep(600)"),
            "ProbeFailing", "startupProbe finds nobody listening on port http", status="Unknown",
            event=has_run_for_a_minute,
        ),
        "server that ends": unready(python("ends", torch, "print('good-bye')"), "CrashLoop", "exit code 0"),
        "last words in another alphabet": unready(
            python("unicode", torch, f"raise SystemExit('{UNICODE}')"), "CrashLoop", UNICODE
        ),
        # On one stream: which of two the node writes down last is chance.
        "ten megabytes of words": unready(
            python("shouts", torch, "raise SystemExit('x' * 10**7 + ' the end')"), "CrashLoop", "the end"
        ),
        "Secret missing": unready(
            served("secret", model={"uri": "s3://models/digits", "secretRef": {"name": "absent"}}),
            "SecretNotFound", 'secret "absent" not found',
        ),
        "key of a Secret missing": unready(
            container("key", torch, "python", env=[keyless]), "SecretNotFound", "couldn't find key absent in Secret"
        ),
        "Secret of a volume missing": unready(
            served("volume", podTemplate={"spec": {
                "containers": [{"name": "server", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}],
                "volumes": [{"name": "x", "secret": {"secretName": "absent"}}],
            }}),
            "SecretNotFound", 'secret "absent" not found', event=is_placed,
        ),
        "store out of reach": unready(
            served("away", model={"uri": "http://nowhere.invalid/model.tar.gz"}),
            "FetchFailed", "nowhere.invalid", status="Unknown",
        ),
    }  # fmt: skip


def training_cases() -> dict[str, Case]:
    second = "import os, time\nif os.environ['RANK'] == '1': raise ValueError('{}')\ntime.sleep(60)"
    return {
        "script raises": failed(
            script("raises", second.format(UNICODE), workers=2), "ScriptFailed", f"ValueError: {UNICODE}", rank=1
        ),
        "script exits with 3": failed(
            script("exits", "print('leaving now', flush=True); raise SystemExit(3)"),
            "ScriptFailed", "leaving now", exitCode=3, rank=0,
        ),
        "script out of memory": failed(
            script("greedy", "x = b'x' * 10**10", resources={**SMALL, "limits": {"memory": "600Mi"}}),
            "OutOfMemory", "memory",
        ),
        "script prints ten megabytes": failed(
            script("prints", "print(('x' * 99 + '\\n') * 10**5); raise SystemExit('the end')"),
            "ScriptFailed", "the end",
        ),
        "script prints ten megabytes without an end": failed(
            script("prints-on", "print('x' * 10**7, end=''); raise SystemExit(4)"), "ScriptFailed", "exit code 4",
            exitCode=4,
        ),
        "no such program": failed(
            training_job(
                "no-program", resources=SMALL, trainer={"script": {"command": ["no-such-program"]}},
                data=None, output=None,
            ),
            "InvalidConfiguration", "the image has no program 'no-such-program'",
        ),
        "loss is not a number": failed(
            recipe("nan", "table.csv", learningRate="1e30"), "NonFiniteLoss", "lower recipe.learningRate"
        ),
        "data with gaps": failed(recipe("gaps", "gaps.csv"), "DataInvalid", "fill or remove them"),
        "no such key of the data": failed(recipe("no-key", "absent.csv"), "DataNotFound", "gaps.csv, table.csv"),
        "no such column": failed(recipe("no-column", "table.csv", target="z"), "DataInvalid", "z"),
        "output is somebody else's": failed(
            script("others", "pass", output={"uri": "pvc://models/others"}),
            "OutputNotWritable", "exists and is no model (it holds notes.txt)",
        ),
        "output not writable": failed(
            script("locked", "pass", output={"uri": "pvc://models/locked/1"}), "OutputNotWritable", "Permission denied"
        ),
        "ConfigMap of the data missing": unbegun(
            training_job(
                "no-data", resources=SMALL, data={"uri": "configmap://absent/table.csv"},
                output={"uri": "pvc://models/no-data"},
            ),
            "ConfigMapNotFound", 'configmap "absent" not found', event=is_placed,
        ),
        "Secret of the data missing": unbegun(
            script("no-secret", "pass", data={"uri": "s3://models/data", "secretRef": {"name": "absent"}}),
            "SecretNotFound", 'secret "absent" not found',
        ),
        "no such image": unbegun(
            training_job(
                "no-image", resources=SMALL, data=None, output=None,
                trainer={"script": {"image": "registry.invalid/no/such:1", "command": ["x"]}},
            ),
            "ImagePullFailed", "registry.invalid/no/such:1",
        ),
    }  # fmt: skip


CASES: dict[str, Case] = {**serving_cases("TORCH"), **{f"training: {k}": c for k, c in training_cases().items()}}


def surroundings(torch: str) -> list[Manifest]:
    """A claim with models, and a pod that makes them; data with and without gaps; a Secret with another key."""
    pod = {
        "restartPolicy": "Never",
        "containers": [
            {"name": "make", "image": torch, "command": ["python", "-c", PREPARE],
             "volumeMounts": [{"name": "m", "mountPath": "/m"}]}
        ],
        "volumes": [{"name": "m", "persistentVolumeClaim": {"claimName": "models"}}],
    }  # fmt: skip
    claimed = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"}, "spec": claimed},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "make-models"}, "spec": pod},
        {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"},
            "data": {"table.csv": TABLE, "gaps.csv": GAPS},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"other": "x"}},
    ]  # fmt: skip


@pytest.fixture(scope="module")
def place(moorage: Cluster, images: dict[str, str]) -> Iterator[str]:
    with deploy.namespace(moorage, f"bad-input-{token_hex(2)}", wait=False) as name:
        together = json.dumps({"apiVersion": "v1", "kind": "List", "items": surroundings(images["torch"])})
        moorage.kubectl("apply", "-n", name, "-f", "-", input=together)
        made = "--for=jsonpath={.status.phase}=Succeeded"
        moorage.kubectl("wait", "-n", name, made, "pod/make-models", "--timeout=240s", timeout=250)
        yield name


@pytest.fixture(scope="module")
def shown(moorage: Cluster, images: dict[str, str], place: str) -> dict[str, Shown]:
    """A few at a time: forty programs that all load torch at once would show how two cores starve, and nothing else."""
    real = {**serving_cases(images["torch"]), **{f"training: {k}": c for k, c in training_cases().items()}}
    # Those that last a minute first: the others pass them by.
    cases = dict(sorted(real.items(), key=lambda item: item[1].event is not has_run_for_a_minute))

    def finished(name: str) -> None:
        if name not in KEPT:
            kind, called = cases[name].manifest["kind"], cases[name].manifest["metadata"]["name"]
            moorage.kubectl("delete", "-n", place, kind, called, "--wait=false")

    return watch(moorage, cases, {"": place}, timeout=150, at_a_time=TOGETHER, finished=finished)


@pytest.mark.parametrize("name", CASES)
def test_told(shown: dict[str, Shown], name: str) -> None:
    check(CASES[name], shown[name])


def test_each_is_told_soon(shown: dict[str, Shown]) -> None:
    # A machine that does other things besides gets some more.
    late = {name: round(one.seconds, 1) for name, one in shown.items() if one.told and one.seconds > 3 * TOLD_WITHIN}
    slowest = max((one.seconds for one in shown.values() if one.told), default=0)
    print(f"told after at most {slowest:.1f} s")
    assert late == {}


def operators(cluster: Cluster) -> list[Manifest]:
    return deploy.items(cluster, "pods", deploy.NAMESPACE, "app.kubernetes.io/name=moorage")


def requests(cluster: Cluster) -> float:
    """To the API server, by the operators' own count, Leases aside."""
    total = 0.0
    for pod in operators(cluster):
        path = f"/api/v1/namespaces/{deploy.NAMESPACE}/pods/{pod['metadata']['name']}:9090/proxy/metrics"
        for family in text_string_to_metric_families(cluster.kubectl("get", "--raw", path)):
            for sample in family.samples:
                counts = sample.name == "moorage_operator_api_requests_total"
                total += sample.value if counts and sample.labels["resource"] != "leases" else 0
    return total


def test_nobody_is_busy_with_what_stays_as_it_is(moorage: Cluster, shown: dict[str, Shown]) -> None:
    before, seconds = requests(moorage), 30
    time.sleep(seconds)
    per_minute = (requests(moorage) - before) * 60 / seconds / len(KEPT)
    print(f"{per_minute:.1f} requests a minute for each of {len(KEPT)} bad resources")
    assert per_minute <= REQUESTS_PER_MINUTE


def test_the_operator_has_not_failed(moorage: Cluster, shown: dict[str, Shown]) -> None:
    for pod in operators(moorage):
        assert [c["restartCount"] for c in pod["status"]["containerStatuses"]] == [0]
        log = moorage.kubectl("logs", "-n", deploy.NAMESPACE, pod["metadata"]["name"])
        assert "reconcile broke" not in log


@pytest.mark.timeout(200)
def test_a_mended_model_deployment_recovers(moorage: Cluster, place: str, shown: dict[str, Shown]) -> None:
    moorage.kubectl("apply", "--server-side", "-n", place, "-f", "-", input=json.dumps(served("random")))
    obj = deploy.wait_for_condition(moorage, "mdep", "random", "Ready", namespace=place, timeout=120)
    assert deploy.condition(obj, "ModelLoaded")["status"] == "True"
    assert deploy.condition(obj, "Stalled")["status"] == "False"
