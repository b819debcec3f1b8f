"""Several models in one server: each is asked by its name, comes when it is asked for, and leaves for others."""

import asyncio
import gc
import json
import math
import shutil
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc
from torch import Tensor, nn

from moorage_server import repository
from moorage_server.engine import Stopped
from moorage_server.failures import StartupError
from moorage_server.metrics import Metrics
from moorage_server.repository import Repository
from moorage_server.settings import Settings, Source
from moorage_server.signature import Array, Dim, Signature, TensorSpec

from .conftest import Server, Start, export, fp32

NAMES = ("plus-1", "plus-2", "plus-3", "plus-4")
MIB = 1 << 20


class Plus(nn.Module):
    """Adds a number of its own; of about a mebibyte."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.weight = nn.Parameter(torch.zeros(MIB // 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.number + self.weight[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, slow: Path) -> Path:
    """A folder of four small models, of one that is slow, and of one that is none."""
    root = tmp_path_factory.mktemp("models")
    for number, name in enumerate(NAMES, 1):
        export(Plus(number), (torch.randn(4, 2),), root / name)
    shutil.copytree(slow, root / "slow")
    (root / "broken").mkdir()
    (root / "broken/model.pt2").write_bytes(b"PK\x03\x04")
    return root


def listed(*names: str) -> str:
    return json.dumps([{"name": name} for name in names])


@pytest.fixture(scope="module")
def roomy(start_server: Start, models: Path) -> Server:
    """All of them fit; shared by tests that leave it as it was."""
    names = [{"name": name, "version": str(number)} for number, name in enumerate(NAMES, 1)]
    return start_server(models, MOORAGE_MODELS=json.dumps([*names, {"name": "broken"}]))


@pytest.fixture
def tight(start_server: Start, models: Path) -> Iterator[Server]:
    """Two of the four fit at a time."""
    server = start_server(
        models, MOORAGE_MODELS=listed(*NAMES), MOORAGE_MEMORY_BUDGET_BYTES=str(5 * MIB // 2), MOORAGE_LOG_LEVEL="debug"
    )
    yield server
    assert server.terminate() == 0


def ask(client: httpx.Client, name: str, value: float = 1.0) -> httpx.Response:
    return client.post(f"/v2/models/{name}/infer", json={"inputs": [fp32([[value, value]])]})


def answered(response: httpx.Response) -> float:
    assert response.status_code == 200, response.text
    return float(response.json()["outputs"][0]["data"][0])


def states(client: httpx.Client) -> dict[str, str]:
    return {each["name"]: each["state"] for each in client.post("/v2/repository/index").json()}


def there(client: httpx.Client) -> set[str]:
    return {name for name, state in states(client).items() if state == "READY"}


def test_each_answers_to_its_name_and_version(roomy: Server) -> None:
    with httpx.Client(base_url=roomy.url) as client:
        for number, name in enumerate(NAMES, 1):
            response = ask(client, name)
            assert (response.json()["model_name"], response.json()["model_version"]) == (name, str(number))
            assert answered(response) == 1 + number
            path = f"/v2/models/{name}/versions/{number}"
            assert client.get(path).json()["versions"] == [str(number)]
            assert client.get(f"{path}/ready").json() == {"name": name, "ready": True}
        assert ask(client, "plus-9").json()["error"] == (
            "unknown model 'plus-9'; this server serves 'plus-1', 'plus-2', 'plus-3', 'plus-4', 'broken'"
        )
        assert client.get("/v2/models/plus-2/versions/1").json()["error"] == (
            "unknown version '1' of 'plus-2'; this server serves '2'"
        )


def test_it_says_that_models_can_be_loaded_and_unloaded(roomy: Server) -> None:
    with httpx.Client(base_url=roomy.url) as client:
        assert "model_repository" in client.get("/v2").json()["extensions"]


def test_each_answers_over_grpc(roomy: Server) -> None:
    with grpc.InferenceServerClient(f"127.0.0.1:{roomy.ports['http']}") as client:
        for number, name in enumerate(NAMES, 1):
            tensor = grpc.InferInput("x", [1, 2], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
            answer = client.infer(name, [tensor])
            assert (answer.get_response().model_version, answer.as_numpy("output")[0, 0]) == (str(number), 1 + number)
            assert client.get_model_metadata(name).versions == [str(number)]
            assert client.is_model_ready(name)
        assert not client.is_model_ready("broken")
        with pytest.raises(grpc.InferenceServerException, match="unknown model 'other'"):
            client.get_model_metadata("other")
        with pytest.raises(grpc.InferenceServerException, match="'broken' cannot be loaded: ModelCorrupt"):
            client.load_model("broken")


def test_one_that_cannot_be_loaded_leaves_the_others_alone(roomy: Server) -> None:
    with httpx.Client(base_url=roomy.url) as client:
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get("/v2/models/broken/ready").status_code == 503
        refused = ask(client, "broken")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "'broken' cannot be loaded: ModelCorrupt" in refused.json()["error"]
        (told,) = (each for each in client.post("/v2/repository/index").json() if each["name"] == "broken")
        assert told["state"] == "UNAVAILABLE"
        assert told["reason"].startswith("ModelCorrupt: ")
        assert client.post("/v2/repository/models/broken/load").status_code == 503
    metrics = roomy.metrics()
    assert metrics['moorage_server_model_failed{model="broken",reason="ModelCorrupt",version="1"}'] == 1
    assert metrics['moorage_server_model_loads_total{model="broken",result="failure",version="1"}'] >= 1
    assert metrics['moorage_server_requests_total{code="503",model="broken",version="1"}'] >= 1


def test_one_that_is_missing_is_told_before_anybody_asks_and_may_come_later(
    start_server: Start, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "plus-1", tmp_path / "plus-1")
    server = start_server(
        tmp_path, MOORAGE_MODELS=listed("plus-1", "plus-2"), MOORAGE_MEMORY_BUDGET_BYTES=str(MIB + MIB // 8)
    )
    failed = 'moorage_server_model_failed{model="plus-2",reason="ModelNotFound",version="1"}'
    assert server.metrics()[failed] == 1
    shutil.copytree(models / "plus-2", tmp_path / "plus-2")
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert ask(client, "plus-2").status_code == 503, "not looked for at each request"
        assert client.post("/v2/repository/models/plus-2/load").status_code == 200
        assert answered(ask(client, "plus-2")) == 3
    assert failed not in server.metrics()
    assert server.terminate() == 0


def test_where_none_can_be_loaded_it_ends(start_server: Start, models: Path) -> None:
    server = start_server(models, ready=False, MOORAGE_MODELS=listed("broken", "missing"))
    assert server.process.wait(90) == 65
    assert server.termination["reason"] == "ModelCorrupt"


def test_what_was_used_longest_ago_makes_room(tight: Server) -> None:
    with httpx.Client(base_url=tight.url, timeout=60) as client:
        assert there(client) == {"plus-1", "plus-2"}
        assert client.get("/v2/models/plus-3/ready").status_code == 200, "a request brings it"
        assert answered(ask(client, "plus-1")) == 2
        assert answered(ask(client, "plus-3")) == 4
        assert there(client) == {"plus-1", "plus-3"}
        assert client.get("/v2/models/plus-4").json()["name"] == "plus-4", "to tell of itself it has to be there"
        assert there(client) == {"plus-3", "plus-4"}
        assert client.get("/v2/models/plus-1").json()["name"] == "plus-1", "it was"
        assert there(client) == {"plus-3", "plus-4"}
    metrics = tight.metrics()
    assert metrics['moorage_server_model_evictions_total{model="plus-2",version="1"}'] == 1
    assert metrics['moorage_server_model_memory_bytes{model="plus-2",version="1"}'] == 0
    assert MIB < metrics['moorage_server_model_memory_bytes{model="plus-4",version="1"}'] < 1.2 * MIB
    assert metrics["moorage_server_memory_budget_bytes"] == 5 * MIB // 2


def test_unloading_and_loading_by_hand(tight: Server) -> None:
    with httpx.Client(base_url=tight.url, timeout=60) as client:
        assert client.post("/v2/repository/models/plus-1/unload").status_code == 200
        assert there(client) == {"plus-2"}
        assert client.post("/v2/repository/models/plus-4/load").status_code == 200
        assert there(client) == {"plus-2", "plus-4"}
        assert answered(ask(client, "plus-1")) == 2, "a request brings back what was unloaded"
        refused = client.post("/v2/repository/models/other/load")
        assert (refused.status_code, refused.json()["error"][:22]) == (404, "unknown model 'other';")
    with grpc.InferenceServerClient(f"127.0.0.1:{tight.ports['http']}") as by_grpc:
        by_grpc.unload_model("plus-1")
        by_grpc.load_model("plus-2")
        ready = {each.name for each in by_grpc.get_model_repository_index().models if each.state == "READY"}
        assert "plus-2" in ready
        assert "plus-1" not in ready


def test_one_alone_is_not_unloaded(server: Server) -> None:
    with httpx.Client(base_url=server.url) as client:
        assert client.post("/v2/repository/models/digits/unload").status_code == 404
        assert client.get("/v2/health/ready").status_code == 200


async def test_models_that_push_one_another_out_lose_no_request(tight: Server) -> None:
    """Many clients ask four models of which two fit: whoever leaves first answers what it has."""
    async with httpx.AsyncClient(base_url=tight.url, timeout=120) as client:

        async def some(turn: int) -> None:
            for step in range(12):
                number = (turn + step) % len(NAMES) + 1
                body = {"inputs": [fp32([[float(turn), 0.0]])]}
                response = await client.post(f"/v2/models/plus-{number}/infer", json=body)
                assert answered(response) == turn + number

        await asyncio.gather(*(some(turn) for turn in range(16)))
    metrics = tight.metrics()
    evicted = sum(n for name, n in metrics.items() if name.startswith("moorage_server_model_evictions_total"))
    assert evicted >= 2
    held = sum(n for name, n in metrics.items() if name.startswith("moorage_server_model_memory_bytes"))
    assert held <= 5 * MIB // 2
    assert metrics["moorage_server_requests_in_flight"] == 0


def test_too_large_for_the_budget(start_server: Start, models: Path) -> None:
    server = start_server(
        models, MOORAGE_MODELS=listed("plus-1", "slow"), MOORAGE_MEMORY_BUDGET_BYTES=str(3 * MIB // 2)
    )
    with httpx.Client(base_url=server.url, timeout=60) as client:
        refused = ask(client, "slow")
        assert refused.status_code == 503
        assert "the budget of all models together is 1.5 MiB: raise the budget" in refused.json()["error"]
        assert there(client) == {"plus-1"}, "nobody left for what cannot come"
    assert server.terminate() == 0


async def test_a_model_under_load_does_not_starve_another(start_server: Start, models: Path) -> None:
    """Sixty requests wait for a model of a tenth of a second each; the other's are answered meanwhile."""
    server = start_server(models, MOORAGE_MODELS=listed("slow", "plus-1"), MOORAGE_MAX_BATCH_SIZE="1")
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=httpx.Limits(max_connections=100)) as client:
        body = {"inputs": [fp32([[1.0, 1.0]])]}
        heavy = [asyncio.create_task(client.post("/v2/models/slow/infer", json=body)) for _ in range(60)]
        while server.metrics()["moorage_server_queue_size"] < 30:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for _ in range(5):
            assert answered(await client.post("/v2/models/plus-1/infer", json=body)) == 2
        assert sum(not task.done() for task in heavy) > 10
        assert {answered(response) for response in await asyncio.gather(*heavy)} == {1}
    assert server.terminate() == 0


