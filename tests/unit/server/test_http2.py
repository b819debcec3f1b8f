"""HTTP/2 frame by frame: what a client may make the server do, and that it cannot make it do more."""

import contextlib
import random
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hpack import Decoder, Encoder

from cluster import binaries
from cluster.progress import Progress

from .conftest import FEATURES, Server, Start
from .test_bad_requests import FUZZ_SEED, GROWTH_MIB, answers_well, memory_mib
from .test_grpc import request, text_request
from .test_handler import WRITER, folder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GO_AWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CALM = 11
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
HEALTH = "/grpc.health.v1.Health/Check"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def message(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4, "big") + content


class Client:
    """A connection. What it writes is up to the test."""

    def __init__(self, server: Server, *, settings: bytes = b"", greet: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.ports["http"]), 10)
        self.encoder, self.decoder, self.buffer = Encoder(), Decoder(), b""
        if greet:
            self.write(PREFACE + frame(SETTINGS, 0, 0, settings))

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self, path: str, *more: tuple[str, str]) -> bytes:
        pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here")]
        block: bytes = self.encoder.encode([*pseudo, ("content-type", "application/grpc"), ("te", "trailers"), *more])
        return block

    def call(self, stream: int, path: str, content: bytes, *more: tuple[str, str]) -> bytes:
        head = frame(HEADERS, END_HEADERS, stream, self.head(path, *more))
        return head + frame(DATA, END_STREAM, stream, message(content))

    def frames(self, seconds: float = 10) -> Iterator[tuple[int, int, int, bytes]]:
        """What comes, until the connection ends or nothing comes for so long."""
        self.socket.settimeout(seconds)
        while True:
            while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
                try:
                    more = self.socket.recv(65536)
                except (TimeoutError, ConnectionResetError):
                    return
                if not more:
                    return
                self.buffer += more
            size = int.from_bytes(self.buffer[:3], "big")
            _, _, kind, flags, stream = struct.unpack_from(">HBBBI", self.buffer)
            payload, self.buffer = self.buffer[9 : 9 + size], self.buffer[9 + size :]
            yield kind, flags, stream, payload

    def trailers(self, stream: int) -> dict[str, str]:
        """Those that end this call."""
        for kind, flags, of, payload in self.frames():
            if kind == HEADERS:
                fields = dict(self.decoder.decode(payload))
                if of == stream and flags & END_STREAM:
                    return fields
        raise AssertionError("it never ended")

    def error(self, seconds: float = 10) -> int:
        """The code of the GOAWAY that ends the connection; and it ends."""
        codes = [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in self.frames(seconds) if kind == GO_AWAY]
        assert codes, "it did not say good-bye"
        self.socket.settimeout(10)
        assert self.ended
        return codes[-1]

    @property
    def ended(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.close()


@pytest.fixture(scope="module")
def hurried(start_server: Start, classifier: Path) -> Server:
    """One that waits for nothing longer than a second."""
    times = {f"MOORAGE_{what}_TIMEOUT_SECONDS": "1" for what in ("BODY", "HEADER", "IDLE")}
    return start_server(classifier, **times)


def test_conformance(server: Server, tmp_path: Path) -> None:
    """All of h2spec's 146 cases of HTTP/2 and HPACK, strict ones too, but one: what does not begin as HTTP/2 does is
    HTTP/1.1 on this port, and answered so."""
    h2spec = binaries.ensure(["h2spec"], Progress()).path("h2spec")
    port = str(server.ports["http"])
    done = subprocess.run([h2spec, "-S", "-p", port, "-o", "5"], capture_output=True, text=True, timeout=280)
    assert "146 tests, 145 passed, 0 skipped, 1 failed" in done.stdout, done.stdout[-8000:]
    assert "× 2: Sends invalid connection preface" in done.stdout


def test_answers_byte_by_byte(client: Client) -> None:
    for byte in client.call(1, INFER, request().SerializeToString()):
        client.write(bytes((byte,)))
    assert client.trailers(1)["grpc-status"] == "0"


def test_an_answer_goes_out_as_the_client_has_room(server: Server) -> None:
    """A window of ten bytes, then of one more at a time."""
    client = Client(server, settings=struct.pack(">HI", 4, 10))
    client.write(client.call(1, INFER, request().SerializeToString()))
    got = b""
    for kind, flags, stream, payload in client.frames():
        if kind == DATA and stream == 1:
            assert len(payload) <= 10
            got += payload
            client.write(frame(WINDOW, 0, 1, (1).to_bytes(4, "big")))
        if kind == HEADERS and flags & END_STREAM:
            break
    assert len(got) == 5 + int.from_bytes(got[1:5], "big")
    client.close()


def test_a_large_answer_is_taken_in_small_steps(start_server: Start, classifier: Path) -> None:
    """Thousands of updates that each bring it a little further are no flood."""
    server = start_server(classifier)
    client = Client(server, settings=struct.pack(">HI", 4, 1024))
    rows = 200_000
    wanted = request(bytes(4 * FEATURES * rows), rows)
    content, window = message(wanted.SerializeToString()), 1 << 20
    client.write(frame(HEADERS, END_HEADERS, 1, client.head(INFER)))
    parts = [content[at : at + 16_000] for at in range(0, len(content), 16_000)]
    got, frames = 0, client.frames(60)
    for part in parts:
        while window < len(part):
            kind, _, stream, payload = next(frames)
            window += int.from_bytes(payload, "big") if (kind, stream) == (WINDOW, 1) else 0
        client.write(frame(DATA, END_STREAM if part is parts[-1] else 0, 1, part))
        window -= len(part)
    for kind, flags, _, payload in frames:
        if kind == DATA:
            got += len(payload)
            client.write(b"".join(frame(WINDOW, 0, of, len(payload).to_bytes(4, "big")) for of in (0, 1) if payload))
        elif kind == HEADERS and flags & END_STREAM:
            break
    assert got > rows * 12
    client.close()
    assert server.terminate() == 0


def test_answers_that_nobody_takes_are_bounded(start_server: Start, classifier: Path) -> None:
    """They count as what is held, and their call ends when its client has taken nothing for too long."""
    server = start_server(
        classifier, MOORAGE_BODY_TIMEOUT_SECONDS="2", MOORAGE_MAX_BODY_BYTES="2000", MOORAGE_MAX_TOTAL_BODY_BYTES="9000"
    )
    client = Client(server, settings=struct.pack(">HI", 4, 0))
    client.write(frame(HEADERS, END_HEADERS, 1, client.head(STREAM)))
    begin = time.monotonic()
    ended: list[int] = []
    client.socket.settimeout(0.05)
    while not ended and time.monotonic() < begin + 10:
        client.write(frame(DATA, 0, 1, message(request().SerializeToString())))
        ended = [kind for kind, flags, _, _ in client.frames(0.02) if kind == RESET or (kind == HEADERS and flags & 1)]
    assert ended and time.monotonic() - begin < 6
    client.close()
    deadline = time.monotonic() + 5
    while not answers_well(server):
        assert time.monotonic() < deadline
    assert server.terminate() == 0


def test_one_frame_of_settings_is_one_change(server: Server) -> None:
    """However many entries it has, and however many calls wait."""
    client = Client(server, settings=struct.pack(">HI", 4, 0))
    for stream in range(1, 801, 2):
        client.write(client.call(stream, HEALTH, b""))
    entries = b"".join(struct.pack(">HI", 4, size % 2) for size in range(2700))
    begin = time.monotonic()
    client.write(frame(SETTINGS, 0, 0, entries) + frame(PING, 0, 0, b"done now"))
    assert any(kind == PING and payload == b"done now" for kind, _, _, payload in client.frames())
    assert time.monotonic() - begin < 5
    client.close()


def test_several_messages_in_the_last_frame_are_all_answered(client: Client) -> None:
    wrong = request()
    wrong.inputs[0].name = "y"
    both = message(wrong.SerializeToString()) + message(request(id="second").SerializeToString())
    client.write(frame(HEADERS, END_HEADERS, 1, client.head(STREAM)) + frame(DATA, END_STREAM, 1, both))
    answers = [payload for kind, _, stream, payload in until_end(client, 1) if kind == DATA]
    assert b"the model has no input" in answers[0] and b"second" in answers[1]


def test_http2_without_grpc_is_told_what_this_port_speaks(client: Client) -> None:
    pseudo = [(":method", "GET"), (":scheme", "http"), (":path", "/v2"), (":authority", "here")]
    client.write(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.encoder.encode(pseudo)))
    frames = until_end(client, 1)
    assert [dict(client.decoder.decode(p))[":status"] for kind, _, _, p in frames if kind == HEADERS] == ["415"]
    assert b"speaks gRPC" in b"".join(p for kind, _, _, p in frames if kind == DATA)


