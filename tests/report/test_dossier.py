"""The dossier: every recorded fact in its place, nothing else, and nothing dangerous."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from interlock.errors import NotFound, NothingToServe, StoreFault
from interlock.records import BatchResult, Failure, Receipt, Training
from interlock.release.canary import Ended, Tally, Trial
from interlock.report.dossier import DossierPaths, write_decision_dossier, write_dossier
from interlock.report.facts import Entry
from interlock.report.proof import validation

VOID = {"meta", "br", "hr", "img", "input", "link"}
Make = Callable[..., Any]


class Reader(HTMLParser):
    """Checks that tags nest, and keeps text by section."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"": []}
        self.section = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "section":
            self.section = found["id"] or ""
            self.texts[self.section] = []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self.open:
            self.texts[self.section].append(" ".join(data.split()))


def read(paths: DossierPaths) -> tuple[Reader, str, str]:
    html, markdown = Path(paths.html).read_text("utf-8"), Path(paths.markdown).read_text("utf-8")
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader, html, markdown


def sections(markdown: str) -> dict[str, str]:
    return {part.split("\n", 1)[0].split(". ", 1)[1]: part for part in markdown.split("\n## ")[1:]}


@pytest.fixture(params=["classification", "regression"])
def told(request: pytest.FixtureRequest, world: Make) -> Any:
    return world(task=request.param)


def text_of(reader: Reader, section: str) -> str:
    return " ".join(reader.texts[section])


# ---- the page ----------------------------------------------------------------------------------------------------


