"""data.yaml is what make_data.py makes, fits into a client-side apply, and keeps the held-out digits out."""

import base64
import io
import runpy
from pathlib import Path

import numpy as np
import yaml

from support import digits

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"


def arrays() -> dict[str, np.ndarray]:
    body = yaml.safe_load((QUICKSTART / "data.yaml").read_text())
    with np.load(io.BytesIO(base64.b64decode(body["binaryData"]["digits.npz"])), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_the_file_is_what_the_script_makes() -> None:
    made = runpy.run_path(str(QUICKSTART / "make_data.py"))["arrays"]()
    held = arrays()
    assert held.keys() == made.keys()
    for name, array in made.items():
        assert held[name].dtype == array.dtype
        np.testing.assert_array_equal(held[name], array)
    assert (held["x"].shape, held["y"].shape) == ((1437, 64), (1437,))


def test_no_held_out_digit_is_trained_on() -> None:
    x, _ = digits.held_out()
    trained = {row.tobytes() for row in arrays()["x"].astype(np.float32)}
    assert not any(row.tobytes() in trained for row in x)


def test_client_side_apply_can_note_it_down() -> None:
    # kubectl writes the whole object into an annotation, and annotations have 262,144 bytes.
    assert (QUICKSTART / "data.yaml").stat().st_size < 200_000
