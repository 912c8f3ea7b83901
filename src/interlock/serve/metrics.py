"""What a server counts, and how Prometheus reads it.

A labelled counter of the client library costs a microsecond and a lock each time; counting happens in one thread here,
so plain integers do. The library gives them their form when somebody asks. :data:`METRICS` names all there is.
"""

import importlib.util
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, get_args

from interlock.answer.guard import Cause
from interlock.errors import SettingsError
from interlock.ports import Clock
from interlock.records import Tier
from interlock.release.breaker import Mode, State
from interlock.release.latency import median_s
from interlock.serve.board import Board, Counts, Rule, Times
from interlock.serve.canary import Count
from interlock.serve.door import Reply, Room, Served
from interlock.serve.journal import Tally
from interlock.serve.reload import Source

if TYPE_CHECKING:
    from prometheus_client import Metric

EDGES_S: Final = (
    *(0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    10.0,
)
"""Upper edges of the buckets of request times, in seconds."""
OPEN_METRICS: Final = b"application/openmetrics-text"


class Told(NamedTuple):
    """What one metric is: its labels, and its words."""

    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    says: str
    over: Rule = "sum"
    """How a gauge is told of several processes."""


METRICS: Final[Mapping[str, Told]] = {
    "interlock_requests_total": Told(
        "counter", ("route", "status"), "Requests, by route and HTTP status; route is 'other' where there is none."
    ),
    "interlock_request_seconds": Told("histogram", ("route",), "Time from the whole request to its reply, in seconds."),
    "interlock_records_total": Told("counter", (), "Records that could be read and were asked about."),
    "interlock_answers_total": Told("counter", ("tier",), "Records, by who answered them; 'abstain': nobody."),
    "interlock_guard_failures_total": Told(
        "counter", ("tier", "cause"), "Answers that were not let out, by whose they were and what was wrong."
    ),
    "interlock_breaker_state": Told(
        "gauge", ("state",), "1 for the state that the breaker is in, of several processes the worst; else 0.", "worst"
    ),
    "interlock_breaker_trips_total": Told(
        "counter", (), "How often the champion went off duty in this server, by evidence or by a person."
    ),
    "interlock_last_good_shadow_total": Told(
        "counter", ("outcome",), "Answers of last good that nobody was given, by whether they could have left."
    ),
    "interlock_challenger_share": Told(
        "gauge", (), "Share of the records that the challenger gets; 0: there is none.", "max"
    ),
    "interlock_challenger_records": Told(
        "gauge",
        ("outcome",),
        "Records of the trial that runs: answered by the challenger; failed, where another model had an answer; "
        "compared with the champion's answer, and agreed with it; in the shadow, skipped, for it was busy.",
    ),
    "interlock_challenger_duels": Told(
        "gauge",
        ("outcome",),
        "How often both models were asked for the same records to compare their time, by whether the challenger took "
        "more than canary.slower times as long.",
    ),
    "interlock_challenger_median_seconds": Told(
        "gauge",
        ("model",),
        "Median time for the same records, of the challenger and of the champion; of several workers the largest.",
        "max",
    ),
    "interlock_challenger_evidence": Told(
        "gauge", (), "Evidence of this server against the challenger; at 1 it is dropped.", "max"
    ),
    "interlock_lane_answers_total": Told("counter", ("lane",), "Replies, by the lane that they took."),
    "interlock_pool_waiting": Told("gauge", (), "Rows that wait for a model in another process."),
    "interlock_log_records_total": Told(
        "counter", ("outcome",), "Records of the prediction log: 'kept' on the disk, or 'lost' for want of room."
    ),
    "interlock_log_bytes": Told(
        "gauge", ("place",), "What the prediction log holds, in 'memory' and on the 'disk', until it is in the lake."
    ),
    "interlock_release_generation": Told(
        "gauge", (), "Generation of the release that answers; of several processes the oldest.", "min"
    ),
    "interlock_release_source": Told(
        "gauge",
        ("source",),
        "1 for 'state' while the state can be read, for 'memory' while it cannot; else 0.",
        "worst",
    ),
    "interlock_model_age_seconds": Told("gauge", (), "Seconds since the champion was packed.", "max"),
    "interlock_workers": Told("gauge", (), "Processes that answer."),
}
"""Every metric of a server, but the process_* of the client library."""


_WORST_LAST: Final[tuple[Mode, ...]] = ("closed", "half-open", "open", "pinned")


class Watched(Protocol):
    """The breaker of a server, as its metrics see it."""

    state: State
    trips: int
    last_good: dict[bool, int]


class _Route:
    """What is counted of one route. ``cells``: requests in each bucket, the last one without an end."""

    __slots__ = ("cells", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self.cells = [0] * (len(EDGES_S) + 1)
        self.seconds = 0.0


class Metrics:
    """The counts of one process, which tells those of all where there is a ``board``; all in the thread of its loop."""

    def __init__(self, clock: Clock, room: Callable[[], Room], watched: Watched, *, board: Board | None = None) -> None:
        self._board = board
        self._clock = clock
        self._room = room
        self._watched = watched
        self._routes: defaultdict[str, _Route] = defaultdict(_Route)
        self._faults: defaultdict[tuple[Tier, Cause], int] = defaultdict(int)
        self._answers: dict[Tier, int] = dict.fromkeys(get_args(Tier), 0)
        self._records = 0
        self.in_fast_lane: Callable[[], int] = lambda: 0
        self.source: Callable[[], Source] = lambda: "state"
        self.challenged: Callable[[], Count | None] = lambda: None
        """What was seen of the challenger."""
        self.log: Callable[[], Tally | None] = lambda: None
        """What the prediction log holds."""

    def saw(self, served: Served) -> None:
        """Count one request; below a microsecond."""
        route = self._routes[served.route]
        route.statuses[served.status] += 1
        route.cells[bisect_left(EDGES_S, served.seconds)] += 1
        route.seconds += served.seconds
        answered = served.answered
        if answered is None:
            return
        count = len(answered.tiers)
        self._records += count
        if not answered.faults and (served.live is None or served.live.challenge is None):
            self._answers[served.tier] += count
            return
        for tier in answered.tiers:
            self._answers[tier] += 1
        for fault in answered.faults:
            self._faults[fault.tier, fault.cause] += 1

    def page(self, headers: Mapping[bytes, bytes]) -> Reply:
        """The metrics as the client takes them: OpenMetrics 1.0, else Prometheus' text 0.0.4."""
        from prometheus_client import CollectorRegistry, ProcessCollector, exposition
        from prometheus_client.openmetrics import exposition as open_metrics

        registry = CollectorRegistry()
        registry.register(self)
        if self._board is None:
            ProcessCollector(registry=registry)
        if OPEN_METRICS in headers.get(b"accept", b"").lower():
            body, kind = open_metrics.generate_latest(registry, version="1.0.0"), open_metrics.CONTENT_TYPE_LATEST
        else:
            body, kind = exposition.generate_latest(registry), exposition.CONTENT_TYPE_PLAIN_0_0_4
        return Reply(200, body, content_type=kind.encode())

    # ---- for the client library ----------------------------------------------------------------------------------

    def collect(self) -> Iterator["Metric"]:
        """All metrics, as the client library takes them; every name of :data:`METRICS` once."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        counts = self._counts()
        workers = 1
        if self._board is not None:
            self._board.post(counts)
            counts, workers = self._board.together({name: told.over for name, told in METRICS.items()})
        counts.gauges["interlock_workers"] = {(): workers}
        values = counts.counters | counts.gauges
        for name, told in METRICS.items():
            if told.kind == "histogram":
                times = HistogramMetricFamily(name, told.says, labels=told.labels)
                for path, route in sorted(counts.times.items()):
                    times.add_metric([path], _cumulated(route.cells), sum_value=route.seconds)
                yield times
                continue
            family: Any = (CounterMetricFamily if told.kind == "counter" else GaugeMetricFamily)(
                name, told.says, labels=told.labels
            )
            for labels, value in values.get(name, {}).items():
                family.add_metric(labels, value)
            yield family

    def post(self) -> None:
        """Show the other processes what this one counted."""
        if self._board is not None:
            self._board.post(self._counts())

    def _counts(self) -> Counts:
        values = self._values()
        times = {path: Times(list(route.cells), route.seconds) for path, route in self._routes.items()}
        counters = {name: each for name, each in values.items() if METRICS[name].kind == "counter"}
        return Counts(counters, {name: each for name, each in values.items() if name not in counters}, times)

    def _values(self) -> dict[str, dict[tuple[str, ...], float]]:
        room, watched = self._room(), self._watched
        state = watched.state.forced or watched.state.mode
        total = sum(sum(route.statuses.values()) for route in self._routes.values())
        fast = self.in_fast_lane()
        log = self.log()
        packed_at = room.live.seats[0].packed_at
        packed = datetime.fromisoformat(packed_at) if packed_at else None
        count = self.challenged()
        return {
            "interlock_requests_total": {
                (path, str(status)): count
                for path, route in sorted(self._routes.items())
                for status, count in sorted(route.statuses.items())
            },
            "interlock_records_total": {(): self._records},
            "interlock_answers_total": {(tier,): count for tier, count in self._answers.items()},
            "interlock_guard_failures_total": dict(sorted(self._faults.items())),
            "interlock_breaker_state": {(mode,): float(mode == state) for mode in _WORST_LAST},
            "interlock_breaker_trips_total": {(): watched.trips},
            "interlock_last_good_shadow_total": {
                ("acceptable",): watched.last_good[True],
                ("refused",): watched.last_good[False],
            },
            "interlock_challenger_share": {(): 0.0 if count is None else count.trial.share},
            "interlock_challenger_records": _counted(count),
            "interlock_challenger_duels": _duelled(count),
            "interlock_challenger_median_seconds": {}
            if count is None or not count.duels
            else {(who,): median_s(cells) for who, cells in count.times.items()},
            "interlock_challenger_evidence": {(): 0.0 if count is None else count.level()},
            "interlock_lane_answers_total": {("fast",): fast, ("ordinary",): total - fast},
            "interlock_pool_waiting": {
                (): sum(seat.elsewhere.waiting for seat in room.live.everybody if seat.elsewhere)
            },
            "interlock_log_records_total": {("kept",): log.kept, ("lost",): log.lost} if log else {},
            "interlock_log_bytes": {("memory",): log.memory_bytes, ("disk",): log.spool_bytes} if log else {},
            "interlock_release_generation": {(): room.live.generation},
            "interlock_release_source": {(each,): float(each == self.source()) for each in get_args(Source)},
            "interlock_model_age_seconds": {}
            if packed is None
            else {(): max(0.0, (self._clock.now() - packed).total_seconds())},
        }


def _counted(count: Count | None) -> dict[tuple[str, ...], float]:
    """What was seen of the trial that runs, by outcome."""
    if count is None:
        return dict.fromkeys((("answered",), ("failed",), ("compared",), ("agreed",), ("skipped",)), 0.0)
    return {
        ("answered",): count.answered,
        ("failed",): count.failed,
        ("compared",): count.compared,
        ("agreed",): count.agreed,
        ("skipped",): count.skipped,
    }


def _duelled(count: Count | None) -> dict[tuple[str, ...], float]:
    """Duels of the trial that runs, by outcome."""
    slower, duels = (0, 0) if count is None else (count.slower, count.duels)
    return {("slower",): slower, ("not-slower",): duels - slower}


def _cumulated(cells: list[int]) -> list[tuple[str, float]]:
    edges = [*map(str, EDGES_S), "+Inf"]
    found, below = [], 0
    for edge, count in zip(edges, cells, strict=True):
        below += count
        found.append((edge, float(below)))
    return found


def require_prometheus() -> None:
    """Raise :class:`SettingsError` where the client library is missing."""
    if importlib.util.find_spec("prometheus_client") is None:
        raise SettingsError("Metrics need prometheus-client.", next_step="pip install 'interlock[serve]'")
