"""Pages that stand alone: one file with its style and script in it, which loads nothing."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def rendered(name: str, *, styles: Sequence[str] = (), scripts: Sequence[str] | None = None, **values: Any) -> str:
    """`templates/<name>.html.j2` with `<name>.css` and `<name>.js`, or the named ones together; every value is escaped.

    The template finds `style` and `script`, and `hashes` of both, by which a page's policy names what it lets in.
    """
    environment = Environment(
        loader=PackageLoader("mmsafe.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    assets = {
        "style": Markup("").join(_source(environment, f"{part}.css") for part in styles or [name]),
        "script": Markup("").join(
            _source(environment, f"{part}.js") for part in ([name] if scripts is None else scripts)
        ),
    }
    hashes = {kind: _hash(text) for kind, text in assets.items()}
    return environment.get_template(f"{name}.html.j2").render(**values, **assets, hashes=hashes)


def _source(environment: Environment, name: str) -> Markup:
    """A file of our own, to stand in the page as it is."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
