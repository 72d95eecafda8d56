"""The HTML of a report: sections of text, tables and figures, in one file that needs no network and no scripts."""

import base64
import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dist_sparse.errors import one_line
from dist_sparse.report.style import STYLE

if TYPE_CHECKING:
    from dist_sparse.report.drawing import Picture


@dataclass(frozen=True, kw_only=True)
class Link:
    """A text that leads to a file beside the report."""

    text: str
    href: str
    """A relative address, quoted as addresses are."""


Cell = str | Link


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells. ``texts`` are the first so many columns, aligned to the left; the others are numbers, to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: int = 1
    total: Sequence[Cell] = ()
    """A last row that sums up; none if it is empty."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Figures to be seen at once, each with its name and a note below it, which may be empty."""

    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A part that is shown when its summary is clicked."""

    summary: str
    part: Table


Part = "str | Table | Facts | Folded | Picture"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it. Text is a paragraph; figures or tables in a row stand side by side."""

    title: str
    parts: list[Part] = field(default_factory=list)  # pyright: ignore[reportInvalidTypeForm]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report."""

    title: str
    lines: Sequence[str]
    """Below the title."""
    sections: Sequence[Section]

    @property
    def pictures(self) -> "list[Picture]":
        """All figures, in their order."""
        return [part for section in self.sections for part in section.parts if _is_picture(part)]

    def html(self) -> str:
        """The file's text."""
        viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
        head = f'<meta charset="utf-8">\n{viewport}\n<style>{STYLE}</style>'
        lines = "".join(f"<p>{_text(line)}</p>\n" for line in self.lines)
        contents = "".join(
            f'<a href="#section{number}">{_text(each.title)}</a>\n'
            for number, each in enumerate(self.sections, 1)
            if each.title
        )
        body = "".join(_section(number, each) for number, each in enumerate(self.sections, 1))
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<title>{_text(self.title)}</title>\n{head}\n</head>\n<body>\n'
            f"<header>\n<h1>{_text(self.title)}</h1>\n{lines}</header>\n<nav>\n{contents}</nav>\n{body}</body>\n</html>\n"
        )


def _section(number: int, section: Section) -> str:
    title = f"<h2>{_text(section.title)}</h2>\n" if section.title else ""
    text = ""
    for kind, parts in itertools.groupby(section.parts, _kind):
        inner = "".join(map(_part, parts))
        text += f'<div class="{kind}">\n{inner}</div>\n' if kind else inner
    return f'<section id="section{number}">\n{title}{text}</section>\n'


def _kind(part: object) -> str:
    """What stands side by side with its like."""
    return "figures" if _is_picture(part) else "tables" if isinstance(part, Table) else ""


def _is_picture(part: object) -> bool:
    return not isinstance(part, (str, Table, Facts, Folded))


def _part(part: Part) -> str:  # pyright: ignore[reportInvalidTypeForm]
    if isinstance(part, str):
        return f"<p>{_text(part)}</p>\n"
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Facts):
        cells = "".join(
            f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(note)}</small></dd></div>\n"
            for name, value, note in part.rows
        )
        return f"<dl>\n{cells}</dl>\n"
    if isinstance(part, Folded):
        return f"<details><summary>{_text(part.summary)}</summary>\n{_table(part.part)}</details>\n"
    data = base64.b64encode(part.svg()).decode()
    kind = ' class="dense"' if part.dense else ""
    return f'<figure{kind}><img alt="{_text(part.alt)}" src="data:image/svg+xml;base64,{data}"></figure>\n'


def _table(table: Table) -> str:
    head = f"<thead>{_row(table.head, table.texts, 'th')}</thead>\n" if any(table.head) else ""
    body = "".join(_row(row, table.texts, "td") for row in table.rows)
    foot = f"<tfoot>{_row(table.total, table.texts, 'td')}</tfoot>\n" if table.total else ""
    return f'<div class="table"><table>\n{head}<tbody>\n{body}</tbody>\n{foot}</table></div>\n'


def _row(cells: Sequence[Cell], texts: int, tag: str) -> str:
    kinds = ["" if number < texts else ' class="number"' for number in range(len(cells))]
    return f"<tr>{''.join(f'<{tag}{kind}>{_cell(cell)}</{tag}>' for cell, kind in zip(cells, kinds, strict=True))}</tr>\n"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f'<a href="{_text(cell.href)}">{_text(cell.text)}</a>'
    return _text(cell)


def _text(text: str) -> str:
    """Any text, whoever has written it, as what it is and nothing more."""
    return html.escape(one_line(text))
