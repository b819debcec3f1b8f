"""One way to ask each kind of server, through the official protocol and clients."""

import time
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Answers:
    """Predicted labels (n,) int64 and the seconds each request took."""

    labels: NDArray[np.int64]
    seconds: list[float]

    def accuracy(self, truth: NDArray[np.int64]) -> float:
        return float((self.labels == truth).mean())

    def percentile_ms(self, q: float) -> float:
        return float(np.percentile(self.seconds, q) * 1000)


def request_body(x: NDArray[np.float32], name: str = "x") -> dict[str, object]:
    """An Open Inference Protocol request of one FP32 tensor, shape (rows, features)."""
    return {"inputs": [{"name": name, "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}]}


def over_http(address: str, model: str, x: NDArray[np.float32], rows: int = 4) -> Answers:
    """Sends x in requests of `rows` rows to `http://address` (REST)."""
    labels, seconds = [], []
    with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
        for part in np.array_split(x, max(1, len(x) // rows)):
            start = time.perf_counter()
            answer = client.post(f"/v2/models/{model}/infer", json=request_body(part))
            seconds.append(time.perf_counter() - start)
            answer.raise_for_status()
            outputs = {o["name"]: o for o in answer.json()["outputs"]}
            labels.append(np.array(outputs["label"]["data"], dtype=np.int64).ravel())
    return Answers(np.concatenate(labels), seconds)


def over_grpc(address: str, model: str, x: NDArray[np.float32], rows: int = 4) -> Answers:
    """The same through `tritonclient.grpc`."""
    from tritonclient import grpc

    labels, seconds = [], []
    with grpc.InferenceServerClient(address) as client:
        for part in np.array_split(x, max(1, len(x) // rows)):
            tensor = grpc.InferInput("x", list(part.shape), "FP32")
            tensor.set_data_from_numpy(part)
            start = time.perf_counter()
            answer = client.infer(model, [tensor], client_timeout=30)
            seconds.append(time.perf_counter() - start)
            labels.append(answer.as_numpy("label").ravel())
    return Answers(np.concatenate(labels), seconds)
