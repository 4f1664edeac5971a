"""HTML pages that stand alone: one file with its style and pictures inside, no network and no script.

Every page extends templates/base.html and uses the macros of templates/parts.html.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corl_cli.core.run_dir import write_atomic

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure
    from PIL.Image import Image

TEMPLATES = Path(__file__).parent / "templates"
SIDE, LIGHT = 160, 6000  # pixels of one of many images, and bytes of a PNG that is left as it is


def render(template: str, **values: Any) -> str:
    """The HTML of a page from a template's file name; values are escaped, a name that is not given is an error.

    Numbers go through the filter `number` (four digits, a dash for what is missing), PIL images through `uri`, or
    `photo` where there are many; matplotlib figures through `figure`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "uri": data_uri, "photo": photo_uri, "figure": figure}
    return environment.get_template(template).render(**values)


def write(path: Path, template: str, **values: Any) -> None:
    """Render a page into a file, whole or not at all."""
    write_atomic(path, render(template, **values))


def data_uri(image: Image) -> str:
    """The image as a `data:` address (PNG), for <img src>."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return _address("png", buffer)


def photo_uri(image: Image) -> str:
    """The same for a page with many images: at most SIDE pixels, and as WebP unless PNG is as good as small."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    png, webp = io.BytesIO(), io.BytesIO()
    small.save(png, "PNG")
    if png.tell() <= LIGHT:
        return _address("png", png)
    small.save(webp, "WEBP", quality=75)
    return _address("webp", webp)


def _address(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figure(fig: Figure) -> Markup:
    """A matplotlib figure as an inline <svg>, its paper transparent; the figure stays open."""
    from markupsafe import Markup
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "corl"}):  # words stay words; equal figures, equal text
        fig.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])  # without the XML prologue, which HTML has no place for


def number(value: Any) -> str:
    """A number with four significant digits, a dash for None and NaN, anything else as it is."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
