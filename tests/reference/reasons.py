"""Every reason that a condition can have, read from the source: what is given where a reason is asked for.

Not found that way are reasons passed on from elsewhere: those of our programs stand in docs/contracts.md, those of
Kubernetes below.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPERATOR = ROOT / "operator/moorage"
FOLDERS = ("api", "desired", "status", "scaling", "reconcile")

# Which argument is the reason.
TAKES_REASON = {
    "Problem": 0,
    "Waiting": 0,
    "PrometheusError": 0,
    "finding": 0,
    "doubt": 0,
    "Finding": 1,
    "Verdict": 1,
    "InvalidSpec": 1,
    "hold": 2,
    "_with": 2,
}
STATUSES = {"True", "False", "Unknown"}
# The Job controller's words, and the kubelet's for a pod that it fails. Others of theirs are passed on too, but rare.
OF_KUBERNETES = {"BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "Evicted"}


def all_reasons() -> set[str]:
    return of_the_operator() | of_the_programs() | OF_KUBERNETES


def of_the_operator() -> set[str]:
    files = [file for folder in FOLDERS for file in (OPERATOR / folder).rglob("*.py") if "assets" not in file.parts]
    return {reason for file in files for reason in in_source(file.read_text())}


def of_the_programs() -> set[str]:
    """As the contract lists them."""
    text = (ROOT / "docs/contracts.md").read_text()
    part = text[text.index("Reasons of store and model server:") : text.index("Success of a trainer's index 0")]
    return set(re.findall(r"`([A-Z]\w+)`", part))


def in_source(text: str) -> set[str]:
    tree = ast.parse(text)
    named: dict[str, set[str]] = {}
    for name, value in (*assigned(tree), *assigned(tree)):  # twice: a name may stand for another
        named.setdefault(name, set()).update(constants(value, named))
    found = set(named.get("reason", ()))
    for node in ast.walk(tree):
        for place in places(node):
            found |= constants(place, named)
    return found


def places(node: ast.AST) -> Iterator[ast.expr]:
    """Where a reason stands."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args, keywords=keywords):
            at = TAKES_REASON.get(name)
            if at is not None and len(args) > at:
                yield args[at]
            if at is not None:
                yield from (keyword.value for keyword in keywords if keyword.arg == "reason")
        case ast.Tuple(elts=[ast.Constant(value=str(status)), reason, message]) if status in STATUSES:
            if not (isinstance(message, ast.Constant) and message.value in STATUSES):  # the type of a status
                yield reason
        case ast.Tuple(elts=[ast.IfExp(body=ast.Constant(value=str(status))), reason, _]) if status in STATUSES:
            yield reason
        case ast.arguments(args=parameters, defaults=defaults):
            with_default = parameters[len(parameters) - len(defaults) :]
            yield from (value for arg, value in zip(with_default, defaults, strict=True) if arg.arg == "reason")
        case ast.Return(value=ast.Tuple(elts=[ast.Name(id="said") as reason, _])):
            yield reason
        case ast.Return(value=ast.JoinedStr() as composed):
            yield composed


def assigned(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names and what they are given, pairs taken apart."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
            elif isinstance(target, ast.Tuple):
                for values in tuples(node.value):
                    pairs = zip(target.elts, values.elts, strict=False)
                    yield from ((name.id, value) for name, value in pairs if isinstance(name, ast.Name))


def tuples(value: ast.expr) -> Iterator[ast.Tuple]:
    if isinstance(value, ast.Tuple):
        yield value
    elif isinstance(value, ast.IfExp):
        yield from tuples(value.body)
        yield from tuples(value.orelse)


def constants(value: ast.expr, named: dict[str, set[str]]) -> set[str]:
    """The texts it can be."""
    match value:
        case ast.Constant(value=str(text)) if re.fullmatch(r"[A-Z][A-Za-z]+", text):
            return {text}
        case ast.Name(id=name):
            return named.get(name, set())
        case ast.IfExp(body=one, orelse=other):
            return constants(one, named) | constants(other, named)
        case ast.Subscript(value=table):
            return constants(table, named)
        case ast.BoolOp(values=values) | ast.Dict(values=values):
            return {reason for one in values for reason in constants(one, named)}
        case ast.JoinedStr(values=[ast.FormattedValue(value=ast.Subscript(value=table)), ast.Constant(value=end)]):
            return {f"{start}{end}" for start in constants(table, named)}
    return set()
