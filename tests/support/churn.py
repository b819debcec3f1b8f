"""A life of fifty resources: made, changed, deleted and made again, in the order that a seed gives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from support.resources import Manifest, model_deployment, training_job, without_volumes

Name = tuple[str, str]
"""Kind and name."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a user does next. What is deleted may be applied again in the same step."""

    delete: list[Name] = field(default_factory=list)
    apply: list[Manifest] = field(default_factory=list)
    born: list[str] = field(default_factory=list)
    """The names among them that begin a new life."""


class Churn:
    def __init__(self, seed: int, count: int = 50, batch: int = 5) -> None:
        self._random, self._count, self._batch = random.Random(seed), count, batch
        self.wanted: dict[Name, Manifest] = {}
        """What a user who reads what he did would expect to be there."""

    def steps(self) -> Iterator[Step]:
        born = [self._first(number) for number in range(self._count)]
        for start in range(0, self._count, self._batch):
            yield self._step(born[start : start + self._batch])
        for _ in range(self._count // self._batch):
            yield self._step([])

    def _step(self, born: list[Manifest]) -> Step:
        there = sorted(self.wanted)
        changed = [self._changed(self.wanted[name]) for name in self._some(there, 4)]
        deleted = self._some(there, 2)
        again = [self._first(int(name.removeprefix("r"))) for _, name in self._some(deleted, 1)]
        apply = {name_of(each): each for each in (*changed, *born) if name_of(each) not in deleted}
        apply |= {name_of(each): each for each in again}
        for name in deleted:
            del self.wanted[name]
        born_now = [name for _, name in apply.keys() - self.wanted.keys()]
        self.wanted |= apply
        return Step(deleted, list(apply.values()), born_now)

    def _some(self, of: list[Name], at_most: int) -> list[Name]:
        return self._random.sample(of, min(len(of), self._random.randint(0, at_most)))

    def _first(self, number: int) -> Manifest:
        """One in ten trains, the others serve."""
        name = f"r{number:02}"
        if number % 10 == 9:
            return training_job(
                name,
                data={"uri": "https://data.example/x.csv"},
                output={"uri": f"s3://models/{name}/{self._random.randint(1, 9)}"},
                workers=self._random.randint(1, 2),
            )
        return model_deployment(name, **self._shape(without_volumes()))

    def _changed(self, manifest: Manifest) -> Manifest:
        spec = manifest["spec"]
        if manifest["kind"] == "TrainingJob":
            # The rest of a run is fixed; after so long nothing is removed within a test.
            later = {"ttlSecondsAfterFinished": self._random.randint(3600, 7200)}
            return {**manifest, "spec": {**spec, **later}}
        return {**manifest, "spec": self._shape({"model": spec["model"]})}

    def _shape(self, spec: dict[str, Any]) -> dict[str, Any]:
        pick = self._random.choice
        bounds = {"minReplicas": 1, "maxReplicas": 2, "metrics": [{"type": "Concurrency", "target": 4}]}
        size = pick([{"replicas": 1}, {"replicas": 2}, {}, {"scaling": bounds}])
        runtime = {pick(["torch", "triton"]): {}}
        return {**spec, **size, "runtime": runtime, "drain": {"timeoutSeconds": self._random.randint(1, 60)}}


def name_of(manifest: Manifest) -> Name:
    return manifest["kind"], manifest["metadata"]["name"]
