"""Every variable of the environment: whether it can be read, and whether anybody reads it."""

from collections.abc import Iterator, Mapping

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.presets import TUNED
from rba_pipeline.definitions import check_scheduled_runs
from rba_pipeline.doctor.findings import Finding, failed, ok, warning
from rba_pipeline.resources.tuned_file import read_tuned
from rba_pipeline.settings import Settings

ABOUT = "configuration"
_PREFIXES = ("RBA_", "EMBEDDING_")
# Read by commands, and by docker-compose.yml, which has the same file .env.
_OTHERS = {
    "RBA_PROJECT", "RBA_WEBSERVER_PORT", "RBA_DATABASE_PASSWORD", "RBA_PUBLICATIONS", "RBA_MODELS",
}  # fmt: skip
# Of the service, which reads the same file .env; a test holds them against its own settings.
SERVICE_VARIABLES = {
    "EMBEDDING_MODEL", "EMBEDDING_MODEL_REVISION", "EMBEDDING_RUNTIME", "EMBEDDING_PRECISION",
    "EMBEDDING_CACHE_DIR", "EMBEDDING_CALIBRATION", "EMBEDDING_DEVICE",
    "EMBEDDING_SERVER_BATCH_SIZE", "EMBEDDING_MAX_BATCH_TOKENS", "EMBEDDING_MAX_QUEUE_TOKENS",
    "EMBEDDING_MAX_SEQ_LENGTH", "EMBEDDING_MAX_TEXTS", "EMBEDDING_HOST", "EMBEDDING_PORT",
    "EMBEDDING_MAX_MEMORY", "EMBEDDING_WATCHDOG_SECONDS", "EMBEDDING_API_KEY",
    "EMBEDDING_MAX_BODY_BYTES", "EMBEDDING_MAX_REQUEST_MEMORY", "EMBEDDING_MAX_CONNECTIONS",
    "EMBEDDING_BODY_SECONDS", "EMBEDDING_LOG_FORMAT", "EMBEDDING_THREADS",
    "EMBEDDING_DRAIN_SECONDS",
}  # fmt: skip


def readable_settings(environment: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """Return the settings, a variable that cannot be read as if it were not set, and what is wrong.

    Raises:
        BadSetting: No variable alone is wrong, but they do not fit together.
    """
    try:
        return Settings.read(environment), []
    except BadSetting:
        good, bad = dict(environment), list[Finding]()
    for name in sorted(environment):
        if not name.startswith(_PREFIXES):
            continue
        try:
            Settings.read({name: environment[name]})
        except BadSetting as error:
            bad.append(failed(ABOUT, str(error)))
            del good[name]
    return Settings.read(good), bad


def variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look at all variables."""
    try:
        settings, bad = readable_settings(environment)
    except BadSetting as error:
        yield failed(ABOUT, str(error))
        return
    bad += _refused(settings, environment)
    yield from bad
    ours = sorted(name for name in environment if name.startswith(_PREFIXES))
    unread = [name for name in ours if name not in known_variables()]
    for name in unread:
        yield warning(ABOUT, f"nobody reads {name}: is it misspelt?")
    if not bad and not unread:
        yield ok(ABOUT, f"{len(ours)} variables are set, all in range")
    if settings.preset == TUNED:
        tuned = read_tuned(settings.tuned_file)
        bounds = tuned.bounds
        told = f"{bounds.batch_size} × {bounds.parallel_batches}, measured {tuned.measured_at}"
        yield ok("tuned preset", told)


def _refused(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Load the code location, and look at the run config of schedules and sensor as Dagster does.

    Without a database Dagster reads no run config; that is told where the database is looked at.
    """
    try:
        if environment.get("RBA_DATABASE_URL"):
            check_scheduled_runs(settings)
    except BadSetting as error:
        yield failed(ABOUT, str(error))


def known_variables() -> set[str]:
    """Return the names of all variables that somebody reads."""
    return {*pipeline_variables(), *_OTHERS, *SERVICE_VARIABLES}


def pipeline_variables() -> set[str]:
    """Return the names of all variables that the definitions of the code location are made of."""
    asked = _Asked()
    Settings.read(asked)
    return {*asked.names, "RBA_DATABASE_URL"}


class _Asked(dict[str, str]):
    """An empty environment that remembers what was looked up in it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        self.names.add(name)
        return default