def test_more_tensors_than_a_model_can_have(client: Client) -> None:
    """Two bytes each on the wire, and forty once they are read."""
    client.write(client.call(1, INFER, b"\x2a\x00" * 5000))
    told = client.trailers(1)
    assert told["grpc-status"] == "3" and "more than 1024 inputs" in told["grpc-message"]
    values = request(b"\x2a\x32\x2a\x2a" * FEATURES)
    client.write(client.call(3, INFER, values.SerializeToString()))
    assert client.trailers(3)["grpc-status"] == "0"


def until_end(client: Client, stream: int) -> list[tuple[int, int, int, bytes]]:
    found = []
    for one in client.frames():
        found.append(one)
        if one[2] == stream and one[0] in (DATA, HEADERS) and one[1] & END_STREAM:
            return found
    raise AssertionError("it never ended")


@pytest.mark.parametrize("idle", [PING, SETTINGS, PRIORITY, WINDOW, RESET, DATA])
def test_frames_that_bring_nothing_are_borne_for_a_while(server: Server, idle: int) -> None:
    client = Client(server)
    payloads = {PING: bytes(8), PRIORITY: bytes((0, 0, 0, 9, 1)), WINDOW: (1).to_bytes(4, "big")}
    flood = frame(idle, 0, {PRIORITY: 1}.get(idle, 0), payloads.get(idle, b""))
    if idle == RESET:  # calls begun and given up: CVE-2023-44487
        parts = []
        for stream in range(1, 6001, 2):
            parts += [frame(HEADERS, END_HEADERS, stream, client.head(INFER)), frame(RESET, 0, stream, bytes(4))]
        client_flood = b"".join(parts)
    elif idle == DATA:
        client_flood = frame(HEADERS, END_HEADERS, 1, client.head(INFER)) + frame(DATA, 0, 1) * 3000
    else:
        client_flood = flood * 3000
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.write(client_flood)
    assert client.error() == CALM
    client.close()


