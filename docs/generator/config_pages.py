"""A page for each command and each config group: every option with type, default and meaning.

Defaults and meanings are read as `--help` reads them; types and ranges are those of the classes that check them.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Annotated, Any

import griffe
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from mmsafe.cli import COMMANDS
from mmsafe.core.config import PLUGINS, conf_dir, options_class
from mmsafe.runs.help_page import CommandHelp, choices, described

LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Option:
    """One row of a table; all four are Markdown."""

    name: str
    type: str
    default: str
    meaning: str


def config_pages() -> dict[str, str]:
    """Pages by name."""
    commands = {command: described(command, [conf_dir()]) for command in COMMANDS}
    pages = {f"reference/commands/{name}.md": _command_page(name, said) for name, said in commands.items()}
    for folder in sorted({path.parent for path in conf_dir().rglob("*/*.yaml")}):
        group = folder.relative_to(conf_dir()).as_posix()
        users = [command for command, said in commands.items() if group in said.groups]
        pages[f"reference/config/{_file(group)}"] = _group(group, users)
    return pages


def rows(said: CommandHelp, root: type[Any] | None = None, prefix: str = "") -> list[Option]:
    """The options that a file describes; `root` is the class of those outside of its nodes."""
    classes = {node: options_class(name, node) for node, name in said.classes.items() if name.startswith("mmsafe.")}
    if root is not None:
        classes[""] = root
    found = []
    for name, (default, meaning) in said.options.items():
        node = max((node for node in classes if not node or name.startswith(f"{node}.")), key=len, default=None)
        cls, path = (classes[node], name.removeprefix(f"{node}.").split(".")) if node is not None else (None, [])
        kind, docstring = _field(cls, path) if cls else ("", "")
        kind = "list of names of packages" if name == PLUGINS else kind
        found.append(Option(f"`{prefix}{name}`", kind, _code(default), _cell(meaning or docstring)))
    return found


def _command_page(command: str, said: CommandHelp) -> str:
    about, *example = said.comments
    main = importlib.import_module(f"mmsafe.{command}").main
    root = inspect.getclosurevars(main).nonlocals["root"]
    lines = [f"# mmsafe.{command}", "", f"{about[0].upper()}{about[1:]}.", ""]
    if example:
        lines += ["```console", *(f"$ {line}" if line.startswith("python") else line for line in example), "```", ""]
    lines += ["## Options", "", *_table(rows(said, root))]
    if said.groups:
        lines += ["", "## Groups", "", "| group | chosen by default | choices |", "|---|---|---|"]
        for group, choice in said.groups.items():
            page = f"../config/{_file(group)}"
            known = ", ".join(f"[`{name}`]({page}#{name})" for name in choices(group, [conf_dir()]))
            lines.append(f"| [`{group}`]({page}) | {_code(choice)} | {known} |")
    return "\n".join([*lines, ""])


def _file(group: str) -> str:
    return f"{group.replace('/', '-')}.md"


def _group(group: str, users: list[str]) -> str:
    lines = [f"# {group}", ""]
    if users:
        lines += [f"A group of {', '.join(f'[mmsafe.{name}](../commands/{name}.md)' for name in users)}.", ""]
    for choice in choices(group, [conf_dir()]):
        said = described(f"{group}/{choice}", [conf_dir()])
        comments = [line for line in said.comments if not line.startswith(("@package", "python -m"))]
        lines += [f"## `{group}={choice}` {{ #{choice} }}", "", *comments, ""]
        lines += _about(said)
        if said.is_global:
            text = (conf_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8")
            lines += ["```yaml", text.rstrip(), "```", ""]
        prefix = "" if said.is_global else f"{group.replace('/', '.')}."
        typed = [row for row in rows(said, prefix=prefix) if row.type or not said.is_global]
        lines += [*_table(typed), ""] if typed else []
    return "\n".join(lines)


def _about(said: CommandHelp) -> list[str]:
    """What the class of a choice says of itself, if it is of one class."""
    name = said.classes.get("", "")
    if not name.startswith("mmsafe."):  # one of Hydra's plug-ins
        return []
    text = inspect.cleandoc(options_class(name, "").__doc__ or "")
    page = f"../python/{name.rpartition('.')[0].rpartition('.')[0]}.md"
    return [text, "", f"Class: [`{name}`]({page}#{name})", ""]


def _table(options: list[Option]) -> list[str]:
    lines = [f"| {row.name} | {row.type} | {row.default} | {row.meaning} |" for row in options]
    head = ["| option | type | default | meaning |", "|---|---|---|---|"]
    return ['<div class="options" markdown>', "", *head, *lines, "", "</div>"]


def _field(cls: type[Any], path: list[str]) -> tuple[str, str]:
    """Type and docstring of a field of a class of options, or of one of the classes that its fields are of."""
    name, *deeper = path
    fields = getattr(cls, "__pydantic_fields__", {})
    if name not in fields:
        return "", ""
    annotation: Any = fields[name].annotation
    if deeper:
        inner = [kind for kind in (annotation, *typing.get_args(annotation)) if is_dataclass(kind)]
        return _field(inner[0], deeper) if inner else ("", "")
    for rule in fields[name].metadata:
        annotation = Annotated[annotation, rule]
    try:
        kind = _said(TypeAdapter(annotation).json_schema())
    except PydanticUserError:
        kind = f"`{getattr(annotation, '__name__', annotation)}`"
    return kind, _docstring(cls, name)


@cache
def _package() -> Any:
    return griffe.load("mmsafe", try_relative_path=False)


def _docstring(cls: type[Any], name: str) -> str:
    for base in cls.__mro__:
        if base.__module__.startswith("mmsafe."):
            member = _package()[f"{base.__module__}.{base.__name__}".removeprefix("mmsafe.")].members.get(name)
            if member is not None and member.docstring:
                return member.docstring.value
    return ""


def _said(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(_said(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("format") if schema.get("format") == "path" else schema.get("type", "anything")
    words = {"string": "text", "boolean": "`true` or `false`", "array": "list", "object": "mapping", "null": "`null`"}
    limits = " and ".join(f"{sign} {schema[key]}" for key, sign in LIMITS.items() if key in schema)
    text = " ".join(filter(None, [words.get(kind, kind), limits]))
    if kind == "array" and schema.get("items"):
        return f"{text} of {_said(schema['items'])}"
    if kind == "object" and schema.get("properties"):
        return f"{text} of " + ", ".join(f"`{name}`" for name in schema["properties"])
    return text


def _code(text: str) -> str:
    return "required" if text == "???" else f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
