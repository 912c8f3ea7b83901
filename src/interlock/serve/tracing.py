"""Requests as OpenTelemetry spans, sent by OTLP over HTTP: who answered, how long it took, and nothing of a record.

A span is made and sent in a thread of its own; the request only leaves a line of facts. A trace that the client began
(``traceparent``) is carried on, and is sampled when the client samples it; others are drawn by chance.
"""

import logging
import random
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from interlock.answer.predict import Live
from interlock.errors import SettingsError
from interlock.records import Tier, short
from interlock.serve.door import Served
from interlock.serve.outbox import Outbox

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

PARENT: Final[ContextVar[bytes]] = ContextVar("traceparent", default=b"")
"""``traceparent`` of the request that a task answers."""
TIMEOUT_S: Final = 5.0
"""So long may the receiver take for a batch of spans, with all attempts."""


class _Line(NamedTuple):
    """Facts of one request, until they are a span."""

    route: str
    status: int
    tier: Tier
    live: Live | None
    name: bytes
    parent: bytes
    end_ns: int
    seconds: float


class Undelivered(Exception):
    """The receiver did not take the spans."""


class Tracer:
    """Sends a share of the requests. Raises :class:`SettingsError` where OpenTelemetry is missing."""

    def __init__(self, url: str, service: str, sample: float, say: Callable[[str], None]) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
        except ImportError as error:
            raise SettingsError("Traces need OpenTelemetry.", next_step="pip install 'interlock[telemetry]'") from error
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # the outbox tells it once
        self._sample = sample
        self._draw = random.Random().random  # noqa: S311 - which requests are traced is no secret
        self._resource = Resource.create({"service.name": service})
        self._exporter = OTLPSpanExporter(endpoint=_endpoint(url), timeout=TIMEOUT_S)
        self._outbox: Outbox[_Line] = Outbox(self._send, say, "traces")

    @property
    def lost(self) -> int:
        """Spans that nobody got."""
        return self._outbox.lost

    def saw(self, served: Served) -> None:
        """Take in one request."""
        parent = PARENT.get()
        if not parent and self._draw() >= self._sample:
            return
        self._outbox.add(
            _Line(
                served.route, served.status, served.tier, served.live, served.name, parent, time.time_ns(),
                served.seconds,
            )
        )  # fmt: skip

    def close(self) -> None:
        """Send what waits, within two seconds."""
        self._outbox.close()
        self._exporter.shutdown()

    # ---- in the thread of the outbox -----------------------------------------------------------------------------

    def _send(self, lines: list[_Line]) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        spans = [span for line in lines if (span := self._span(line)) is not None]
        if spans and self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise Undelivered

    def _span(self, line: _Line) -> "ReadableSpan | None":
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        parent = _parent(line.parent)
        if parent is None:
            if line.parent and self._draw() >= self._sample:  # what was sent names no trace
                return None
        elif not parent.trace_flags.sampled:
            return None
        trace = parent.trace_id if parent is not None else secrets.randbits(128) or 1
        span = secrets.randbits(64) or 1
        return ReadableSpan(
            name=line.route,
            context=SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)),
            parent=parent,
            resource=self._resource,
            attributes=_attributes(line),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if line.status >= 500 else StatusCode.UNSET),
            start_time=line.end_ns - round(line.seconds * 1e9),
            end_time=line.end_ns,
        )


def _attributes(line: _Line) -> dict[str, Any]:
    facts: dict[str, Any] = {"http.route": line.route, "http.response.status_code": line.status}
    if line.name:
        facts["interlock.prediction.id"] = line.name.decode()
    if line.live is not None:
        facts |= {"interlock.tier": line.tier, "interlock.release": line.live.generation}
        models = [short(seat.model) for seat in line.live.everybody if seat.tier == line.tier]
        facts |= {"interlock.model": models[0]} if models else {}
    return facts


def _parent(told: bytes) -> "SpanContext | None":
    if not told:
        return None
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": told.decode("latin-1")})
    found = get_current_span(context).get_span_context()
    return found if found.is_valid else None


def _endpoint(url: str) -> str:
    """The address of the receiver, with the path that OTLP has where none is given."""
    return url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1/traces"