async def test_a_client_that_leaves_while_its_model_loads(tight: Server) -> None:
    async with httpx.AsyncClient(base_url=tight.url) as client:
        body = {"inputs": [fp32([[1.0, 1.0]])]}
        with pytest.raises(httpx.TimeoutException):
            await client.post("/v2/models/plus-4/infer", json=body, timeout=0.01)
        assert answered(await client.post("/v2/models/plus-4/infer", json=body, timeout=60)) == 5
    end = time.monotonic() + 10
    while tight.metrics()["moorage_server_requests_in_flight"] and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert tight.metrics()["moorage_server_requests_in_flight"] == 0


class Large(nn.Module):
    """Of 64 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(16 * MIB))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[0]


class Images(nn.Module):
    """Of 19 MiB, and of convolutions, which are fused for the processor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(512, 512, 3), nn.ReLU(), nn.Conv2d(512, 512, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("model", "shape", "mib"), [(Large, (2,), 64), (Images, (512, 4, 4), 19)])
def test_what_leaves_gives_its_memory_back(
    start_server: Start, tmp_path: Path, model: type[nn.Module], shape: tuple[int, ...], mib: int
) -> None:
    export(model(), (torch.randn(4, *shape),), tmp_path / "large")
    server = start_server(tmp_path, MOORAGE_MODELS=listed("large"))
    numbers = [0.5] * math.prod(shape)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, *shape], "data": numbers}]}

    def resident() -> float:
        return server.metrics()["process_resident_memory_bytes"] / MIB

    with httpx.Client(base_url=server.url, timeout=60) as client:
        unloaded = []
        for _ in range(8):
            assert client.post("/v2/models/large/infer", json=body).status_code == 200
            assert client.post("/v2/repository/models/large/unload").status_code == 200
            unloaded.append(resident())
        # The first lives leave what every later one uses again.
        assert unloaded[-1] - unloaded[1] < mib
    assert server.terminate() == 0


