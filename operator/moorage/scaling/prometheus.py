"""Instant queries to Prometheus over HTTP. Knows no metric and takes no decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from moorage import telemetry


class PrometheusError(Exception):
    """No answer to go by. `reason` is a word for a condition, the message is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Sample:
    labels: Mapping[str, str]
    value: float


class Prometheus:
    def __init__(self, session: aiohttp.ClientSession, url: str, timeout: float) -> None:
        self._session = session
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def instant(self, query: str) -> list[Sample]:
        """What the query gives now: one sample for each series, or one without labels for a scalar."""
        try:
            samples = await self._ask(query)
        except PrometheusError as error:
            telemetry.SCALING_QUERIES.labels(error.reason).inc()
            raise
        telemetry.SCALING_QUERIES.labels("ok").inc()
        return samples

    async def _ask(self, query: str) -> list[Sample]:
        try:
            # POST: a query of the user's may be longer than a URL should be.
            async with self._session.post(
                f"{self._url}/api/v1/query", data={"query": query}, timeout=self._timeout
            ) as response:
                answer = await _json(response)
                status = response.status
        except TimeoutError as error:
            raise PrometheusError("PrometheusTimeout", f"Prometheus at {self._url} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise PrometheusError(
                "PrometheusUnreachable", f"Prometheus at {self._url} is out of reach: {error}"
            ) from error
        if answer.get("status") != "success":
            said = answer.get("error") or f"HTTP {status}"
            # 422 is "this query cannot be executed", 400 "this is no PromQL": the query's fault, not the server's.
            reason = "BadQuery" if status in (400, 422) else "PrometheusError"
            raise PrometheusError(reason, f"Prometheus refuses the query: {said}")
        try:
            return _samples(answer.get("data") or {})
        except (LookupError, TypeError, ValueError) as error:
            raise PrometheusError(
                "PrometheusError", f"Prometheus gives something else than numbers: {error}"
            ) from error


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        answer = await response.json(content_type=None)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _samples(data: dict[str, Any]) -> list[Sample]:
    result = data.get("result") or []
    match data.get("resultType"):
        case "scalar":
            return [Sample({}, float(result[1]))]
        case "vector":
            return [Sample(series.get("metric") or {}, float(series["value"][1])) for series in result]
        case other:
            raise PrometheusError(
                "BadQuery", f"the query gives a {other}, not a number: use an instant vector or a scalar"
            )
