"""HTML pages: the bank's by their structure, others by their main content."""

from collections.abc import Iterator
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from rba_pipeline.core.documents import Section
from rba_pipeline.core.parsing.dates import DateEvidence, day_in
from rba_pipeline.core.parsing.outline import Outline, one_line
from rba_pipeline.core.parsing.tables import holds_data, table_lines
from rba_pipeline.core.parsing.tree import BLOCKS, LEFT_OUT, children, inline_text

_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
# A header inside an article often holds its title and date.
_FURNITURE = (
    "footer, header:not(:has(h1)), [role=banner], [role=navigation], [role=contentinfo], "
    "[role=search], [role=complementary]"
)


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says about itself. ``dates`` are in no particular order."""

    title: str
    url: str | None
    dates: tuple[DateEvidence, ...]
    sections: tuple[Section, ...]


def read_page(text: str) -> Page:
    """Return the main content of a page; no section if it has no text.

    A page with ``#content`` is read by the bank's structure. Of others, ``main``, else the only
    ``article``, else the body is read, without navigation, header, footer and forms.
    """
    try:
        tree = LexborHTMLParser(text)
    except SelectolaxError as error:
        # Any text is a page to it: it fails only where it is denied memory.
        raise MemoryError from error
    root = _content(tree)
    if root is None:
        return Page(_head_title(tree), _canonical(tree), (), ())
    title = _title(tree, root)
    dates = _dates(tree, root)
    _mark_notes(root)
    _drop(root, LEFT_OUT if root.id == "content" else f"{LEFT_OUT}, {_FURNITURE}")
    _drop_title(root, title)
    return Page(title, _canonical(tree), dates, _sections(root, title))


def _content(tree: LexborHTMLParser) -> LexborNode | None:
    for selector in ("#content", "main", "[role=main]"):
        node = tree.css_first(selector)
        if node is not None:
            return node
    articles = tree.css("article")
    return articles[0] if len(articles) == 1 else tree.body


def _drop(root: LexborNode, selector: str) -> None:
    found = root.css(selector)
    matched = {node.mem_id for node in found}
    # Dropping a node frees what is inside it: only the outermost may be touched.
    outermost = [
        node for node in found if not any(up.mem_id in matched for up in _ancestors(node, root))
    ]
    for node in outermost:
        node.decompose()


def _ancestors(node: LexborNode, root: LexborNode) -> Iterator[LexborNode]:
    up = node.parent
    while up is not None and up.mem_id != root.mem_id:
        yield up
        up = up.parent


def _drop_title(root: LexborNode, title: str) -> None:
    """Drop the heading that is the title: it is the heading of the first section already."""
    node = root.css_first("h1")
    if node is not None and (root.id == "content" or title in one_line(inline_text(node))):
        node.decompose()


def _mark_notes(root: LexborNode) -> None:
    """Put an endnote's number, which stands in its link back, in front of it, and drop the link."""
    for link in root.css("a.back-to-reference"):
        note = link.parent
        if note is not None and note.first_child is not None:
            note.first_child.insert_before(f"{one_line(inline_text(link))} ")
        link.decompose()


def _sections(root: LexborNode, title: str) -> tuple[Section, ...]:
    outline = Outline(title, 1 if title else 0)
    words: list[str] = []
    stack: list[LexborNode | None] = [None, root]
    while stack:
        node = stack.pop()
        if node is None or node.tag in BLOCKS:
            outline.paragraph("".join(words))
            words = []
        if node is None:
            continue
        if node.is_text_node or node.tag == "br":
            words.append(inline_text(node))
        elif node.tag in _HEADINGS:
            outline.heading(inline_text(node), _HEADINGS[node.tag])
        elif node.tag == "pre":
            outline.paragraph(node.text())
        elif node.tag == "figure":
            outline.paragraph(_figure_text(node))
        elif node.tag == "table" and holds_data(node):
            lines, notes = table_lines(node)
            outline.paragraph("\n".join(lines))
            for note in notes:
                outline.paragraph(note)
        else:
            if node.tag == "li":
                words.append("• ")
            # None closes the block: what follows it is another paragraph.
            stack.extend([None] if node.tag in BLOCKS else [])
            stack.extend(reversed(_parts(node)))
    return outline.sections()


