# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Logs and metrics. Logs are pretty on a terminal, JSON lines otherwise and in the file; secrets are masked before
anything is written."""

from __future__ import annotations

import logging
import logging.handlers
import queue
import re
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from clusterodm.core.errors import DataFolderError
from clusterodm.core.names import printable
from clusterodm.core.retry import Failure

_LEVELS: Final = {
    "silly": logging.DEBUG,
    "debug": logging.DEBUG,
    "verbose": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_SECRET: Final = re.compile(r"(?i)((?:token|password|passwd|secret|key|authorization)=|(?:bearer|basic)\s+)[^&\s'\"]+")
#: Value of `log` in access log events.
_ACCESS: Final = "access"
#: Bytes of a log file, and how many rotated ones are kept.
_FILE_SIZE: Final = 10_000_000
_FILES: Final = 5
#: Lines queued for a slow disk; more are dropped, so that nothing waits for a log.
_WAITING: Final = 10_000


def mask(text: str) -> str:
    """Return `text` with the values of tokens and passwords replaced."""
    return _SECRET.sub(r"\1***", text)


def _one_line(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters of untrusted text for a terminal; JSON does so itself."""
    shown = {key: printable(value) for key, value in event.items() if isinstance(value, str) and key != "exception"}
    return {**event, **shown}


def _mask_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: mask(value) if isinstance(value, str) else value for key, value in event.items()}


class _File:
    """A processor that also writes each event as a JSON line to a rotating file, from a thread."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = logging.handlers.RotatingFileHandler(path, maxBytes=_FILE_SIZE, backupCount=_FILES)
        except OSError as error:
            raise DataFolderError(f"the log file {path} cannot be written: {error.strerror}") from None
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue(_WAITING)
        self._listener = logging.handlers.QueueListener(self._lines, self._file)
        self._listener.start()

    def stop(self) -> None:
        """Flush the queue and close the file."""
        self._listener.stop()
        with suppress(OSError):  # a full disk must not fail the shutdown
            self._file.close()

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line = msgspec.json.encode(event, enc_hook=str).decode()
        with suppress(queue.Full):
            self._lines.put_nowait(logging.makeLogRecord({"msg": "%s", "args": (line,)}))
        return event


def configure_logging(level: str, *, debug: bool = False) -> None:
    """Configure structlog for the process; call once."""
    terminal = sys.stderr.isatty()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not terminal),
        structlog.processors.format_exc_info,
        _mask_event,
        *([_one_line, structlog.dev.ConsoleRenderer()] if terminal else [structlog.processors.JSONRenderer()]),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else _LEVELS[level]),
        # one write per line: workers share the stream, and a separate newline would end another's line
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def access_logger() -> Any:
    """Return the access logger. It ignores the log level, because access logging is a setting of its own."""
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    return structlog.wrap_logger(None, wrapper_class=wrapper, log=_ACCESS)


class _AccessFile(_File):
    """A processor that moves access log events into a file of their own."""

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event.get("log") != _ACCESS:
            return event
        super().__call__(logger, name, {key: value for key, value in event.items() if key != "log"})
        raise structlog.DropEvent


@contextmanager
def access_logged_to(path: Path) -> Iterator[None]:
    """Write access log events to a file only, while the block runs. Raises DataFolderError."""
    with _writing(_AccessFile(path)):
        yield


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Also write all log events to a file while the block runs. Raises DataFolderError."""
    with _writing(_File(path)):
        yield


@contextmanager
def _writing(file: _File) -> Iterator[None]:
    processors = list(structlog.get_config()["processors"])
    structlog.configure(processors=[*processors[:-1], file, processors[-1]])
    try:
        yield
    finally:
        others = [each for each in structlog.get_config()["processors"] if each is not file]
        structlog.configure(processors=others)
        file.stop()


class Metrics:
    """Counters and histograms; gauges are collected on each scrape (admin.metrics)."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "clusterodm_request_seconds",
            "Time to answer a client's request, by route.",
            ["route"],
            buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 300),
            registry=self.registry,
        )
        self.waits = Histogram(
            "clusterodm_wait_seconds",
            "Time from the commit of a task to its first attempt.",
            buckets=(1, 10, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
            registry=self.registry,
        )
        self.attempts = self._counter(
            "clusterodm_attempts", "Attempts that ended, by how.", outcome=("completed", *map(outcome_of, Failure))
        )
        self.prefetches = self._counter(
            "clusterodm_prefetches",
            "Uploads whose files were sent to a node before their commit, by outcome.",
            outcome=("used", "discarded"),
        )
        self.received = self._counter("clusterodm_received_bytes", "Bytes of files that clients uploaded.")
        self.sent = self._counter("clusterodm_sent_bytes", "Bytes of files sent to nodes.")
        self.delivered = self._counter("clusterodm_delivered_bytes", "Bytes of results that clients downloaded.")
        self.provider_calls = self._counter(
            "clusterodm_provider_calls", "Calls to providers of machines.", provider=(), call=(), outcome=()
        )
        self.uploads_dropped = self._counter(
            "clusterodm_uploads_dropped",
            "Uploads that were dropped before their commit, by why: given up, or removed by a client or an operator.",
            why=("given up", "removed"),
        )
        self.webhooks = self._counter(
            "clusterodm_webhooks", "Calls of owners' webhooks, by outcome.", outcome=("taken", "failed")
        )

    def _counter(self, name: str, text: str, **values: Iterable[str]) -> Counter:
        """Create a counter whose label values exist from the start: Prometheus sees no increase in a series that
        appears with its first event. Labels without values get theirs at the first event."""
        counter = Counter(name, text, list(values), registry=self.registry)
        for each in product(*values.values()) if values else ():
            counter.labels(*each)
        return counter


def outcome_of(failure: Failure) -> str:
    """Return the `outcome` label of an attempt that ended with a failure."""
    return failure.name.lower()
