"""The embedding service: within reach, ready, the one that search expects, and set to the runs."""

from collections.abc import Iterator

from rba_pipeline.core.errors import DatabaseError, EmbeddingError
from rba_pipeline.doctor.findings import Finding, failed, ok, warning
from rba_pipeline.neighbours import Neighbours
from rba_pipeline.resources.service_answers import ServiceInfo

ABOUT = "service"
# Most patience for one answer; a run has its own.
_ANSWER_S = 10


def service(found: Neighbours) -> Iterator[Finding]:
    """Look at the service, and at what its answers mean for runs."""
    embedding = found.embedding.model_copy(
        update={"timeout_s": min(found.embedding.timeout_s, _ANSWER_S)}
    )
    with embedding.open() as client:
        try:
            info = client.info()
        except EmbeddingError as error:
            yield failed(ABOUT, str(error))
            return
        yield ok(ABOUT, f"{embedding.api_url} answers and takes the key")
        yield from _model(info)
        client.canary(info, None)
        rate = client.tokens_per_second()
        told = f"{rate:.0f} tokens per second while it works" if rate else "has not worked yet"
        yield ok("service speed", told)
        yield from _space(found, info)
        known = found.embedding_store.canary(info.space.id)
        if known is not None:
            client.canary(info, known)
            yield ok("service vectors", "the same as when this space was first used")
    with found.embedding.open():
        yield from _pitfalls(found, info)


def _model(info: ServiceInfo) -> Iterator[Finding]:
    about = f"{info.space.model}, {info.space.dimensions} dimensions, {info.max_tokens} tokens"
    prompt = f"prompt {info.document_prompt!r}" if info.document_prompt else "no prompt"
    yield ok("service model", f"{about}, {prompt}, on {info.device} with {info.cores} cores")


def _space(found: Neighbours, info: ServiceInfo) -> Iterator[Finding]:
    try:
        with found.vector_store.open() as store:
            active = store.active_space()
    except DatabaseError:
        # Told where the database is looked at.
        return
    if active is None:
        yield ok("space", f"nothing is published yet; runs will fill {info.space.id}")
    elif active.id == info.space.id:
        yield ok("space", f"search reads {active.id}, the service's")
    else:
        yield warning(
            "space",
            f"search reads {active.id} ({active.model}), the service serves {info.space.id} "
            f"({info.space.model}): searches are refused until every partition is materialised "
            "anew, or the former model is served again",
        )


def _pitfalls(found: Neighbours, info: ServiceInfo) -> Iterator[Finding]:
    """Yield what the run of a partition of usual texts would be told before it begins."""
    settings = found.chunking.settings(info)
    sample = found.records.sample(settings.chunking_id, 64)
    tokens = [text.tokens for text in sample] or [settings.size]
    bounds = found.embedding.bounds(info)
    if bounds.batch_size * max(tokens) > info.max_queue_tokens:
        yield warning(
            "batch size",
            f"a request of {bounds.batch_size} texts of {max(tokens)} tokens is more than the "
            f"{info.max_queue_tokens} tokens that the service takes: it will be split. Use "
            f"batch_size {max(1, info.max_queue_tokens // max(tokens))}",
        )
    advice = found.embedding.advice(info, texts=len(tokens), tokens=sum(tokens))
    for sentence in advice:
        yield warning("pitfall", sentence)
    if not advice:
        told = f"up to {bounds.batch_size} × {bounds.parallel_batches} suits the service"
        yield ok("pitfalls", f"none of the guide's: {told}")
