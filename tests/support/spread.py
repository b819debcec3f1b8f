"""How tests are spread over several processes (`-n`): a file at a time, each worker with a kind of its own first.

Tests of a real cluster mostly wait, those of the API tier wait and reckon, unit tests reckon: a worker for each kind
keeps the cores busy from the first minute. A worker whose kind has run out helps the others. A file is never divided,
so what its fixtures start is started once.

On the real cluster, files named here run beside one another. All others have it to themselves: they stop nodes, drain
them, uninstall the operator, count its writes. A few want the cores to themselves too. `turn` sees to that.
"""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from cluster import cache
from cluster.names import default_name

# Whose tests leave alone what is not theirs, and wait patiently while the machine is busy with others.
SIDE_BY_SIDE = frozenset(
    {
        "test_bad_requests.py",
        "test_examples.py",
        "test_kubectl_scale.py",
        "test_quickstart.py",
        "test_readme.py",
        "test_several_models.py",
    }
)
# Clients, two runtimes and starting pods fill the cores, and so does steady change: beside others these would show how
# programs starve.
QUIET = frozenset({"test_no_request_lost.py", "test_soak.py"})
KINDS = ("e2e", "api", "unit")  # the first worker's, the second's, the third's, and again
# Folders whose tests take longest: a long one that starts last is waited for by all.
SLOW = ("trainer", "triton", "server", "store")
# Where nothing is built yet, it waits for a program that another worker builds.
LAST = "store/test_s3.py"
ALONE = "e2e, one at a time"


def kind(nodeid: str) -> str:
    path = Path(nodeid.split("::")[0])
    if "e2e" in path.parts or nodeid == ALONE:
        return "e2e"
    return "api" if "integration" in path.parts or path.name == "test_on_api_server.py" else "unit"


def scope(nodeid: str) -> str:
    """What goes to one worker as a whole: a file; of those that want the cluster for themselves, all."""
    path = nodeid.split("::")[0]
    return ALONE if kind(nodeid) == "e2e" and Path(path).name not in SIDE_BY_SIDE else path


class Scheduler(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._next(node.gateway.id), last=False)
        super()._assign_work_unit(node)

    def _next(self, worker: str) -> str:
        own = KINDS[int(worker.removeprefix("gw")) % len(KINDS)]
        return min(
            self.workqueue, key=lambda each: (kind(each) != own, KINDS.index(kind(each)), each != ALONE, rank(each))
        )


def rank(path: str) -> int:
    if path.endswith(LAST):
        return len(SLOW) + 1
    return next((place for place, folder in enumerate(SLOW) if folder in Path(path).parts), len(SLOW))


@contextmanager
def turn(file: Path) -> Iterator[None]:
    """A test's turn: on the machine, and on the real cluster if it needs that; together with others where its file
    allows it, alone where not."""
    with ExitStack() as stack:
        stack.enter_context(_place("machine", alone=file.name in QUIET))
        if kind(str(file)) == "e2e":
            stack.enter_context(_place("e2e", alone=file.name not in SIDE_BY_SIDE))
        yield


@contextmanager
def _place(what: str, *, alone: bool) -> Iterator[None]:
    folder = cache.root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{what}-{default_name('full')}.lock"
    with (folder / f"queue-{name}").open("w") as queue, (folder / name).open("w") as place:
        # Who waits to be alone holds the queue, so that those who share cannot pass it by for ever.
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(place, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield
