"""What the torch server refuses, in which words; and that nothing clients send, however senseless, harms it."""

import os
from pathlib import Path

import httpx

from support import bad_requests
from support.bad_requests import SILENCE

from .conftest import FEATURES, Server, Start, fp32

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS") or 30)
FUZZ_SEED = int(os.environ.get("FUZZ_SEED") or 0)
GROWTH_MIB = 64
"""What a server may keep of all that: the allocator's room for the largest bodies, not each of them."""


def memory_mib(server: Server) -> float:
    return server.metrics()["process_resident_memory_bytes"] / 2**20


def answers_well(server: Server) -> bool:
    body = {"inputs": [fp32([[0.5] * FEATURES])]}
    return httpx.post(server.url + server.infer_path, json=body, timeout=120).status_code == 200


def test_each_bad_request_is_told_what_is_wrong_with_it(start_server: Start, classifier: Path) -> None:
    server = start_server(classifier)
    address, table = server.url.removeprefix("http://"), bad_requests.cases("digits", FEATURES)
    assert len(table) >= 60
    bad_requests.wrong_answers(address, table, torch=True)  # the first of a kind may load something
    before = memory_mib(server)
    assert bad_requests.wrong_answers(address, table, torch=True) == []
    assert memory_mib(server) - before < GROWTH_MIB
    assert answers_well(server)
    assert server.terminate() == 0
    assert not [line for line in server.log if line.get("level") == "error"]


def test_whatever_comes_it_answers_or_hangs_up_and_serves_on(start_server: Start, classifier: Path) -> None:
    """What is announced and does not come is waited for: the times for it are short here."""
    times = {f"MOORAGE_{what}_TIMEOUT_SECONDS": "1" for what in ("BODY", "HEADER", "IDLE")}
    server = start_server(classifier, **times)
    raws = [case.raw for case in bad_requests.cases("digits", FEATURES)]
    raws += [bad_requests.fine("digits", FEATURES)] * len(raws)
    before = memory_mib(server)
    got = bad_requests.fuzz(server.url.removeprefix("http://"), raws, seconds=FUZZ_SECONDS, seed=FUZZ_SEED)
    print(got)
    assert {200, 400, 404} <= got.keys() <= {SILENCE, 200, 400, 404, 405, 408, 413, 415, 417, 431, 501, 505}
    assert memory_mib(server) - before < GROWTH_MIB
    assert answers_well(server)
    assert server.terminate() == 0
    assert not [line for line in server.log if line.get("level") == "error"]
