"""What servers saw of a challenger, and how its trial ended, in the ledger.

The receipt (``canary.ended``), the release that it makes and the proof that both models served are one transaction. A
champion that was answering beside the challenger all the while is its last good model.
"""

import msgspec

from interlock.ports import Clock, Ledger
from interlock.records import Release, timestamp
from interlock.release.canary import End, Ended, Tally, Trial
from interlock.release.standing import (
    TALLY,
    current,
    end_trial,
    generation_key,
    make_release,
    mark_served,
    trial_of,
)


def note_tally(ledger: Ledger, trial: Trial, tally: Tally) -> None:
    """Write down what one server saw so far."""
    with ledger.transaction() as transaction:
        transaction.put(TALLY, f"{generation_key(trial.began)}/{tally.worker}", tally)


def conclude(ledger: Ledger, clock: Clock, trial: Trial, end: End) -> Release | None:
    """Record the end that the evidence demands, and the release that it makes; None when the trial is over already.

    Raises :class:`Conflict` when a release is made at the same time.
    """
    in_force = current(ledger)
    found = trial_of(ledger, in_force)
    if in_force is None or found is None or found.began != trial.began:
        return None
    ended = Ended(
        outcome="promoted" if end.verdict == "promote" else "dropped",
        by="evidence",
        because=end.because,
        trial=trial,
        tallies=end.tallies,
        elapsed_s=end.elapsed_s,
    )
    made = msgspec.structs.replace(
        in_force,
        generation=in_force.generation + 1,
        cause="canary",
        because=end.because,
        at=timestamp(clock.now()),
        challenger=None,
    )
    if end.verdict == "promote":
        last_good = in_force.champion if in_force.route == "champion" else in_force.last_good
        made = msgspec.structs.replace(
            made,
            champion=trial.challenger,
            last_good=None if last_good == trial.challenger else last_good,
            baseline=trial.baseline,
            receipt=trial.receipt,
            route="champion",
        )
    with ledger.transaction() as transaction:
        entry = end_trial(transaction, ended)
        make_release(transaction, made)
        if end.verdict == "promote":
            if in_force.route == "champion":
                mark_served(transaction, in_force.generation, entry)
            if not trial.shadow:
                mark_served(transaction, made.generation, entry)
    return made
