"""Command lines as they were before all commands took `option=value`: read for one release, with what to write now."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Mapping

from mmsafe.core.command_line import as_text
from mmsafe.core.endings import report


def as_written_now(command: str, args: Namespace, old: Mapping[str, str]) -> list[str]:
    """The overrides in `args`, and in place of old flags and words without `=` those that they stand for.

    `old` has, by flag and under "" for such words, the override in which `{}` is the values. Says on stderr what to
    write now, if there are any.
    """
    words = [word for word in args.overrides if "=" in word or word.startswith("~") or "" not in old]
    values = {flag: vars(args)[flag] for flag in old if flag} | {"": [w for w in args.overrides if w not in words]}
    translated = [
        template.format(",".join(map(as_text, values[flag]))) for flag, template in old.items() if values[flag]
    ]
    if translated:
        name = f"mmsafe.{command}"
        now = shlex.join(["python", "-m", name, *translated, *words])
        report(f"this spelling ends with the next release; write: {now}", name)
    return [*translated, *words]
