"""The load generator for gRPC: clients that keep one channel for ever, as most do, at a fixed rate."""

import threading
import time
from collections import Counter
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


class GrpcLoad:
    """Runs `workers` threads from `start` to `stop`, for at most `max_seconds`."""

    def __init__(
        self,
        address: str,
        model: str,
        x: NDArray[np.float32],
        *,
        rate: float,
        workers: int = 4,
        max_seconds: float = 120,
    ) -> None:
        self._address, self._model, self._x = address, model, x
        self._pause, self._max_seconds = workers / rate, max_seconds
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._worker, daemon=True) for _ in range(workers)]
        self.sent = 0
        self.failures: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._end = time.monotonic() + self._max_seconds
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _worker(self) -> None:
        # Else all channels of a process to one address are one connection.
        alone = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.InferenceServerClient(self._address, channel_args=alone) as client:
            asked = grpc.InferInput("x", list(self._x.shape), np_to_triton_dtype(self._x.dtype))
            asked.set_data_from_numpy(self._x)
            at = time.monotonic()
            while not self._stop.is_set() and time.monotonic() < self._end:
                self.sent += 1
                try:
                    client.infer(self._model, [asked], client_timeout=30)
                except InferenceServerException as error:
                    self.failures[str(error)[:120]] += 1
                at += self._pause
                self._stop.wait(max(0.0, at - time.monotonic()))
