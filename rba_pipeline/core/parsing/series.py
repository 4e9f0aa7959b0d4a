"""The kind of publication, in one vocabulary whether stated, or told by the bank's addresses."""

import re

_BY_PLACE = (
    (re.compile(r"(?:^|/)monetary-policy/[a-z-]*board-minutes/"), "board-minutes"),
    (re.compile(r"(?:^|/)speeches/"), "speech"),
    (re.compile(r"(?:^|/)publications/rdp/"), "research-discussion-paper-abstract"),
    (re.compile(r"(?:^|/)publications/workshops/"), "workshop-listing"),
)
_STATISTICS = re.compile(r"(?:^|/)statistics/frequency/([a-z0-9-]+)")
_STATISTICAL_NAMES = {"fin-agg": "financial-aggregates"}
_MEDIA_RELEASE = re.compile(r"(?:^|/)media-releases/")
_DECISION = re.compile(r"^(?:media release\s+)?statement by\b.*\bmonetary\s+policy\b", re.I | re.S)
_MINUTES = re.compile(r"\bminutes of (?:the )?monetary policy meeting\b", re.I)


def series_of(*, kind: str | None, url: str | None, path: str, title: str) -> str:
    """Return the series: the manifest's ``kind``, else by address, else by path, else by title.

    ``board-minutes``, ``media-release``, ``media-release/monetary-policy-decision``, ``speech``,
    ``statistical-release/<name>``, ``research-discussion-paper-abstract``, ``workshop-listing``;
    ``other`` for what none of them fits.
    """
    if kind:
        return kind
    for place in filter(None, (url, path)):
        series = _by_place(place.lower(), title)
        if series is not None:
            return series
    return "board-minutes" if _MINUTES.search(title) else "other"


def _by_place(place: str, title: str) -> str | None:
    if _MEDIA_RELEASE.search(place):
        return (
            "media-release/monetary-policy-decision" if _DECISION.search(title) else "media-release"
        )
    statistics = _STATISTICS.search(place)
    if statistics is not None:
        name = statistics.group(1)
        return f"statistical-release/{_STATISTICAL_NAMES.get(name, name)}"
    return next((series for pattern, series in _BY_PLACE if pattern.search(place)), None)
