"""What we use of the `kubernetes` package, without the rest of it.

Its `__init__` files load everything: requests, OAuth, a dynamic client, twice. Ten MiB and a quarter of the time that
this program's imports take, for nothing. So both packages are there as bare folders of modules: what is in one has to
be imported by its full name.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec


def _bare(package: str) -> None:
    if package not in sys.modules:
        spec = find_spec(package)
        assert spec is not None
        sys.modules[package] = module_from_spec(spec)


for _package in ("kubernetes", "kubernetes.aio"):
    _bare(_package)

from kubernetes.aio.client import Configuration  # noqa: E402
from kubernetes.aio.client.rest import RESTClientObject  # noqa: E402
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config  # noqa: E402

__all__ = ["ConfigException", "Configuration", "RESTClientObject", "load_incluster_config", "load_kube_config"]
