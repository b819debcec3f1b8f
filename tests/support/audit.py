"""Who wrote what, by the API server's audit log: what a program says of itself is not enough to prove that it rests."""

import json
from datetime import datetime
from typing import Any

from cluster import Cluster
from cluster.names import Names
from support import deploy

Event = dict[str, Any]


def writes(api: Cluster, *, since: datetime, namespace: str | None = None, agent: str = "") -> list[Event]:
    """What operators asked for that may change something, Leases aside; in one namespace and of one user agent, where
    these are given. The audit policy keeps nothing but writes."""
    found = []
    for line in (Names(api.name).logs / "audit.log").read_text().splitlines():
        event = json.loads(line)
        # Who came without a valid token has no name at all.
        ours = event["user"].get("username", "").startswith(f"system:serviceaccount:{deploy.NAMESPACE}:")
        about = event.get("objectRef") or {}
        there = about.get("resource") != "leases" and namespace in (None, about.get("namespace"))
        then = datetime.fromisoformat(event["requestReceivedTimestamp"]) > since
        if ours and there and then and event.get("userAgent", "").startswith(agent):
            found.append(event)
    return found


def told(event: Event) -> str:
    about = event.get("objectRef") or {}
    parts = (about.get("resource"), about.get("name"), about.get("subresource"))
    return f"{event['verb']} {'/'.join(part for part in parts if part)}"
