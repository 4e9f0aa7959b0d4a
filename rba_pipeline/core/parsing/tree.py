"""Reading an HTML tree without recursion: a page may nest deeper than Python's stack."""

from collections.abc import Iterator

from selectolax.lexbor import LexborNode

_BLOCKS = """
    address article aside blockquote body center dd details dialog div dl dt fieldset figcaption
    figure footer form h1 h2 h3 h4 h5 h6 header hr html li main nav ol p pre section summary table
    tbody td tfoot th thead tr ul
"""
BLOCKS = frozenset(_BLOCKS.split())
_SILENT = frozenset(
    {"script", "style", "noscript", "template", "iframe", "svg", "math"}
    | {"button", "label", "select", "textarea", "object", "head"}
)
LEFT_OUT = ", ".join(
    (
        # Some sites wrap a whole page in one form.
        "nav, aside, [hidden], form:not(:has(h1, h2, p))",
        ".box-enquiries, .nav-page-contents, .nav-publication-contents, #mp-related-links",
        ".publication-related-links, .content-tools, .video-placeholder, .sr-only",
        ".box-article-info .links, .box-article-info img, .filesize, .file-size",
    )
)


def children(node: LexborNode) -> Iterator[LexborNode]:
    """Yield the elements and texts directly in ``node`` that are meant to be read."""
    for child in node.iter(include_text=True):
        if child.is_text_node or (child.is_element_node and child.tag not in _SILENT):
            yield child


def inline_text(node: LexborNode) -> str:
    """Return the text of ``node``, a line for each break and block, spaces as they stand."""
    parts: list[str] = []
    stack: list[LexborNode | str] = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            parts.append(item)
        elif item.is_text_node:
            # Line ends of the source are only spaces.
            parts.append((item.text_content or "").replace("\r", " ").replace("\n", " "))
        elif item.tag == "br":
            parts.append("\n")
        else:
            edge = "\n" if item.tag in BLOCKS else ""
            stack.extend([edge, *reversed(list(children(item))), edge])
    return "".join(parts)
