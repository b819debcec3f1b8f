"""KServe's own model server, as its guide to custom models has it; it does not batch in the process.

Its binary extension was slower here than its JSON.
"""

import logging
import os
from typing import Any

import torch
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Served(Model):
    def __init__(self) -> None:
        super().__init__("m")
        self.model = torch.jit.load(os.environ["PEER_MODEL"])
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        with torch.inference_mode():
            values = self.model(torch.from_numpy(payload.inputs[0].as_numpy().copy())).numpy()
        output = InferOutput("output", list(values.shape), "FP32")
        output.set_data_from_numpy(values, binary_data=False)
        return InferResponse(response_id=payload.id or "1", model_name="m", infer_outputs=[output])


if __name__ == "__main__":
    torch.set_num_threads(1)
    port = int(os.environ["PEER_PORT"])
    server = ModelServer(http_port=port, enable_grpc=False, workers=1, enable_latency_logging=False)
    for logger in ("kserve.trace", "uvicorn.access"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    server.start([Served()])
