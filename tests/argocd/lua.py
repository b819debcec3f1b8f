"""health.lua as Argo CD runs it: by Lua 5.1, as it embeds, without the libraries it withholds from such scripts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lupa.lua51 import LuaRuntime

EXAMPLES = Path(__file__).parents[2] / "examples/argocd"
WITHHELD = ("io", "os", "debug", "package", "require", "dofile", "loadfile", "python")

Health = Callable[[dict[str, Any]], dict[str, Any]]


def compiled(kind: str) -> Health:
    lua = LuaRuntime(register_eval=False, unpack_returned_tuples=True)
    for name in WITHHELD:
        lua.globals()[name] = None
    chunk = lua.compile((EXAMPLES / kind / "health.lua").read_text())

    def health(obj: dict[str, Any]) -> dict[str, Any]:
        lua.globals().obj = lua.table_from(obj, recursive=True)
        said = chunk()
        return {"status": said["status"], "message": said["message"]}

    return health
