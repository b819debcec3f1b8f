"""The operator as a process of its own, against a cluster without pods: started, watched, killed.

It runs with the rights that the chart gives it, so a missing right fails tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from cluster import runs
from cluster.ports import unused

ROOT = Path(__file__).parents[2]
TORCH_IMAGE, TRITON_IMAGE = "moorage/torch:test", "moorage/triton:test"
WRITES = ("apply", "patch", "post", "put", "delete")


class OperatorProcess:
    def __init__(self, kubeconfig: Path, folder: Path, name: str, **settings: object) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._ports = dict(zip(("health", "metrics"), unused(2), strict=True))
        self._settings: dict[str, object] = {
            "bind_address": "127.0.0.1",
            "health_port": self._ports["health"],
            "metrics_port": self._ports["metrics"],
            "lease_namespace": "moorage-system",
            "log_level": "debug",
            "torch_image": TORCH_IMAGE,
            "triton_image": TRITON_IMAGE,
            **settings,
        }
        self._kubeconfig = kubeconfig
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> OperatorProcess:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.log.parent),
            "KUBECONFIG": str(self._kubeconfig),
            "PYTHONPATH": str(ROOT / "operator"),
            **runs.mark(),
            **{f"MOORAGE_{name.upper()}": str(value) for name, value in self._settings.items()},
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moorage", "run"],
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
            )
        return self

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def wait(self, timeout: float) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        return self._process.wait(timeout)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, timeout: float = 15) -> int:
        """As the kubelet does; killed when it does not end."""
        if self._process is None:
            return 0
        if self.running:
            self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {timeout:.0f} s\n{self.tail()}") from None

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait(10)

    def probe(self, path: str) -> tuple[int, str]:
        """Status and text of a probe; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ports['health']}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with these labels."""
        return sum(
            value for sample, found, value in self.samples() if sample == name and labels.items() <= found.items()
        )

    def requests(self) -> Counter[tuple[str, str]]:
        """Its requests to the API server by verb and resource, as it counts them itself."""
        found: Counter[tuple[str, str]] = Counter()
        for sample, labels, value in self.samples():
            if sample == "moorage_operator_api_requests_total":
                found[labels["verb"], labels["resource"]] += int(value)
        return found

    def writes(self) -> int:
        """Requests that could change something, its Lease aside, as it counts them itself."""
        counted = self.requests().items()
        return sum(n for (verb, resource), n in counted if verb in WRITES and resource != "leases")

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Its metrics: name, labels, value. Empty when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ports['metrics']}/metrics", timeout=2) as answer:
                text = answer.read().decode()
        except OSError:
            return
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield sample.name, dict(sample.labels), sample.value

    @property
    def leads(self) -> bool:
        return self.metric("moorage_operator_leader") == 1

    @property
    def serves(self) -> bool:
        return any(line.get("event") == "serving" for line in self.lines())

    def lines(self) -> list[dict[str, Any]]:
        """Its log. What is not JSON was not written by its logger and comes under the key `raw`."""
        found: list[dict[str, Any]] = []
        for line in self.log.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"raw": line})
        return found

    def last_word(self) -> str:
        """Why it ended, as its log says."""
        return next((str(line["reason"]) for line in reversed(self.lines()) if line.get("event") == "ending"), "")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text().splitlines()[-lines:])

    def until(self, what: str, *, timeout: float = 120) -> OperatorProcess:
        """Waits until one of `leads`, `serves` or `running` holds."""
        end = time.monotonic() + timeout
        while not getattr(self, what):
            if time.monotonic() > end or (what != "running" and not self.running):
                raise AssertionError(f"{self.name}: not {what}\n{self.tail()}")
            time.sleep(0.1)
        return self
