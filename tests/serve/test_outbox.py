"""What waits is bounded, and whoever adds never waits."""

import threading

from interlock.serve.outbox import Outbox


def test_everything_is_delivered_in_order_by_another_thread():
    found, threads = [], set()

    def deliver(items):
        found.extend(items)
        threads.add(threading.current_thread())

    outbox = Outbox(deliver, print, "things", every_s=0.001)
    for number in range(1_000):
        outbox.add(number)
    outbox.close()
    assert found == list(range(1_000))
    assert threading.current_thread() not in threads
    assert outbox.lost == 0


def test_a_receiver_that_hangs_costs_what_does_not_fit_and_no_time():
    taken, free, found = threading.Event(), threading.Event(), []

    def deliver(items):
        taken.set()
        free.wait(30)
        found.extend(items)

    outbox = Outbox(deliver, print, "things", most=10, every_s=0.001)
    outbox.add(0)
    assert taken.wait(30)
    for number in range(1, 101):
        outbox.add(number)
    assert outbox.lost == 90
    free.set()
    outbox.close()
    assert found == [0, *range(91, 101)]


def test_what_fails_is_told_once_and_then_tried_again():
    said, found, broken = [], [], [True]
    round_ = threading.Semaphore(0)

    def deliver(items):
        round_.release()
        if broken[0]:
            raise OSError("/secret/path")
        found.extend(items)

    outbox = Outbox(deliver, said.append, "things", every_s=0.001)
    for number in range(3):
        outbox.add(number)
        assert round_.acquire(timeout=30)
    broken[0] = False
    outbox.add("a")
    outbox.close()
    assert found == ["a"]
    assert said == ["the things cannot be delivered, and answers go on without: OSError"]
    assert outbox.lost == 3


def test_closing_does_not_wait_for_ever():
    taken, free = threading.Event(), threading.Event()

    def deliver(_):
        taken.set()
        free.wait(30)

    outbox = Outbox(deliver, print, "things", every_s=0.001)
    outbox.add(1)
    assert taken.wait(30)
    outbox.close(within_s=0.01)
    free.set()
