"""Pages: what they hold, and that they need nothing from outside."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys

import pytest
from jinja2 import UndefinedError
from PIL import Image

from corl_cli.core import pages
from corl_cli.core.pictures import Tile


@pytest.fixture
def templates(tmp_path, monkeypatch):
    """A folder of templates with the shipped ones in it; `page(body)` adds a page that uses the parts."""
    for shipped in pages.TEMPLATES.glob("*.html"):
        (tmp_path / shipped.name).write_text(shipped.read_text())
    monkeypatch.setattr(pages, "TEMPLATES", tmp_path)

    def page(body: str) -> str:
        (tmp_path / "page.html").write_text(
            '{% extends "base.html" %}{% import "parts.html" as parts %}'
            "{% block title %}A page{% endblock %}{% block body %}" + body + "{% endblock %}"
        )
        return "page.html"

    return page


def test_a_page_stands_alone(templates):
    html = pages.render(templates("<h1>{{ name }}</h1>"), name="x")
    assert html.startswith("<!doctype html>")
    assert "<title>A page</title>" in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert not re.search(r"<script|<link|https?://|@import|url\(", html)


def test_values_are_escaped_and_a_forgotten_one_is_an_error(templates):
    page = templates("<p>{{ said }}</p>")
    assert "<p>&lt;script&gt;&#34;</p>" in pages.render(page, said='<script>"')
    with pytest.raises(UndefinedError):
        pages.render(page)


def test_an_image_is_inside_the_page_unchanged(templates):
    image = Image.effect_noise((9, 7), 50).convert("RGB")
    html = pages.render(templates("{{ parts.grid(tiles) }}"), tiles=[Tile(image, 'a "red" <circle>')])
    encoded = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(encoded) == 1
    assert Image.open(io.BytesIO(base64.b64decode(encoded[0]))).tobytes() == image.tobytes()
    assert "<figcaption>a &#34;red&#34; &lt;circle&gt;</figcaption>" in html


def test_tables_and_facts_show_what_is_missing_as_a_dash(templates):
    rows = [{"reward": "cycle", "share": 0.123456}, {"reward": "a<b", "share": None}]
    html = pages.render(
        templates('{{ parts.table(rows, "Shares") }}{{ parts.facts(facts) }}'), rows=rows, facts={"x": 2.0}
    )
    assert '<td class="figure">0.1235</td>' in html
    assert '<td class="figure">–</td>' in html
    assert "<td>a&lt;b</td>" in html
    assert "<dt>x</dt><dd>2</dd>" in html
    assert pages.number(float("nan")) == "–"


def test_a_box_names_its_level(templates):
    html = pages.render(templates('{% call parts.box("alarm", "Cheat") %}<p>why</p>{% endcall %}'))
    assert '<section class="box alarm">' in html
    assert "<p>why</p>" in html


def test_a_figure_is_an_inline_drawing(templates):
    from matplotlib.figure import Figure

    fig = Figure(figsize=(2, 1))
    fig.subplots().plot([1, 2], label="reward")
    html = pages.render(templates("{{ parts.plots([fig]) }}"), fig=fig)
    assert html.count("<svg") == 1
    assert "<?xml" not in html
    assert pages.figure(fig) == pages.figure(fig)


def test_a_page_is_written_whole(templates, tmp_path):
    path = tmp_path / "new" / "page.html"
    pages.write(path, templates("{{ word }}"), word="naïve")
    assert "naïve" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_importing_pages_is_light():
    code = "import sys, corl_cli.core.pages; print({'jinja2', 'PIL', 'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
