"""What the torch server's gRPC is measured against: the same model and engine behind grpcio's own server, as others
have it. `python -m bench.grpc_aio MODEL`."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from moorage_server import protobuf
from moorage_server.engine import Engine
from moorage_server.load import load
from moorage_server.settings import Source


async def serve(path: str) -> None:
    model = load(Source(Path(path), "m"))
    engine = Engine(model, ThreadPoolExecutor(1), max_batch_size=64)
    loop = asyncio.get_running_loop()

    async def infer(request: Any, _context: Any) -> Any:
        asked = protobuf.parse_request(request, model.signature)
        result: asyncio.Future[Any] = loop.create_future()
        engine.submit(asked.inputs, asked.rows, result.set_result)
        return protobuf.answer("m", "1", asked, await result, model.signature)

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=partial(protobuf.read, "ModelInferRequest"),
        response_serializer=lambda answer: answer.SerializeToString(),
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(protobuf.SERVICE, {"ModelInfer": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
