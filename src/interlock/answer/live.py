"""A release becomes a :class:`~interlock.answer.predict.Live`: its bundles verified, loaded, warmed and seated."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import msgspec

from interlock.answer.guard import Constancy, Limits, check_of, constancy_limit, sieve_of
from interlock.answer.lots import COLUMN, Lots
from interlock.answer.pool import Pool
from interlock.answer.predict import Challenge, Elsewhere, Live, Seat, picker
from interlock.data.profile import Profile
from interlock.errors import Fault, InterlockError, NotFound, NothingToServe, StoreFault, UserCodeFailed
from interlock.model.bundle import Opened, open_bundle
from interlock.model.predictor import open_form, open_predictor
from interlock.model.rows import Row, Rows, frame_of, rows_of, schema_of
from interlock.model.runner import Runner
from interlock.ports import Parts
from interlock.records import Column, Release, Signature, Tier, short
from interlock.release.standing import trial_of
from interlock.units import seconds

_WARM_CALLS: Final = 3


@dataclass(slots=True)
class Model:
    """A bundle, ready to answer."""

    opened: Opened
    here: Rows | None
    elsewhere: Elsewhere | None
    reference: Profile | None

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self.opened.bundle.signature

    def close(self) -> None:
        """End its workers."""
        if self.elsewhere is not None:
            self.elsewhere.close()


class Loader:
    """Loads the models of releases, each once; ``runner`` is asked for only when a model needs its own code.

    ``spare`` opens the copy of a bundle that this host keeps; it is asked before the lake, which may be away.
    """

    def __init__(
        self,
        parts: Parts,
        runner: Callable[[], Runner],
        *,
        limits: Limits,
        workers: int,
        spare: Callable[[str], Opened] | None = None,
    ) -> None:
        self._parts = parts
        self._runner = runner
        # a model that answers online has less time than one that answers a file
        model = msgspec.structs.replace(parts.settings.model, predict_deadline=parts.settings.serve.deadline)
        self._settings = msgspec.structs.replace(parts.settings, model=model)
        self._limits = limits
        self._workers = workers
        self._spare = spare
        self.is_away = False
        """The last time a model was not loaded because the store did not give it: trying again may help."""
        self._models: dict[str, Model] = {}

    def load(self, release: Release, say: Callable[[str], None], *, at_any_rate: bool = False) -> Live:
        """Load what ``release`` needs. A tier that cannot be loaded is told and left out.

        Raises what loading the champion raises when no other model that learnt can be loaded; ``at_any_rate``, only
        when the baseline cannot either.
        """
        self.is_away = False
        seats: list[Seat] = []
        columns: list[Column] = []
        problem: InterlockError | None = None
        tiers: list[tuple[Tier, str | None]] = [
            ("champion", release.champion),
            ("last-good", release.last_good),
            ("baseline", release.baseline),
        ]
        for tier, digest in tiers:
            if digest is None:
                continue
            try:
                model = self._model(digest, say)
            except InterlockError as error:
                problem = problem or error
                self.is_away = self.is_away or isinstance(error, StoreFault)
                say(f"{tier} {short(digest)} cannot be loaded: {error.message}")
                continue
            if not columns:
                columns = list(model.signature.inputs)
            seat = self._seat(tier, digest, model, columns)
            if seat is None:
                say(
                    f"{tier} {short(digest)} takes other columns than the models above it, and cannot stand in for them"
                )
            else:
                seats.append(seat)
        if problem is not None and not any(at_any_rate or seat.tier != "baseline" for seat in seats):
            raise problem
        live = Live(release.generation, tuple(seats), tuple(columns))
        live.challenge = self._challenge(release, live, say)
        return live

    def _challenge(self, release: Release, live: Live, say: Callable[[str], None]) -> Challenge | None:
        """Load the challenger. One that cannot be tried is told, and nobody is asked in its place."""
        try:
            trial = trial_of(self._parts.ledger, release)
        except (StoreFault, NothingToServe) as error:
            self.is_away = True
            say(f"the challenger is not tried while the state cannot be read: {error.message}")
            return None
        if trial is None:
            return None
        named = f"challenger {short(trial.challenger)}"
        try:
            model = self._model(trial.challenger, say)
        except InterlockError as error:
            self.is_away = self.is_away or isinstance(error, StoreFault)
            say(f"{named} cannot be loaded, and is not tried: {error.message}")
            return None
        seat = self._seat("challenger", trial.challenger, model, list(live.columns))
        if seat is None or not live.seats or _given_as(seat.signature) != _given_as(live.seats[0].signature):
            say(f"{named} takes other columns than the champion, or gives other answers, and cannot be tried")
            return None
        wanted = trial.key.removeprefix(COLUMN)
        if trial.key.startswith(COLUMN) and wanted not in {column.name for column in live.columns}:
            say(f"canary.key names '{wanted}', which the champion does not take: each record is its own key")
        return Challenge(trial, seat, Lots(trial.share, trial.challenger, trial.key, live.columns))

    def _seat(self, tier: Tier, digest: str, model: Model, columns: list[Column]) -> Seat | None:
        have = {column.name: column for column in columns}
        for column in model.signature.inputs:
            if column.name not in have or have[column.name].type != column.type:
                return None
        limit = constancy_limit(model.reference) if tier != "baseline" else None
        return Seat(
            tier=tier,
            model=digest,
            signature=model.signature,
            check=check_of(model.signature.output, self._limits),
            here=model.here,
            elsewhere=model.elsewhere,
            pick=picker(columns, model.signature),
            constancy=None if limit is None else Constancy(limit),
            sieve=sieve_of(model.signature.output, self._limits),
            packed_at=model.opened.bundle.at,
        )

    def _model(self, digest: str, say: Callable[[str], None]) -> Model:
        found = self._models.get(digest)
        if found is None:
            found = self._models[digest] = self._ready(self._opened(digest, say))
        return found

    def _opened(self, digest: str, say: Callable[[str], None]) -> Opened:
        if self._spare is not None:
            try:
                return self._spare(digest)
            except NotFound:
                pass
            except InterlockError as error:
                say(f"the copy of bundle {short(digest)} on this disk is not used: {error.message}")
        return open_bundle(self._parts, digest)

    def opened(self) -> dict[str, Opened]:
        """The bundles that are loaded, by digest."""
        return {digest: model.opened for digest, model in self._models.items()}

    def _ready(self, opened: Opened) -> Model:
        bundle = opened.bundle
        if bundle.form != "native":
            here = rows_of(open_form(opened), bundle.signature)
            for _ in range(_WARM_CALLS):
                here.answers([typical(bundle.signature)])
            return Model(opened, here, None, opened.reference())
        predictors = [open_predictor(opened, self._runner(), self._settings) for _ in range(self._workers)]
        row = frame_of([typical(bundle.signature)], schema_of(bundle.signature))
        for predictor in predictors:
            with suppress(UserCodeFailed):  # a made row may be refused; that the model was loaded is what counts
                predictor.predict(row)
        pool = Pool(predictors, bundle.signature, deadline_s=seconds(self._settings.model.predict_deadline))
        return Model(opened, None, pool, opened.reference())

    def keep(self, live: Live) -> None:
        """Let go of every model that ``live`` does not need."""
        needed = {seat.model for seat in live.everybody}
        for digest in [digest for digest in self._models if digest not in needed]:
            self._models.pop(digest).close()

    def close(self) -> None:
        """Let go of all models."""
        for model in self._models.values():
            with suppress(Fault):
                model.close()
        self._models.clear()


def _given_as(signature: Signature) -> tuple[str, str] | None:
    """What kind of answer a model gives, and of which type."""
    return None if signature.output is None else (signature.output.kind, signature.output.type)


def typical(signature: Signature) -> Row:
    """A made row of ordinary values: the first category, the middle of the range."""
    return tuple(_ordinary(column) for column in signature.inputs)


def _short(middle: float, low: object, high: object) -> float:
    """The number with four digits, where that is still in the range: examples are read by people."""
    found = float(f"{middle:.4g}")
    within = isinstance(low, int | float) and isinstance(high, int | float) and low <= found <= high
    return found if within else middle


def _ordinary(column: Column) -> object:
    if column.type == "bool":
        return False
    if column.type in ("int", "float"):
        low, high = column.low, column.high
        middle = (low + high) / 2 if isinstance(low, int | float) and isinstance(high, int | float) else 0.0
        return round(middle) if column.type == "int" else _short(float(middle), low, high)
    if column.type == "str":
        return column.categories[0] if column.categories else "text"
    if column.type == "date":
        return date.fromisoformat(str(column.high)[:10]) if column.high else date(2026, 1, 1)
    if column.type == "datetime":
        return datetime.fromisoformat(str(column.high)).replace(tzinfo=None) if column.high else datetime(2026, 1, 1)  # noqa: DTZ001
    return b"\0"
