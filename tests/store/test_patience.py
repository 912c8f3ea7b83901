from interlock.store.patience import Patience
from interlock.testing.clock import ManualClock


def test_pauses_double_and_patience_ends():
    clock, pauses = ManualClock(), []

    def sleep(seconds):
        pauses.append(round(seconds, 3))
        clock.advance(seconds)

    assert list(Patience(request_s=20, monotonic=clock.monotonic, sleep=sleep).attempts()) == [0, 1, 2, 3, 4, 5]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6]


def test_no_request_begins_after_the_deadline():
    clock = ManualClock()
    patience = Patience(request_s=10, monotonic=clock.monotonic, sleep=clock.advance)
    tried = []
    for number in patience.attempts():
        tried.append(number)
        clock.advance(15)  # each request takes long
    assert tried == [0, 1, 2]
    assert clock.monotonic() <= patience.total_s + 15
