from fractions import Fraction

import pytest

from moorage.desired.quantity import same, text, value


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("1", 1),
        ("1000m", 1),
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        (2, 2),
        (0.5, Fraction(1, 2)),
        ("1Ki", 1024),
        ("1.5Gi", 1536 * 1024**2),
        ("1k", 1000),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        ("2e-3", Fraction(2, 1000)),
        ("3n", Fraction(3, 10**9)),
        ("-1", -1),
        ("one", None),
        ("", None),
        ("1 Gi", None),
        ("1e999999999", None),
        (True, None),
        (None, None),
    ],
)
def test_value(quantity: object, number: object) -> None:
    assert value(quantity) == number


def test_what_is_no_quantity_is_compared_as_it_is() -> None:
    assert same("x", "x")
    assert not same("x", "1")


@pytest.mark.parametrize(("quantity", "written"), [(1, "1"), (2.0, "2"), (0.5, "0.5"), ("1Gi", "1Gi"), (True, True)])
def test_text(quantity: object, written: object) -> None:
    assert text(quantity) == written