def test_a_page_is_well_formed_and_loads_nothing(told: Any, tmp_path: Path) -> None:
    reader, html, _ = read(write_dossier(told.parts, None, tmp_path))
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", html)
    for tag, found in reader.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "img", "form", "base"}
        assert not any(name.startswith("on") or name in {"src", "srcset", "action"} for name in found)
        assert found.get("href", "#").startswith("#")
    policy = next(
        found["content"] for tag, found in reader.tags if found.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    ids = [found["id"] for _, found in reader.tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert {(found["href"] or "")[1:] for tag, found in reader.tags if tag in {"a", "use"}} <= set(ids)
    assert len(html) < 250_000


def test_every_fact_stands_in_its_chapter(world: Make, tmp_path: Path) -> None:
    told = world()
    reader, _, markdown = read(write_dossier(told.parts, None, tmp_path))
    bundle, first = told.teller.bundles["third"], told.teller.bundles["first"]
    prior = told.teller.bundles["prior"]
    expected = {
        "overview": (f"stay-or-go;{bundle.digest};{first.digest};{prior.digest};entry 24;holds: 27 entries",),
        "problem": ("classification;status;cancelled, no-show, stayed;f1_macro (more is better);country;95 %",),
        "data": (
            "week-1.csv;refused;unreadable;repeated;Line 12 has 9 fields;31% of its rows;week-5.csv;1,790;price",
            "20 % by md5 of booking_id;5 categories: DE, FR, IT, NL;2025-01-01 to 2025-12-31",
            "in the training rows;answers are spread on the holdout",
        ),
        "model": (
            "linear;Forms that were tried;another form agrees;1,264 rows;4.400e-16;country, price;0.5",
            "code/train.py;LogisticRegression(C=",
        ),
        "training": ("3.42 s;231 MB;train_f1;0.9120;epoch 41 loss 0.309;1,432",),
        "validation": ("0.7312;0.7055;0.2411;+0.0257;+0.0137;96.96 %;paired bootstrap;2,000 resamples",),
        "testing": ("country = FR;0.7220;cancelled;on the diagonal;calibration error;accuracy",),
        "packaging": (f"{bundle.digest};requirements.txt;4.1 kB;numpy==2.4.1;mlflow.pyfunc.load_model",),
        "deployment": (
            "tuesday.csv;wednesday.csv: PSI 2.31 is over the 1.00 allowed.;497 rows published;keep;really served",
        ),
        "lineage": (f"{bundle.digest};Snapshot;Receipt;Evidence;entry 23",),
        "decision": ("promote;at least;passed;holdout budget;release 2 (by gate)",),
        "resources": ("judge;620 ms;231 MB;41 µs",),
        "checking": ("interlock verify;interlock replay 23;interlock report --release 2",),
        "limitations": ("4 rows of the files;2 files could not be used;12 rows of bookings;asked 2 times",),
        "review": ("Owner, date;Reviewer, date;Intended use",),
    }
    assert list(expected) == [name for name in reader.texts if name]
    for section, words in expected.items():
        for word in ";".join(words).split(";"):
            assert word in text_of(reader, section), (section, word)
    assert len(sections(markdown)) == len(expected)


def test_long_notes_are_cut_and_what_the_packer_added_is_no_source_of_the_user(world: Make, tmp_path: Path) -> None:
    reader, _, _ = read(write_dossier(world().parts, None, tmp_path))
    assert "4 bad rows; note 0; note 1; note 2; and 6 further notes." in text_of(reader, "data")
    assert "made by the packer" not in text_of(reader, "model")
    assert "code/interlock_loader.py" in text_of(reader, "packaging")


def test_markdown_tells_the_same_numbers(told: Any, tmp_path: Path) -> None:
    reader, _, markdown = read(write_dossier(told.parts, None, tmp_path))
    flat = markdown.replace("\\", "")
    for section, texts in reader.texts.items():
        for text in texts:
            if re.fullmatch(r"[\d.]+", text) or text.startswith(("required", "entry")):
                continue  # axes of pictures; what pictures tell is told by their descriptions too
            for found in re.findall(r"\d[\d,.]*\d", text):
                assert found in flat, (section, text)


def test_the_same_facts_give_the_same_bytes(told: Any, tmp_path: Path) -> None:
    one = write_dossier(told.parts, None, tmp_path / "one")
    two = write_dossier(told.parts, None, tmp_path / "two")
    assert Path(one.html).read_bytes() == Path(two.html).read_bytes()
    assert Path(one.markdown).read_bytes() == Path(two.markdown).read_bytes()


def test_a_page_is_written_over_by_a_newer_one(told: Any, tmp_path: Path) -> None:
    before = Path(write_dossier(told.parts, 2, tmp_path).html).read_bytes()
    told.teller.batch("thursday.csv", "published")
    after = Path(write_dossier(told.parts, 2, tmp_path).html).read_bytes()
    assert before != after
    assert b"thursday.csv" in after
    assert sorted(path.name for path in tmp_path.glob("release*")) == ["release-0002.html", "release-0002.md"]


# ---- which release, which decision -------------------------------------------------------------------------------


def test_an_earlier_release_says_what_replaced_it(told: Any, tmp_path: Path) -> None:
    reader, _, markdown = read(write_dossier(told.parts, 1, tmp_path))
    assert "replaced by release 2" in text_of(reader, "")
    assert "was in force from 2026-11-20 08:00:05 UTC to 2026-11-20 08:00:12 UTC" in text_of(reader, "")
    assert "monday.csv" in text_of(reader, "deployment")
    assert "tuesday.csv" not in text_of(reader, "deployment")
    assert "week-4.csv" not in text_of(reader, "data")
    assert "There was no champion to compare with" in text_of(reader, "validation")
    assert "replaced by release 2" in markdown


def test_a_kept_champion_has_a_page_too(told: Any, tmp_path: Path) -> None:
    sequence = told.decisions["kept"]
    paths = write_decision_dossier(told.parts, sequence, tmp_path)
    reader, _, markdown = read(paths)
    assert Path(paths.html).name == f"decision-{sequence:06d}.html"
    assert "not released" in text_of(reader, "")
    assert "Not better than the champion" in text_of(reader, "decision")
    assert "failed" in text_of(reader, "decision")
    assert f"interlock report --decision {sequence}" in text_of(reader, "checking")
    assert "not answered a batch" in markdown


def test_a_held_decision_asks_for_a_person(world: Make, tmp_path: Path) -> None:
    told = world()
    teller = told.teller
    snapshot = teller.snapshot("four")
    held = teller.model("fourth", snapshot)
    sequence = teller.decide(held, teller.bundles["prior"], snapshot, "hold", champion=teller.bundles["third"])
    reader, _, _ = read(write_decision_dossier(told.parts, sequence, tmp_path))
    assert "held for a person" in text_of(reader, "")
    teller.release(held, teller.bundles["prior"], "approval", "I looked at the columns", receipt=sequence)
    reader, _, _ = read(write_dossier(told.parts, None, tmp_path))
    assert "A person approved it: I looked at the columns." in text_of(reader, "")
    assert "Released although the check 'champion' failed" in text_of(reader, "limitations")


def test_a_roll_back_tells_of_the_decision_that_first_let_its_champion_through(world: Make, tmp_path: Path) -> None:
    told = world()
    told.teller.release(told.teller.bundles["first"], told.teller.bundles["prior"], "rollback", "bad Tuesday")
    reader, _, _ = read(write_dossier(told.parts, None, tmp_path))
    assert "It was a roll-back: bad Tuesday." in text_of(reader, "")
    assert f"interlock replay {told.decisions['first']}" in text_of(reader, "checking")
    assert "1 roll-back among 3 releases" in text_of(reader, "deployment")
    assert "not published an audited batch so far" in text_of(reader, "deployment")


@pytest.mark.parametrize(
    ("cause", "told_of"),
    [("breaker", "The breaker made it: it failed."), ("canary", "The trial of a challenger ended with it: it failed.")],
)
def test_every_cause_of_a_release_is_told(world: Make, tmp_path: Path, cause: str, told_of: str) -> None:
    told = world()
    told.teller.release(told.teller.bundles["first"], told.teller.bundles["prior"], cause, "it failed")
    reader, _, _ = read(write_dossier(told.parts, None, tmp_path))
    assert told_of in text_of(reader, "")


def test_how_trials_ended_is_told(world: Make, tmp_path: Path) -> None:
    told = world()
    reader, _, _ = read(write_dossier(told.parts, None, tmp_path))
    assert "Trials of challengers" not in text_of(reader, "deployment")
    trial = Trial(
        began=3, challenger="c" * 64, champion="a" * 64, baseline="b" * 64, receipt=1, share=0.2, shadow=False,
        key="", rows=1, duration_s=1.0, tolerated=0.001, alarm=1e6, since="2026-11-21T00:00:00Z",
    )  # fmt: skip
    seen = Tally(worker="w", asked=1_240, answered=1_234, failed=6)
    ended = Ended(
        outcome="dropped", by="evidence", because="It failed.", trial=trial, tallies=(seen,), elapsed_s=7_200.0
    )
    told.teller.record("canary.ended", trial.challenger, ended)
    reader, _, _ = read(write_dossier(told.parts, None, tmp_path))
    text = text_of(reader, "deployment")
    for part in ("Trials of challengers", "cccccccccccc", "in canary at 20 %", "dropped", "1,234", "It failed."):
        assert part in text


def test_what_never_was_is_refused(empty: Make, world: Make, tmp_path: Path) -> None:
    bare = empty()
    bare.teller.file("week-1.csv", "accepted", rows=3, accepted=3)
    with pytest.raises(NothingToServe):
        write_dossier(bare.parts, None, tmp_path)
    with pytest.raises(NotFound, match="not a decision"):
        write_decision_dossier(bare.parts, 1, tmp_path)


def test_an_unknown_generation_or_entry_is_not_found(told: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no release 9"):
        write_dossier(told.parts, 9, tmp_path)
    with pytest.raises(NotFound):
        write_decision_dossier(told.parts, 1, tmp_path)
    with pytest.raises(NotFound):
        write_decision_dossier(told.parts, 10_000, tmp_path)


def test_a_folder_that_cannot_be_written_is_a_store_fault(told: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreFault):
        write_dossier(told.parts, None, tmp_path / "file")


# ---- what users write --------------------------------------------------------------------------------------------


def test_hostile_words_stay_words(world: Make, tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><img src=http://evil.example onerror=x> \u202e`|*'
    told = world(name="name<i>", country=evil, reason=evil, turn=evil)
    told.teller.file(f"../../{evil}", "refused", rows=1, reason=evil, notes=(evil,))
    snapshot = told.teller.snapshot("five")
    model = told.teller.model("fifth", snapshot)
    bundles = told.teller.bundles
    sequence = told.teller.decide(model, bundles["prior"], snapshot, "promote", champion=bundles["third"])
    told.teller.batch(evil, "refused")
    for paths in (
        write_dossier(told.parts, None, tmp_path / "a"),
        write_decision_dossier(told.parts, sequence, tmp_path / "a"),
    ):
        reader, html, markdown = read(paths)
        tags = {tag for tag, _ in reader.tags}
        assert not tags & {"script", "img", "i"}
        assert "\u202e" not in html + markdown
        outside_code = re.sub(r"(?<!\\)(`+).*?(?<!\\)\1", "", markdown, flags=re.DOTALL)
        assert not re.search(r"(?<!\\)<(?!/?details|/?summary|/?code)", outside_code.replace("&lt;", ""))
        assert "http://" not in outside_code
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        f"decision-{sequence:06d}.html", f"decision-{sequence:06d}.md", "release-0003.html", "release-0003.md",
    ]  # fmt: skip


def test_rare_categories_and_small_slices_are_never_named(world: Make, tmp_path: Path) -> None:
    told = world()
    rare = told.teller.profile().column("country").categories["PT"]
    assert 0 < rare < 5
    _, html, markdown = read(write_dossier(told.parts, None, tmp_path))
    assert not re.search(r"\bPT\b", html)
    assert not re.search(r"\bPT\b", markdown)


# ---- what is not there -------------------------------------------------------------------------------------------


def one_release(teller: Any, **changes: Any) -> None:
    teller.file("week-1.csv", "accepted", rows=200, accepted=200)
    snapshot = teller.snapshot("one")
    profiled = changes.pop("profiled", True)
    model = teller.model("first", snapshot, profiled=profiled)
    baseline = teller.model("prior", snapshot, kind="baseline", profiled=False)
    teller.decide(model, baseline, snapshot, "promote", **changes)


def test_a_bare_release_says_what_it_lacks(empty: Make, tmp_path: Path) -> None:
    bare = empty()
    one_release(bare.teller, profiled=False, slices=(), extra={}, latency_ms=None, evidence_key="", evidence_digest="")
    reader, _, _ = read(write_dossier(bare.parts, None, tmp_path))
    limits = text_of(reader, "limitations")
    for sentence in (
        "The holdout is small: 40 rows",
        "Compared with the baseline only",
        "No slices were judged",
        "The time to answer one row was not measured",
        "The evidence of the holdout is not recorded",
        "The reference profile of the data is not recorded",
    ):
        assert sentence in limits
    assert "not answered a batch" in text_of(reader, "deployment")
    assert "columns are not drawn" in text_of(reader, "data")
    assert "None were asked for" in text_of(reader, "testing")
    assert "did not record its end" in text_of(reader, "resources")


def test_a_release_without_any_decision_still_has_a_page(empty: Make, tmp_path: Path) -> None:
    bare = empty()
    snapshot = bare.teller.snapshot("one")
    model = bare.teller.model("first", snapshot)
    bare.teller.release(model, model, "person", "first of all")
    reader, _, markdown = read(write_dossier(bare.parts, None, tmp_path))
    for section in ("validation", "testing", "decision"):
        assert "is not recorded" in text_of(reader, section)
    assert "The decision's receipt is not recorded." in text_of(reader, "limitations")
    assert "No decision of the gate is recorded for it." in markdown


def test_a_champion_that_could_not_be_scored_is_told(empty: Make, tmp_path: Path) -> None:
    bare = empty()
    failure = Failure(kind="inputs-gone", reason="Column 'price' is gone.")
    one_release(bare.teller, failures={"champion": failure})
    reader, _, _ = read(write_dossier(bare.parts, None, tmp_path))
    assert "The champion could not be scored: Column 'price' is gone." in text_of(reader, "validation")
    assert "The champion could not be scored" in text_of(reader, "limitations")


@pytest.mark.parametrize("what", ["changed", "gone"])
def test_bytes_that_are_not_those_recorded_are_not_shown(world: Make, tmp_path: Path, what: str) -> None:
    told = world()
    digest = told.teller.bundles["third"].digest
    receipt = told.parts.ledger.events(kinds=("gate.decided",), newest_first=True, limit=1)[0].facts
    for key in (f"bundles/{digest}/code/train.py", receipt["evaluation"]["evidence_key"]):
        told.parts.blobs.delete(key)
        if what == "changed":
            told.parts.blobs.put(key, b"# something else entirely")
    reader, html, _ = read(write_dossier(told.parts, None, tmp_path))
    assert "something else entirely" not in html
    assert "LogisticRegression(C=" not in html
    limits = text_of(reader, "limitations")
    assert ("its digest differs" if what == "changed" else "is gone") in limits
    assert limits.count("its digest differs" if what == "changed" else "gone") == 2
    assert "cannot be drawn by kind" in text_of(reader, "testing")


@pytest.mark.parametrize(("content", "said"), [(None, "is gone"), (b'{"files": []}', "its digest differs")])
def test_a_bundle_whose_manifest_is_not_the_recorded_one_is_told(
    world: Make, tmp_path: Path, content: bytes | None, said: str
) -> None:
    told = world()
    key = f"bundles/{told.teller.bundles['third'].digest}/manifest.json"
    told.parts.blobs.delete(key)
    if content is not None:
        told.parts.blobs.put(key, content)
    reader, _, _ = read(write_dossier(told.parts, None, tmp_path))
    assert "is not recorded" in text_of(reader, "packaging")
    assert "The bundle's manifest" in text_of(reader, "limitations")
    assert said in text_of(reader, "limitations")


def test_many_files_and_batches_are_counted_and_the_newest_listed(empty: Make, tmp_path: Path) -> None:
    bare = empty()
    for number in range(120):
        bare.teller.file(f"part-{number:03d}.csv", "accepted", rows=10, accepted=10)
    one_release(bare.teller)
    for number in range(105):
        bare.teller.batch(f"batch-{number:03d}.csv", "published", rows=13)
    reader, _, _ = read(write_dossier(bare.parts, None, tmp_path))
    assert "121 files had landed" in text_of(reader, "data")
    assert "The newest 100 of 121 files are listed." in text_of(reader, "data")
    assert "part-119.csv" in text_of(reader, "data")
    assert "part-020.csv" not in text_of(reader, "data")
    assert "The newest 100 of 105 batches are listed." in text_of(reader, "deployment")
    assert "1,050 rows published" in text_of(reader, "deployment")


def test_the_story_is_made_of_valid_records(world: Make) -> None:
    import msgspec

    told = world()
    for kind, record in (("gate.decided", Receipt), ("batch.published", BatchResult)):
        for event in told.parts.ledger.events(kinds=(kind,)):
            assert msgspec.convert(event.facts, record)
    assert told.parts.ledger.verify().broken_at is None


def test_trainings_that_failed_are_listed_with_their_notebooks(world: Make, tmp_path: Path) -> None:
    made = world()
    failed = Training(
        digest="7" * 64, snapshot="5" * 64, code="8" * 64, params={}, seed=0, status="failed", seconds=1.0,
        peak_memory_bytes=1, rows=2, error="model.ipynb, code cell 2 (fit) raised KeyError.\nin fit\n",
        notebook="e" * 64,
    )  # fmt: skip
    for number in range(22):
        made.teller.record("training.failed", "7" * 64, msgspec.structs.replace(failed, rows=number))
    _, html, markdown = read(write_dossier(made.parts, None, tmp_path / "out"))
    told = sections(markdown)["Training and tuning"]
    assert "Trainings that failed" in told
    assert "The newest 20 of 22." in told
    assert f".interlock/lake/notebooks/{'e' * 64}.ipynb" in html
    assert "raised KeyError." in told
    assert "in fit" not in told, "one line of each"


def test_gains_are_shown_no_further_than_the_metric_goes(world: Make, tmp_path: Path) -> None:
    made = world()
    event = made.parts.ledger.events(kinds=["gate.decided"], newest_first=True, limit=1)[0]
    receipt = msgspec.convert(event.facts, Receipt)
    wide = tuple(
        msgspec.structs.replace(each, low=each.gain - 3.0, high=each.gain + 3.0)
        for each in receipt.evaluation.comparisons
    )
    seen = msgspec.structs.replace(receipt.evaluation, comparisons=wide, asks=1.35)
    blocks = validation(SimpleNamespace(receipt=Entry(event, msgspec.structs.replace(receipt, evaluation=seen))))
    table = next(block for block in blocks.blocks if getattr(block, "title", "") == "Paired gains")
    assert {(row[2], row[3]) for row in table.rows} == {("\u22121", "+1")}
    assert "can be beyond ±1" in table.note
