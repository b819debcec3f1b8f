"""The limit of the torch server's HTTP edge: it answers a constant to whatever comes. `python -m bench.hello`."""

import asyncio

import uvloop

from moorage_server.door import Door
from moorage_server.messages import Limits, Request, Response

BODY = b'{"model_name":"m","model_version":"1","outputs":[]}'


class Hello:
    def head(self, request: Request) -> Response | None:
        return None

    def call(self, request: Request) -> Response:
        return Response(200, BODY)

    def done(self, request: Request, status: int, error: str) -> None:
        pass


async def serve() -> None:
    server = await Door(Hello(), Limits()).open(0)
    print(min(server.sockets, key=lambda one: one.family).getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
