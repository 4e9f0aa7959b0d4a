"""What whoever launched a run should be told before it begins: the pitfalls that apply to it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rba_pipeline.core.presets import RANGES, Bounds

# The guide's range for a CPU, and twice the cores where there are more of them.
_REQUESTS_ON_A_CPU = 4
# A request should have its answer in half of its time-out: the machine may be busy otherwise.
_SHARE_OF_TIMEOUT = 0.5


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the advice depends on.

    Attributes:
        model, prompt: What the service serves, and what it puts before each text.
        services: How many addresses answer.
        batch_size, parallel_batches: As the user set them; ``None``: not set.
        preset: Whose values hold where none is set; ``None``: those were measured here, or are
            only the bounds of a run that finds its pace.
        in_flight: What will be in flight at once at first.
        device, cores: Of one of them.
        server_batch_size: Texts of one forward pass of the service.
        tokens_per_text: Of the texts of this run, on average.
        rate: Measured tokens per second of the service; 0 where it has not worked yet.
        tuned_elsewhere: What sets this service apart from the one that the preset ``tuned`` was
            measured at; ``None``: nothing, or another preset is in force.
    """

    model: str
    prompt: str
    batch_size: int | None
    parallel_batches: int | None
    preset: str | None
    in_flight: Bounds
    timeout_s: float
    device: str
    cores: int
    max_texts: int
    server_batch_size: int
    tokens_per_text: float
    rate: float
    services: int = 1
    unreachable: tuple[str, ...] = ()
    tuned_elsewhere: str | None = None


def advice(run: Circumstances) -> list[str]:
    """Return a sentence for each pitfall that applies, with the value to use."""
    return [
        *_of_addresses(run),
        *_of_prompt(run),
        *_of_tuning(run),
        *_of_parallelism(run),
        *_of_batch_size(run),
        *_of_timeout(run),
    ]


def _of_addresses(run: Circumstances) -> Iterator[str]:
    for address in run.unreachable:
        yield (
            f"{address} does not answer: the run begins without it, and takes it in when it is back"
        )


def _of_prompt(run: Circumstances) -> Iterator[str]:
    if "nomic" in run.model.lower() and not run.prompt:
        yield (
            f"{run.model} is served without a prompt, and nomic's models are trained with them: "
            "searches find less. Use a model folder whose config_sentence_transformers.json has "
            "prompts"
        )


def _of_tuning(run: Circumstances) -> Iterator[str]:
    if run.tuned_elsewhere is not None:
        yield (
            f"preset=tuned was measured at another service ({run.tuned_elsewhere}): run "
            "`rba-pipeline tune` again, or choose preset auto"
        )


def _of_parallelism(run: Circumstances) -> Iterator[str]:
    enough = run.services * max(_REQUESTS_ON_A_CPU, 2 * run.cores)
    machines = f"{run.cores} cores" if run.services == 1 else f"{run.services} × {run.cores} cores"
    requests, origin = _in_force(run, run.parallel_batches, run.in_flight.parallel_batches)
    if run.device == "cpu" and requests > enough:
        yield (
            f"parallel_batches={requests}{origin} is too much parallelism for {machines}: "
            f"more requests wait longer and are not faster. Use {enough}"
        )


def _of_batch_size(run: Circumstances) -> Iterator[str]:
    texts, origin = _in_force(run, run.batch_size, run.in_flight.batch_size)
    if texts > run.max_texts:
        yield (
            f"batch_size={texts} is over the service's limit: its requests hold at most "
            f"{run.max_texts} texts, and so will this run's. Use {run.max_texts}"
        )
    elif texts > run.server_batch_size:
        yield (
            f"batch_size={texts}{origin} is over the service's own: it computes at most "
            f"{run.server_batch_size} texts at once, so that a larger request only takes longer. "
            f"Use {run.server_batch_size}"
        )


def _in_force(run: Circumstances, given: int | None, effective: int) -> tuple[int, str]:
    """Return the value to judge, 0 if there is none, and where it is from if nobody set it."""
    if given is None and run.preset is not None:
        return effective, f", from preset {run.preset},"
    return given or 0, ""


def _of_timeout(run: Circumstances) -> Iterator[str]:
    if not run.rate:
        return
    texts = run.in_flight.batch_size * run.in_flight.parallel_batches
    needed_s = texts * run.tokens_per_text / run.rate
    if needed_s > _SHARE_OF_TIMEOUT * run.timeout_s:
        asked_s = math.ceil(needed_s / _SHARE_OF_TIMEOUT)
        most_s = RANGES["timeout_s"][1]
        fewer = max(1, int(_SHARE_OF_TIMEOUT * run.timeout_s * run.rate / run.tokens_per_text))
        ways = [f"{min(asked_s, most_s)}"] if run.timeout_s < most_s else []
        ways += [f"at most {fewer} texts in flight"] if fewer < texts else []
        yield (
            f"timeout_s={run.timeout_s:g} is below what the service needs: {texts} texts in flight "
            f"take it about {needed_s:.0f} s, at its measured {run.rate:.0f} tokens per second. "
            f"Use {', or '.join(ways) or 'a faster service'}"
        )
