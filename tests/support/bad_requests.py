"""Requests that a model server has to refuse, byte by byte, and what it has to say: one table for both runtimes.

Each is for a model with one input `x`, FP32 [-1, FEATURES], and an output `label`. The torch server's words are ours
and are compared; Triton's are its own, so of it only the kind of its answer is asked.
"""

import contextlib
import gzip
import http.client
import json
import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any

SILENCE = 0
"""The connection was closed without an answer: fair only for what is no HTTP at all."""
NO_VERSION = -2
"""An answer in a version of HTTP that there is none: Triton's, of a question in that version."""
PATIENCE = -1
"""The client left before an answer came."""

ANY_REFUSAL = (SILENCE, 400, 413, 431)
NOT_ASKED: tuple[int, ...] = ()

Headers = dict[str, str]


@dataclass(frozen=True)
class Bad:
    name: str
    raw: bytes
    status: int
    """The torch server's."""
    words: str
    """In the torch server's message."""
    triton: tuple[int, ...] = (400, 500)
    """What Triton may answer: it calls 500 what its own parser does not like. Empty: it is not asked."""


def cases(model: str, features: int) -> list[Bad]:
    """All of them, for a model of this name."""
    infer = f"/v2/models/{model}/infer"
    row = [0.5] * features
    good = _tensor(features)

    def without(field: str) -> dict[str, Any]:
        return {name: value for name, value in good.items() if name != field}

    def posted(body: bytes, headers: Headers | None = None, path: str = infer) -> bytes:
        return request("POST", path, body, headers)

    def asked(content: Any, headers: Headers | None = None) -> bytes:
        return posted(json.dumps(content).encode(), headers)

    def with_input(**changes: Any) -> bytes:
        return asked({"inputs": [{**good, **changes}]})

    def binary(said: Any, sent: int, **changes: Any) -> bytes:
        """With so many bytes behind the JSON, where it says `said`."""
        entry = {**without("data"), "parameters": {"binary_data_size": said}, **changes}
        header = json.dumps({"inputs": [entry]}).encode()
        return posted(header + b"\0" * sent, {"Inference-Header-Content-Length": str(len(header))})

    whole = 4 * features
    body = json.dumps({"inputs": [good]}).encode()
    zipped = gzip.compress(body, mtime=0)
    packed = {"Content-Encoding": "gzip"}
    no_object = 'the body must be a JSON object with "inputs"'
    no_numbers = "input 'x': its data must be numbers that fit FP32"
    takes = f"the model takes [-1, {features}]"
    length = "Inference-Header-Content-Length"

    return [
        # What is no JSON.
        Bad("an empty body", posted(b""), 400, "the body is not JSON"),
        Bad("half an object", posted(body[:-1]), 400, "the body is not JSON"),
        Bad("something behind the end", posted(body + b"}"), 400, "the body is not JSON"),
        Bad("quotes of another language", posted(body.replace(b'"', b"'")), 400, "the body is not JSON"),
        Bad("a comma too many", posted(body.replace(b"]}", b",]}", 1)), 400, "the body is not JSON"),
        Bad("bytes that are no UTF-8", posted(body.replace(b'"x"', b'"\xff\xfe"')), 400, "the body is not JSON"),
        Bad("UTF-16", posted(body.decode().encode("utf-16")), 400, "the body is not JSON"),
        Bad("NaN", posted(body.replace(b"0.5", b"NaN", 1)), 400, "the body is not JSON", (200, 400)),
        Bad("infinity", posted(body.replace(b"0.5", b"Infinity", 1)), 400, "the body is not JSON", (200, 400)),
        Bad("brackets without end", posted(b"[" * 100_000), 400, "the body is not JSON"),
        # What is no request.
        Bad("a list", asked([good]), 400, no_object),
        Bad("a text", asked("inputs"), 400, no_object),
        Bad("null", posted(b"null"), 400, no_object),
        Bad("no inputs", asked({"id": "1"}), 400, no_object),
        Bad("inputs as an object", asked({"inputs": good}), 400, no_object),
        Bad("no input", asked({"inputs": []}), 400, "input 'x' FP32"),
        Bad("an input that is a text", asked({"inputs": ["x"]}), 400, "inputs[0] must be an object"),
        Bad("a number as id", asked({"id": 7, "inputs": [good]}), 400, '"id" must be a string'),
        Bad("a list of parameters", asked({"inputs": [good], "parameters": [1]}), 400, "must be an object"),
        Bad("a wrong priority", asked({"inputs": [good], "parameters": {"priority": "high"}}), 400, "its priority is"),
        Bad("a negative timeout", asked({"inputs": [good], "parameters": {"timeout": -1}}), 400, "its timeout is"),
        # Tensors.
        Bad("an unknown input", with_input(name="pixels"), 400, "the model has no input 'pixels'; it takes 'x'"),
        Bad("an input too many", asked({"inputs": [good, {**good, "name": "y"}]}), 400, "the model has no input 'y'"),
        Bad("an input twice", asked({"inputs": [good, good]}), 400, "input 'x' is given twice"),
        Bad("an input without name", asked({"inputs": [without("name")]}), 400, "inputs[0] must be an object"),
        Bad("another datatype", with_input(datatype="FP64"), 400, "has datatype 'FP64', the model takes FP32"),
        Bad("a datatype that is none", with_input(datatype="FLOAT"), 400, "has datatype 'FLOAT'"),
        Bad("a number as datatype", with_input(datatype=32), 400, "has datatype 32"),
        Bad("no datatype", asked({"inputs": [without("datatype")]}), 400, "has datatype None"),
        Bad("no shape", asked({"inputs": [without("shape")]}), 400, "must be a list of integers"),
        Bad("a row too narrow", with_input(shape=[1, features - 1], data=row[1:]), 400, takes),
        Bad("a dimension missing", with_input(shape=[features]), 400, takes),
        Bad("a dimension too many", with_input(shape=[1, 1, features]), 400, takes),
        Bad("a batch of none", with_input(shape=[0, features], data=[]), 400, takes),
        Bad("a negative dimension", with_input(shape=[-1, features]), 400, takes),
        Bad("half a dimension", with_input(shape=[1.5, features]), 400, "must be a list of integers"),
        Bad("a dimension that is true", with_input(shape=[True, features]), 400, "must be a list of integers"),
        Bad("a shape that is a text", with_input(shape=f"1,{features}"), 400, "must be a list of integers"),
        # Triton believes it, and aborts.
        Bad("a batch beyond memory", with_input(shape=[2**40, features]), 400, f"needs {2**40 * features}", NOT_ASKED),
        Bad("a batch beyond 64 bits", with_input(shape=[2**70, features]), 400, "must be a list of integers"),
        Bad("no data", asked({"inputs": [without("data")]}), 400, "input 'x' has no \"data\""),
        Bad("a value missing", with_input(data=row[1:]), 400, f"needs {features}"),
        Bad("a value too many", with_input(data=[*row, 1]), 400, f"needs {features}"),
        Bad("rows of unequal lengths", with_input(shape=[2, features], data=[row, row[1:]]), 400, "unequal lengths"),
        Bad("texts as data", with_input(data=["0.5"] * features), 400, no_numbers),
        Bad("null as data", with_input(data=[None, *row[1:]]), 400, no_numbers),
        Bad("true as data", with_input(data=[True, *row[1:]]), 400, no_numbers),
        Bad("objects as data", with_input(data=[{}] * features), 400, no_numbers),
        Bad("a number too large", with_input(data=[1e39, *row[1:]]), 400, "goes beyond FP32", (200, 400)),
        Bad("data that is a number", with_input(data=0.5), 400, '"data" must be a list'),
        Bad("data that is an object", with_input(data={"0": 0.5}), 400, '"data" must be a list'),
        # Outputs.
        Bad("an unknown output", asked({"inputs": [good], "outputs": [{"name": "z"}]}), 400, "has no output 'z'"),
        Bad("outputs as a number", asked({"inputs": [good], "outputs": 3}), 400, '"outputs" must be a list'),
        Bad("an output that is a text", asked({"inputs": [good], "outputs": ["label"]}), 400, "outputs[0] must be"),
        # Binary data.
        Bad("a header longer than the body", posted(body, {length: str(10 * len(body))}), 400, f"{length} is"),
        Bad("a negative header", posted(body, {length: "-1"}), 400, f"{length} is"),
        Bad("a header that is no number", posted(body, {length: "ten"}), 400, f"{length} is", (200, 400)),
        Bad("a header within the JSON", posted(body, {length: str(len(body) - 5)}), 400, "the body is not JSON"),
        Bad("data that is cut short", binary(whole, whole - 1), 400, f"is {whole}, the body has {whole - 1} more"),
        Bad("data too long", binary(whole, whole + 1), 400, "1 bytes of binary data more"),
        Bad("data of another size", binary(whole - 4, whole - 4), 400, f"needs {whole}"),
        Bad("a negative size", binary(-4, whole), 400, "must be a number of bytes"),
        Bad("a size that is a text", binary("all", whole), 400, "must be a number of bytes"),
        Bad("data twice", binary(whole, whole, data=row), 400, "send one of them", (200, 400)),
        Bad(
            "data of which nobody says where",
            asked({"inputs": [{**without("data"), "parameters": {"binary_data_size": whole}}]}),
            400,
            "say where it begins",
        ),
        # Paths and methods.
        Bad("another model", posted(body, path="/v2/models/other/infer"), 404, "unknown model 'other'", (400, 404)),
        Bad(
            "another version",
            posted(body, path=f"/v2/models/{model}/versions/99/infer"),
            404,
            "unknown version '99'",
            (400, 404),
        ),
        Bad("no such path", posted(body, path="/v1/models/x:predict"), 404, "no such path", (400, 404)),
        Bad("a path that climbs", posted(body, path="/v2/models/../../etc/passwd"), 404, "no such path", (400, 404)),
        Bad("a question without body", request("GET", infer), 405, "use POST", (400, 405)),
        Bad("another method", request("DELETE", infer, body), 405, "use POST", (400, 405, 501)),
        # Packing.
        Bad("a packing nobody knows", posted(body, {"Content-Encoding": "br"}), 415, "gzip and deflate", (501,)),
        Bad("gzip that is none", posted(body, packed), 400, "cannot be unpacked"),
        Bad("gzip that is cut short", posted(zipped[:-9], packed), 400, "it is cut short", (200, 400)),
        # What is no HTTP, or a threat.
        # Triton waits for it, without end.
        Bad("a gigabyte", posted(b"", {"Content-Length": str(1 << 30)}), 413, "larger than", NOT_ASKED),
        Bad("a head too large", posted(body, {"X-Much": "x" * 100_000}), 431, "head is larger", ANY_REFUSAL),
        Bad("a length that is none", posted(body, {"Content-Length": "many"}), 400, "", ANY_REFUSAL),
        Bad("a negative length", posted(body, {"Content-Length": "-1"}), 400, "", ANY_REFUSAL),
        Bad("two ways to say how long", posted(b"0\r\n\r\n", {"Transfer-Encoding": "chunked"}), 400, "", ANY_REFUSAL),
        Bad("what is no HTTP", b"hello there, server\r\n\r\n", 400, "", ANY_REFUSAL),
        Bad("a TLS greeting", bytes.fromhex("16030100a5010000a10303") + b"\0" * 160, 400, "", ANY_REFUSAL),
    ]


