"""The models of this server: which there are, which of them are in memory, and which have to leave for others.

One model alone is loaded before the server is ready. A repository of several loads them in their order as long as the
memory budget lasts; a model that is not there is loaded by its first request, which waits for it, and the one that was
used longest ago makes room. It takes no new request then, and leaves when those it has are answered.

All run on one thread, each at most one batch at a time, in turn: a model that is asked for without end makes the
others wait for one of its batches, not for its queue.
"""

from __future__ import annotations

import asyncio
import gc
import linecache
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from moorage_store.formats import FOLDERS

from . import handler
from .engine import Engine, ModelFailed, QueueFull, Runnable, Stopped
from .failures import ModelCrashed, StartupError
from .generations import Generations
from .handler import Handler
from .memory import give_back
from .metrics import Metrics, ModelMetrics
from .preparing import Room
from .settings import Settings, Source
from .signature import Signature
from .threads import cpus

if TYPE_CHECKING:
    from .preprocess import Preprocess

RETRY_SECONDS = 30.0
"""So long after it could not be loaded a request tries again; who asks for its loading does at once."""
_LOOK = 0.002
"""Seconds between looks at whether a model has ended what it has begun."""


class Loaded(Runnable, Protocol):
    device: str
    weights: str
    warm_up_seconds: float
    batch_seconds: dict[int, float]

    @property
    def preprocess(self) -> Preprocess | None: ...
    @property
    def bytes(self) -> int: ...
    def close(self) -> None: ...


class NotLoaded(Exception):
    """The model cannot be loaded; in words that say why."""


Load = Callable[[Source, Mapping[int, float]], Loaded]
"""With the speeds that are known already."""
Resume = Callable[[Exception | None], None]
"""Called once: the model is there, or it will not be."""


class Entry:
    """One model of the repository."""

    __slots__ = (
        "batch_seconds", "bytes", "engine", "failed", "failed_at", "file_bytes", "generations", "held", "loaded",
        "metrics", "needed", "preparing", "preprocess", "signature", "source", "used", "waiting", "weights",
    )  # fmt: skip

    def __init__(self, source: Source, metrics: ModelMetrics) -> None:
        self.source, self.metrics = source, metrics
        self.engine: Engine | None = None
        """Where it takes requests."""
        self.held: Engine | None = None
        """Where it is in memory, if only to end what it has begun."""
        self.generations: Generations | None = None
        """Of one that has a process of its own."""
        self.loaded: Loaded | None = None
        self.signature: Signature | None = None
        """As clients see it; known from its first loading on."""
        self.preprocess: Preprocess | None = None
        self.weights = ""
        """The datatype of most of its weights, once it was loaded."""
        self.preparing = 0
        """Requests whose inputs are being made."""
        self.file_bytes = self.bytes = 0
        """Of its file, and what it takes of memory: the same, or its weights where those are more."""
        self.batch_seconds: dict[int, float] = {}
        """Of a batch by its rows, measured when it was loaded first: another time others would wait for it."""
        self.failed: StartupError | None = None
        self.failed_at = self.used = 0.0
        """By time.perf_counter()."""
        self.needed = False
        """It waits for its turn to be loaded, or is being loaded."""
        self.waiting: dict[object, Resume] = {}
        """Who has to hear of it, by what they asked with."""

    @property
    def batches(self) -> bool:
        """It has some to do, where it is in memory."""
        return bool(self.preparing) or (self.held is not None and not self.held.idle)

    @property
    def idle(self) -> bool:
        """It has nothing to do, where it is in memory."""
        return not self.batches and (self.generations is None or self.generations.idle)

    @property
    def hopeless(self) -> bool:
        """It could not be loaded just now."""
        return self.failed is not None and time.perf_counter() - self.failed_at < RETRY_SECONDS

    @property
    def state(self) -> tuple[str, str]:
        """In Triton's words, and why."""
        if self.engine is not None:
            return "READY", ""
        if self.needed:
            return "LOADING", "it is being loaded"
        if self.failed is not None:
            return "UNAVAILABLE", f"{self.failed.reason}: {self.failed}"
        return "UNAVAILABLE", "unloaded; its next request loads it"


