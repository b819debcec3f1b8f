"""Kubernetes quantities by value: "1000m", "1" and 1 are the same, whatever the API server makes of them."""

import math
import re
from fractions import Fraction
from typing import Any

_PARTS = re.compile(r"^([+-]?)([0-9]*\.?[0-9]+|[0-9]+\.)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_LARGEST = 30


def value(quantity: Any) -> Fraction | None:
    """The number, or None for what is no quantity."""
    if isinstance(quantity, bool) or not isinstance(quantity, int | float | str):
        return None
    match = _PARTS.match(str(quantity).strip())
    if match is None:
        return None
    sign, digits, suffix = match.groups()
    number: Fraction = Fraction(digits.rstrip(".")) * (-1 if sign == "-" else 1)
    if not suffix:
        return number
    if suffix in _BINARY:
        return number * Fraction(1024 ** _BINARY[suffix])
    if suffix in _DECIMAL:
        return number * _power(_DECIMAL[suffix])
    exponent = int(suffix[1:])
    # Kubernetes knows no such amounts either; computing them would take for ever.
    return number * _power(exponent) if abs(exponent) <= _LARGEST else None


def _power(exponent: int) -> Fraction:
    return Fraction(10**exponent) if exponent >= 0 else Fraction(1, 10**-exponent)


def same(left: Any, right: Any) -> bool:
    """Equal after rounding up to a thousandth, as the API server does with resources (0.0005 comes back as 1m)."""
    a, b = value(left), value(right)
    if a is None or b is None:
        return bool(left == right)
    return math.ceil(a * 1000) == math.ceil(b * 1000)


def text(quantity: Any) -> Any:
    """Numbers as strings, the only form of a quantity that a typed apply takes. Anything else stays as it is."""
    if isinstance(quantity, bool) or not isinstance(quantity, int | float):
        return quantity
    return str(int(quantity)) if float(quantity).is_integer() else repr(quantity)
