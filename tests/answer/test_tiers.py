"""A champion that cannot answer is answered for, by whom is written everywhere, and it stays the champion."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from answer.kit import FORM, Project, opened_bundle, rows
from interlock.answer import batch, tiers
from interlock.answer.batch import score_file
from interlock.answer.staging import SEAL, read_staged
from interlock.errors import BundleCorrupt, Conflict, StoreFault, UserCodeFailed
from interlock.model.bundle import Opened
from interlock.model.forms import Linear, NumberTerm
from interlock.records import BatchResult, Release
from interlock.release.standing import Damage, current, damage_of

OTHER = Linear(
    link="sigmoid",
    intercepts=(0.0,),
    terms=(NumberTerm(column="x", shift=0.0, weights=(-1.0,)),),
    classes=("no", "yes"),
)
PRIOR = Linear(link="sigmoid", intercepts=(0.3,), terms=(), classes=("no", "yes"))
FLIPPED = BundleCorrupt("The bundle's file 'fast/form.json' has the digest a instead of b. It was not opened.")
GONE = BundleCorrupt("The bundle's file 'fast/form.json' is missing. It was not opened.")


@pytest.fixture
def bundles(project: Project, tmp_path: Path) -> dict[str, Opened]:
    """Release 2 with a champion, a last good model and a baseline; the champion is damaged."""
    made = {
        "champion": opened_bundle(tmp_path / "champion"),
        "last-good": opened_bundle(tmp_path / "last-good", OTHER),
        "baseline": opened_bundle(tmp_path / "baseline", PRIOR),
    }
    project.release(made["champion"], 2, made["last-good"], made["baseline"])
    project.damaged[made["champion"].bundle.digest] = FLIPPED
    return made


def release(project: Project) -> Release:
    found = current(project.parts.ledger)
    assert found is not None
    return found


def damaged(project: Project) -> Damage:
    found = damage_of(project.parts.ledger, release(project))
    assert found is not None
    return found


def facts(project: Project, kind: str) -> list[dict[str, Any]]:
    return [event.facts for event in project.parts.ledger.events(kinds=[kind])]


def only(results: list[BatchResult]) -> BatchResult:
    assert len(results) == 1
    return results[0]


def test_the_last_good_model_answers_and_all_that_is_written_says_so(
    project: Project, bundles: dict[str, Opened]
) -> None:
    frame = rows(300)
    project.put("f.parquet", frame)
    result = only(project.run())
    champion, good = bundles["champion"].bundle.digest, bundles["last-good"].bundle.digest
    assert (result.status, result.tier, result.model, result.generation) == ("published", "last-good", good, 2)
    assert result.reason == (
        f"The champion {champion[:12]} of release 2 is damaged: {FLIPPED.message} "
        f"The last good model {good[:12]} answers in its place."
    )
    assert result.next_step == (
        f"Restore .interlock/lake/bundles/{champion} from a backup, or release the last good model: "
        'interlock rollback --because "…".'
    )
    (published,) = project.published().values()
    assert published["interlock_tier"].unique().to_list() == ["last-good"]
    assert published["interlock_model"].unique().to_list() == [good]
    assert published["probability_1"].equals(OTHER.answer(frame)["probability_1"])
    seal = read_staged(project.root / result.output)[1]
    assert seal is not None
    assert (seal.tier, seal.model, seal.classes) == ("last-good", good, ("no", "yes"))
    assert SEAL in pq.read_metadata(project.root / result.output).metadata
    assert facts(project, "batch.published")[0]["tier"] == "last-good"
    assert any("by the last good model" in line for line in project.said)


def test_it_is_a_fact_of_the_ledger_and_no_release(project: Project, bundles: dict[str, Opened]) -> None:
    before = release(project)
    project.put("f.parquet", rows(300))
    project.run()
    assert release(project) == before, "nothing is replaced"
    (fact,) = facts(project, "champion.damaged")
    assert (fact["generation"], fact["tier"], fact["failures"]) == (2, "last-good", {"champion": FLIPPED.message})
    found = damaged(project)
    assert found.entry == project.parts.ledger.events(kinds=["champion.damaged"])[0].sequence
    assert project.parts.ledger.read("served", "0000000002", dict[str, Any]) is None, "this champion never served"


def test_the_same_finding_is_recorded_once(project: Project, bundles: dict[str, Opened]) -> None:
    for name in ("a", "b"):
        project.put(f"{name}.parquet", rows(300, seed=ord(name)))
        project.next_turn()
        assert only(project.run()).tier == "last-good"
    project.next_turn()
    assert project.run() == []
    assert len(facts(project, "champion.damaged")) == 1
    project.damaged[bundles["champion"].bundle.digest] = GONE
    assert project.run() == [], "it is looked at in every turn, and now it is another finding"
    assert [fact["failures"]["champion"] for fact in facts(project, "champion.damaged")] == [
        FLIPPED.message,
        GONE.message,
    ]


def test_a_champion_that_was_mended_answers_again(project: Project, bundles: dict[str, Opened]) -> None:
    project.put("a.parquet", rows(300))
    project.run()
    project.damaged.clear()
    assert project.run() == [], "what was answered stays answered"
    assert damage_of(project.parts.ledger, release(project)) is None, "it is found without a new file"
    (mended,) = facts(project, "champion.mended")
    assert mended == {"generation": 2, "damaged": project.parts.ledger.events(kinds=["champion.damaged"])[0].sequence}
    project.put("b.parquet", rows(300, seed=1))
    result = only(project.run())
    assert (result.tier, result.reason, result.next_step) == ("champion", "", "")
    assert project.parts.ledger.read("served", "0000000002", dict[str, Any]) is not None
    assert len(facts(project, "champion.mended")) == 1
    project.damaged[bundles["champion"].bundle.digest] = FLIPPED
    project.put("c.parquet", rows(300, seed=2))
    assert only(project.run()).tier == "last-good"
    assert len(facts(project, "champion.damaged")) == 2, "damaged again is news again"


def test_with_the_last_good_model_damaged_too_the_baseline_answers(
    project: Project, bundles: dict[str, Opened]
) -> None:
    project.damaged[bundles["last-good"].bundle.digest] = GONE
    project.put("f.parquet", rows(300))
    result = only(project.run())
    assert (result.status, result.tier) == ("published", "baseline")
    assert result.reason == (
        f"The champion {bundles['champion'].bundle.digest[:12]} of release 2 is damaged: {FLIPPED.message} "
        f"So with the last good model: {GONE.message} "
        f"The baseline {bundles['baseline'].bundle.digest[:12]} answers in its place."
    )
    assert "another champion" in result.next_step, "there is nothing to roll back to"


def test_when_nobody_can_answer_the_champions_fault_is_told(project: Project, bundles: dict[str, Opened]) -> None:
    for opened in bundles.values():
        project.damaged[opened.bundle.digest] = GONE
    project.put("f.parquet", rows(300))
    for _ in range(2):
        with pytest.raises(BundleCorrupt, match=r"form\.json"):
            project.run()
    assert project.published() == {}
    assert project.kinds() == []
    (fact,) = facts(project, "champion.damaged")
    assert (fact["tier"], sorted(fact["failures"])) == (None, ["baseline", "champion", "last-good"])
    assert damaged(project).told(release(project).champion).endswith("Nobody answers.")


@pytest.mark.parametrize(("fallback", "tier"), [((), None), (("baseline",), "baseline"), (("last-good",), "last-good")])
def test_the_owner_says_who_may_answer(
    project: Project, bundles: dict[str, Opened], fallback: tuple[str, ...], tier: str | None
) -> None:
    project.set(fallback=fallback)
    project.put("f.parquet", rows(300))
    if tier is None:
        with pytest.raises(BundleCorrupt):
            project.run()
    else:
        assert only(project.run()).tier == tier


def test_a_first_release_falls_back_on_the_baseline(project: Project, bundles: dict[str, Opened]) -> None:
    project.release(bundles["champion"], 3, None, bundles["baseline"])
    project.put("f.parquet", rows(300))
    assert only(project.run()).tier == "baseline"


def test_a_store_that_fails_is_no_damage(project: Project, bundles: dict[str, Opened]) -> None:
    project.damaged[bundles["champion"].bundle.digest] = StoreFault("The store does not answer.")  # type: ignore[assignment]
    project.put("f.parquet", rows(300))
    with pytest.raises(StoreFault):
        project.run()
    assert facts(project, "champion.damaged") == []
    assert project.published() == {}


def test_a_model_that_cannot_be_loaded_is_stood_in_for_without_its_words(
    project: Project, bundles: dict[str, Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        form = "native"

        def ready(self) -> None:
            problem = UserCodeFailed("loading raised KeyError: 'SECRET-4711'.", next_step="Mend it.", cause="raised")
            problem.recorded = "loading raised KeyError."
            raise problem

        def close(self) -> None:
            return

    project.damaged.clear()
    opened = tiers.open_predictor

    def open_predictor(found: Opened, *rest: Any) -> Any:
        return Broken() if found is bundles["champion"] else opened(found, *rest)

    monkeypatch.setattr(tiers, "open_predictor", open_predictor)
    project.put("f.parquet", rows(300))
    result = only(project.run())
    assert result.tier == "last-good"
    assert " cannot be loaded: loading raised KeyError. The last good model" in result.reason
    assert result.next_step.startswith("Mend what keeps it from loading ('interlock doctor' looks at the environment)")
    assert any("SECRET-4711" in line for line in project.said), "the person who runs the turn needs the words"
    assert "SECRET-4711" not in repr(project.parts.ledger.events())


def test_what_a_stand_in_refused_is_not_tried_again_until_the_champion_is_back(
    project: Project, bundles: dict[str, Opened]
) -> None:
    bad = pl.when(pl.col("id") < 1_003).then(None).otherwise(pl.col("x"))
    project.put("f.csv", rows(100).with_columns(x=bad))
    result = only(project.run())
    assert (result.status, result.tier) == ("refused", "last-good")
    assert project.run() == []
    project.damaged.clear()
    assert (again := only(project.run())).model == bundles["champion"].bundle.digest
    assert again.status == "refused"
    assert project.run() == []


class _Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "name"), [(tiers, "_note"), (batch, "_record")])
def test_a_kill_anywhere_is_cured_by_running_again(
    project: Project, bundles: dict[str, Opened], monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: bool
) -> None:
    project.put("f.parquet", rows(300))
    original = getattr(owner, name)

    def killed(*arguments: Any, **named: Any) -> Any:
        if after:
            original(*arguments, **named)
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(_Killed):
            project.run()
    project.next_turn()
    project.run()
    result = project.parts.ledger.scan("batch", BatchResult)[0][1]
    assert (result.status, result.tier) == ("published", "last-good")
    assert len(facts(project, "champion.damaged")) == 1
    assert len(facts(project, "batch.published")) == 1
    assert project.parts.ledger.read("served", "0000000002", dict[str, Any]) is None
    assert len(project.published()) == 1
    project.next_turn()
    assert project.run() == []


def test_one_file_by_hand_is_answered_too_and_never_written_over(
    project: Project, bundles: dict[str, Opened], tmp_path: Path
) -> None:
    rows(300).write_csv(tmp_path / "mine.csv")
    output = tmp_path / "out" / "mine.parquet"

    def ask() -> BatchResult:
        return score_file(project.parts, project.turn, tmp_path / "mine.csv", output, project.runner)

    assert ask().tier == "last-good"
    assert ask().tier == "last-good", "found again"
    project.damaged.clear()
    with pytest.raises(Conflict, match="not what this release"):
        ask()
    output.unlink()
    assert ask().tier == "champion"
    assert pl.read_parquet(output)["probability_1"].equals(FORM.answer(rows(300))["probability_1"])
