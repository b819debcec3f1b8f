"""A pydantic model as a structural Kubernetes schema.

Kubernetes takes a part of OpenAPI 3.0: no references, no null, no titles, no additionalProperties beside properties.
So pydantic's own JSON schema is made first and rewritten here. What cannot be said (recursion) is refused.
"""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

Schema = dict[str, Any]


class _OptionalIsAbsent(GenerateJsonSchema):
    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def structural(model: type[BaseModel]) -> Schema:
    raw = model.model_json_schema(by_alias=True, schema_generator=_OptionalIsAbsent)
    return _rewrite(raw, raw.pop("$defs", {}), ())


def _rewrite(node: Schema, definitions: dict[str, Schema], above: tuple[str, ...]) -> Schema:
    node = dict(node)
    if reference := node.pop("$ref", None):
        name = reference.rsplit("/", 1)[-1]
        if name in above:
            raise ValueError(f"{name} contains itself: a structural schema cannot say that")
        inner = _rewrite(definitions[name], definitions, (*above, name))
        return {**inner, **_rewrite(node, definitions, above)}

    node.pop("title", None)
    if isinstance(node.get("additionalProperties"), bool):
        del node["additionalProperties"]
    if node.get("default") in (None, {}, []):
        node.pop("default", None)
    if "const" in node:
        node["enum"] = [node.pop("const")]
    for bound, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in node:
            node[inclusive], node[bound] = node[bound], True
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    if node.get("type") == "object" and "propertyNames" in node:
        del node["propertyNames"]

    if "properties" in node:
        node["properties"] = {key: _rewrite(sub, definitions, above) for key, sub in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _rewrite(node[key], definitions, above)
    return node
