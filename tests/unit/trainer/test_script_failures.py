"""Real programs under the launcher, each ending badly in its own way: what the termination message says."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from .conftest import Workers

Program = Callable[[str], list[str]]

MEET = "import os, sys, time, signal, torch, torch.distributed as dist\ndist.init_process_group('gloo')\n"
WORK = "for _ in range(600): dist.all_reduce(torch.ones(1)); time.sleep(0.05)\n"


def test_an_exception_in_one_rank_is_the_cause_and_the_other_a_lost_peer(workers: Workers, program: Program) -> None:
    fail = "if dist.get_rank() == 1: time.sleep(1); raise ValueError('the colour of rank 1 is wrong')\n"
    first, second = workers.start(2, *program(MEET + fail + WORK)).wait()
    assert second.code == 1
    assert (second.log["reason"], second.log["rank"], second.log["exitCode"]) == ("ScriptFailed", 1, 1)
    assert second.log["message"] == "ValueError: the colour of rank 1 is wrong"
    assert any("raise ValueError" in line for line in second.log["lastLines"])
    assert second.log["host"]
    assert (first.code, first.log["reason"], first.log["rank"]) == (75, "PeerLost", 0), first.output
    assert "the colour of rank 1 is wrong" in second.output


def test_an_exit_code_of_the_contract_goes_through(workers: Workers, program: Program) -> None:
    (only,) = workers.start(1, *program("import sys; print('because', file=sys.stderr); sys.exit(65)")).wait()
    assert (only.code, only.log["reason"], only.log["message"]) == (65, "DataInvalid", "because")
    assert (only.log["exitCode"], only.log["lastLines"]) == (65, ["because"])


def test_any_other_exit_code_is_told(workers: Workers, program: Program) -> None:
    (only,) = workers.start(1, *program("import sys; print('größe 模型 falsch'); sys.exit(3)")).wait()
    assert (only.code, only.log["reason"], only.log["exitCode"]) == (3, "ScriptFailed", 3)
    assert only.log["message"] == "rank 0 ended with exit code 3; its last line: größe 模型 falsch"


def test_the_port_where_workers_meet_is_taken(workers: Workers, program: Program) -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        port = taken.getsockname()[1]
        (only,) = workers.start(1, *program("pass"), PET_RDZV_ENDPOINT=f"127.0.0.1:{port}").wait()
    assert (only.code, only.log["reason"]) == (78, "PortInUse"), only.output
    assert f"port {port}" in only.log["message"]


def test_a_killed_worker_and_its_peer(workers: Workers, program: Program) -> None:
    write = "open(os.environ['MOORAGE_RUN_DIR'] + '/pid', 'w').write(str(os.getpid()))\n"
    workers.start(2, *program(MEET + write + WORK))
    os.kill(int(_content(workers.folder / "tmp1", "*/pid")), signal.SIGKILL)
    first, second = workers.wait()
    assert (second.code, second.log["reason"], second.log["signal"]) == (137, "ScriptFailed", "SIGKILL")
    assert second.log["exitCode"] == 137
    assert (first.code, first.log["reason"]) == (75, "PeerLost"), first.output


def test_ten_megabytes_of_output_pass_and_leave_nothing_on_disk(workers: Workers, program: Program) -> None:
    # Progress bars go back to the start of the line, and noise is no text and has no line ends.
    text = (
        "import os, sys\n"
        "for i in range(5000): sys.stderr.write(f'\\r{i}%')\nos.write(1, b'\\xff' * 3_000_000 + b'\\n')\n"
        "for i in range(70_000): print(i, 'x' * 93)\nraise KeyError('at the end')"
    )
    (only,) = workers.start(1, *program(text)).wait()
    assert (only.code, only.log["reason"], only.log["message"]) == (1, "ScriptFailed", "KeyError: 'at the end'")
    assert only.output.count("x" * 93) == 70_000
    assert only.output.count("\N{REPLACEMENT CHARACTER}") == 3_000_000
    assert sum(path.stat().st_size for path in (workers.folder / "tmp0").rglob("*") if path.is_file()) < 100_000


def test_much_output_and_long_reports_leave_the_launcher_small(workers: Workers, program: Program) -> None:
    text = (
        "import os, sys, time\nrun = os.environ['MOORAGE_RUN_DIR']\n"
        "def meet(name):\n"
        "    open(run + '/' + name, 'w').write('x')\n"
        "    while not os.path.exists(run + '/' + name + '-seen'): time.sleep(0.05)\n"
        "print('begin', flush=True); meet('begun')\n"
        "for i in range(100_000): print('größe ' * 20)\n"
        "sys.stdout.write('x' * 20_000_000)\n"
        "open(run + '/failure-0.json', 'w').write('{\"reason\": \"' + 'y' * 100_000_000 + '\"}')\n"
        "sys.stdout.flush(); meet('written'); raise ValueError('ü' * 1_000_000)"
    )
    workers.start(1, *program(text))
    sizes = []
    for name in ("begun", "written"):
        _content(workers.folder / "tmp0", f"*/{name}")
        sizes.append(resident(workers.processes[0].pid))
        (next((workers.folder / "tmp0").glob(f"*/{name}")).parent / f"{name}-seen").touch()
    (only,) = workers.wait()
    assert sizes[1] - sizes[0] < 20e6
    assert (only.code, only.log["reason"]) == (1, "ScriptFailed")
    assert "ValueError: üüü" in only.log["message"]
    assert (workers.folder / "log0").stat().st_size <= 4000


def resident(pid: int) -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def test_sigterm_reaches_the_program_and_is_worth_another_try(workers: Workers, program: Program) -> None:
    text = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told to stop', flush=True), sys.exit(0)))\n"
        "open(os.environ['MOORAGE_RUN_DIR'] + '/pid', 'w').write('x')\ntime.sleep(100)"
    )
    workers.start(1, *program(text))
    _content(workers.folder / "tmp0", "*/pid")
    workers.processes[0].send_signal(signal.SIGTERM)
    (only,) = workers.wait(40)
    assert (only.code, only.log["reason"]) == (75, "Terminated")
    assert "told to stop" in only.output


def test_sigterm_while_the_others_are_awaited(workers: Workers, program: Program) -> None:
    workers.start(2, *program("pass"), present=range(1))
    deadline = time.monotonic() + 60
    while "starts" not in workers.output(0) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(5)
    workers.processes[0].send_signal(signal.SIGTERM)
    (first,) = workers.wait(40)
    assert (first.code, first.log["reason"]) == (75, "Terminated")


def test_no_such_program(workers: Workers) -> None:
    (only,) = workers.start(1, "no-such-program", "--lr=1").wait()
    assert (only.code, only.log["reason"]) == (64, "InvalidConfiguration")
    assert "no-such-program" in only.log["message"]


def test_nothing_to_run(workers: Workers) -> None:
    (only,) = workers.start(1).wait()
    assert (only.code, only.log["reason"]) == (64, "InvalidConfiguration")


def _content(folder: Path, pattern: str) -> str:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        for path in folder.glob(pattern):
            if text := path.read_text():
                return text
        time.sleep(0.05)
    raise TimeoutError(f"no {pattern} below {folder}")