def test_a_head_without_end(server: Server) -> None:
    """CVE-2024-27316, and a few bytes that unpack to megabytes."""
    endless = Client(server)
    endless.write(frame(HEADERS, 0, 1, b""))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(100):
            endless.write(frame(CONTINUATION, 0, 1, bytes(1000)))
    assert endless.error() == CALM
    bomb = Client(server)
    first = bomb.encoder.encode([(":method", "POST"), (":scheme", "http"), (":path", "/"), ("x-large", "x" * 3000)])
    bomb.write(frame(HEADERS, END_HEADERS | END_STREAM, 1, first + b"\xbe" * 5000))
    assert bomb.error() == CALM


def test_what_does_not_come_in_time(hurried: Server) -> None:
    silent = Client(hurried, greet=False)
    silent.write(PREFACE[:20])
    assert silent.error() == 0
    half = Client(hurried)
    half.write(frame(HEADERS, 0, 1, half.head(INFER)))
    assert half.error() == 1
    idle = Client(hurried)
    assert idle.error() == 0
    slow = Client(hurried)
    slow.write(frame(HEADERS, END_HEADERS, 1, slow.head(INFER)) + frame(DATA, 0, 1, message(bytes(100))[:50]))
    told = slow.trailers(1)
    assert told["grpc-status"] == "4" and "did not come within 1 second" in told["grpc-message"]
    open_end = Client(hurried)  # a message and no end: it is not answered
    content = message(request().SerializeToString())
    open_end.write(frame(HEADERS, END_HEADERS, 1, open_end.head(INFER)) + frame(DATA, 0, 1, content))
    assert open_end.trailers(1)["grpc-status"] == "4"
    assert hurried.metrics()["moorage_server_requests_in_flight"] == 0
    deaf = Client(hurried, settings=struct.pack(">HI", 4, 0))  # takes no answer
    deaf.write(deaf.call(1, INFER, request().SerializeToString()))
    assert (RESET, 1) in [(kind, stream) for kind, _, stream, _ in deaf.frames(3)]


