"""Whether the kernel killed processes of this container for want of memory: cgroup v2's or v1's own count."""

import re
from pathlib import Path

# Inside a container its own cgroup is the root of what is mounted.
_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


def oom_kills(counters: tuple[Path, ...] = _COUNTERS) -> int:
    for path in counters:
        try:
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0
