"""Load by ghz, over gRPC, on a core of its own, and what a server on another core did under it."""

import json
import subprocess
import tempfile
from pathlib import Path
from statistics import quantiles

from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2

from bench import usage
from bench.wrk import CLIENT_CORE, Run
from cluster import binaries
from cluster.progress import Progress

CONNECTIONS = 4
"""As many as calls at the same time, up to these: gRPC's clients have few, and many calls on each."""


def protoset() -> bytes:
    """The protocol's descriptors, as the official client has them."""
    found, left = {}, [service_pb2.DESCRIPTOR]
    while left:
        file = left.pop()
        if file.name not in found:
            found[file.name] = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
            left += file.dependencies
    return descriptor_pb2.FileDescriptorSet(file=list(reversed(found.values()))).SerializeToString()


def load(pid: int, address: str, message: bytes, *, at_once: int, seconds: float = 5) -> Run:
    """After a second to warm up."""
    ghz = binaries.ensure(["ghz"], Progress()).path("ghz")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "protoset").write_bytes(protoset())
        Path(folder, "message").write_bytes(message)

        def run(for_seconds: float) -> dict[str, list[dict[str, object]]]:
            argv = [
                *("taskset", "-c", str(CLIENT_CORE), str(ghz), "--insecure", "--cpus", "1", "-O", "json"),
                *("--protoset", f"{folder}/protoset", "--call", "inference.GRPCInferenceService.ModelInfer"),
                *("-B", f"{folder}/message", "-c", str(at_once), "--connections", str(min(at_once, CONNECTIONS))),
                *("-z", f"{for_seconds:g}s", "--duration-stop", "wait", address),
            ]
            found: dict[str, list[dict[str, object]]] = json.loads(subprocess.check_output(argv, text=True))
            return found

        run(1)
        before = usage.cpu_seconds(pid)
        calls = run(seconds)["details"]
        spent = usage.cpu_seconds(pid) - before
    good = [float(str(call["latency"])) / 1e6 for call in calls if call["status"] == "OK"]
    shares = quantiles(good, n=1000)
    return Run(
        per_second=len(good) / seconds,
        p50=shares[499], p99=shares[989], p999=shares[998],
        refused=len(calls) - len(good), broken=0,
        cpu_us=spent / max(1, len(calls)) * 1e6,
        memory_mib=usage.memory_mib(pid),
    )  # fmt: skip
