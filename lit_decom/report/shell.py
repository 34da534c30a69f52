"""The frame of every page that this package writes: look, light and dark, narrow screens, nothing fetched."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class _Script:
    """A script, and the digest by which the page's security policy knows it."""

    source: Markup
    digest: str

    @classmethod
    def of(cls, name: str) -> "_Script":
        source = _source(name)
        return cls(Markup(source), base64.b64encode(hashlib.sha256(source.encode()).digest()).decode())


def render_page(template: str, context: Mapping[str, Any], *, scripts: Sequence[str] = ()) -> str:
    """Fill a template that extends ``page.html.j2`` in its blocks ``title``, ``top``, ``main`` and others.

    Args:
        template: its name in the package's templates.
        context: what it needs.
        scripts: the names of scripts of its own, run in this order after the one for light and dark.

    Returns:
        A page that needs no other file and no network. Everything in it is escaped, as long as it is no Markup.
    """
    environment = Environment(
        loader=PackageLoader("lit_decom"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    frame = {"style": Markup(_source("report.css")), "scripts": [_Script.of(name) for name in ("theme.js", *scripts)]}
    return environment.get_template(template).render({**context, **frame})


def _source(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
