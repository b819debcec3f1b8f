"""From the ends of workers to one cause: each kind, and which of several is told."""

import pytest

from moorage_trainer.failure import Ended, Failure, classify, first_cause, last_exception

GLOO = (
    "RuntimeError: [/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:23263. This is typically "
    "caused by a remote worker crashing."
)
TRACE = ["Traceback (most recent call last):", '  File "train.py", line 3, in <module>', "    boom()"]


def ended(code: int, *lines: str, rank: int = 0, order: float = 0, **told: object) -> Ended:
    return Ended(rank, rank, code, list(lines), order, dict(told))


def one(end: Ended, *, world: int = 2, oom: bool = False) -> Failure:
    return classify(end, world=world, out_of_memory=oom)


@pytest.mark.parametrize(
    ("line", "reason", "code"),
    [
        ("ValueError: the colour is wrong", "ScriptFailed", 1),
        ("mypackage.errors.Trouble: no luck", "ScriptFailed", 1),
        ("AssertionError", "ScriptFailed", 1),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "OutOfMemory", 1),
        ("torch.cuda.OutOfMemoryError: CUDA out of memory.", "OutOfMemory", 1),
        ("MemoryError", "OutOfMemory", 1),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory",
            "OutOfMemory",
            1,
        ),
        ("FloatingPointError: loss is nan", "NonFiniteLoss", 1),
        ("RuntimeError: Function 'MulBackward0' returned nan values in its 0th output.", "NonFiniteLoss", 1),
        (GLOO, "PeerLost", 75),
        ("torch.distributed.DistNetworkError: The client socket has timed out after 60000ms", "PeerLost", 75),
        ("torch.distributed.DistStoreError: wait timeout after 300000ms", "PeerLost", 75),
        (
            "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, remote process exited or network error",
            "PeerLost",
            75,
        ),
        ("RuntimeError: Gloo connectFullMesh failed with timeout", "PeerLost", 75),
        # The user's own network is no peer.
        ("ConnectionRefusedError: [Errno 111] Connection refused", "ScriptFailed", 1),
        ("requests.exceptions.ConnectionError: Connection reset by peer", "ScriptFailed", 1),
    ],
)
def test_by_the_last_exception(line: str, reason: str, code: int) -> None:
    failure = one(ended(1, "before", *TRACE, line))
    assert (failure.reason, failure.code) == (reason, code)
    assert line in failure.message
    assert failure.lastLines[-1] == line


def test_a_single_worker_has_no_peers() -> None:
    assert one(ended(1, *TRACE, GLOO), world=1).reason == "ScriptFailed"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (64, "InvalidConfiguration"),
        (65, "DataInvalid"),
        (66, "DataNotFound"),
        (75, "Terminated"),
        (78, "InvalidConfiguration"),
    ],
)
def test_by_the_exit_codes_of_the_contract(code: int, reason: str) -> None:
    failure = one(ended(code, "no such column: z"))
    assert (failure.reason, failure.message, failure.code) == (reason, "no such column: z", code)


def test_any_other_exit_code_is_kept() -> None:
    failure = one(ended(3, "leaving now"))
    assert (failure.reason, failure.exitCode, failure.code) == ("ScriptFailed", 3, 3)
    assert failure.message == "rank 0 ended with exit code 3; its last line: leaving now"
    assert one(ended(3)).message == "rank 0 ended with exit code 3 and without a word"


def test_killed() -> None:
    kernel = one(ended(-9, "step 3"), oom=True)
    assert (kernel.reason, kernel.signal, kernel.exitCode, kernel.code) == ("OutOfMemory", "SIGKILL", 137, 137)
    somebody = one(ended(-9, "step 3"))
    assert (somebody.reason, somebody.code) == ("ScriptFailed", 137)
    assert "SIGKILL" in somebody.message
    crash = one(ended(-11))
    assert (crash.reason, crash.signal, crash.code) == ("ScriptFailed", "SIGSEGV", 139)
    assert one(ended(-15)).reason == "Terminated"


def test_what_a_rank_told_itself_counts_most() -> None:
    failure = one(ended(65, "x", reason="DataInvalid", message="row 3 is empty", step=7))
    assert (failure.reason, failure.message, failure.step, failure.code) == ("DataInvalid", "row 3 is empty", 7, 65)


def test_consequences_are_not_the_cause_even_when_seen_first() -> None:
    lost = ended(1, *TRACE, GLOO, rank=0, order=1)
    stopped = ended(-15, rank=1, order=1)
    cause = ended(1, *TRACE, "ValueError: x", rank=2, order=2)
    assert first_cause([lost, stopped, cause], world=3, out_of_memory=False).rank == 2
    assert first_cause([lost, stopped], world=3, out_of_memory=False).reason == "PeerLost"
    earlier = ended(3, rank=4, order=0)
    assert first_cause([cause, earlier], world=5, out_of_memory=False).rank == 4


def test_extras_hold_only_what_is_known() -> None:
    assert one(ended(3)).extras() == {"rank": 0, "localRank": 0, "exitCode": 3}


EXCEPTIONS = {
    "torchrun's prefixes": (["[rank1]: Traceback (most recent call last):", "[rank1]: ValueError: x"], "ValueError: x"),
    "the last of several": ([*TRACE, "KeyError: 1", "During handling", *TRACE, "ValueError: 2"], "ValueError: 2"),
    "a long message": ([*TRACE, "ValueError: one", "two", "three", "four"], "ValueError: one\ntwo\nthree"),
    "warnings after it": ([*TRACE, "ValueError: x", "[W1123 destroy_process_group was not called"], "ValueError: x"),
    "none": (["epoch 1", "note: fine"], ""),
    "without a traceback": (["OSError: disk"], "OSError: disk"),
    "nothing": ([], ""),
}


@pytest.mark.parametrize("case", EXCEPTIONS)
def test_the_words_of_the_last_exception(case: str) -> None:
    lines, expected = EXCEPTIONS[case]
    assert last_exception(lines) == expected
