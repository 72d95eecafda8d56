"""A report as a browser takes it in: its tables, its texts, and what it refers to."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path


@dataclass
class Found:
    """``tables`` are lists of rows of texts; ``facts`` the figures at the top, with their notes."""

    tables: list[list[list[str]]] = field(default_factory=list)
    paragraphs: list[str] = field(default_factory=list)
    facts: dict[str, tuple[str, str]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    """Text to address, without those within the page."""
    sources: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    heading: str = ""

    def table(self, *head: str) -> list[dict[str, str]]:
        """The rows, by column, of the one table that begins with these headings."""
        (found,) = (table for table in self.tables if table[0][: len(head)] == list(head))
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]

    @property
    def text(self) -> str:
        return "\n".join([self.heading, *self.paragraphs])


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found, self._texts, self._fact, self._link = Found(), list[str](), ["", "", ""], ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found, values = self.found, dict(attrs)
        found.tags.append(tag)
        found.attributes |= values.keys()
        if source := values.get("src"):
            found.sources.append(source)
        if tag == "a" and not (values["href"] or "").startswith("#"):
            self._link = values["href"] or ""
        if tag == "table":
            found.tables.append([])
        if tag == "tr":
            found.tables[-1].append([])
        if tag == "small":
            self._fact[1] = "".join(self._texts)
        self._texts = []

    def handle_data(self, data: str) -> None:
        self._texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        text, found = "".join(self._texts), self.found
        if tag in ("td", "th"):
            found.tables[-1][-1].append(text)
        if tag == "p":
            found.paragraphs.append(text)
        if tag == "h1":
            found.heading = text
        if tag == "dt":
            self._fact[0] = text
        if tag == "small":
            found.facts[self._fact[0]] = (self._fact[1], text)
        if tag == "a" and self._link:
            found.links[text], self._link = self._link, ""
            return  # its text is the cell's as well
        self._texts = []


def read_page(path: Path) -> Found:
    """What a report's file holds."""
    return parse_page(path.read_text(encoding="utf-8"))


def parse_page(text: str) -> Found:
    """What a report holds."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    return parser.found
