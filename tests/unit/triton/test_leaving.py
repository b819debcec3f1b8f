"""A gRPC client that keeps its channel for ever has moved on before its pod's server stops, and loses no request.

The rest of the way a pod takes is tested on a real cluster: tests/e2e/test_no_request_lost.py.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from moorage.desired.runtime import LINGER
from support.grpc_load import GrpcLoad

from .conftest import Triton

# As the operator writes it (golden tests hold that side).
AGE = "--grpc-max-connection-age=3000"
Start = Callable[..., Triton]


CONFIG = """\
name: "echo"
backend: "python"
max_batch_size: 64
input [{name: "x", data_type: TYPE_FP32, dims: [4]}]
output [{name: "y", data_type: TYPE_FP32, dims: [4]}]
"""
# Without torch, whose start would be the longest part of this test.
ECHO = """\
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x") for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("y", x.to_dlpack())]) for x in inputs]
"""


class Way:
    """A way to the server that knows since when each of its connections is open."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.partition(":")
        self.open: dict[int, float] = {}
        self.made = 0
        self.port = 0

    @contextmanager
    def pass_on(self) -> Iterator[str]:
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        number, self.open[self.made] = self.made, time.monotonic()
        there, back = await asyncio.open_connection(self._host, int(self._port))
        await asyncio.wait(
            [asyncio.create_task(_copy(reader, back)), asyncio.create_task(_copy(there, writer))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        for each in (writer, back):
            each.close()
        del self.open[number]


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()


def test_kept_channels_move_while_a_pod_lingers(triton: Start, tmp_path: Path) -> None:
    model = tmp_path / "models" / "echo"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "1" / "model.py").write_text(ECHO)
    server = triton(model, repository=model.parent, arguments=(AGE,)).wait_until_ready()
    way = Way(server.grpc)
    with way.pass_on() as address, GrpcLoad(address, "echo", np.ones((1, 4), np.float32), rate=40) as load:
        time.sleep(1)
        assert way.made == 4, "a channel each"
        left = time.monotonic()  # the Service forgets the pod; new connections go elsewhere
        time.sleep(LINGER)
        stayed = [opened for opened in way.open.values() if opened <= left]
        time.sleep(2 * LINGER)
    assert stayed == []
    assert load.failures == {}
    assert load.sent > 100
