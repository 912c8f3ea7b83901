"""What is counted, and that Prometheus can read it."""

import asyncio
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

from interlock.release.breaker import State
from interlock.release.canary import Trial
from interlock.serve.board import Board
from interlock.serve.canary import Count
from interlock.serve.duel import Duel
from interlock.serve.keys import Keyring
from interlock.serve.metrics import EDGES_S, METRICS, Metrics
from serve.conftest import FORM, house_of, opened_bundle
from serve.test_door import NONSENSE

RECORD = {"x": 1.0, "n": 3, "colour": "red"}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics-online.md"


class Still:
    """A breaker at which nothing happens."""

    def __init__(self, mode="half-open"):
        self.state, self.trips, self.last_good = State(model="m", mode=mode), 3, {True: 5, False: 1}


@pytest.fixture
def counted(project, tmp_path):
    """A house whose champion fails each record, and its metrics, after some requests of each kind."""
    good = opened_bundle(tmp_path / "good", FORM)
    project.release_of(tmp_path, 2, last_good=good, form=NONSENSE)
    house = house_of(project, Keyring(None), on_served=lambda served: metrics.saw(served))  # noqa: PLW0108 - made below
    metrics = Metrics(project.clock, lambda: house.door.room, Still())
    metrics.in_fast_lane = lambda: 2
    for path, body in [
        ("/predict", RECORD), ("/batch", {"instances": [RECORD] * 3}), ("/batch", {}), ("/nowhere", {}), ("/ping", {}),
    ]:  # fmt: skip
        asyncio.run(house.ask(path, json.dumps(body).encode(), method="GET" if path == "/ping" else "POST"))
    return metrics


def samples(text, parser=plain):
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parser(text)
        for sample in family.samples
    }


def test_what_happened_is_counted(counted):
    found = samples(counted.page({}).body.decode())
    requests = {tuple(sorted(key[1:])): value for key, value in found.items() if key[0] == "interlock_requests_total"}
    assert requests == {
        ("/predict", "200"): 1, ("/batch", "200"): 1, ("/batch", "400"): 1, ("404", "other"): 1, ("/ping", "200"): 1
    }  # fmt: skip
    assert found["interlock_records_total",] == 4
    assert found["interlock_answers_total", "last-good"] == 4
    assert found["interlock_answers_total", "champion"] == found["interlock_answers_total", "abstain"] == 0
    assert found["interlock_guard_failures_total", "champion", "class"] == 4
    assert [found["interlock_breaker_state", mode] for mode in ("closed", "open", "half-open", "pinned")] == [
        0,
        0,
        1,
        0,
    ]
    assert found["interlock_breaker_trips_total",] == 3
    assert found["interlock_last_good_shadow_total", "acceptable"] == 5
    assert found["interlock_last_good_shadow_total", "refused"] == 1
    assert found["interlock_lane_answers_total", "fast"] == 2
    assert found["interlock_lane_answers_total", "ordinary"] == 3
    assert found["interlock_release_generation",] == 2
    assert found["interlock_pool_waiting",] == 0
    assert found["process_open_fds",] > 0


def test_what_is_seen_of_a_challenger_is_told(counted):
    found = samples(counted.page({}).body.decode())
    assert found["interlock_challenger_share",] == found["interlock_challenger_records", "answered"] == 0
    trial = Trial(
        began=3, challenger="c" * 64, champion="a" * 64, baseline="b" * 64, receipt=1, share=0.2, shadow=False,
        key="", rows=1, duration_s=1.0, tolerated=0.001, alarm=1e3, since="", slower=2.0,
    )  # fmt: skip
    count = Count(trial)
    count.take([("type", True), ("raised", False)], 5)
    assert count.vote([("type", True)]) is False
    counted.challenged = lambda: count
    found = samples(counted.page({}).body.decode())
    assert found["interlock_challenger_share",] == 0.2
    assert found["interlock_challenger_records", "answered"] == 5
    assert found["interlock_challenger_records", "failed"] == 1
    assert 0.1 < found["interlock_challenger_evidence",] < 1
    assert ("interlock_challenger_median_seconds", "champion") not in found
    count.compare([(("no", None), ("no", None)), (("no", None), ("yes", None))])
    for its_s in (0.009, 0.001):
        count.take_duel(Duel(its_s, 0.004, []))
    found = samples(counted.page({}).body.decode())
    assert found["interlock_challenger_records", "compared"] == 2
    assert found["interlock_challenger_records", "agreed"] == 1
    assert found["interlock_challenger_duels", "slower"] == found["interlock_challenger_duels", "not-slower"] == 1
    assert math.isclose(found["interlock_challenger_median_seconds", "champion"], 0.004, rel_tol=0.05)
    assert count.vote([("type", True)]) is True
    assert samples(counted.page({}).body.decode())["interlock_challenger_evidence",] > 1


