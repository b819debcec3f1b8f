"""The models of this server: which there are, which of them are in memory, and which have to leave for others.

One model alone is loaded before the server is ready. A repository of several loads them in their order as long as the
memory budget lasts; a model that is not there is loaded by its first request, which waits for it, and the one that was
used longest ago makes room. It takes no new request then, and leaves when those it has are answered.

All run on one thread, each at most one batch at a time, in turn: a model that is asked for without end makes the
others wait for one of its batches, not for its queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from . import calibration
from .engine import Engine, QueueFull, Runnable, Stopped
from .failures import StartupError
from .memory import give_back
from .metrics import Metrics, ModelMetrics
from .settings import Settings, Source
from .signature import Signature

# A model that cannot be loaded is tried again by a request that comes after so long, or by who asks for its loading.
RETRY_SECONDS = 30.0


class Loaded(Runnable, Protocol):
    device: str
    warm_up_seconds: float
    batch_seconds: dict[int, float]
    bytes: int


class NotLoaded(Exception):
    """The model cannot be loaded; in words that say why."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A model that can be asked."""

    signature: Signature
    engine: Engine


Resume = Callable[[Exception | None], None]
"""Called once: the model is there, or it will not be."""


class Entry:
    """One model of the repository."""

    __slots__ = (
        "bytes", "failed", "failed_at", "held", "metrics", "needed", "serving", "source", "used", "waiting", "watch",
    )  # fmt: skip

    def __init__(self, source: Source, metrics: ModelMetrics) -> None:
        self.source, self.metrics = source, metrics
        self.serving: Serving | None = None
        self.held = False
        """It is in memory, if only to end what it has begun."""
        self.bytes = 0
        """What it takes of memory: the size of its files, or of its weights where those are more."""
        self.failed: StartupError | None = None
        self.failed_at = self.used = 0.0
        """By time.perf_counter()."""
        self.needed = False
        """It waits for its turn to be loaded, or is being loaded."""
        self.waiting: dict[object, Resume] = {}
        """Who has to hear of it, by what they asked with."""
        self.watch: asyncio.Task[None] | None = None

    @property
    def hopeless(self) -> bool:
        """It could not be loaded just now."""
        return self.failed is not None and time.perf_counter() - self.failed_at < RETRY_SECONDS

    @property
    def state(self) -> tuple[str, str]:
        """In Triton's words, and why."""
        if self.serving is not None:
            return "READY", ""
        if self.needed:
            return "LOADING", "it is being loaded"
        if self.failed is not None:
            return "UNAVAILABLE", f"{self.failed.reason}: {self.failed}"
        return "UNAVAILABLE", "unloaded; its next request loads it"


