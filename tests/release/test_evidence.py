"""Rates of false alarm and delays of true ones, by simulation with a seed; and who may vote."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.release.evidence import RATES, YEAR_S, Ballot, Detector, threshold

TOLERATED = 1e-3
YEARLY = threshold(1.0, 100.0)


def votes_until_alarm(detector, rate, random, most=10**6):
    for count in range(1, most):
        if detector.vote(failed=bool(random.random() < rate)):
            return count
    return most


def test_the_alarm_is_so_many_votes_away_as_are_cast_for_each_allowed_false_trip():
    assert pytest.approx(100.0 * YEAR_S) == YEARLY
    assert threshold(2.0, 100.0) == pytest.approx(YEARLY / 2)
    assert threshold(1e12, 1.0) == 2.0


@pytest.mark.parametrize(("rate", "most"), [(1.0, 5), (0.1, 150), (0.05, 360)])
def test_votes_until_a_failing_model_is_noticed(rate, most):
    random = np.random.default_rng(7)
    delays = []
    for _ in range(300):
        detector = Detector(TOLERATED, YEARLY)
        for _ in range(200):
            assert not detector.vote(failed=False)
        delays.append(votes_until_alarm(detector, rate, random))
    assert np.percentile(delays, 99) <= most


@pytest.mark.parametrize("rate", [TOLERATED, 0.05])
def test_false_alarms_are_as_rare_as_stated(rate):
    """At exactly the tolerated rate, the hardest case, the mean run length is at least the alarm level."""
    random, level = np.random.default_rng(11), 200.0
    runs = [votes_until_alarm(Detector(rate, level), rate, random) for _ in range(400)]
    mean, error = np.mean(runs), np.std(runs) / np.sqrt(len(runs))
    assert mean >= level - 2 * error


@given(rate=st.floats(0, 1), tolerated=st.floats(1e-4, 0.5))
def test_each_likelihood_ratio_is_an_e_value_under_every_rate_that_is_tolerated(rate, tolerated):
    detector = Detector(tolerated, 1e9)
    truth = rate * tolerated
    for failed, fine in zip(detector._failed, detector._fine, strict=True):
        assert truth * failed + (1 - truth) * fine <= 1.0 + 1e-12


def test_a_model_that_never_fails_never_trips():
    detector = Detector(TOLERATED, YEARLY)
    assert not any(detector.vote(failed=False) for _ in range(50_000))
    assert detector.level < 100
    reading = detector.reading()
    assert (reading.votes, reading.failures, reading.alarms) == (50_000, 0, False)


def test_only_a_failure_raises_the_alarm():
    detector = Detector(TOLERATED, 10.0)
    assert detector.vote(failed=True)
    assert detector.level > 10
    assert not detector.vote(failed=False)
    detector.reset()
    assert detector.reading().votes == 0
    assert detector.level == 0


def test_the_level_stays_a_number():
    detector = Detector(TOLERATED, YEARLY)
    for _ in range(2_000):
        detector.vote(failed=True)
    assert np.isfinite(detector.level)
    assert detector.reading().alarms


def test_impossible_rates_are_refused():
    for tolerated in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="tolerated"):
            Detector(tolerated, 10.0)
    with pytest.raises(ValueError, match="no rate to look for"):
        Detector(max(RATES), 10.0)


# ---- votes -------------------------------------------------------------------------------------------------------


def test_a_client_votes_once_a_second():
    ballot = Ballot(100.0)
    admitted = [ballot.admits("a", now / 10) for now in range(30)]
    assert [now for now, yes in enumerate(admitted) if yes] == [0, 10, 20]
    assert ballot.admits("b", 2.95)
    assert not ballot.admits("b", 2.99)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 0.4)), max_size=200), st.integers(1, 5))
def test_in_any_second_there_are_no_more_votes_than_the_rated_load(requests, rated):
    ballot = Ballot(float(rated))
    now, cast = 0.0, []
    for client, pause in requests:
        now += pause
        if ballot.admits(client, now):
            cast.append((int(now), client))
    assert len(set(cast)) == len(cast)
    for _, votes in itertools.groupby(cast, key=lambda vote: vote[0]):
        assert len(list(votes)) <= rated


def test_clumps_of_failures_do_not_raise_the_rate_of_false_alarms():
    """One per mille of requests begin a run of five failures: as many votes as requests would trip within hours."""
    random = np.random.default_rng(3)

    def hours(*, voting):
        detector, ballot, left = Detector(TOLERATED, threshold(1.0, 1.0)), Ballot(1.0), 0
        for request in range(400_000):
            if left == 0 and random.random() < TOLERATED / 5:
                left = 5
            failed, left = left > 0, max(0, left - 1)
            if (not voting or ballot.admits("a", request / 100)) and detector.vote(failed=failed):
                return request
        return None

    assert hours(voting=False) is not None
    assert hours(voting=True) is None