def fine(model: str, features: int) -> bytes:
    """A request that is right."""
    return request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [_tensor(features)]}).encode())


def _tensor(features: int) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, features], "data": [0.5] * features}


def request(method: str, path: str, body: bytes = b"", headers: Headers | None = None) -> bytes:
    given = {"Host": "model", "Content-Length": str(len(body)), "Content-Type": "application/json", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def ask(address: str, raw: bytes, *, seconds: float = 60) -> tuple[int, str]:
    """Status and body of the answer, on a connection of its own; SILENCE where it was closed without one. Raises
    TimeoutError where nothing comes."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        # It may have answered already, and read no more.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(raw)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
            return answer.status, answer.read().decode(errors="replace")
        except http.client.UnknownProtocol:
            return NO_VERSION, ""
        except (http.client.BadStatusLine, ConnectionResetError):
            return SILENCE, ""


def wrong_answers(address: str, bad: Iterable[Bad], *, torch: bool) -> list[str]:
    """What was not answered as it should be, in words."""
    wrong = []
    for case in bad:
        if not torch and not case.triton:
            continue
        status, body = ask(address, case.raw)
        right = status == case.status and case.words in message(body) if torch else status in case.triton
        if not right:
            wrong.append(f"{case.name}: {status} {body[:300]}")
    return wrong


def fuzz(
    address: str,
    raws: Sequence[bytes],
    *,
    seconds: float,
    seed: int,
    clients: int = 16,
    patience: float = math.inf,
    but: Callable[[bytes], bool] = lambda raw: False,
) -> Counter[int]:
    """So many clients send mutations for so long; what they got, by status. `patience`: seconds after which a client
    leaves without an answer (PATIENCE), of a server that waits without end for what was announced; `but`: what is not
    sent."""
    end = time.monotonic() + seconds

    def client(number: int) -> Counter[int]:
        got: Counter[int] = Counter()
        for raw in mutations(raws, seed * clients + number):
            if time.monotonic() > end:
                break
            if but(raw):
                continue
            try:
                got[ask(address, raw, seconds=min(60, patience))[0]] += 1
            except TimeoutError as error:
                if patience > 60:
                    raise AssertionError(f"no answer to {raw!r}") from error
                got[PATIENCE] += 1
            except OSError as error:
                raise AssertionError(f"no answer to {raw!r}") from error
        return got

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(client, range(clients)), Counter())


def mutations(raws: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Without end: of these requests some bytes changed, cut out, doubled, or the beginning of one with the end of
    another."""
    random = Random(seed)
    while True:
        raw = bytearray(random.choice(raws)[:20_000])
        for _ in range(random.randint(1, 4)):
            at, size = random.randrange(len(raw) + 1), random.randint(1, 40)
            what = random.randrange(4)
            if what == 0:
                raw[at : at + size] = random.randbytes(random.randint(0, size))
            elif what == 1:
                del raw[at : at + size]
            elif what == 2:
                raw[at:at] = raw[at : at + size]
            else:
                raw[at:] = random.choice(raws)[at:20_000]
        yield bytes(raw)


def message(body: str) -> str:
    """The protocol's: `{"error": "…"}`."""
    try:
        said = json.loads(body).get("error")
    except (ValueError, AttributeError):
        return ""
    return said if isinstance(said, str) else ""
