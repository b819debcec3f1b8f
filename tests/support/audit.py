"""Who wrote what, by the API server's audit log: what a program says of itself is not enough to prove that it rests."""

import json
from datetime import datetime
from typing import Any

from cluster import Cluster
from cluster.names import Names
from support import deploy

Event = dict[str, Any]


def writes(api: Cluster, *, since: datetime, namespace: str, agent: str = "") -> list[Event]:
    """What operators asked for that may change something in the namespace; those of one user agent, if it is given."""
    found = []
    for line in (Names(api.name).logs / "audit.log").read_text().splitlines():
        event = json.loads(line)
        # Who came without a valid token has no name at all.
        ours = event["user"].get("username", "").startswith(f"system:serviceaccount:{deploy.NAMESPACE}:")
        there = (event.get("objectRef") or {}).get("namespace") == namespace
        then = datetime.fromisoformat(event["requestReceivedTimestamp"]) > since
        if ours and there and then and event.get("userAgent", "").startswith(agent):
            found.append(event)
    return found


def told(event: Event) -> str:
    about = event.get("objectRef") or {}
    parts = (about.get("resource"), about.get("name"), about.get("subresource"))
    return f"{event['verb']} {'/'.join(part for part in parts if part)}"
