"""Moves from one setting of the pace to its neighbours."""

from enum import StrEnum

from rba_pipeline.core.presets import Bounds


class Move(StrEnum):
    """One step away from the present setting: twice as many of something, or half as many."""

    MORE_REQUESTS = "more requests"
    MORE_TEXTS = "more texts"
    FEWER_REQUESTS = "fewer requests"
    FEWER_TEXTS = "fewer texts"


OPPOSITE = {
    Move.MORE_REQUESTS: Move.FEWER_REQUESTS,
    Move.FEWER_REQUESTS: Move.MORE_REQUESTS,
    Move.MORE_TEXTS: Move.FEWER_TEXTS,
    Move.FEWER_TEXTS: Move.MORE_TEXTS,
}
MORE = (Move.MORE_REQUESTS, Move.MORE_TEXTS)


def moved(now: Bounds, move: Move, upper: Bounds) -> Bounds | None:
    """Return ``now`` after ``move``, within ``upper``; ``None`` where nothing would change."""
    texts, requests = now.batch_size, now.parallel_batches
    match move:
        case Move.MORE_REQUESTS:
            to = Bounds(texts, min(requests * 2, upper.parallel_batches))
        case Move.MORE_TEXTS:
            to = Bounds(min(texts * 2, upper.batch_size), requests)
        case Move.FEWER_REQUESTS:
            to = Bounds(texts, max(1, requests // 2))
        case Move.FEWER_TEXTS:
            to = Bounds(max(1, texts // 2), requests)
    return None if to == now else to
