"""What a Deployment of two replicas and their kubelets do: an operator that has ended is started again, at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from support.operator_process import OperatorProcess


class Supervisor:
    def __init__(self, start: Callable[[], OperatorProcess], replicas: int = 2) -> None:
        self._start = start
        self._stop = threading.Event()
        self._operators = [start() for _ in range(replicas)]
        self._killed: set[str] = set()
        self.ended: list[OperatorProcess] = []
        """Those that ended and that nobody killed."""
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        for operator in self._operators:
            operator.kill()

    @property
    def operators(self) -> tuple[OperatorProcess, ...]:
        return tuple(self._operators)

    def leader(self, timeout: float = 120) -> OperatorProcess:
        """Whoever leads, once somebody does."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for operator in self.operators:
                if operator.running and operator.leads:
                    return operator
            time.sleep(0.05)
        raise AssertionError(
            "nobody leads\n" + "\n".join(f"--- {each.name}\n{each.tail(10)}" for each in self.operators)
        )

    def kill(self, operator: OperatorProcess) -> None:
        self._killed.add(operator.name)
        operator.kill()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for place, operator in enumerate(self._operators):
                if not operator.running:
                    if operator.name not in self._killed:
                        self.ended.append(operator)
                    self._operators[place] = self._start()
