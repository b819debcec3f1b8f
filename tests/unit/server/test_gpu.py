"""Metrics of the GPU, from NVML's real Python binding and a stub of the C library below it, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from .conftest import ROOT

# Two GPUs. NVML_<QUESTION> in the environment is the error that it answers, from then on.
STUB = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct device { unsigned index; char uuid[80]; };
struct memory { unsigned long long total, free, used; };
struct utilization { unsigned gpu, memory; };
static struct device devices[] = {{0, "GPU-aaaa"}, {1, "GPU-bbbb"}};

static int error(const char *question) {
    const char *value = getenv(question);
    return value ? atoi(value) : 0;
}
int nvmlInitWithFlags(unsigned flags) { fputs("init\n", stderr); return error("NVML_INIT"); }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {
    *device = devices + index;
    return index ? error("NVML_SECOND") : 0;
}
int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length) {
    if (strlen(device->uuid) >= length) return 7;
    strcpy(uuid, device->uuid);
    return 0;
}
int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory) {
    *memory = (struct memory){80ULL << 30, 78ULL << 30, (2ULL << 30) + device->index};
    return error("NVML_MEMORY");
}
int nvmlDeviceGetUtilizationRates(struct device *device, struct utilization *rates) {
    *rates = (struct utilization){device->index ? 0 : 37, 5};
    return error("NVML_UTILIZATION");
}
int nvmlDeviceGetPowerUsage(struct device *device, unsigned *milliwatts) {
    *milliwatts = 71250;
    return error("NVML_POWER");
}
int nvmlDeviceGetTotalEnergyConsumption(struct device *device, unsigned long long *millijoules) {
    *millijoules = 5000000000500ULL;
    return error("NVML_ENERGY");
}
const char *nvmlErrorString(int error) { return "an error of the stub"; }
"""

# Two models are loaded; then for each set of errors a scrape.
SERVER = """
import json, os, sys
from prometheus_client.parser import text_string_to_metric_families as parse
from moorage_server import logs
from moorage_server.metrics import Metrics

logs.configure("info")
device, *scrapes = json.loads(sys.argv[1])
metrics = Metrics()
for name in "ab":
    info = {"format": "TorchExport", "sha256": "", "device": device, "weights": "FP32"}
    metrics.loaded(metrics.of(name, "1", several=True), 1, info, {})
answers = []
for errors in scrapes:
    os.environ.update(errors)
    text = metrics.exposition("")[0].decode()
    samples = [sample for family in parse(text) for sample in family.samples]
    answers.append([[one.name, one.labels, one.value] for one in samples])
print(json.dumps({"scrapes": answers, "pynvml": "pynvml" in sys.modules}))
"""

PREFIX = "moorage_server_gpu_"
ALL = {"memory_used_bytes", "memory_total_bytes", "utilization_ratio", "power_watts", "energy_joules_total"}
LOST = dict.fromkeys(
    ("NVML_MEMORY", "NVML_UTILIZATION", "NVML_POWER", "NVML_ENERGY"), str(pynvml.NVML_ERROR_GPU_IS_LOST)
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the stub is in."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    source = folder / "stub.c"
    source.write_text(STUB)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


class Told:
    """What a server with this library told at each of its scrapes."""

    def __init__(self, library: Path, *errors: dict[str, str], device: str = "cuda", **env: str) -> None:
        paths = [str(ROOT / "images" / "torch"), *filter(None, sys.path)]
        done = subprocess.run(
            [sys.executable, "-c", SERVER, json.dumps([device, *(errors or ({},))])],
            env={**os.environ, "LD_LIBRARY_PATH": str(library), "PYTHONPATH": os.pathsep.join(paths), **env},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        *log, answer = map(json.loads, done.stdout.splitlines())
        self.log: list[dict[str, Any]] = log
        self.binding_used: bool = answer["pynvml"]
        self.inits = done.stderr.count("init\n")
        self.everything = [{name for name, _, _ in samples} for samples in answer["scrapes"]]
        self.scrapes: list[dict[tuple[str, str, str], float]] = [
            {
                (name.removeprefix(PREFIX), labels["gpu"], labels["uuid"]): value
                for name, labels, value in samples
                if name.startswith(PREFIX)
            }
            for samples in answer["scrapes"]
        ]

    def names(self, scrape: int = 0) -> set[str]:
        return {name for name, _, _ in self.scrapes[scrape]}


def test_everything_in_base_units(library: Path) -> None:
    told = Told(library)
    gib = 1 << 30
    assert told.scrapes == [
        {
            ("memory_used_bytes", "0", "GPU-aaaa"): 2 * gib,
            ("memory_used_bytes", "1", "GPU-bbbb"): 2 * gib + 1,
            ("memory_total_bytes", "0", "GPU-aaaa"): 80 * gib,
            ("memory_total_bytes", "1", "GPU-bbbb"): 80 * gib,
            ("utilization_ratio", "0", "GPU-aaaa"): 0.37,
            ("utilization_ratio", "1", "GPU-bbbb"): 0,
            ("power_watts", "0", "GPU-aaaa"): 71.25,
            ("power_watts", "1", "GPU-bbbb"): 71.25,
            ("energy_joules_total", "0", "GPU-aaaa"): 5000000000.5,
            ("energy_joules_total", "1", "GPU-bbbb"): 5000000000.5,
        }
    ]
    assert told.log == []
    assert told.inits == 1, "a second model starts NVML no second time"


@pytest.mark.parametrize("what", ["MEMORY", "UTILIZATION", "POWER", "ENERGY"])
def test_what_a_gpu_does_not_support_is_left_out(library: Path, what: str) -> None:
    told = Told(library, {f"NVML_{what}": str(pynvml.NVML_ERROR_NOT_SUPPORTED)})
    assert told.names() == {name for name in ALL if not name.startswith(what.lower())}
    assert told.log == []


def test_a_gpu_that_is_lost_breaks_no_scrape(library: Path) -> None:
    told = Told(library, {}, LOST, LOST)
    assert [told.names(scrape) for scrape in range(3)] == [ALL, set(), set()]
    assert all("moorage_server_requests_in_flight" in names for names in told.everything)
    assert [line["error"] for line in told.log] == ["NVML: GPU is lost"], "once, not at every scrape"


def test_a_gpu_that_is_broken_from_the_start_hides_no_other(library: Path) -> None:
    told = Told(library, NVML_SECOND=str(pynvml.NVML_ERROR_GPU_IS_LOST))
    assert told.names() == ALL
    assert {gpu for _, gpu, _ in told.scrapes[0]} == {"0"}


def test_without_the_library_there_are_no_such_metrics(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")  # found before that of a machine with a GPU
    told = Told(tmp_path, {}, {})
    assert told.names(0) == told.names(1) == set()
    assert all("moorage_server_requests_in_flight" in names for names in told.everything)
    assert [line["error"] for line in told.log] == ["NVML: NVML Shared Library Not Found"]


def test_without_a_driver_there_are_no_such_metrics(library: Path) -> None:
    told = Told(library, NVML_INIT=str(pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    assert told.names() == set()
    assert [line["error"] for line in told.log] == ["NVML: Driver Not Loaded"]
    assert told.inits == 1


def test_a_server_on_the_cpu_asks_nobody(library: Path) -> None:
    told = Told(library, device="cpu")
    assert told.names() == set()
    assert told.inits == 0 and not told.binding_used
