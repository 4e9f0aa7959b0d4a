"""What the assets promise of what is kept and served, and what to do where it is not so."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from rba_pipeline.core.embeddings import NORM_TOLERANCE
from rba_pipeline.core.errors import RbaError


@dataclass(frozen=True, slots=True)
class Check:
    """One promise about a partition, and the remedy if it is not kept."""

    name: str
    promise: str
    remedy: str

    @property
    def description(self) -> str:
        """What the check says of itself before it was ever made."""
        return f"{self.promise} If not: {self.remedy}"

    def verdict(self, found: str = "", *, is_warning: bool = False, **figures: int) -> "Verdict":
        """Return what came of it: passed, unless something was ``found`` that should not be."""
        said = f"{found}. What to do: {self.remedy}" if found else self.promise
        return Verdict(self.name, not found, said, figures, is_warning)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one check.

    Attributes:
        said: The promise, or what was found and what to do.
        is_warning: That it did not pass stops nothing.
    """

    check: str
    passed: bool
    said: str
    figures: Mapping[str, int] = field(default_factory=dict)
    is_warning: bool = False

    @property
    def stops(self) -> bool:
        """Return whether nothing may be built on what was checked."""
        return not self.passed and not self.is_warning


class ChecksFailed(RbaError):
    """What is kept is not as it was promised: nothing is built on it. The message has the remedies.

    Attributes:
        verdicts: Of all checks that were made, those that passed among them.
    """

    def __init__(self, verdicts: Collection[Verdict]) -> None:
        super().__init__("; ".join(f"{each.check}: {each.said}" for each in verdicts if each.stops))
        self.verdicts = tuple(verdicts)


def require(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts if they let the work go on.

    Raises:
        ChecksFailed: One of them stops it.
    """
    made = list(verdicts)
    if any(each.stops for each in made):
        raise ChecksFailed(made)
    return made


AS_CATALOGUED = Check(
    "as_catalogued",
    "The documents kept for the partition are those that the catalogue files in it, each once.",
    "remove the file, and materialise 'documents' again: it is written anew from what was parsed.",
)
UNIQUE_IDS = Check(
    "unique_ids",
    "The partition's chunks are kept as they were cut, no two of them with the same id.",
    "remove the file, and materialise 'chunks' again: cutting anew gives the same ids.",
)
ONE_VECTOR_PER_TEXT = Check(
    "one_vector_per_text",
    "Every distinct text of the partition has a vector, or a reason why it has none.",
    "materialise 'embeddings' again: only the texts that lack a vector are sent.",
)
_REMOVE_PARTS = "remove the files named, and materialise 'embeddings' again: only {} are sent anew."
DIMENSION = Check(
    "dimension",
    "Every vector of the partition's texts is as long as its embedding space says.",
    _REMOVE_PARTS.format("the texts that they held"),
)
FINITE = Check(
    "finite",
    "No vector of the partition's texts holds NaN or infinity.",
    _REMOVE_PARTS.format("the texts that they held"),
)
UNIT_NORM = Check(
    "unit_norm",
    f"Every vector of the partition's texts has length 1, give or take {NORM_TOLERANCE}.",
    _REMOVE_PARTS.format("the texts that they held"),
)
SPACE = Check(
    "space",
    "Every vector of the partition's texts was made in the space that its folder is named after.",
    _REMOVE_PARTS.format("texts that have no other vector"),
)
SENTINEL = Check(
    "sentinel",
    "A text that was kept when the space was first used still has the same vector today.",
    "run `python -m embedding_service check` where the service runs, and look for a changed "
    "library, device or driver; then materialise 'embeddings' again.",
)
ONE_VECTOR_PER_CHUNK = Check(
    "one_vector_per_chunk",
    "Search has one row for each chunk of the partition that is not in quarantine, and no other.",
    "look for a trigger, a rule or another program that writes the table vectors; then materialise "
    "'vectors' again: rows come from the record, nothing is embedded.",
)
UNIT_VECTORS = Check(
    "unit_vectors",
    "Every vector that search reads for the partition has its space's dimension and length 1.",
    "delete those rows, add the CHECK constraints of the space's table again, and materialise "
    "'vectors' again: the rows come from the record, nothing is embedded.",
)
SERVED_SPACE = Check(
    "space",
    "The database knows the space of the partition's vectors as the record does.",
    "do not mix them: publish into a database of its own (RBA_DATABASE_URL), or correct the row "
    "of the table spaces if it was changed by hand.",
)
DOCUMENTS_PUBLISHED = Check(
    "documents_published",
    "Search has the documents of the partition that the record has, but for those filed in another "
    "one since, and no other.",
    "look for a trigger, a rule or another program that writes the table documents; then "
    "materialise 'vectors' again.",
)
CORPUS_ADDS_UP = Check(
    "corpus_adds_up",
    "Documents over all partitions that were ever run, and files in quarantine, are all files of "
    "the catalogue.",
    "materialise the partitions named; while a backfill is under way, they are what is left of it.",
)

CHECKS: Mapping[str, tuple[Check, ...]] = {
    "documents": (AS_CATALOGUED,),
    "chunks": (UNIQUE_IDS,),
    "embeddings": (ONE_VECTOR_PER_TEXT, DIMENSION, FINITE, UNIT_NORM, SPACE, SENTINEL),
    "vectors": (
        ONE_VECTOR_PER_CHUNK,
        UNIT_VECTORS,
        SERVED_SPACE,
        DOCUMENTS_PUBLISHED,
        CORPUS_ADDS_UP,
    ),
}