class Repository:
    def __init__(self, settings: Settings, metrics: Metrics, load: Callable[[Source], Loaded] | None = None) -> None:
        """`load` is called in a thread."""
        self._settings, self._metrics = settings, metrics
        self._load = load or _loader(settings)
        self.entries = {
            source.name: Entry(source, metrics.of(source.name, source.version)) for source in settings.models
        }
        self.several = settings.repository
        self.ready = False
        """All that is to be there from the beginning has been loaded."""
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends only with an error that leaves this process unusable."""
        self._thread: Executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        # What is loaded must not keep those that run waiting.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load") if self.several else self._thread
        self._line: deque[Entry] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._log: Any = structlog.get_logger()
        metrics.memory_budget.set(settings.memory_budget_bytes)
        metrics.queue_size = lambda: sum(one.engine.queue_size for one in self._serving())
        metrics.queue_oldest = lambda: max((one.engine.oldest() for one in self._serving()), default=0.0)

    async def start(self) -> None:
        """Loads what is to be there from the beginning. Raises StartupError where nothing can be served."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._loader, self._prepare)
        seconds, warm_up = 0.0, 0.0
        for entry in self.entries.values():
            if self._budget and self._used() + entry.bytes > self._budget and self.several:
                break
            try:
                took, warmed = await self._bring(entry)
            except StartupError as error:
                if not self.several:
                    raise
                self._give_up(entry, error)
            else:
                seconds, warm_up = seconds + took, warm_up + warmed
        for entry in self.entries.values():
            # What no request has brought yet is looked at from outside, so that what is missing is told at once.
            if not entry.held and entry.failed is None:
                try:
                    await loop.run_in_executor(self._loader, _look, entry.source)
                except StartupError as error:
                    self._give_up(entry, error)
        failures = [entry.failed for entry in self.entries.values() if entry.failed]
        if failures and not any(self._serving()):
            raise failures[0]
        if not self.several:
            # What is there now stays: the collector need not look at half a million objects of torch again and again.
            _settle()
        self._metrics.load_seconds.set(seconds)
        self._metrics.warm_up_seconds.set(warm_up)
        self.ready = True

    def full(self, entry: Entry) -> bool:
        return len(entry.waiting) >= self._settings.max_queue_size

    def want(self, entry: Entry, who: object, resume: Resume) -> None:
        """Calls `resume`, later, when the model is there. Raises QueueFull; NotLoaded where it was in vain just now."""
        if entry.hopeless:
            raise _in_words(entry)
        if self.full(entry):
            raise QueueFull
        entry.waiting[who] = resume
        self._enqueue(entry)

    def load(self, entry: Entry, who: object, resume: Resume) -> None:
        """As `want`, also where it was in vain."""
        if entry.serving is not None:
            asyncio.get_running_loop().call_soon(resume, None)
            return
        self._mend(entry)
        self.want(entry, who, resume)

    def forget(self, entry: Entry, who: object) -> None:
        """Nobody is there any more who would hear of it."""
        entry.waiting.pop(who, None)

    async def unload(self, entry: Entry) -> None:
        """Out of memory, once all that it was asked for is answered. Its next request loads it again."""
        if (serving := entry.serving) is None:
            return
        entry.serving = None
        while not serving.engine.idle:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        serving.engine.stop()
        if entry.watch is not None:
            entry.watch.cancel()
        del serving
        entry.watch = None
        await asyncio.get_running_loop().run_in_executor(self._loader, give_back)
        entry.held = False
        self._metrics.unloaded(entry.metrics)
        self._log.info("unloaded", model=entry.source.name)

    def stop(self) -> None:
        """Gives up what still waits."""
        if self._worker is not None:
            self._worker.cancel()
        for entry in self.entries.values():
            if entry.serving is not None:
                entry.serving.engine.stop()
            self._tell(entry, Stopped())

    # How they come.

    def _enqueue(self, entry: Entry) -> None:
        if entry.needed or entry.serving is not None:
            return
        entry.needed = True
        self._line.append(entry)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._line:
            entry = self._line.popleft()
            try:
                await self._bring(entry)
            except StartupError as error:
                self._give_up(entry, error)
                self._tell(entry, _in_words(entry))
            except Exception as error:
                self._break(error)
                return
            else:
                self._tell(entry, None)

    async def _bring(self, entry: Entry) -> tuple[float, float]:
        """Seconds of loading, and of its first runs. Raises StartupError."""
        entry.needed = True
        try:
            while entry.held:  # its former life  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            await self._make_room(entry)
            start = time.perf_counter()
            model = await asyncio.get_running_loop().run_in_executor(self._loader, self._loaded, entry.source)
            seconds = time.perf_counter() - start - model.warm_up_seconds
            if model.bytes > entry.bytes:
                entry.bytes = model.bytes
                await self._make_room(entry)
            self._serve(entry, model, seconds)
            return seconds, model.warm_up_seconds
        finally:
            entry.needed = False

    def _serve(self, entry: Entry, model: Loaded, seconds: float) -> None:
        settings, source = self._settings, entry.source
        _, largest = model.signature.batch_sizes(settings.max_batch_size)
        batch_size = calibration.best(model.batch_seconds, largest)
        engine = Engine(
            model,
            self._thread,
            max_batch_size=batch_size,
            max_queue_size=settings.max_queue_size,
            max_delay=settings.max_queue_delay_microseconds / 1e6,
            observe_batch=self._metrics.batch_size.observe,
            observe_run=entry.metrics.ran,
        )
        self._mend(entry)
        entry.serving, entry.held, entry.used = Serving(model.signature, engine), True, time.perf_counter()
        entry.watch = asyncio.create_task(self._watch(engine))
        self._metrics.loaded(
            entry.metrics, entry.bytes, source.format, source.sha256, model.device, model.batch_seconds
        )
        signature = {kind: [str(t) for t in getattr(model.signature, kind)] for kind in ("inputs", "outputs")}
        took = {"load_seconds": round(seconds, 3), "warm_up_seconds": round(model.warm_up_seconds, 3)}
        batches = {"batches": True, "batch_size": batch_size} if model.signature.batch else {"batches": False}
        self._log.info("loaded", model=source.name, **took, device=model.device, **batches, **signature)

    def _give_up(self, entry: Entry, error: StartupError) -> None:
        self._mend(entry)
        entry.failed, entry.failed_at = error, time.perf_counter()
        self._metrics.failed(entry.metrics, error.reason)
        self._log.error("cannot load", model=entry.source.name, reason=error.reason, message=error.message)

    def _mend(self, entry: Entry) -> None:
        if entry.failed is not None:
            self._metrics.mended(entry.metrics, entry.failed.reason)
        entry.failed = None

    def _tell(self, entry: Entry, failed: Exception | None) -> None:
        waiting, entry.waiting = entry.waiting, {}
        for resume in waiting.values():
            resume(failed)

    async def _watch(self, engine: Engine) -> None:
        try:
            await engine.broken()
        except Exception as error:
            self._break(error)

    def _break(self, error: Exception) -> None:
        if not self.broken.done():
            self.broken.set_exception(error)

    # Memory.

    @property
    def _budget(self) -> int:
        return self._settings.memory_budget_bytes

    def _used(self) -> int:
        return sum(entry.bytes for entry in self.entries.values() if entry.held)

    async def _make_room(self, entry: Entry) -> None:
        """For it beside those that are there. Raises StartupError where it is too large alone."""
        if not self._budget:
            return
        if entry.bytes > self._budget:
            message = (
                f"{entry.source.path} takes {_mib(entry.bytes)} of memory, the budget of all models together is "
                f"{_mib(self._budget)}: raise the budget, or serve it by itself"
            )
            raise StartupError("OutOfMemory", message)
        while self._used() + entry.bytes > self._budget:
            there = [one for one in self.entries.values() if one.serving is not None]
            if there:
                last = min(there, key=lambda one: one.used)
                self._metrics.evictions.labels(**last.metrics.labels).inc()
                await self.unload(last)
            else:  # all that are there are leaving
                await asyncio.sleep(0.002)

    def _prepare(self) -> None:
        """In the loader's thread."""
        if not self.several:
            return
        from . import load  # noqa: F401

        # What torch is made of stays; what belongs to a model goes with it.
        _settle()
        for entry in self.entries.values():
            entry.bytes = _size(entry.source)

    def _loaded(self, source: Source) -> Loaded:
        """In the loader's thread."""
        model = self._load(source)
        if self.several:
            # What was needed only to load it goes in circles.
            gc.collect()
            give_back()
        return model

    def _serving(self) -> Iterable[Serving]:
        return [entry.serving for entry in self.entries.values() if entry.serving is not None]


def _loader(settings: Settings) -> Callable[[Source], Loaded]:
    def loader(source: Source) -> Loaded:
        # Here and not above: torch takes a second or two to import, and probes are answered meanwhile.
        from .load import load

        return load(source, settings.device, settings.max_batch_size)

    return loader


def _settle() -> None:
    gc.collect()
    gc.freeze()
    give_back()
    gc.set_threshold(20_000, 20, 20)


def _size(source: Source) -> int:
    """Of its files, in bytes; 0 where there are none, which is told when it is loaded."""
    with contextlib.suppress(OSError):
        files = source.path.rglob("*") if source.path.is_dir() else [source.path]
        return sum(file.stat().st_size for file in files if file.is_file())
    return 0


def _look(source: Source) -> None:
    """Raises StartupError where it is missing or not what it is said to be."""
    from .load import look

    look(source)


def _in_words(entry: Entry) -> NotLoaded:
    assert entry.failed is not None
    return NotLoaded(f"{entry.source.name!r} cannot be loaded: {entry.failed.reason}: {entry.failed.message}")


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
