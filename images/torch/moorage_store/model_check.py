"""Looks into a model file before anything in it is loaded, and refuses what would run code that is not the model's.

`torch.export.load` trusts its file: torch 2.13 unpickles records of it without restraint, evaluates its shape
expressions as Python, looks operators up anywhere below `torch` (`torch.os.system` is one), writes names into generated
source, and loads compiled libraries. So each of these is checked here, with torch's own reader of the archive (two
parsers could be made to see two different files). Pickled records are left to `load`, which has torch read them with
`weights_only`.

The model server calls this before it loads, and the init container of Triton's pods before Triton does. Needs torch.

This is a lock on the door, not a sandbox: a model may still compute what it likes, as slowly as it likes.
"""

import ast
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from moorage_store.errors import Corrupt, StoreError, Unsafe
from moorage_store.formats import FormatMismatch, find

HOW_TO_EXPORT = (
    "export it where its code is at hand: program = torch.export.export(model.eval(), (example,), "
    "dynamic_shapes=({0: torch.export.Dim('batch')},)); torch.export.save(program, 'model.pt2')"
)

# No quote, bracket, sign of assignment or end of line: such a name cannot leave its place in generated source.
_NAME = re.compile(r"[\w.:#/ -]*")
# Text that torch keeps as a string (or writes with repr); everything else that is a string is some kind of name.
_FREE_TEXT = {"metadata", "as_string", "as_strings", "torch_version", "guards_code"}
_OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(_?[A-Za-z]\w*)(?:\.([A-Za-z]\w*))?")
_NAMESPACES = {"aten", "prim", "prims", "quantized", "quantized_decomposed", "torchvision", "torchao"}
# Those that compute or control flow; others of this namespace run assembly, libraries or registered Python functions.
_HIGHER_ORDER = {
    "associative_scan", "auto_functionalized", "auto_functionalized_v2", "cond", "flex_attention", "hints_wrapper",
    "invoke_subgraph", "map_impl", "out_dtype", "scan", "strict_mode", "tag_activation_checkpoint", "while_loop",
    "with_effects", "wrap_activation_checkpoint", "wrap_with_autocast", "wrap_with_set_grad_enabled",
}  # fmt: skip
_FILE_OPERATORS = {"from_file", "save", "load"}
# Whatever stands between the words and is none itself: dots, space, parentheses, whole comments.
_FILE_CALL = re.compile(rb"\b(?:torch|aten)\b(?:[^\w#]|#[^\n]*(?:\n|\Z))*\b(save|load|from_file)\b")
_SCALAR_OPERATORS = {
    *(f"_operator.{name}" for name in (
        "eq", "ne", "le", "ge", "lt", "gt", "neg", "pos", "mul", "add", "sub", "floordiv", "truediv", "mod", "pow",
        "and_", "or_", "lshift", "rshift", "getitem",
    )),
    *(f"torch.sym_{name}" for name in ("not", "int", "float", "ite", "max", "min", "sqrt", "sum")),
    "math.trunc",
}  # fmt: skip
_EXPRESSIONS = {
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "And", "Or", "Not",
    "Equality", "Unequality", "StrictLessThan", "StrictGreaterThan", "LessThan", "GreaterThan", "FloorDiv", "CeilDiv",
    "CleanDiv", "CeilToInt", "FloorToInt", "IntTrueDiv", "FloatTrueDiv", "FloatPow", "PowByNatural", "LShift", "RShift",
    "PythonMod", "ModularIndexing", "Where", "ToFloat", "TruncToInt", "TruncToFloat", "RoundToInt", "RoundDecimal",
    "Identity", "IsNonOverlappingAndDenseIndicator",
}  # fmt: skip
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def check(path: Path, form: str) -> None:
    """All of this for a model file, or the folder that holds it."""
    file = find(path, form)
    try:
        check_kind(file, form)
        (check_export if form == "TorchExport" else check_script)(file)
    except (StoreError, OSError):
        raise
    except Exception as error:
        raise Corrupt(f"{file} is damaged or no {form}: {type(error).__name__}: {error}; {HOW_TO_EXPORT}") from error


def check_kind(file: Path, wanted: str) -> None:
    kind = kind_of(file)
    if kind == "pickle":
        raise Unsafe(
            f"{file.name} is a pickle (torch.save), which can run any code when it is loaded, so it is refused; "
            f"{HOW_TO_EXPORT}"
        )
    if kind == "unknown":
        raise FormatMismatch(f"{file.name} is neither a torch.export archive nor TorchScript; {HOW_TO_EXPORT}")
    if kind == "AOTInductor" != wanted:
        raise Unsafe(
            f"{file.name} is a compiled library (AOTInductor), which may do whatever the pod may: if you trust whoever "
            "compiled it, set the format to AOTInductor"
        )
    if kind != wanted:
        raise FormatMismatch(f"{file.name} is {kind}, the server was told {wanted}; set the format to {kind}")


def kind_of(file: Path) -> str:
    """`TorchExport`, `TorchScript`, `AOTInductor`, `pickle` or `unknown`: what the file is, whatever its name says."""
    with file.open("rb") as opened:
        start = opened.read(2)
    if not start:
        raise Corrupt(f"{file.name} is empty")
    if start[:1] == b"\x80":
        return "pickle"
    if start != b"PK":
        return "unknown"
    try:
        records = set(torch._C.PyTorchFileReader(str(file)).get_all_records())
    except RuntimeError as error:
        if "not in a subdirectory" in str(error):
            return "unknown"  # a zip file, but not laid out as torch does (any more)
        raise
    if "archive_format" in records:
        return "AOTInductor" if any(name.startswith("data/aotinductor/") for name in records) else "TorchExport"
    if "constants.pkl" in records:
        return "TorchScript"
    return "pickle" if "data.pkl" in records else "unknown"