def test_more_than_may_be_held_is_refused(start_server: Start, classifier: Path) -> None:
    limits = {"MOORAGE_MAX_BODY_BYTES": "100000", "MOORAGE_MAX_TOTAL_BODY_BYTES": "300000"}
    server = start_server(classifier, **limits)
    client = Client(server)
    part = message(bytes(90_000))[:80_000]
    for stream in (1, 3, 5, 7, 9):  # each begun and none ended
        client.write(frame(HEADERS, END_HEADERS, stream, client.head(INFER)))
        for at in range(0, len(part), 16_000):
            client.write(frame(DATA, 0, stream, part[at : at + 16_000]))
    told = client.trailers(7)
    assert told["grpc-status"] == "8" and "try again later" in told["grpc-message"]
    client.close()
    deadline = time.monotonic() + 5
    while not answers_well(server):
        assert time.monotonic() < deadline
    too_large = Client(server)
    head = frame(HEADERS, END_HEADERS, 1, too_large.head(INFER))
    too_large.write(head + frame(DATA, 0, 1, b"\0" + (1 << 30).to_bytes(4, "big")))
    assert too_large.trailers(1)["grpc-status"] == "8"
    bomb = Client(server)  # deflate makes a thousandth of zeros
    packed = zlib.compress(bytes(50_000_000))
    content = b"\1" + len(packed).to_bytes(4, "big") + packed
    bomb.write(frame(HEADERS, END_HEADERS, 1, bomb.head(INFER, ("grpc-encoding", "deflate"))))
    for at in range(0, len(content), 16_000):
        bomb.write(frame(DATA, 0, 1, content[at : at + 16_000]))
    assert bomb.trailers(1)["grpc-status"] == "8"
    assert server.terminate() == 0


def test_a_connection_is_renewed_without_losing_a_call(server: Server) -> None:
    """Two good-byes: after the first a client calls elsewhere, the second says which call was the last to be heard."""
    client = Client(server)
    stream, farewells, answered = 1, [], 0
    end = time.monotonic() + 12
    while time.monotonic() < end and len(farewells) < 2:
        client.write(client.call(stream, INFER, request().SerializeToString()))
        for kind, flags, of, payload in client.frames():
            if kind == PING and not flags & ACK:
                client.write(frame(PING, ACK, 0, payload))
            elif kind == GO_AWAY:
                farewells.append(struct.unpack_from(">II", payload))
            elif kind == HEADERS:
                fields = dict(client.decoder.decode(payload))
                if of == stream and flags & END_STREAM:
                    answered += fields["grpc-status"] == "0"
                    break
        stream += 2
        time.sleep(0.05)
    assert farewells == [(2**31 - 1, 0), (stream - 2, 0)] or farewells == [(2**31 - 1, 0), (stream - 4, 0)]
    assert answered == (farewells[1][0] + 1) // 2 and client.ended


def test_texts_that_nobody_takes_are_not_made(start_server: Start, tmp_path: Path) -> None:
    """Of two on one call: neither of the one whose turn it is nor of the one that waits for its own."""
    server = start_server(folder(tmp_path, WRITER), MOORAGE_MODEL_FORMAT="Python")
    client = Client(server, settings=struct.pack(">HI", 4, 0))
    asked = b"".join(message(text_request(name * 1000, 200, 0).SerializeToString()) for name in "ab")
    client.write(frame(HEADERS, END_HEADERS, 1, client.head(STREAM)) + frame(DATA, END_STREAM, 1, asked))
    name, deadline = 'moorage_server_generated_tokens_total{model="digits",version="1"}', time.monotonic() + 10
    while server.metrics().get(name, 0) < 32:  # sixteen of each
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    assert server.metrics()[name] == 32
    client.write(b"".join(frame(WINDOW, 0, of, (1 << 20).to_bytes(4, "big")) for of in (0, 1)))
    got = b"".join(payload for kind, _, _, payload in until_end(client, 1) if kind == DATA)
    at = [got.index(f"{name * 1000}{i} ".encode()) for name in "ab" for i in range(200)]
    assert at == sorted(at)
    assert server.metrics()[name] == 400
    server.process.kill()


