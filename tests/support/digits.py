"""The 360 handwritten digits that no training sees (scikit-learn's copy of the real UCI set).

The quickstart trains on the other 1,437; the split is a fixed one, so both sides can make it on their own.
"""

import numpy as np
from numpy.typing import NDArray


def held_out() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images (360, 64) float32 with values 0..16, labels (360,) int64."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    _, x_test, _, y_test = train_test_split(x, y, test_size=360, random_state=0, stratify=y)
    return x_test.astype(np.float32), y_test.astype(np.int64)
