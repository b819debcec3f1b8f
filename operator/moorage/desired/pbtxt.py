"""Plain data as protobuf text, the language of Triton's config.pbtxt. Only what such a file needs: no bytes, no
comments."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Value = object


@dataclass(frozen=True)
class Symbol:
    """A value of an enum, which protobuf text writes without quotes."""

    name: str


def render(message: Mapping[str, Value], indent: str = "") -> str:
    """A message's fields, one a line. A list of messages repeats its field; a list of scalars is written in
    brackets."""
    lines: list[str] = []
    for name, value in message.items():
        if isinstance(value, Mapping):
            lines += _block(name, value, indent)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if all(isinstance(item, Mapping) for item in value):
                for item in value:
                    lines += _block(name, item, indent)
            else:
                lines.append(f"{indent}{name}: [{', '.join(_scalar(item) for item in value)}]")
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}")
    return "\n".join(lines) + ("\n" if not indent and lines else "")


def _block(name: str, message: Mapping[str, Value], indent: str) -> list[str]:
    if not message:
        return [f"{indent}{name} {{ }}"]
    return [f"{indent}{name} {{", render(message, indent + "  "), f"{indent}}}"]


def _scalar(value: Value) -> str:
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # JSON's escapes are a part of protobuf text's.
    return json.dumps(str(value), ensure_ascii=False)