# In this process: what takes turns that no client could bring about.


class Known:
    """A model that is there at once."""

    signature = Signature((TensorSpec("x", "FP32", (Dim(-1, "b"),)),), (TensorSpec("y", "FP32", (Dim(-1, "b"),)),))
    device, warm_up_seconds, bytes, inline, preprocess, weights = "cpu", 0.0, 1, True, None, ""
    batch_seconds: ClassVar[dict[int, float]] = {64: 0.001}

    def run(self, inputs: list[Array]) -> list[Array]:
        return inputs

    def close(self) -> None: ...


class World:
    """Three models of a byte each, of which as many fit as there are bytes in the budget; none is in memory."""

    def __init__(self, budget: int = 0) -> None:
        self.loads: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.sizes = dict.fromkeys("abc", 1)
        sources = tuple(Source(Path("/nowhere"), name) for name in "abc")
        settings = Settings(sources, repository=True, memory_budget_bytes=budget)
        self.repository = Repository(settings, Metrics(), self.load)
        self.entries = self.repository.entries
        self.told: list[tuple[str, Exception | None]] = []

    def load(self, source: Source, known: Mapping[int, float]) -> Any:
        self.loads.append(source.name)
        if failure := self.failures.get(source.name):
            raise failure
        return Known()

    def size(self, source: Source) -> int:
        return self.sizes[source.name]

    def want(self, name: str, who: object = None) -> None:
        self.repository.want(self.entries[name], who or object(), lambda failed: self.told.append((name, failed)))

    async def rest(self) -> None:
        assert self.repository._worker is not None
        await asyncio.wait({self.repository._worker}, timeout=30)

    @property
    def there(self) -> str:
        return "".join(name for name, entry in self.entries.items() if entry.engine is not None)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[World]]:
    async def make(budget: int = 0) -> World:
        world = World(budget)
        monkeypatch.setattr(repository, "_size", world.size)
        await world.repository.start()
        for entry in world.entries.values():
            await world.repository.unload(entry)
        world.loads.clear()
        return world

    return make


