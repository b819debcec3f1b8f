"""Writes data.yaml: the ConfigMap with the digits that the quickstart trains on.

They are scikit-learn's copy of the real UCI set of handwritten digits, 1,437 of 1,797. The other 360 are kept for
measuring what was trained. Run it again only to change the split: python examples/quickstart/make_data.py
"""

import base64
import io
from pathlib import Path

import numpy as np
import yaml
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TARGET = Path(__file__).with_name("data.yaml")
HEAD = """\
# The training data of the quickstart: 1,437 handwritten digits of 8x8 pixels (UCI, by way of scikit-learn), arrays x
# and y of an .npz. make_data.py wrote it. A ConfigMap holds up to 1 MiB; for more use a volume or an object store.
"""


def arrays() -> dict[str, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    x_train, _, y_train, _ = train_test_split(x, y, test_size=360, random_state=0, stratify=y)
    # Pixels are whole numbers from 0 to 16: a byte each holds them.
    return {"x": x_train.astype(np.uint8), "y": y_train.astype(np.int64)}


def manifest() -> dict[str, object]:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays())
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "digits-data", "namespace": "default"},
        "binaryData": {"digits.npz": base64.b64encode(buffer.getvalue()).decode()},
    }


if __name__ == "__main__":
    TARGET.write_text(HEAD + yaml.safe_dump(manifest(), sort_keys=False, width=120))
