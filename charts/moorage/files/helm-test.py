"""`helm test`: every operator pod behind the Service is ready, and exactly one of them leads."""

import os
import socket
import sys
import time
import urllib.error
import urllib.request


def get(address: str, port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def look() -> str:
    """What is wrong, or nothing."""
    service = os.environ["SERVICE"]
    try:
        pods = sorted({f"[{i[4][0]}]" if ":" in i[4][0] else i[4][0] for i in socket.getaddrinfo(service, 9091)})
        for pod in pods:
            get(pod, 9091, "/readyz")
        leaders = [pod for pod in pods if "\nmoorage_operator_leader 1.0" in get(pod, 9090, "/metrics")]
    except (OSError, urllib.error.URLError) as error:
        return f"{service}: {error}"
    if len(leaders) != 1:
        return f"{len(leaders)} leaders among {len(pods)} pods; there should be one"
    print(f"{len(pods)} operator pods are ready; {leaders[0]} leads")
    return ""


# A little patience: the test may come in the middle of a roll-out or of a change of leaders.
deadline = time.monotonic() + 45
while problem := look():
    if time.monotonic() > deadline:
        sys.exit(problem)
    time.sleep(1)
