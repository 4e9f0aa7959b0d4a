"""Partitions that need a run are told from those that do not, over a real database."""

import pytest

from rba_pipeline.core.standings import Standing
from rba_pipeline.partitions import partitions_by, today
from rba_pipeline.standings import standings
from rba_pipeline_tests.installation import Installation, failures

pytestmark = pytest.mark.postgres


def standing_of(installation: Installation) -> dict[str, Standing]:
    settings = installation.settings
    with installation.neighbours() as found:
        found.vector_store.migrate()
        found.vector_store.holding_catalogue(lambda: found.source.refresh(today()))
        info = found.embedding.handshake()
        stand = standings(
            partitions_by(settings.grain, settings.first_year),
            found.source.catalogue(today()),
            space=info.space.id,
            chunking_id=found.chunking.settings(info).chunking_id,
            truncate=found.embedding.truncate,
            embedding_store=found.embedding_store,
            vector_store=found.vector_store,
        )
    return {each.key: each for each in stand}


def test_each_change_makes_its_own_partitions_stale(installation: Installation) -> None:
    for year in (2011, 2012, 2013):
        installation.add(
            f"{year}.html", title=f"Of {year}", day=f"5 March {year}", paragraphs=["Rates rose."]
        )
    assert {each.state for each in standing_of(installation).values()} == {"missing"}
    assert failures(installation.run_all()) == []
    assert {each.state for each in standing_of(installation).values()} == {"current"}

    installation.add("2011.html", title="Of 2011", day="5 March 2011", paragraphs=["Rates fell."])
    installation.add("2013.html", title="Of 2013", day="5 March 2014", paragraphs=["Rates rose."])
    moved = standing_of(installation)

    assert {key: (each.state, each.reasons) for key, each in moved.items()} == {
        "2011-01-01": ("stale", ("source",)),
        "2012-01-01": ("current", ()),
        "2013-01-01": ("stale", ("source",)),
        "2014-01-01": ("missing", ("source", "record")),
    }
    assert (moved["2011-01-01"].changed, moved["2013-01-01"].gone) == (1, 1)
    assert failures(installation.run_all()) == []
    installation.environment |= {"RBA_CHUNK_TOKENS": "64", "RBA_CHUNK_OVERLAP": "16"}

    cut = standing_of(installation)

    assert {each.reasons for each in cut.values() if each.documents} == {("chunking",)}
