"""Arrows point one way, libraries have one home, and nothing that was made is forgotten."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding_service.api.errors import STATUS
from embedding_service.errors import EngineError
from rba_pipeline.definitions import build_defs
from rba_pipeline.settings import Settings

ROOT = Path(__file__).parents[1]
PIPELINE = "rba_pipeline."
SERVICE = "embedding_service."

# What each layer may import, besides itself and the standard library.
ALLOWED: dict[str, set[str]] = {
    "rba_pipeline.core.parsing": {
        "rba_pipeline.core", "selectolax", "pypdfium2",
    },
    "rba_pipeline.core.chunks": {"rba_pipeline.core", "semantic_text_splitter", "tokenizers"},
    "rba_pipeline.core": {"numpy"},
    "rba_pipeline.partitions": {"rba_pipeline.core", "dagster"},
    "rba_pipeline.resources": {
        "rba_pipeline.core", "dagster", "numpy", "pyarrow", "pydantic", "fsspec", "psycopg",
        "pgvector", "requests", "urllib3", "psutil",
    },
    # It starts in a tenth of a second, and holds nothing that a bad file could reach.
    "rba_pipeline.resources.parser_child": {
        "rba_pipeline.core.parsing", "rba_pipeline.core.documents", "rba_pipeline.core.errors",
        "rba_pipeline.resources.parser_messages",
    },
    "rba_pipeline.resources.parser_messages": {
        "rba_pipeline.core.parsing", "rba_pipeline.core.documents", "rba_pipeline.core.errors",
    },
    "rba_pipeline.assets": {
        "rba_pipeline.core", "rba_pipeline.partitions", "rba_pipeline.resources", "dagster",
        "pyarrow", "rba_pipeline.planning",
    },
    "rba_pipeline.standings": {
        "rba_pipeline.core", "rba_pipeline.partitions", "rba_pipeline.resources", "dagster",
    },
    "rba_pipeline.counting": {"rba_pipeline.core", "rba_pipeline.resources"},
    "rba_pipeline.planning": {
        "rba_pipeline.core", "rba_pipeline.partitions", "rba_pipeline.resources", "dagster",
        "rba_pipeline.standings", "rba_pipeline.counting",
    },
    "rba_pipeline.jobs": {"rba_pipeline.assets", "dagster"},
    "rba_pipeline.backfills": {"rba_pipeline.jobs", "dagster"},
    "rba_pipeline.upkeep": {
        "rba_pipeline.assets", "rba_pipeline.backfills", "rba_pipeline.core",
        "rba_pipeline.partitions", "rba_pipeline.resources", "rba_pipeline.standings", "dagster",
        "pydantic",
    },
    "rba_pipeline.schedules": {
        "rba_pipeline.backfills", "rba_pipeline.jobs", "rba_pipeline.partitions", "dagster",
    },
    "rba_pipeline.sensors": {
        "rba_pipeline.backfills", "rba_pipeline.core", "rba_pipeline.jobs",
        "rba_pipeline.partitions", "rba_pipeline.resources", "rba_pipeline.standings",
        "rba_pipeline.upkeep", "dagster",
    },
    "embedding_service.errors": set(),
    "embedding_service.cgroups": set(),
    "embedding_service.cores": {"embedding_service.cgroups"},
    "embedding_service.process_memory": {"embedding_service.cgroups"},
    "embedding_service.backend.base": {"numpy", "embedding_service.errors"},
    "embedding_service.engine": {
        "embedding_service.errors", "embedding_service.backend.base", "numpy",
    },
    "embedding_service.backend": {
        "embedding_service.errors", "numpy", "torch", "tokenizers", "transformers",
        "sentence_transformers", "huggingface_hub", "openvino", "nncf", "pydantic", "filelock",
    },
    "embedding_service.api": {
        "embedding_service.errors", "embedding_service.engine", "embedding_service.backend.base",
        "embedding_service.settings", "fastapi", "starlette", "pydantic", "numpy", "orjson",
        "prometheus_client",
    },
    "embedding_service.connections": {"uvicorn", "httptools", "orjson"},
    "embedding_service.logs": {"pythonjsonlogger"},
}  # fmt: skip

# A library that must not spread, and the modules that may know it.
HOMES: dict[str, set[str]] = {
    "psycopg": {
        "rba_pipeline.resources.vector_store", "rba_pipeline.resources.publication",
        "rba_pipeline.resources.space_register", "rba_pipeline.resources.schema",
        "rba_pipeline.resources.postgres", "rba_pipeline.resources.postgres_data",
        "rba_pipeline.resources.quarantine", "rba_pipeline.resources.vector_search",
        "rba_pipeline.resources.staging", "rba_pipeline.resources.database",
        "rba_pipeline.resources.refusals", "rba_pipeline.resources.locks",
        "rba_pipeline.resources.vector_index", "rba_pipeline.resources.publishing",
        "rba_pipeline.resources.served_rows", "rba_pipeline.resources.watched_connection",
        "rba_pipeline.resources.served_documents", "rba_pipeline.resources.database_health",
    },
    "requests": {"rba_pipeline.resources.deadline_http", "rba_pipeline.local_service"},
    "urllib3": {"rba_pipeline.resources.deadline_http"},
    "torch": {
        "embedding_service.backend.sentence_transformer", "embedding_service.backend.loading",
        "embedding_service.backend.conversion", "embedding_service.backends",
        "embedding_service.backend.attention",
    },
    "openvino": {
        "embedding_service.backend.openvino", "embedding_service.backend.conversion",
        "embedding_service.backend.matrices",
    },
    "nncf": {"embedding_service.backend.conversion"},
    "fastapi": {"embedding_service.app", "embedding_service.api"},
    "uvicorn": {"embedding_service.server", "embedding_service.connections"},
    "prometheus_client": {"embedding_service.api.metrics"},
    "pythonjsonlogger": {"embedding_service.logs"},
}  # fmt: skip

MAY_READ_ENVIRONMENT = {
    "rba_pipeline.definitions", "rba_pipeline.cli", "rba_pipeline.backfill_commands",
    "rba_pipeline.dagster_instance",
    "embedding_service.settings", "embedding_service.__main__",
    # Tells a library, which reads it there, how it may use the cores.
    "embedding_service.backends",
    # They make the environment of the processes that they start.
    "embedding_service.backend.preparation", "rba_pipeline.resources.parser_process",
    "rba_pipeline.stack", "rba_pipeline.local_env", "rba_pipeline.local_service",
    "rba_pipeline.dagster_servers", "rba_pipeline.processes", "rba_pipeline.supervision",
}  # fmt: skip


def is_within(module: str, layer: str) -> bool:
    return module == layer or module.startswith(f"{layer}.")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in ("rba_pipeline", "embedding_service"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield every module that is imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # ``from package import module`` names the module only in its list.
            deeper = [f"{node.module}.{alias.name}" for alias in node.names]
            files = [ROOT / Path(*name.split(".")) for name in deeper]
            found = [
                name
                for name, file in zip(deeper, files, strict=True)
                if file.is_dir() or file.with_suffix(".py").exists()
            ]
            yield from found or [node.module]


def problems(module: str, tree: ast.Module) -> list[str]:
    """Return the imports of ``module`` that point against an arrow."""
    layers = [layer for layer in ALLOWED if is_within(module, layer)]
    found = [
        name for name in imports(tree) if (PIPELINE in f"{name}." if module.startswith(SERVICE)
        else SERVICE in f"{name}.")
    ]  # fmt: skip
    if not layers:
        return found
    layer = max(layers, key=len)
    allowed = ALLOWED[layer] | {layer}
    return found + [
        name
        for name in imports(tree)
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not any(is_within(name, permitted) for permitted in allowed)
    ]


@pytest.mark.parametrize(
    ("module", "tree"), [pytest.param(*found, id=found[0]) for found in modules()]
)
def test_a_module_imports_only_along_the_arrows(module: str, tree: ast.Module) -> None:
    assert problems(module, tree) == []


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        pytest.param("rba_pipeline.core.chunks", "import dagster", id="core-knows-no-dagster"),
        pytest.param(
            "rba_pipeline.resources.x", "from rba_pipeline.assets import chunks", id="upwards"
        ),
        pytest.param(
            "rba_pipeline.core.x", "from rba_pipeline.resources.schema import migrate", id="core"
        ),
        pytest.param(
            "rba_pipeline.resources.parser_child", "import dagster", id="parser-knows-no-dagster"
        ),
        pytest.param("rba_pipeline.assets.x", "import requests", id="assets-know-no-http"),
        pytest.param("embedding_service.engine.x", "import torch", id="engine-knows-no-torch"),
        pytest.param("embedding_service.engine.x", "import fastapi", id="engine-knows-no-http"),
        pytest.param("embedding_service.app", "from rba_pipeline.core import x", id="halves-apart"),
        pytest.param("rba_pipeline.cli", "import embedding_service.app", id="halves-apart-too"),
    ],
)
def test_a_reversed_arrow_is_seen(module: str, statement: str) -> None:
    assert problems(module, ast.parse(statement)) != []


@pytest.mark.parametrize("library", HOMES)
def test_a_library_stays_in_its_home(library: str) -> None:
    guests = [
        module
        for module, tree in modules()
        if any(is_within(name, library) for name in imports(tree))
        and not any(is_within(module, home) for home in HOMES[library])
    ]

    assert guests == []


def test_only_composition_roots_read_the_environment() -> None:
    readers = [
        module
        for module, tree in modules()
        if any(
            isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            for node in ast.walk(tree)
        )
    ]

    assert set(readers) <= MAY_READ_ENVIRONMENT


def test_every_failure_of_the_engine_has_a_status() -> None:
    def kinds(error: type[EngineError]) -> Iterator[type[EngineError]]:
        for kind in error.__subclasses__():
            yield kind
            yield from kinds(kind)

    assert set(kinds(EngineError)) == set(STATUS)


def test_every_asset_and_the_job_are_loaded() -> None:
    definitions = build_defs(Settings.read({}))

    assets = {key.to_user_string() for key in definitions.resolve_all_asset_keys()}
    named = {path.stem for path in (ROOT / "rba_pipeline" / "assets").glob("*.py")}
    assert assets == {"documents", "chunks", "embeddings", "vectors", "plan"}
    others = {"__init__", "reporting", "progress", "checks", "predicting", "timings"}
    others |= {"embedding_run", "quarantine"}
    assert named - others == assets
    assert definitions.resolve_job_def("publish_partition").partitions_def is not None
