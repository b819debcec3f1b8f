"""LitServe without its batching and its fast queue, both of which made it slower here."""

import os
from typing import Any

import litserve
import torch


class Served(litserve.LitAPI):
    def setup(self, device: Any) -> None:
        torch.set_num_threads(1)
        self.model = torch.jit.load(os.environ["PEER_MODEL"])

    def decode_request(self, request: dict[str, Any]) -> torch.Tensor:
        return torch.tensor(request["x"])

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(x)

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        return {"y": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Served(), accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(port=int(os.environ["PEER_PORT"]), host="127.0.0.1", generate_client_file=False, log_level="warning")
