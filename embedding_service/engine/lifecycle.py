"""From loading to stopped: who may come in, and when everyone has gone."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from embedding_service.engine.engine import Engine
from embedding_service.engine.stats import Stats
from embedding_service.errors import Draining, NotReady, StartupError

_logger = logging.getLogger(__name__)

Phase = Literal["loading", "ready", "draining", "broken"]

# Nothing has been measured while the model loads; a small one takes some seconds.
_LOADING_RETRY_AFTER_S = 3


class Lifecycle:
    """Loads an engine in the background, lets requests in while it can serve, and ends in order."""

    def __init__(
        self,
        load: Callable[[], Engine],
        *,
        stats: Stats,
        on_ready: Callable[[], None] = lambda: None,
        on_broken: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """``load`` returns an engine that is not started; the callbacks run in other threads."""
        self.stats = stats
        self._load = load
        self._on_ready = on_ready
        self._on_broken = on_broken
        self._phase: Phase = "loading"
        self._engine: Engine | None = None
        self._visitors = 0
        self._changed = threading.Condition()
        self._loader = threading.Thread(target=self._bring_up, name="model-loader", daemon=True)

    def start(self) -> None:
        self._loader.start()

    def _bring_up(self) -> None:
        try:
            engine = self._load()
            self._engine = engine
            engine.start()
            engine.wait_until_tested()
        except BaseException as error:
            if self._engine is None and not isinstance(error, StartupError):
                # What comes later is reported by the owner thread.
                _logger.error("the model cannot be loaded", exc_info=error)
            self.broken(error)
            return
        with self._changed:
            if self._phase != "loading":
                return
            self._phase = "ready"
        self._on_ready()

    def broken(self, error: BaseException) -> None:
        """Nothing more can be served, because of ``error``; said once."""
        with self._changed:
            if self._phase == "broken":
                return
            self._phase = "broken"
        self._on_broken(error)

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def ready(self) -> bool:
        """Whether a request would be let in now."""
        return self._phase == "ready" and self._engine is not None and self._engine.alive

    @property
    def loaded(self) -> Engine | None:
        """The engine, whatever its state; None until the model is loaded."""
        return self._engine

    def engine(self) -> Engine:
        """Return the engine of a service that is ready.

        Raises:
            NotReady: Loading, or broken.
            Draining: About to stop.
        """
        engine = self._engine
        if self._phase == "draining":
            raise Draining("the service is stopping", engine.retry_after_s() if engine else 1)
        if engine is None or not self.ready:
            raise NotReady(f"the model is {self._phase}", _LOADING_RETRY_AFTER_S)
        return engine

    @contextmanager
    def visit(self) -> Iterator[Engine]:
        """Let one request in; ``drain`` waits until it is out again.

        Raises:
            NotReady: As ``engine``.
            Draining: As ``engine``.
        """
        with self._changed:
            engine = self.engine()
            self._visitors += 1
        try:
            yield engine
        finally:
            with self._changed:
                self._visitors -= 1
                self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Let nobody in any more and wait for those inside; return whether all are out in time."""
        with self._changed:
            if self._phase != "broken":
                self._phase = "draining"
            return self._changed.wait_for(lambda: self._visitors == 0, timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Answer everyone who still waits; return whether every thread of ours has ended."""
        engine = self._engine
        ended = engine.stop(timeout_s) if engine else True
        return ended and not self._loader.is_alive()
