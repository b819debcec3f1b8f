"""From how the workers of a pod ended to one cause, in words: pure, so that every case is a small test.

A worker that dies takes the others with it: they find their connections closed, and torchrun ends its siblings. Such
ends are consequences; what came first is told. A pod with consequences only says PeerLost and is worth another try.
"""

import re
import signal
from dataclasses import asdict, dataclass, field
from typing import Any

from moorage_store.termination import CONFIG, DATA, NO_INPUT, TRANSIENT, USAGE

# What a program may say by its exit code, see docs/contracts.md.
_BY_EXIT_CODE = {
    USAGE: "InvalidConfiguration",
    DATA: "DataInvalid",
    NO_INPUT: "DataNotFound",
    CONFIG: "InvalidConfiguration",
    TRANSIENT: "Terminated",
}

_RANK_PREFIX = re.compile(r"^\[rank\d+\]:\s?")
_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(: |$)")

# Begins of lines that are no part of an exception's message: logs and warnings that came after it.
_OTHER = re.compile(r"\[|\s*File |\w+:|[WEI]\d{4} ")

# torch's own words for a peer that went away. A script's own ConnectionError (to a database, say) is none of them.
_PEER = re.compile(
    r"Dist(Network|Store|Backend)Error"
    r"|gloo/\S+.*(clos|reset|refused|pipe|timed? ?out|connect)|Connection closed by peer|Gloo .*(fail|timed? ?out)"
    r"|NCCL.*(remote (process|error)|unhandled system error|connection|watchdog|aborted|timeout)|ncclRemoteError"
    r"|Rendezvous(Closed|Connection|Timeout|State)Error|Broken pipe.*store|recvValue|TCPStore",
    re.IGNORECASE,
)
_MEMORY = re.compile(
    r"^(torch\.)?(cuda\.)?OutOfMemoryError|^MemoryError|CUDA out of memory|DefaultCPUAllocator: (can't|not enough)"
)
_NOT_FINITE = re.compile(r"^FloatingPointError|returned nan values in its", re.IGNORECASE)


@dataclass(frozen=True)
class Ended:
    """One worker that ended with a failure."""

    rank: int
    local_rank: int
    exit_code: int  # negative: the signal
    lines: list[str]
    order: float = 0
    told: dict[str, Any] = field(default_factory=dict)  # what it wrote by report.write_failure


@dataclass(frozen=True)
class Failure:
    reason: str
    message: str
    code: int  # of the launcher
    rank: int | None = None
    localRank: int | None = None
    exitCode: int | None = None
    signal: str | None = None
    step: int | None = None
    lastLines: list[str] = field(default_factory=list)

    def extras(self) -> dict[str, Any]:
        """What goes into the termination message beside reason and message."""
        left_out = ("reason", "message", "code")
        return {key: value for key, value in asdict(self).items() if key not in left_out and value not in (None, [])}


def first_cause(ended: list[Ended], *, world: int, out_of_memory: bool) -> Failure:
    """The cause among the workers of this pod."""
    failures = [(classify(one, world=world, out_of_memory=out_of_memory), one.order) for one in ended]
    return min(failures, key=lambda pair: (_is_consequence(pair[0], len(ended)), pair[1]))[0]


def _is_consequence(failure: Failure, count: int) -> bool:
    return failure.reason in ("PeerLost", "Terminated") and count > 1


def classify(one: Ended, *, world: int, out_of_memory: bool) -> Failure:
    """One worker's end by itself."""
    name = signal.Signals(-one.exit_code).name if one.exit_code < 0 else None
    exception = last_exception(one.lines)
    words = exception or (one.lines[-1] if one.lines else "")

    def failure(reason: str, message: str, code: int) -> Failure:
        told_step = one.told.get("step")
        step = told_step if isinstance(told_step, int) else None
        exit_code = one.exit_code if one.exit_code >= 0 else 128 - one.exit_code
        return Failure(reason, message, code, one.rank, one.local_rank, exit_code, name, step, clean(one.lines)[-20:])

    if one.told.get("reason"):
        code = one.exit_code if one.exit_code > 0 else 1
        return failure(str(one.told["reason"]), str(one.told.get("message", "")), code)
    if name == "SIGKILL" and out_of_memory:
        return failure("OutOfMemory", "killed by the kernel: more memory was used than resources.limits.memory", 137)
    if name == "SIGTERM":
        return failure("Terminated", "ended by SIGTERM", TRANSIENT)
    if name:
        hint = "; nothing says that memory ran out" if name == "SIGKILL" else ""
        last = f"; its last line: {words}" if words else ""
        return failure("ScriptFailed", f"rank {one.rank} was killed by {name}{hint}{last}", 128 - one.exit_code)
    if exception and _MEMORY.search(exception):
        return failure("OutOfMemory", exception, 1)
    if exception and _NOT_FINITE.search(exception):
        return failure("NonFiniteLoss", exception, 1)
    if world > 1 and exception and _PEER.search(exception):
        return failure("PeerLost", f"rank {one.rank} lost its connection to the others: {exception}", TRANSIENT)
    if reason := _BY_EXIT_CODE.get(one.exit_code):
        return failure(reason, words or f"rank {one.rank} ended with exit code {one.exit_code}", one.exit_code)
    if exception:
        return failure("ScriptFailed", exception, one.exit_code)
    last = f"; its last line: {words}" if words else " and without a word"
    return failure("ScriptFailed", f"rank {one.rank} ended with exit code {one.exit_code}{last}", one.exit_code)


def clean(lines: list[str]) -> list[str]:
    return [_RANK_PREFIX.sub("", line) for line in lines]


def last_exception(lines: list[str]) -> str:
    """`ValueError: words` of the last traceback, with at most two more lines of its message."""
    lines = clean(lines)
    starts = [number for number, line in enumerate(lines) if line.strip() == _TRACEBACK]
    after = lines[starts[-1] + 1 :] if starts else lines[-4:]
    for number, line in enumerate(after):
        if _EXCEPTION.match(line) and (starts or re.match(r"^[\w.]*(Error|Exception|Interrupt)\b", line)):
            more = [text for text in after[number + 1 : number + 3] if text and not _OTHER.match(text)]
            return "\n".join([line, *more])
    return ""