Made = Callable[..., Awaitable[World]]


async def test_nobody_leaves_for_what_cannot_come(made: Made) -> None:
    world = await made(budget=2)
    world.want("a")
    world.want("b")
    await world.rest()
    world.sizes["c"] = 3
    world.want("c")
    await world.rest()
    assert world.there == "ab"
    assert "the budget of all models together is" in str(world.told[-1][1])

    world.sizes["c"] = 1  # another file in its place
    world.repository.load(world.entries["c"], object(), lambda failed: world.told.append(("c", failed)))
    await world.rest()
    assert (world.there, world.told[-1]) == ("bc", ("c", None))


async def test_one_that_ends_what_it_has_holds_up_nobody_else(made: Made) -> None:
    world = await made()
    world.want("a")
    await world.rest()
    engine = world.entries["a"].engine
    assert engine is not None
    engine._running = True  # a long forward pass
    unloading = asyncio.create_task(world.repository.unload(world.entries["a"]))
    await asyncio.sleep(0)
    world.want("a")
    world.want("b")
    async with asyncio.timeout(10):
        while world.there != "b":  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    engine._running = False
    await unloading
    await world.rest()
    assert world.there == "ab"
    assert world.told == [("a", None), ("b", None), ("a", None)]


async def test_an_unload_that_meets_the_end_ends(made: Made) -> None:
    world = await made()
    world.want("a")
    world.want("b")
    unloading = asyncio.create_task(world.repository.unload(world.entries["b"]))
    await asyncio.sleep(0)
    world.repository.stop()
    with pytest.raises(Stopped):
        await asyncio.wait_for(unloading, 10)
    assert [(name, type(failed)) for name, failed in world.told] == [("a", Stopped), ("b", Stopped)]


