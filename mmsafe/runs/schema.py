"""`--schema`: JSON Schema of the YAML files of a command, by which an editor completes and checks them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from mmsafe.core.config import PLUGINS, STARTING, TARGET, allow_plugins, conf_dir, options_class, suggestion
from mmsafe.core.errors import UserError
from mmsafe.core.terminal import LEVELS, VERBOSITY
from mmsafe.runs.help_page import choices, described

LATER = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
"""What OmegaConf takes in place of a value: an interpolation, or the mark of what has to be set yet."""


class FileSchema(GenerateJsonSchema):
    """Of what a file says of options: some of them, or an interpolation."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return False

    def json_or_python_schema(self, schema: Any) -> dict[str, Any]:
        """Of what is a plug-in of any class, no more than that it is a mapping."""
        is_plug_in = schema["python_schema"]["type"] == "is-instance"
        return {"type": "object"} if is_plug_in else super().json_or_python_schema(schema)

    def dataclass_field_schema(self, schema: Any) -> dict[str, Any]:
        return {"anyOf": [super().dataclass_field_schema(schema), LATER]}


def schema_of(command: str, root: type[Any], words: Sequence[str], user_dir: str | None = None) -> dict[str, Any]:
    """Of `conf/<command>.yaml`, or of the choice among `words`, as `objective=bpo`, of a class that `plugins=` allows.

    Raises `UserError` for a choice that there is not.
    """
    folders = [conf_dir(), *([Path(user_dir)] if user_dir else [])]
    given = dict(word.partition("=")[::2] for word in words)
    allow_plugins(yaml.safe_load(given.pop(PLUGINS, "[]")))
    schema = {}
    for group, choice in given.items():
        if choice not in (known := choices(group, folders)):
            raise UserError(f"{group}={choice}: no such choice{suggestion(choice, known)}")
        if "@package _global_" not in described(f"{group}/{choice}", folders).comments:
            schema = _of_file(f"{group}/{choice}", folders)
    properties = (schema := schema or _of_command(command, root, folders))["properties"]
    return {**schema, "properties": {"defaults": {"type": "array"}, "hydra": {"type": "object"}, **properties}}


def _of_command(command: str, root: type[Any], folders: Sequence[Path]) -> dict[str, Any]:
    """The fields of `root`, in place of a base class all classes of the group's choices, and what is about starting."""
    meanings, config = _meanings(command, folders), _merged(command, folders)
    schema = _of_class(root, meanings, "")
    fields = schema["properties"] = {name: {} for name in STARTING} | schema["properties"]
    for name in {*described(command, folders).groups, *STARTING, *config}:
        nodes = [_of_file(f"{name}/{choice}", folders) for choice in choices(name, folders)]
        if isinstance(config.get(name), dict) and TARGET in config[name]:
            nodes.append(_of_node(config[name], meanings, f"{name}."))
        if nodes:
            fields[name] = {"anyOf": [*{json.dumps(node): node for node in nodes}.values(), {"type": "null"}]}
    fields |= {VERBOSITY: {"enum": list(LEVELS)}, PLUGINS: {"type": "array", "items": {"type": "string"}}}
    return schema


def _of_file(name: str, folders: Sequence[Path]) -> dict[str, Any]:
    return _of_node(_merged(name, folders), _meanings(name, folders))


def _of_node(node: Mapping[str, Any], meanings: Mapping[str, str], path: str = "") -> dict[str, Any]:
    """Of a mapping in a file: that of its class, or a mapping of such."""
    if TARGET in node:
        return _of_class(options_class(node[TARGET], path), meanings, path)
    inner = {key: _of_node(value, meanings, f"{path}{key}.") for key, value in node.items() if isinstance(value, dict)}
    return {"type": "object", "properties": inner}


def _of_class(cls: type[Any], meanings: Mapping[str, str], path: str) -> dict[str, Any]:
    """References put in, so that it can be a part of another; `meanings` are by dotted name, of which `path` begins."""
    schema = TypeAdapter(cls).json_schema(schema_generator=FileSchema)
    definitions = schema.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(part) for part in node]
        if isinstance(node, dict) and "$ref" in node:
            return inlined(definitions[node["$ref"].rpartition("/")[2]])
        return {key: inlined(value) for key, value in node.items()} if isinstance(node, dict) else node

    options = {name: inlined(option) for name, option in schema.get("properties", {}).items()}
    for name in [name for name in options if f"{path}{name}" in meanings]:
        options[name]["description"] = meanings[f"{path}{name}"]
    return {**schema, "properties": {TARGET: {"type": "string"}, **options}}


def _meanings(name: str, folders: Sequence[Path]) -> dict[str, str]:
    """What the comments of a file say, by dotted name."""
    return {option: text for option, (_, text) in described(name, folders).options.items() if text}


def _merged(name: str, folders: Sequence[Path]) -> dict[str, Any]:
    """The file `name` on top of those of its group that its defaults list names."""
    path = next(path for folder in reversed(folders) if (path := folder / f"{name}.yaml").exists())
    node = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    bases = [default for default in node.pop("defaults", []) if isinstance(default, str) and default != "_self_"]
    merged = [_merged(str(Path(name).parent / base), folders) for base in bases]
    return {key: value for part in [*merged, node] for key, value in part.items()}
