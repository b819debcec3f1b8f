"""A model server: PyTorch models, one or several, the Open Inference Protocol v2 over REST, Prometheus metrics.

What a request passes through, each part in a module of its own: `http1` (bytes to requests), `edge` (paths),
`repository` (which models are in memory), `protocol` (bodies to arrays and back), `engine` (queue and batches), `model`
(torch). Only `load` and `model` import torch, so that the process answers its liveness probe while torch is still
loading.
"""

__version__ = "0.1.0"
