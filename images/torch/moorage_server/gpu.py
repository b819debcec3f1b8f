"""What the node's driver (NVML) knows of the GPUs: memory, utilisation, power and energy, as Prometheus metrics.

NVML is asked when Prometheus scrapes. A question takes it from microseconds to a few ms, on the loop's thread: fine for
a scrape, and nothing asks it for a request. The GPUs are those that NVML lists; in a container these are its own. Of a
GPU in MIG mode NVML tells less.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pynvml
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_GPU = ("gpu", "uuid")


def register(registry: CollectorRegistry) -> None:
    """Once in a process. Without NVML there are no such metrics, and the log says so."""
    try:
        gpus = _Gpus()
    except pynvml.NVMLError as error:
        structlog.get_logger().warning("no metrics of the GPU", error=f"NVML: {error}")
    else:
        registry.register(gpus)


class _Gpus(Collector):
    def __init__(self) -> None:
        """Raises NVMLError."""
        pynvml.nvmlInit()
        self._told: set[str] = set()
        self._devices: list[tuple[list[str], Any]] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = self._ask(pynvml.nvmlDeviceGetHandleByIndex, index)
            uuid = self._ask(pynvml.nvmlDeviceGetUUID, device) if device else None
            if uuid:  # else it is broken, and others need not be
                self._devices.append(([str(index), uuid], device))

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily(
            "moorage_server_gpu_memory_used_bytes", "Memory of the GPU in use, by whomever.", labels=_GPU
        )
        total = GaugeMetricFamily("moorage_server_gpu_memory_total_bytes", "Memory that the GPU has.", labels=_GPU)
        utilization = GaugeMetricFamily(
            "moorage_server_gpu_utilization_ratio",
            "Part of the driver's last period (up to a second) in which anything ran on the GPU; 0 to 1.",
            labels=_GPU,
        )
        power = GaugeMetricFamily("moorage_server_gpu_power_watts", "What the GPU draws.", labels=_GPU)
        energy = CounterMetricFamily(
            "moorage_server_gpu_energy_joules_total", "What the GPU took since its driver was loaded.", labels=_GPU
        )
        for labels, device in self._devices:
            if (memory := self._ask(pynvml.nvmlDeviceGetMemoryInfo, device)) is not None:
                used.add_metric(labels, memory.used)
                total.add_metric(labels, memory.total)
            if (rates := self._ask(pynvml.nvmlDeviceGetUtilizationRates, device)) is not None:
                utilization.add_metric(labels, rates.gpu / 100)
            if (milliwatts := self._ask(pynvml.nvmlDeviceGetPowerUsage, device)) is not None:
                power.add_metric(labels, milliwatts / 1000)
            if (millijoules := self._ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, device)) is not None:
                energy.add_metric(labels, millijoules / 1000)
        return used, total, utilization, power, energy

    def _ask(self, question: Callable[[Any], Any], of: Any) -> Any:
        """None where NVML cannot tell. A GPU that is lost would say so at every scrape: each error is told once."""
        try:
            return question(of)
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED and str(error) not in self._told:
                self._told.add(str(error))
                structlog.get_logger().warning("the GPU does not tell all", error=f"NVML: {error}")
            return None
