"""A Triton model repository: `NAME/config.pbtxt` out of the operator's ConfigMap and `NAME/VERSION/model.py` of ours.

The model itself is not copied: model.py finds it by MOORAGE_MODEL_PATH.
"""

import shutil
from pathlib import Path

from moorage_store.errors import Misconfigured

MODEL = Path(__file__).with_name("triton_model.py")


def lay_out(config: Path, repository: Path, name: str, version: str) -> None:
    """Writes the repository of one model; a second call with the same input changes nothing."""
    if not (version.isascii() and version.isdigit() and int(version) > 0):
        raise Misconfigured(f'Triton\'s versions are whole numbers from 1, not {version!r}: write version: "1"')
    if not (config / "config.pbtxt").is_file():
        raise Misconfigured(f"{config} has no config.pbtxt: it should be the mounted ConfigMap of the ModelDeployment")
    target = repository / name
    (target / version).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(config / "config.pbtxt", target / "config.pbtxt")
    shutil.copyfile(MODEL, target / version / "model.py")
    print(f"model repository {repository}: {name}, version {version}", flush=True)
