"""A deployment of Ray Serve's with its batching."""

import ast
import os
import time
from typing import Any

import numpy as np
import ray
import torch
from ray import serve


@serve.deployment(max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0})
class Served:
    def __init__(self, path: str, shape: tuple[int, ...]) -> None:
        torch.set_num_threads(1)
        self.shape = shape
        self.model = torch.jit.load(path)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def run(self, rows: list[Any]) -> list[Any]:
        with torch.inference_mode():
            return self.model(torch.from_numpy(np.stack(rows))).tolist()

    async def __call__(self, request: Any) -> Any:
        if request.headers["content-type"] == "application/json":
            row = np.array((await request.json())["x"][0], np.float32)
        else:
            row = np.frombuffer(await request.body(), np.float32).reshape(self.shape)
        return {"y": await self.run(row)}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])},
        logging_config={"enable_access_log": False},
    )
    serve.run(Served.bind(os.environ["PEER_MODEL"], ast.literal_eval(os.environ["PEER_SHAPE"])))
    while True:
        time.sleep(1)