def check_whole(file: Path) -> None:
    """Checks every record's checksum, which torch itself does not."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError) as error:
        raise Corrupt(f"{file.name} is damaged or cut short: {error}") from None
    if damaged:
        raise Corrupt(f"{file.name} is damaged: {damaged} does not match its checksum")


def check_export(file: Path) -> None:
    """Refuses an export archive that would do more than compute."""
    reader = torch._C.PyTorchFileReader(str(file))
    records = reader.get_all_records()
    programs = [name for name in records if name.startswith("models/")]
    if programs != ["models/model.json"]:
        raise FormatMismatch(
            "the archive must hold one exported program, models/model.json; it holds "
            f"{', '.join(programs) or 'none'}; {HOW_TO_EXPORT}",
        )
    program = json.loads(reader.get_record(programs[0]))
    exported_by, here = str(program.get("torch_version", "")), torch.__version__
    schema = program.get("schema_version", {}).get("major")
    if schema != _schema_major():
        raise FormatMismatch(
            f"exported by torch {exported_by} with schema {schema}, this server has torch {here} with schema "
            f"{_schema_major()}; export it again with torch {here}",
        )
    _walk(program)
    for name in records:
        if name.endswith("_config.json"):
            config = json.loads(reader.get_record(name))
            _walk(config)
            for payload in config["config"].values():
                if payload["path_name"].startswith("opaque_obj"):
                    raise _unsafe("it holds a pickled Python object, which can run any code when it is loaded")


def check_script(file: Path) -> None:
    """Refuses a TorchScript program that reads or writes files. Some of it (`__setstate__`) runs while it is loaded."""
    reader = torch._C.PyTorchFileReader(str(file))
    for name in reader.get_all_records():
        if name.startswith("code/") and name.endswith(".py") and (found := _FILE_CALL.search(reader.get_record(name))):
            raise _touches_files(found[1].decode())


def check_loaded_script(module: torch.jit.ScriptModule) -> None:
    """The same of what torch made of its text, however that was written."""
    part: Any
    for part in module.modules():
        for name in part._c._method_names():
            graph = part._c._get_method(name).inlined_graph
            for operator in sorted(_FILE_OPERATORS):
                if graph.findAllNodes(f"aten::{operator}"):
                    raise _touches_files(operator)


def _touches_files(operator: str) -> Unsafe:
    return _unsafe(f"its program uses torch.{operator}, which reads or writes files")


def _schema_major() -> int:
    from torch._export.serde.schema import SCHEMA_VERSION

    return SCHEMA_VERSION[0]


def _walk(value: Any, key: str = "") -> None:
    """Every string in the program, by the key it stands under."""
    match value:
        case dict():
            for name, child in value.items():
                _check_name(name)
                if name not in _FREE_TEXT or not _is_text(child):
                    _walk(child, name)
        case list():
            for child in value:
                _walk(child, key)
        case str() if key in ("target", "as_operator"):
            _check_operator(value)
        case str() if key == "expr_str":
            _check_expression(value)
        case str() if key in ("in_spec", "out_spec"):
            for part in json.loads(value)[1:]:
                _check_container(part)
        case str():
            _check_name(value)


def _is_text(value: Any) -> bool:
    """A string or strings, and nothing deeper: a tensor may be called `metadata` too, and is looked into."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return all(isinstance(part, str) for part in parts)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise _unsafe(f"{name[:80]!r} is not a name, and names become part of generated code")


def _check_operator(target: str) -> None:
    if target in _SCALAR_OPERATORS:
        return
    found = _OPERATOR.fullmatch(target)
    known = found is not None and (
        found[2] in _HIGHER_ORDER
        if found[1] == "higher_order"
        else found[1] in _NAMESPACES and found[2] not in _FILE_OPERATORS
    )
    if not known:
        raise _unsafe(f"it calls {target[:80]!r}, which is not one of torch's operators for models")


def _check_expression(text: str) -> None:
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise _unsafe(f"{text[:80]!r} is not a shape expression") from None
    if not _is_expression(tree):
        raise _unsafe(f"{text[:80]!r} is not a shape expression")


def _is_expression(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=bool() | int() | float()) | ast.Name(id="true" | "false" | "oo" | "int_oo"):
            return True
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))]):
            return name.isidentifier() and all(isinstance(k.value, ast.Constant) for k in node.keywords)
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(number))]):
            return re.fullmatch(r"[-+.\de]+|inf|nan", number) is not None and _constants(node)
        case ast.Call(func=ast.Name(id=name)):
            return name in _EXPRESSIONS and all(_is_expression(arg) for arg in node.args) and _constants(node)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_expression(operand)
    return False


def _constants(call: ast.Call) -> bool:
    return all(isinstance(k.value, ast.Constant) and not isinstance(k.value.value, str) for k in call.keywords)


def _check_container(spec: Any) -> None:
    if spec["type"] not in _CONTAINERS or "__enum__" in json.dumps(spec["context"]):
        raise FormatMismatch(
            f"the model takes or gives a {spec['type']}; use tensors in tuples, lists or dicts with strings as keys",
        )
    for child in spec["children_spec"]:
        _check_container(child)


def _unsafe(why: str) -> Unsafe:
    return Unsafe(f"the model is refused: {why}; {HOW_TO_EXPORT}")
