"""Where the workers meet: the name this one is reached by, who hosts the store, and waiting until it is there.

The workers of a Job start in any order, perhaps minutes apart, and DNS knows a pod only some time after it has an
address. torchrun takes either for a failure, so both are waited for here.
"""

import os
import socket
import time
from collections.abc import Callable

from moorage_trainer.settings import Settings

# As long as it may take until the last worker has its node and its image.
WAIT_SECONDS = 1800


class PeerMissing(Exception):
    """The first worker cannot be reached."""


def environment(settings: Settings) -> dict[str, str]:
    """torchrun's variables that differ from pod to pod. The user cannot have set them; a test may."""
    # The host meets itself on the loopback: its own name comes into DNS only after it runs.
    mine = {
        "PET_RDZV_CONF": f"is_host={int(settings.is_first)},join_timeout={WAIT_SECONDS}",
        "PET_LOCAL_ADDR": os.environ.get("PET_LOCAL_ADDR") or local_address(settings.endpoint_host),
        # Less than the grace period of the pod, so that the launcher still has its last words.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "15"),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    if settings.is_first:
        mine["PET_RDZV_ENDPOINT"] = f"localhost:{settings.endpoint_port}"
    return mine


def local_address(endpoint: str) -> str:
    """This pod's name as the others resolve it: the endpoint's name with our host name for the first label.

    Ranks follow the order of these names, so index 0, whose name sorts first, holds rank 0.
    """
    host = socket.gethostname().split(".")[0]
    _, _, subdomain = endpoint.partition(".")
    if not subdomain or endpoint.replace(".", "").isdigit():
        return endpoint  # localhost or an address: one machine
    # The kubelet writes the full name into /etc/hosts, where it is found without asking DNS.
    full = socket.getfqdn()
    return full if full.startswith(f"{host}.{subdomain}") else f"{host}.{subdomain}"


def wait_for_first(settings: Settings, say: Callable[[str], None], seconds: float = WAIT_SECONDS) -> None:
    """Returns when the store of the first worker takes connections."""
    deadline = time.monotonic() + seconds
    said = 0.0
    while True:
        try:
            socket.create_connection((settings.endpoint_host, settings.endpoint_port), timeout=5).close()
            return
        except OSError as error:
            trouble = error
        now = time.monotonic()
        if now > deadline:
            where = f"{settings.endpoint_host}:{settings.endpoint_port}"
            raise PeerMissing(f"worker 0 was not reached at {where} within {seconds:.0f} s: {trouble}")
        if now - said > 30:
            said = now
            say(f"waiting for worker 0 ({settings.endpoint_host}): {trouble}")
        time.sleep(0.5)