def _parts(node: LexborNode) -> list[LexborNode]:
    """Return what to read in ``node``; key and value make one line, "Date: 4 June 2013"."""
    key = node.css_first(".key") if "item" in (node.attributes.get("class") or "").split() else None
    if key is not None and key.parent is not None and key.parent.mem_id == node.mem_id:
        key.insert_after(": ")
    return list(children(node))


def _figure_text(figure: LexborNode) -> str:
    """Return caption and description; of pictures without a caption (logos, portraits) nothing."""
    caption_node = figure.css_first("figcaption")
    if caption_node is None:
        return ""
    caption = one_line(inline_text(caption_node))
    described = [one_line(image.attributes.get("alt") or "") for image in figure.css("img")]
    texts = [alt if alt.startswith(caption) else f"{caption}: {alt}" for alt in described if alt]
    return "\n".join(texts) or caption


def _head_title(tree: LexborHTMLParser) -> str:
    node = tree.css_first("title")
    return "" if node is None else one_line(inline_text(node))


def _meta(tree: LexborHTMLParser, name: str) -> str:
    node = tree.css_first(f'meta[name="{name}"], meta[property="{name}"]')
    return "" if node is None else one_line(node.attributes.get("content") or "")


def _canonical(tree: LexborHTMLParser) -> str | None:
    link = tree.css_first('link[rel="canonical"]')
    candidates = (
        _meta(tree, "dcterms.identifier"),
        "" if link is None else one_line(link.attributes.get("href") or ""),
        _meta(tree, "og:url"),
    )
    return next((url for url in candidates if url.startswith(("http://", "https://"))), None)


def _title(tree: LexborHTMLParser, root: LexborNode) -> str:
    """Return the title; of minutes, which all bear the same, the dated one in the head."""
    stated = _meta(tree, "dcterms.title")
    if "Minutes of" in stated and day_in(stated) is not None:
        return stated
    node = root.css_first(".rss-mr-title")
    if node is not None:
        return one_line(inline_text(node))
    headings = root.css("h1")
    if root.id != "content" and len(headings) != 1:
        return _head_title(tree) or (one_line(inline_text(headings[0])) if headings else "")
    if not headings:
        return stated or _head_title(tree)
    prefix = headings[0].css_first(".page-title-prefix")
    title = one_line(inline_text(headings[0]))
    return (
        title.removeprefix(one_line(inline_text(prefix))).strip() if prefix is not None else title
    )


def _dates(tree: LexborHTMLParser, root: LexborNode) -> tuple[DateEvidence, ...]:
    boxes = " ".join(_texts(root, ".box-article-info p, .box-article-info .value"))
    titles = [*_texts(root, "h1"), _meta(tree, "dcterms.title"), _head_title(tree)]
    below = [_below_title(root)]
    published = [
        *_times(root, "[itemprop=datePublished]"),
        _meta(tree, "article:published_time")[:10],
    ]
    found = (
        ("page:rss-mr-date", _times(root, "time.rss-mr-date")),
        ("page:speech-date", _times(root, ".rss-speech-date")),
        ("page:article-info", [*_times(root, ".box-article-info .value"), boxes]),
        ("page:release-date", _times(root, ".box-article-date")),
        ("page:below-title", below),
        ("page:published", published),
        ("title", titles),
        ("page:month", [boxes, *titles]),
    )
    return tuple(DateEvidence(rule, text) for rule, texts in found for text in texts if text)


def _texts(root: LexborNode, selector: str) -> list[str]:
    return [one_line(inline_text(node)) for node in root.css(selector)]


def _times(root: LexborNode, selector: str) -> list[str]:
    """Return, for each match, the words that it shows and the machine-readable day in or on it."""
    found = []
    for node in root.css(selector):
        time = node if node.tag == "time" else node.css_first("time[datetime]")
        machine = "" if time is None else (time.attributes.get("datetime") or "")[:10]
        # Where they differ, the words are right: the attribute is left over from the page before.
        found += [one_line(inline_text(node)), machine]
    return found


def _below_title(root: LexborNode) -> str:
    """Return the first paragraph after the title if it is no more than a place and a date."""
    title = root.css_first("h1")
    node = None if title is None else title.next
    while node is not None and not node.is_element_node:
        node = node.next
    text = "" if node is None or node.tag != "p" else one_line(inline_text(node))
    return text if len(text) <= 80 and text[-4:].isdigit() else ""
