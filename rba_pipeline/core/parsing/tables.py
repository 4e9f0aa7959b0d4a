"""An HTML table as lines that can be read aloud: one row per line, its header first."""

from collections.abc import Iterator
from dataclasses import dataclass

from selectolax.lexbor import LexborNode

from rba_pipeline.core.parsing.outline import one_line
from rba_pipeline.core.parsing.tree import inline_text

# A cell may claim to span a million columns; no real table does.
WIDEST_SPAN = 64
_LAYOUT = "table, h1, h2, h3, h4, h5, h6, ul, ol, article, section"


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    columns: int
    rows: int


def holds_data(table: LexborNode) -> bool:
    """Return whether ``table`` is rows of values; false where it only places parts of a page."""
    return not any(cell.css_first(_LAYOUT) for cell in table.css("td, th"))


def table_lines(table: LexborNode) -> tuple[list[str], list[str]]:
    """Return the lines of a table (caption, header, rows) and the notes of its foot.

    Header rows are merged into one, so that "Monthly" above "Oct 24" reads "Monthly Oct 24".
    Columns that are empty throughout are left out; cells are joined with " | ".
    """
    caption = table.css_first("caption")
    head, body, notes = _rows(table)
    grid_head, grid_body = _grid(head), _grid(body)
    width = max((len(row) for row in (*grid_head, *grid_body)), default=0)
    header = [
        " ".join(
            dict.fromkeys(row[column] for row in grid_head if column < len(row) and row[column])
        )
        for column in range(width)
    ]
    rows = [row + [""] * (width - len(row)) for row in grid_body]
    used = [column for column in range(width) if header[column] or any(row[column] for row in rows)]
    lines = [] if caption is None else [one_line(inline_text(caption))]
    filled = [[row[column] for column in used] for row in (header, *rows) if any(row)]
    lines.extend(" | ".join(cells).rstrip(" |") for cells in filled)
    return [line for line in lines if line], notes


def _rows(table: LexborNode) -> tuple[list[list[_Cell]], list[list[_Cell]], list[str]]:
    head: list[list[_Cell]] = []
    body: list[list[_Cell]] = []
    notes: list[str] = []
    for row in table.css("tr"):
        place = row.parent.tag if row.parent is not None else ""
        cells = [_cell(node) for node in row.iter() if node.tag in ("td", "th")]
        only_headings = bool(cells) and all(node.tag == "th" for node in row.iter())
        if place == "tfoot":
            notes.extend(cell.text for cell in cells if cell.text)
        elif place == "thead" or (only_headings and not body):
            head.append(cells)
        else:
            body.append(cells)
    return head, body, notes


def _cell(node: LexborNode) -> _Cell:
    return _Cell(one_line(inline_text(node)), _span(node, "colspan"), _span(node, "rowspan"))


def _span(node: LexborNode, name: str) -> int:
    value = node.attributes.get(name) or "1"
    if not (value.isascii() and value.isdigit()):
        return 1
    return WIDEST_SPAN if len(value) > 3 else max(1, min(int(value), WIDEST_SPAN))


def _grid(rows: list[list[_Cell]]) -> list[list[str]]:
    """Return the texts by row and column, each spanning cell repeated where it reaches."""
    reaching: dict[tuple[int, int], str] = {}
    grid = []
    for index, row in enumerate(rows):
        line: list[str] = []
        for cell in row:
            line.extend(_reached(reaching, index, len(line)))
            for column in range(len(line), len(line) + cell.columns):
                for below in range(index + 1, min(index + cell.rows, len(rows))):
                    reaching[below, column] = cell.text
            line.extend([cell.text] * cell.columns)
        line.extend(_reached(reaching, index, len(line)))
        grid.append(line)
    return grid


def _reached(reaching: dict[tuple[int, int], str], row: int, column: int) -> Iterator[str]:
    while (row, column) in reaching:
        yield reaching.pop((row, column))
        column += 1
