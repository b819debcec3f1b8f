"""How many threads torch may use: the pod's share of the machine, not the machine.

Torch counts the host's cores; under a CPU limit its threads then wait for one another's time slices.
"""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpus(cgroup: Path = CGROUP) -> int:
    """`OMP_NUM_THREADS` where it is set, else the CPU limit of the cgroup (v2 or v1), else the cores allowed."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    allowed = len(os.sched_getaffinity(0))
    limit = _limit(cgroup)
    return allowed if limit is None else max(1, min(allowed, math.ceil(limit)))


def _limit(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max", or -1 in v1: no limit
    return int(quota) / int(period)
