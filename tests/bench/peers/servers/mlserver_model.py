"""A runtime of MLServer's, with adaptive batching (`max_batch_size` stands in its settings)."""

import os

import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Served(MLModel):
    async def load(self) -> bool:
        torch.set_num_threads(1)
        self.model = torch.jit.load(os.environ["PEER_MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        values = NumpyCodec.decode_input(payload.inputs[0])
        with torch.inference_mode():
            answer = self.model(torch.from_numpy(values.copy())).numpy()
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", answer)])
