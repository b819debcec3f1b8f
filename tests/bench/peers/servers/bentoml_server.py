"""A service of BentoML's with its batching."""

import os

import bentoml
import numpy as np
import torch


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1024}, logging={"access": {"enabled": False}})
class Served:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model = torch.jit.load(os.environ["PEER_MODEL"])

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.model(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))).numpy()
