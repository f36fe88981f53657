"""`--schema`: JSON Schema of the YAML files of a command, by which an editor completes and checks them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from mmsafe.core.config import PLUGINS, STARTING, TARGET, conf_dir, options_class, suggestion
from mmsafe.core.errors import UserError
from mmsafe.core.terminal import LEVELS, VERBOSITY
from mmsafe.runs.help_page import choices, read_help

Schema = dict[str, Any]
LATER = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
"""What OmegaConf puts a value in place of: an interpolation, or what has to be set yet."""
GLOBAL = "# @package _global_"


def schema_of(command: str, root: type[Any], words: Sequence[str], user_dir: str | None = None) -> Schema:
    """Of `conf/<command>.yaml`, or of the choice that the one of `words` names, as `objective=bpo`.

    Raises `UserError` for a choice that there is not.
    """
    folders = [conf_dir(), *([Path(user_dir)] if user_dir else [])]
    if not words:
        return _of_command(command, root, folders)
    group, _, choice = words[0].partition("=")
    if choice not in (known := choices(group, folders)):
        raise UserError(f"{words[0]}: no such choice{suggestion(choice, known)}")
    if _path(f"{group}/{choice}", folders).read_text(encoding="utf-8").startswith(GLOBAL):
        return _of_command(command, root, folders)
    return _file(_of_choice(f"{group}/{choice}", folders))


def _of_command(command: str, root: type[Any], folders: Sequence[Path]) -> Schema:
    """The fields of `root`, in place of a base class all classes of the group's choices, and what is Hydra's."""
    meanings = _meanings(command, folders)
    schema = loosened(TypeAdapter(root).json_schema(), meanings)
    fields, own = schema["properties"], _merged(command, folders)
    for name in {*read_help(command, folders).groups, *STARTING, *own}:
        config = own.get(name)
        allowed = [_of_node(config, _below(name, meanings))] if isinstance(config, dict) and TARGET in config else []
        allowed += [_of_choice(f"{name}/{choice}", folders) for choice in choices(name, folders)]
        if allowed:
            fields[name] = {"anyOf": [*{json.dumps(part): part for part in allowed}.values(), {"type": "null"}]}
    fields |= {name: {} for name in STARTING if name not in fields}
    fields |= {VERBOSITY: {"enum": list(LEVELS)}, PLUGINS: {"type": "array", "items": {"type": "string"}}}
    return _file(schema)


def _file(schema: Schema) -> Schema:
    """What may stand in any file besides."""
    properties = {"defaults": {"type": "array"}, "hydra": {"type": "object"}, **schema.get("properties", {})}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "properties": properties}


def _of_choice(name: str, folders: Sequence[Path]) -> Schema:
    return _of_node(_merged(name, folders), _meanings(name, folders))


def _of_node(node: Mapping[str, Any], meanings: Mapping[str, str]) -> Schema:
    """Of a mapping in a file: that of its class, or a mapping of such."""
    if TARGET in node:
        schema: Schema = loosened(TypeAdapter(options_class(node[TARGET], "")).json_schema(), meanings)
        return schema
    inner = {key: _of_node(value, _below(key, meanings)) for key, value in node.items() if isinstance(value, dict)}
    return {"type": "object", "properties": inner}


def loosened(schema: Any, meanings: Mapping[str, str], definitions: Mapping[str, Any] | None = None) -> Any:
    """A schema of whole options as one of what a file says of them: some, under `_target_`, perhaps as interpolations.

    Definitions are put where they are referred to, and `meanings` beside the options of their names.
    """
    if isinstance(schema, list):
        return [loosened(part, {}, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        return loosened(definitions[schema["$ref"].rpartition("/")[2]], meanings, definitions)
    kept = {key: value for key, value in schema.items() if key not in ("$defs", "required", "title", "properties")}
    loose = {key: value if key == "default" else loosened(value, {}, definitions) for key, value in kept.items()}
    if "properties" not in schema:
        return loose
    options = {name: _option(name, option, meanings, definitions) for name, option in schema["properties"].items()}
    return {**loose, "properties": {TARGET: {"type": "string"}, **options}}


def _option(name: str, schema: Schema, meanings: Mapping[str, str], definitions: Mapping[str, Any]) -> Schema:
    said = {"description": meanings[name]} if meanings.get(name) else {}
    return {"anyOf": [loosened(schema, _below(name, meanings), definitions), LATER], **said}


def _meanings(name: str, folders: Sequence[Path]) -> dict[str, str]:
    """What the comments of a file say, by dotted name."""
    return {option: text for option, (_, text) in read_help(name, folders).options.items()}


def _below(name: str, meanings: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(f"{name}."): text for key, text in meanings.items() if key.startswith(f"{name}.")}


def _path(name: str, folders: Sequence[Path]) -> Path:
    return next(path for folder in reversed(folders) if (path := folder / f"{name}.yaml").exists())


def _merged(name: str, folders: Sequence[Path]) -> dict[str, Any]:
    """The file `name` on top of those of its group that its defaults list names."""
    node = yaml.safe_load(_path(name, folders).read_text(encoding="utf-8")) or {}
    found: dict[str, Any] = {}
    for default in node.pop("defaults", []):
        if isinstance(default, str) and default != "_self_":
            found |= _merged(str(Path(name).parent / default), folders)
    return found | node
