"""What is packed comes back, small, whatever its like was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.reconcile.packing import LONGEST_SAMPLE, Packer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=8))
def test_all_comes_back_as_it_was(contents: list[object]) -> None:
    packer = Packer()
    packed = [packer.pack("Thing", content) for content in contents]
    assert [one.unpack() for one in packed] == contents


def a_deployment(number: int, lines: int = 100) -> dict[str, object]:
    return {"name": f"model-{number}", "lines": {f"field-{line}": f"value of {line * 7919}" for line in range(lines)}}


def test_what_resembles_the_first_takes_next_to_nothing() -> None:
    packer = Packer()
    packed = [packer.pack("Deployment", a_deployment(number)) for number in range(10)]
    assert all(len(one.data) < 60 for one in packed)
    assert len({id(one.sample) for one in packed}) == 1


def test_a_poor_first_does_not_stay_the_measure() -> None:
    packer = Packer()
    packer.pack("Pod/status", {"phase": "Pending"})
    packer.pack("Pod/status", a_deployment(1))
    assert len(packer.pack("Pod/status", a_deployment(2)).data) < 60


def test_one_that_is_huge_is_no_measure_for_the_others() -> None:
    packer = Packer()
    packer.pack("Deployment", a_deployment(1))
    huge = packer.pack("Deployment", {**a_deployment(2), "annotation": "x" * LONGEST_SAMPLE})
    assert len(huge.data) < 200
    assert len(packer.pack("Deployment", a_deployment(3)).data) < 60
    assert packer.pack("Other", "x" * (LONGEST_SAMPLE + 1)).unpack() == "x" * (LONGEST_SAMPLE + 1)


@pytest.mark.parametrize("lines", [1, 100, 5_000])
def test_the_same_has_the_same_mark(lines: int) -> None:
    packer = Packer()
    first = packer.pack("ConfigMap", a_deployment(1, lines))
    packer.pack("ConfigMap", a_deployment(2, 3 * lines))
    again, other = packer.pack("ConfigMap", a_deployment(1, lines)), packer.pack("ConfigMap", a_deployment(3, lines))
    assert first.mark == again.mark != other.mark
    assert first.unpack() == again.unpack() == a_deployment(1, lines)