def test_times_fall_into_buckets(project, counted):
    found = samples(counted.page({}).body.decode())
    assert found["interlock_request_seconds_count", "/batch"] == 2
    assert found["interlock_request_seconds_bucket", "+Inf", "/batch"] == 2
    assert 0 < found["interlock_request_seconds_sum", "/batch"] < 5
    below = [found["interlock_request_seconds_bucket", *sorted((str(edge), "/batch"))] for edge in EDGES_S]
    assert below == sorted(below)
    assert math.isclose(EDGES_S[0], 50e-6)


def test_the_age_of_the_model_is_that_of_its_bundle(project, counted):
    assert ("interlock_model_age_seconds",) not in samples(counted.page({}).body.decode())
    counted._room().live.seats[0].packed_at = project.clock.now().isoformat()
    project.clock.advance(90.0)
    assert samples(counted.page({}).body.decode())["interlock_model_age_seconds",] == 90.0


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (b"", "text/plain; version=0.0.4; charset=utf-8"),
        (b"text/html", "text/plain; version=0.0.4; charset=utf-8"),
        (
            b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1",
            "application/openmetrics-text; version=",
        ),
        (b"application/openmetrics-text;version=nonsense", "application/openmetrics-text; version="),
    ],
)
def test_it_is_told_as_the_client_takes_it(counted, accept, kind):
    reply = counted.page({b"accept": accept})
    assert reply.content_type.decode().startswith(kind)
    parser = open_metrics if kind.startswith("application") else plain
    names = {family.name for family in parser(reply.body.decode())}
    assert {name.removesuffix("_total") for name in METRICS} - {"interlock_model_age_seconds"} <= {
        name.removesuffix("_total") for name in names
    }


def test_several_workers_tell_the_same_and_of_all(counted, tmp_path):
    """Each counts what it was asked; whoever is asked tells the sum, without a label for the worker."""
    others = []
    for place, mode in enumerate(("closed", "open")):
        other = Metrics(counted._clock, counted._room, Still(mode), board=Board(tmp_path, place))
        other._routes, other._faults, other._answers = counted._routes, counted._faults, counted._answers
        other._records = counted._records
        others.append(other)
        other.post()
    pages = [other.page({}).body.decode() for other in others]
    assert pages[0] == pages[1]
    found = samples(pages[0])
    assert found["interlock_requests_total", "/batch", "200"] == 2
    assert found["interlock_request_seconds_count", "/batch"] == 4
    assert found["interlock_records_total",] == 8
    assert [found["interlock_breaker_state", mode] for mode in ("closed", "open")] == [0, 1]
    assert found["interlock_release_generation",] == 2
    assert found["interlock_release_source", "state"] == 1
    assert found["interlock_workers",] == 2
    assert not any(name.startswith("process_") for name, *_ in found)


def test_every_metric_is_documented_and_nothing_else(counted):
    told = set(re.findall(r"^\| `(interlock_\w+)`", PAGE.read_text(), flags=re.MULTILINE))
    assert told == set(METRICS)
    collected = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type for family in counted.collect()
    }
    assert collected == {name: each.kind for name, each in METRICS.items()}


def test_prometheus_own_tool_has_nothing_to_say(counted):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=counted.page({}).body, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
