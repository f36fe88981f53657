"""`--help`: the options of one command and their meaning, read from the YAML that defines them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

import yaml

from mmsafe.core.config import PLUGINS, TARGET, conf_dir, suggestion
from mmsafe.core.errors import UserError
from mmsafe.core.terminal import VERBOSITY

WIDTH = 34
FOOTER = {
    "groups": "--help GROUP=CHOICE    the options of that choice",
    "command": "hydra.run.dir=FOLDER   where the run is recorded",
    "launcher": "-m OPTION=A,B          one run for each value",
    "": "--cfg job, --schema    print the composed config, or the JSON Schema of the file, without running it",
}
"""What else can be said, where a command has groups, is recorded in a folder, can be swept, and always."""


@dataclass
class CommandHelp:
    """What one YAML file, and those that it builds on, say of themselves."""

    comments: list[str] = field(default_factory=list)
    """The lines before anything else, of the file itself."""
    groups: dict[str, str] = field(default_factory=dict)
    """What is chosen of each group where nothing else is said."""
    options: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By dotted name: the value where none is given, and the meaning."""
    bases: set[str] = field(default_factory=set)
    """The files that it builds on."""
    classes: dict[str, str] = field(default_factory=dict)
    """By dotted name of a node, "" for the file itself: the class whose fields its options are."""

    @property
    def is_global(self) -> bool:
        """Whether its options are those of the command, not of the group that it is a choice of."""
        return self.comments[:1] == ["@package _global_"]


def help_page(command: str, overrides: Sequence[str] = (), user_dir: str | None = None) -> str:
    """What a command does, an example, its own options and groups; and the options of each choice in `overrides`.

    Raises `UserError` for a choice that there is not.
    """
    folders = [conf_dir(), *([Path(user_dir)] if user_dir else [])]
    doc = described(command, folders)
    about, *examples = doc.comments
    chosen = [word.split("=", 1) for word in overrides if word.partition("=")[0] in doc.groups]
    sections = [f"{about}\n", *examples, "\noptions, as OPTION=VALUE:", *_lines(doc)]
    if doc.groups:
        sections.append("\ngroups, as GROUP=CHOICE:")
        for group, choice in doc.groups.items():
            text = ", ".join(choices(group, folders))
            sections.append(fill(f"{f'  {group}={choice}':{WIDTH}}  {text}", 120, subsequent_indent=" " * (WIDTH + 2)))
    for group, choice in chosen:
        if choice not in (known := choices(group, folders)):
            raise UserError(f"{group}={choice}: no such {group}{suggestion(choice, known)}")
        part = described(f"{group}/{choice}", folders)
        sections += [f"\noptions of {group}={choice}:", *_lines(part, "" if part.is_global else f"{group}.")]
    has = {"", *doc.bases, *doc.groups, *(["groups"] if doc.groups else [])}
    return "\n".join([*sections, "", *(line for key, line in FOOTER.items() if key in has)])


def _lines(doc: CommandHelp, prefix: str = "") -> Iterator[str]:
    for name, (value, meaning) in doc.options.items():
        yield f"{f'  {prefix}{name}={value}':{WIDTH}}  {meaning}".rstrip()


def choices(group: str, folders: Sequence[Path]) -> list[str]:
    """What can be chosen of a group."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def described(name: str, folders: Sequence[Path]) -> CommandHelp:
    """The file `name`, above which stand those that its defaults list names without a group.

    Of a file of another package, such as a launcher of Hydra's, nothing is known but the name.
    """
    path = next((path for folder in reversed(folders) if (path := folder / f"{name}.yaml").exists()), None)
    if path is None:
        return CommandHelp()
    text, doc = path.read_text(encoding="utf-8"), CommandHelp()
    lines = text.splitlines()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    for default in (yaml.safe_load(text) or {}).get("defaults", []):
        if isinstance(default, str) and default != "_self_":
            base = described(str(Path(name).parent / default), folders)
            doc.bases |= {default, *base.bases}
            doc.groups |= base.groups
            doc.options |= base.options
            doc.classes |= base.classes
        elif isinstance(default, dict):
            ((group, choice),) = default.items()
            if not group.startswith("override "):
                doc.groups[group.removeprefix("optional ")] = str(choice).replace("None", "null")
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    doc.comments = [line.removeprefix("#").removeprefix(" ") for line in lines[:first]]
    for option, (value, meaning) in _options(root, lines):
        doc.options[option] = value, meaning or doc.options.get(option, ("", ""))[1]
    doc.classes |= dict(_classes(root))
    doc.options = {name: entry for name, entry in doc.options.items() if name not in doc.groups}
    doc.options |= {name: doc.options.pop(name) for name in (VERBOSITY, PLUGINS) if name in doc.options}  # last
    return doc


def _classes(node: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        if key.value == TARGET:
            yield prefix.removesuffix("."), value.value
        elif isinstance(value, yaml.MappingNode):
            yield from _classes(value, f"{prefix}{key.value}.")


def _options(node: yaml.MappingNode, lines: Sequence[str], prefix: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """Dotted names with value and meaning; a mapping is one option if it has a comment, else what is in it are."""
    for key, value in node.value:
        name, row = key.value, key.start_mark.line
        if name in ("defaults", "hydra", TARGET):
            continue
        on_one_line = value.end_mark.line == row
        comment = lines[row][value.end_mark.column if on_one_line else key.end_mark.column :]
        meaning = comment.partition("#")[2].strip()
        if isinstance(value, yaml.MappingNode) and not on_one_line and not meaning:
            yield from _options(value, lines, f"{prefix}{name}.")
        else:
            shown = lines[row][value.start_mark.column : value.end_mark.column] if on_one_line else "…"
            yield f"{prefix}{name}", (shown, meaning)
