"""Reading a report without a browser."""

import json
from html.parser import HTMLParser

from lit_decom.report import write_report

VOID = {"meta", "link", "input", "img", "br", "hr"}
APART = {"td", "th", "dt", "dd", "p", "li", "h1", "h2", "h3", "small", "caption", "title", "desc", "figcaption"}


class Page(HTMLParser):
    """Reads a page and fails on what browsers forgive: unclosed and crossed elements, ids given twice."""

    def __init__(self, path):
        super().__init__()
        self.text, self.elements, self._open, self.data = "", [], [], None
        source = path.read_text(encoding="utf-8")
        self.feed(source)
        assert not self._open
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.text += " " if tag == "br" else ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        self.text += " " if tag in APART else ""

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        if inside == "script" and self.elements[-1][1].get("id") == "data":
            self.data = json.loads(data)
        elif inside not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join(self.text.split())


def report(*run_dirs, **options):
    return Page(write_report(run_dirs, **options))