class Repository:
    def __init__(self, settings: Settings, metrics: Metrics, load: Load | None = None) -> None:
        """`load` is called in a thread."""
        self._settings, self._metrics = settings, metrics
        self._load = load or _loader(settings)
        self.entries = {
            source.name: Entry(source, metrics.of(source.name, source.version, several=settings.repository))
            for source in settings.models
        }
        self.several = settings.repository
        if not self.several:
            metrics.nobody = next(iter(self.entries.values())).metrics
        self.ready = False
        """All that is to be there from the beginning has been loaded."""
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends only with an error that leaves this process unusable."""
        self._thread: Executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        # What is loaded must not keep those that run waiting.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load") if self.several else self._thread
        self.preparers: Executor = ThreadPoolExecutor(cpus(), thread_name_prefix="prepare")
        """Threads that begin when there is something for them."""
        self.made = Room(settings.max_total_body_bytes)
        """For what they make."""
        self._line: deque[Entry] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._stopped = False
        self._log: Any = structlog.get_logger()
        metrics.memory_budget.set(self._budget)
        metrics.queue_size = lambda: sum(queue.queue_size for queue in self._queues())
        metrics.queue_oldest = lambda: max((queue.oldest() for queue in self._queues()), default=0.0)

    async def start(self) -> None:
        """Loads what is to be there from the beginning. Raises StartupError where nothing can be served."""
        await self._in_loader(self._prepare)
        seconds, warm_up, room = 0.0, 0.0, True
        for entry in self.entries.values():
            try:
                if self.several:  # what is missing or too large is told, also where no request brings it
                    await self._look(entry)
                    room = room and self._fits(entry)
                if room:
                    took, warmed = await self._bring(entry)
                    seconds, warm_up = seconds + took, warm_up + warmed
            except StartupError as error:
                if not self.several or error.reason == "DeviceUnavailable":
                    raise
                self._give_up(entry, error)
        failures = [entry.failed for entry in self.entries.values() if entry.failed]
        if failures and all(entry.held is None for entry in self.entries.values()):
            raise failures[0]
        if not self.several:
            # What is there now stays: the collector need not look at half a million objects of torch again and again.
            _settle()
        self._metrics.load_seconds.set(seconds)
        self._metrics.warm_up_seconds.set(warm_up)
        self.ready = True

    def full(self, entry: Entry) -> bool:
        """No further request may wait."""
        if entry.engine is not None:
            return entry.engine.full
        return len(entry.waiting) >= self._settings.max_queue_size

    def want(self, entry: Entry, who: object, resume: Resume) -> None:
        """Calls `resume`, later, when the model is there. Raises Stopped, QueueFull, and NotLoaded where it was in vain
        just now."""
        if self._stopped:
            raise Stopped
        if entry.hopeless:
            raise _in_words(entry)
        if self.full(entry):
            raise QueueFull
        entry.waiting[who] = resume
        if not entry.needed:
            entry.needed = True
            self._line.append(entry)
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work())

    def load(self, entry: Entry, who: object, resume: Resume) -> None:
        """As `want`, also where it was in vain."""
        if entry.engine is not None:
            asyncio.get_running_loop().call_soon(resume, None)
            return
        self._mend(entry)
        self.want(entry, who, resume)

    def forget(self, entry: Entry, who: object) -> None:
        """Nobody is there any more who would hear of it."""
        entry.waiting.pop(who, None)

    async def unload(self, entry: Entry) -> None:
        """Out of memory, once all that it was asked for is answered. Its next request loads it again."""
        while entry.needed:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        if self._stopped:
            raise Stopped
        if entry.engine is not None:
            await self._let_go(entry)
        while entry.held is not None:  # another asked for the same  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)

    def stop(self) -> None:
        """Gives up what still waits."""
        self._stopped = True
        if self._worker is not None:
            self._worker.cancel()
        self._line.clear()
        for entry in self.entries.values():
            entry.needed = False
            if entry.held is not None:
                entry.held.stop()
            if entry.generations is not None:
                entry.generations.stop()
            self._tell(entry, Stopped())

    # How they come and go.

    async def _work(self) -> None:
        while self._line:
            entry = self._line.popleft()
            if not entry.waiting:  # who asked has left
                entry.needed = False
                continue
            if entry.held is not None:  # its former life, which may take a while: others need not wait for that
                self._line.append(entry)
                if all(each.held is not None for each in self._line):
                    await asyncio.sleep(_LOOK)
                continue
            failed: Exception | None = None
            try:
                await self._look(entry)
                await self._bring(entry)
            except StartupError as error:
                self._give_up(entry, error)
                failed = _in_words(entry)
                if error.reason == "DeviceUnavailable":
                    self._break(error)
            except Exception as error:
                failed = Stopped()
                self._break(error)
            entry.needed = False
            self._tell(entry, failed)

    async def _bring(self, entry: Entry) -> tuple[float, float]:
        """Seconds of loading, and of its first runs. Raises StartupError."""
        await self._make_room(entry)
        start = time.perf_counter()
        model = await self._in_loader(partial(self._loaded, entry))
        seconds = time.perf_counter() - start - model.warm_up_seconds
        try:
            if (size := model.bytes) > entry.bytes:
                entry.bytes = size
                await self._make_room(entry)
            await self._serve(entry, model, seconds)
        except BaseException:
            self._loader.submit(model.close)
            raise
        return seconds, model.warm_up_seconds

    async def _serve(self, entry: Entry, model: Loaded, seconds: float) -> None:
        settings, source = self._settings, entry.source
        entry.loaded = model
        if isinstance(model, Handler):
            entry.generations = await Generations.of(
                model,
                most=settings.max_batch_size,
                most_waiting=settings.max_queue_size,
                on_break=partial(self._lost, entry, model),
            )
        entry.engine = entry.held = Engine(
            model,
            self._thread,
            max_batch_size=settings.max_batch_size,
            batch_seconds=model.batch_seconds,
            max_queue_size=settings.max_queue_size,
            max_delay=settings.max_queue_delay_microseconds / 1e6,
            observe_batch=self._metrics.batch_size.observe,
            observe_run=entry.metrics.ran,
            on_break=partial(self._lost, entry, model),
        )
        entry.preprocess = model.preprocess
        entry.signature = model.preprocess.signature if model.preprocess else model.signature
        entry.batch_seconds = model.batch_seconds
        entry.used = time.perf_counter()
        self._mend(entry)
        entry.weights = model.weights
        info = {"format": source.format, "sha256": source.sha256, "device": model.device, "weights": model.weights}
        self._metrics.loaded(entry.metrics, entry.bytes, info, model.batch_seconds)
        signature = {kind: [str(t) for t in getattr(model.signature, kind)] for kind in ("inputs", "outputs")}
        took = {"load_seconds": round(seconds, 3), "warm_up_seconds": round(model.warm_up_seconds, 3)}
        batches = {"batches": model.signature.batch is not None, "batch_size": entry.engine.batch_size}
        self._log.info("loaded", model=source.name, **took, device=model.device, **batches, **signature)

    async def _let_go(self, entry: Entry) -> None:
        """What takes requests takes none from here on, and is out of memory at the end."""
        entry.engine = None
        end = time.monotonic() + self._settings.drain_timeout_seconds
        while not entry.idle:
            # Batches end by themselves, and need their process until then; a text may go on as its client likes.
            if entry.generations is not None and not entry.batches and time.monotonic() > end:
                entry.generations.stop(NotLoaded(f"{entry.source.name!r} is unloaded; ask again"))
            await asyncio.sleep(_LOOK)
        if entry.held is None:  # lost meanwhile
            return
        await self._in_loader(self._put_down(entry))
        await self._in_loader(give_back)
        self._log.info("unloaded", model=entry.source.name)

    def _put_down(self, entry: Entry, told: Exception | None = None) -> Callable[[], None]:
        """Nothing of it is asked any more; what is left to do, in the loader's thread. `told`: who still waits."""
        assert entry.held is not None and entry.loaded is not None
        entry.held.stop(told)
        if entry.generations is not None:
            entry.generations.stop(told)
        loaded = entry.loaded
        entry.engine = entry.held = entry.generations = entry.loaded = None
        self._metrics.unloaded(entry.metrics)
        return loaded.close

    def _lost(self, entry: Entry, model: Loaded, error: BaseException) -> None:
        """It is of no more use. Where its process was its own, others need not suffer."""
        if not self.several or not isinstance(error, ModelCrashed):
            self._break(error)
        elif entry.loaded is model:  # and not told before
            self._loader.submit(self._put_down(entry, ModelFailed(str(error))))
            self._give_up(entry, StartupError("ModelCrashed", str(error)))

    def _give_up(self, entry: Entry, error: StartupError) -> None:
        self._mend(entry)
        # Without its trace, whose frames hold what had been loaded so far.
        entry.failed = StartupError(error.reason, error.message, error.exit_code)
        entry.failed_at = time.perf_counter()
        self._metrics.failed(entry.metrics, error.reason)
        self._log.error("cannot load", model=entry.source.name, reason=error.reason, message=error.message)

    def _mend(self, entry: Entry) -> None:
        if entry.failed is not None:
            self._metrics.mended(entry.metrics, entry.failed.reason)
        entry.failed = None

    def _tell(self, entry: Entry, failed: Exception | None) -> None:
        waiting, entry.waiting = entry.waiting, {}
        for resume in waiting.values():
            try:
                resume(failed)
            except Exception as error:  # whoever waits for it must not be the trouble of the others
                context = {"message": "an answer cannot be told", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    def _break(self, error: BaseException) -> None:
        if not self.broken.done():
            self.broken.set_exception(error)

    # Memory.

    @property
    def _budget(self) -> int:
        return self._settings.memory_budget_bytes if self.several else 0

    def _fits(self, entry: Entry) -> bool:
        """Beside those that are there."""
        used = sum(each.bytes for each in self.entries.values() if each.held is not None)
        return not self._budget or used + entry.bytes <= self._budget

    async def _look(self, entry: Entry) -> None:
        """At its file, which may be another than before; nobody has to leave for one that cannot come. Raises
        StartupError."""
        size = await self._in_loader(partial(_size, entry.source))
        if size != entry.file_bytes:
            entry.file_bytes = entry.bytes = size
            entry.batch_seconds = {}
        self._check(entry)

    def _check(self, entry: Entry) -> None:
        """Raises StartupError where it is too large alone."""
        if 0 < self._budget < entry.bytes:
            message = (
                f"{entry.source.path} takes {_mib(entry.bytes)} of memory, the budget of all models together is "
                f"{_mib(self._budget)}: raise the budget, or serve it by itself"
            )
            raise StartupError("OutOfMemory", message)

    async def _make_room(self, entry: Entry) -> None:
        """Raises StartupError where it is too large alone."""
        self._check(entry)
        while not self._fits(entry):
            there = [(not each.idle, each.used, name) for name, each in self.entries.items() if each.engine]
            if there:  # one that is busy only where all are: everybody behind would wait for it
                last = self.entries[min(there)[-1]]
                self._metrics.evictions.labels(**last.metrics.labels).inc()
                await self._let_go(last)
            else:  # all that are there are leaving
                await asyncio.sleep(_LOOK)

    async def _in_loader(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._loader, work)

    def _prepare(self) -> None:
        """In the loader's thread."""
        if not self.several:
            return
        for entry in self.entries.values():
            _library(entry.source)
        # What torch is made of stays; what belongs to a model goes with it.
        _settle()

    def _loaded(self, entry: Entry) -> Loaded:
        """In the loader's thread."""
        try:
            return self._load(entry.source, entry.batch_seconds)
        finally:
            if self.several:
                # What was needed only to load it goes in circles, and source that torch makes is kept for debuggers.
                linecache.clearcache()
                gc.collect()
                give_back()

    def _queues(self) -> list[Engine | Generations]:
        both = [queue for entry in self.entries.values() for queue in (entry.held, entry.generations)]
        return [queue for queue in both if queue is not None]


def _loader(settings: Settings) -> Load:
    def loader(source: Source, known: Mapping[int, float]) -> Loaded:
        library: Any = _library(source)
        return library.load(source, settings.device, settings.max_batch_size, known)  # type: ignore[no-any-return]

    return loader


def _library(source: Source) -> Any:
    """What loads it. Here and not above: torch takes a second or two to import, and probes are answered meanwhile."""
    if source.format in FOLDERS:
        return handler
    if source.format == "ONNX":
        from . import onnx

        return onnx
    from . import load

    return load


def _settle() -> None:
    gc.collect()
    gc.freeze()
    give_back()
    gc.set_threshold(20_000, 20, 20)


def _size(source: Source) -> int:
    """Of its file, in bytes. Raises StartupError where it is missing or not what it is said to be."""
    size: int = _library(source).look(source)
    return size


def _in_words(entry: Entry) -> NotLoaded:
    assert entry.failed is not None
    return NotLoaded(f"{entry.source.name!r} cannot be loaded: {entry.failed.reason}: {entry.failed.message}")


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