def test_a_text_goes_on_to_its_end_while_its_connection_is_renewed(start_server: Start, tmp_path: Path) -> None:
    client = Client(start_server(folder(tmp_path, WRITER), MOORAGE_MODEL_FORMAT="Python"))
    client.write(client.call(1, STREAM, text_request("a", 35, 0.2).SerializeToString()))
    farewells, refused, before, pieces = [], [], 0, 0
    for kind, flags, stream, payload in client.frames():
        if kind == PING and not flags & ACK:
            client.write(frame(PING, ACK, 0, payload))
        elif kind == GO_AWAY:
            farewells.append(struct.unpack(">II", payload))
            before = pieces
            if len(farewells) == 2:
                client.write(client.call(3, HEALTH, b""))
        elif kind == RESET:
            refused.append(stream)
        elif kind == DATA:
            assert f"a{pieces} ".encode() in payload
            pieces += 1
        elif kind == HEADERS and flags & END_STREAM:
            assert dict(client.decoder.decode(payload))["grpc-status"] == "0"
        elif kind == HEADERS:
            client.decoder.decode(payload)
    assert (farewells, refused) == ([(2**31 - 1, 0), (1, 0)], [3])
    assert 0 < before < pieces == 35
    assert client.ended


def test_a_drain_waits_for_an_upload_and_for_no_idle_stream(start_server: Start, classifier: Path) -> None:
    """What is on its way is in flight from its head on, and who asks for nothing holds nobody up."""
    server = start_server(classifier, MOORAGE_DRAIN_TIMEOUT_SECONDS="20")
    idle, upload = Client(server), Client(server)
    idle.write(frame(HEADERS, END_HEADERS, 1, idle.head(STREAM)))
    whole = message(request().SerializeToString())
    upload.write(frame(HEADERS, END_HEADERS, 1, upload.head(INFER)) + frame(DATA, 0, 1, whole[:50]))
    next(upload.frames())
    begin = time.monotonic()
    server.process.terminate()
    server.wait_for("draining")
    time.sleep(3)
    upload.write(frame(DATA, END_STREAM, 1, whole[50:]))
    assert upload.trailers(1)["grpc-status"] == "0"
    assert idle.trailers(1)["grpc-status"] == "14"
    assert server.process.wait(30) == 0
    assert time.monotonic() - begin < 14
    idle.close()
    upload.close()


def test_whatever_comes_it_answers_or_hangs_up_and_serves_on(hurried: Server) -> None:
    """Good calls, bent: bytes changed, cut, doubled, and frames of any kind among them."""
    chance = random.Random(FUZZ_SEED)
    before, end, sent = memory_mib(hurried), time.monotonic() + 10, 0
    while time.monotonic() < end:
        client = Client(hurried)
        stream, parts = 1, []
        for _ in range(chance.randint(1, 6)):
            parts.append(client.call(stream, chance.choice([INFER, HEALTH]), request().SerializeToString()))
            if chance.random() < 0.5:
                kind, flags = chance.randrange(12), chance.randrange(256)
                of, size = chance.choice([0, stream, stream + 2]), chance.randrange(40)
                junk = frame(kind, flags, of, chance.randbytes(size))
                parts.insert(chance.randrange(len(parts) + 1), junk)
            stream += 2
        flat = bytearray(b"".join(parts))
        for _ in range(chance.choice([0, 1, 1, 3])):
            flat[chance.randrange(len(flat))] = chance.randrange(256)
        if chance.random() < 0.2:
            del flat[chance.randrange(len(flat)) :]
        with contextlib.suppress(OSError):
            client.write(bytes(flat))
            if chance.random() < 0.5:
                next(client.frames(0.01), None)
        client.close()
        sent += 1
    assert sent > 100
    assert memory_mib(hurried) - before < GROWTH_MIB
    assert answers_well(hurried)
    assert hurried.terminate() == 0
    assert not [line for line in hurried.log if line.get("level") == "error"]
