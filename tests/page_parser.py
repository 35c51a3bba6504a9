"""A page as a browser would parse it: what it holds, what a reader sees, and what is packed in it."""

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, the text outside of scripts and styles, and the text of each script."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.html = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.of: dict[str, list[str]] = {}  # section: its text
        self.inside: list[str] = []
        self.section = ""
        self.feed(self.html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self.section = dict(attrs)["id"]
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag, f"</{tag}> closes another element"
        self.section = "" if tag == "section" else self.section

    def handle_data(self, data):
        if self.inside and self.inside[-1] == "script":
            self.scripts[-1] += data
        elif "style" not in self.inside:
            self.texts.append(data)
            self.of.setdefault(self.section, []).append(data)

    def text(self, section: str | None = None) -> str:
        """What a reader sees, of the page or of a section, white space in one."""
        texts = self.texts if section is None else self.of.get(section, [])
        return re.sub(r"\s+", " ", " ".join(texts))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def packed(self, name: str) -> str:
        """What report.js unpacks: "plotly", "figures" or "pages"."""
        places = [attributes.get("id") for attributes in self.named("script")]
        content = self.scripts[places.index(f"packed-{name}")]
        return zlib.decompress(base64.b64decode(content)).decode()

    def figures(self) -> dict[str, dict]:
        return dict(json.loads(self.packed("figures")))
