"""The real tritonserver with its python backend, out of the nvidia-pytriton wheel: its files and how it is started."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from cluster import cache, pypi
from cluster.progress import Progress

VERSION = "0.7.0"
PORTS = ("http", "grpc", "metrics")

# As the operator writes it (golden tests hold that side).
CONFIG = """\
name: "digits"
backend: "python"
max_batch_size: 64
dynamic_batching {
  max_queue_delay_microseconds: 0
}
instance_group {
  count: 1
  kind: KIND_CPU
}
"""

LIMITED = """
  priority_levels: 9
  default_priority_level: 5
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 86400000000
    allow_timeout_override: true
    max_queue_size: %d
  }
"""
"""What it adds to `dynamic_batching` for `maxQueueSize`."""


def installed(progress: Progress) -> Path:
    """tritonserver laid out as its image has it, for this Python."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = pypi.installed("nvidia-pytriton", VERSION, progress)

    def make(folder: Path) -> None:
        for name in ("bin", "backends", "caches"):
            shutil.copytree(wheel / "pytriton" / "tritonserver" / name, folder / name, symlinks=True)
        stub = wheel / "pytriton" / "tritonserver" / "python_backend_stubs" / python / "triton_python_backend_stub"
        shutil.copy(stub, folder / "backends" / "python")
        (folder / "libs").symlink_to(wheel / "nvidia_pytriton.libs")

    return cache.publish("triton", f"pytriton-{VERSION}-python-{python}", make, progress)


def argv(server: Path, repository: Path, ports: list[int]) -> list[str]:
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={server / 'backends'}",
        *(f"--{kind}-address=127.0.0.1" for kind in PORTS),
        *(f"--{kind}-port={port}" for kind, port in zip(PORTS, ports, strict=True)),
        # As the operator has it, so that the last words are those of the fault.
        "--log-info=false",
        "--allow-gpu-metrics=false",
        # Its first warning about missing pinned memory is long; nothing here uses it.
        "--pinned-memory-pool-byte-size=0",
        "--exit-timeout-secs=5",
    ]


def environment(server: Path, model: Path, form: str = "TorchExport") -> dict[str, str]:
    libraries = [str(server / "libs"), str(sysconfig.get_config_var("LIBDIR"))]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        # The stub takes site-packages from the first python3 on PATH.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MOORAGE_MODEL_PATH": str(model),
        "MOORAGE_MODEL_FORMAT": form,
        "OMP_NUM_THREADS": "1",
    }
