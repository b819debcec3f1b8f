"""A handler of TorchServe's that runs what its batching brings together."""

import ast
import os
from typing import Any

import numpy as np
import torch


class Served:
    def initialize(self, context: Any) -> None:
        torch.set_num_threads(1)
        self.shape = ast.literal_eval(os.environ["PEER_SHAPE"])
        self.model = torch.jit.load(os.environ["PEER_MODEL"])

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        bodies = [one.get("body") or one.get("data") for one in data]
        if isinstance(bodies[0], dict):
            rows = torch.tensor([body["x"][0] for body in bodies])
        else:
            rows = torch.from_numpy(np.stack([np.frombuffer(body, np.float32) for body in bodies]))
            rows = rows.reshape(-1, *self.shape)
        with torch.inference_mode():
            return self.model(rows).tolist()
