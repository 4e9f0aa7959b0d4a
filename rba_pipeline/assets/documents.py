"""When publications are read: the catalogue is refreshed once, partitions take their part of it."""

from dataclasses import replace
from datetime import date

import dagster as dg

from rba_pipeline.assets.checks import check_results, check_specs
from rba_pipeline.assets.progress import ProgressReport, waiting_for
from rba_pipeline.assets.reporting import columns, one_message, window_in
from rba_pipeline.assets.timings import times_of
from rba_pipeline.core.checks import as_catalogued
from rba_pipeline.core.promises import Verdict, require
from rba_pipeline.core.stages import Stage
from rba_pipeline.partitions import today
from rba_pipeline.resources.catalogue import Catalogue, Quarantined
from rba_pipeline.resources.document_source import DocumentSource, Refreshed
from rba_pipeline.resources.locks import Waiting
from rba_pipeline.resources.quarantine import QuarantineEntry
from rba_pipeline.resources.record_store import DOCUMENTS, RecordStore, Written
from rba_pipeline.resources.stopwatch import Stopwatch
from rba_pipeline.resources.vector_store import VectorStore

# Whom one waits for before the source can be read.
_READER = "another run or command that reads the source"


def documents_asset(
    partitions: dg.TimeWindowPartitionsDefinition, retry_policy: dg.RetryPolicy | None
) -> dg.AssetsDefinition:
    """Return the asset, partitioned by filing date."""

    @dg.asset(
        group_name="publications",
        kinds={"python", "parquet"},
        partitions_def=partitions,
        retry_policy=retry_policy,
        check_specs=check_specs("documents", partitions),
        metadata=columns(DOCUMENTS),
    )
    @one_message
    def documents(
        context: dg.AssetExecutionContext,
        source: DocumentSource,
        records: RecordStore,
        vector_store: VectorStore,
    ) -> dg.MaterializeResult:
        """One publication: its text by sections, and the date it is filed under.

        Files are parsed once, whichever partition runs first, and again only when they change. A
        missing source folder is an error and deletes nothing.
        """
        window, day, stopwatch = window_in(context), today(), Stopwatch("documents")

        def bring_up_to_date() -> tuple[Refreshed, Catalogue, Written, Verdict]:
            with stopwatch.stage(Stage.LISTING):
                progress = ProgressReport(context, "files")
                refreshed = source.refresh(
                    day, progress.of_items, stopwatch, guard=vector_store.require_lock
                )
                progress.last_of_items()
            with stopwatch.stage(Stage.READING):
                catalogue = source.catalogue(day)
                entries = catalogue.documents(window.start, window.end)
            with stopwatch.stage(Stage.WRITING):
                written = records.write_documents(window, entries, source.read(entries))
            with stopwatch.stage(Stage.CHECKING):
                verdict = as_catalogued(
                    records.documents_path(window),
                    records.document_ids(window),
                    (entry.document_id for entry in entries),
                )
            refused = [*map(_refused, catalogue.quarantine()), *map(_kept, catalogue.outdated())]
            vector_store.replace_quarantine("document", None, refused)
            return refreshed, catalogue, written, verdict

        with stopwatch.stage(Stage.DATABASE):
            refreshed, catalogue, written, verdict = vector_store.holding_catalogue(
                bring_up_to_date, waiting=Waiting(stopwatch, waiting_for(context, _READER))
            )
        return dg.MaterializeResult(
            check_results=check_results(require([verdict])),
            metadata={
                "documents": written.rows,
                "parsed_files": refreshed.parsed,
                "catalogue_files": refreshed.files,
                "catalogue_outdated": len(catalogue.outdated()),
                "catalogue_quarantined": sum(refreshed.quarantined.values()),
                "catalogue_quarantined_by_reason": refreshed.quarantined,
                **times_of(stopwatch.times()),
                "dagster/row_count": written.rows,
            },
        )

    return documents


def _refused(file: Quarantined) -> QuarantineEntry:
    """A file in quarantine belongs to no partition: its window is all of time."""
    return QuarantineEntry(
        "document", file.path, date.min, date.max, file.reason, file.detail, attempts=1
    )


def _kept(file: Quarantined) -> QuarantineEntry:
    return _refused(
        replace(file, detail=f"{file.detail}; the version before this one stays searchable")
    )