async def test_nothing_is_loaded_for_who_has_left(made: Made) -> None:
    world = await made()
    world.want("a")
    world.want("b", "somebody")
    world.repository.forget(world.entries["b"], "somebody")
    await world.rest()
    assert (world.loads, world.told) == (["a"], [("a", None)])
    world.want("b")
    await world.rest()
    assert world.told[1:] == [("b", None)]


async def test_who_cannot_be_told_is_not_the_trouble_of_others(made: Made) -> None:
    world = await made()
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["exception"]))
    world.repository.want(world.entries["a"], object(), lambda failed: 1 / 0)
    world.want("a")
    world.want("b")
    await world.rest()
    assert world.told == [("a", None), ("b", None)]
    assert [type(one) for one in complaints] == [ZeroDivisionError]


async def test_a_device_that_breaks_while_a_model_loads_ends_the_server(made: Made) -> None:
    world = await made()
    world.failures["a"] = StartupError("DeviceUnavailable", "it broke", 1)
    world.want("a")
    with pytest.raises(StartupError, match="it broke"):
        await world.repository.broken
    assert [(name, str(failed)) for name, failed in world.told] == [
        ("a", "'a' cannot be loaded: DeviceUnavailable: it broke")
    ]


async def test_who_asks_after_the_end_is_told(made: Made) -> None:
    world = await made()
    world.repository.stop()
    with pytest.raises(Stopped):
        world.want("a")
    assert world.loads == []


async def test_what_could_not_be_loaded_leaves_nothing_in_memory(made: Made) -> None:
    class Part:
        """Of a model that breaks half way."""

    parts: list[weakref.ref[Part]] = []

    def break_half_way(source: Source, known: Mapping[int, float]) -> Any:
        part = Part()
        parts.append(weakref.ref(part))
        raise StartupError("LoadFailed", "half way")

    world = await made()
    world.repository._load = break_half_way
    world.want("a")
    await world.rest()
    async with asyncio.timeout(10):  # its thread may not have let go of what it was told to do
        while any(part() for part in parts):
            gc.collect()
            await asyncio.sleep(0.02)
    assert len(parts) == 1


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("nonsense", "MOORAGE_MODELS is no JSON"),
        ("{}", "MOORAGE_MODELS must be a list of models, at least one"),
        ("[]", "MOORAGE_MODELS must be a list of models, at least one"),
        ('["a"]', "MOORAGE_MODELS[0] must be an object of name, path, version and format, all texts"),
        ('[{"name": "a", "uri": "x"}]', "MOORAGE_MODELS[0] has uri; it may have name, path, version and format"),
        ('[{"name": "a/b"}]', "MOORAGE_MODELS[0].name is 'a/b'; it must be of letters, digits"),
        ('[{"name": "a", "version": "1/2"}]', "MOORAGE_MODELS[0].version is '1/2'; it must be of letters, digits"),
        ('[{"name": "a", "path": "../b"}]', "MOORAGE_MODELS[0].path is '../b'; it must lead downwards"),
        ('[{"name": "a", "path": "/b"}]', "MOORAGE_MODELS[0].path is '/b'; it must lead downwards"),
        (
            '[{"name": "a", "format": "Keras"}]',
            "MOORAGE_MODELS[0].format is 'Keras'; it may be TorchExport, ",
        ),
        ('[{"name": "a"}, {"name": "a"}]', "MOORAGE_MODELS has more than one model named a"),
    ],
)
def test_a_list_that_makes_no_sense_is_told(models: str, words: str) -> None:
    env: dict[str, Any] = {"MOORAGE_MODEL_PATH": "/models", "MOORAGE_MODELS": models}
    with pytest.raises(StartupError) as refused:
        Settings.from_env(env)
    assert words in refused.value.message
    assert (refused.value.reason, refused.value.exit_code) == ("InvalidConfiguration", 78)
