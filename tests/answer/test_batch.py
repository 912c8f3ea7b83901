"""From files in the inbox to published answers: what is written, what is refused, and what a crash leaves."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from blake3 import blake3

from answer.kit import FORM, SIGNATURE, Project, opened_bundle, rows
from interlock.answer import batch, intake, outlet, pieces, tiers, waiting
from interlock.answer.batch import score_file, score_inbox
from interlock.answer.outlet import FolderOutlet
from interlock.answer.staging import LINEAGE, Stage
from interlock.data import inbox
from interlock.errors import Conflict, NotFound, NothingToServe, UserCodeFailed
from interlock.records import BatchResult
from interlock.testing.fakes import MemoryBlobs


def only(results: list[BatchResult]) -> BatchResult:
    assert len(results) == 1
    return results[0]


def answers(project: Project) -> pl.DataFrame:
    found = [frame for name, frame in project.published().items() if "quarantine" not in name]
    assert len(found) == 1
    return found[0]


# ---- what is published -------------------------------------------------------------------------------------------


def test_a_file_is_answered_row_by_row_with_its_lineage(project: Project) -> None:
    frame = rows(1_000)
    project.put("monday.parquet", frame)
    result = only(project.run())
    assert (result.status, result.rows, result.scored, result.quarantined) == ("published", 1_000, 1_000, 0)
    assert result.form == "linear"
    assert project.runners == [], "a compiled form needs no worker process"
    assert list(project.published()) == [f"monday-{result.digest[:12]}-r1.parquet"]
    assert result.output == f"predictions/monday-{result.digest[:12]}-r1.parquet"
    got, want = answers(project), FORM.answer(frame)
    assert got.columns == ["id", "prediction", "probability_0", "probability_1", *LINEAGE]
    assert got.select("prediction", "probability_0", "probability_1").equals(want)
    assert got["id"].equals(frame["id"])
    assert got["interlock_row"].to_list() == list(range(1, 1_001))
    assert got["interlock_model"].unique().to_list() == [result.model]
    assert got["interlock_file"].unique().to_list() == [result.digest]
    assert got["interlock_release"].unique().to_list() == [1]
    assert got["interlock_scored_at"].unique().to_list() == [project.clock.now()]


def test_event_documents_and_proof_of_service_are_recorded(project: Project) -> None:
    project.put("monday.parquet", rows(300))
    result = only(project.run())
    event = project.parts.ledger.events(kinds=["batch.published"])[0]
    assert event.subject == "monday.parquet"
    assert event.facts["output"] == result.output
    assert "rows_per_second" in event.facts
    assert project.parts.ledger.read("batch", f"{result.digest}/{result.model}", BatchResult) == result
    assert project.parts.ledger.read("served", "0000000001", dict[str, Any]) == {"sequence": event.sequence}


@pytest.mark.parametrize("name", ["f.csv", "f.jsonl"])
def test_text_gives_the_same_answers_as_parquet(project: Project, name: str) -> None:
    frame = rows(500)
    project.put(name, frame)
    assert only(project.run()).status == "published"
    got = answers(project)
    assert got["probability_1"].equals(FORM.answer(frame)["probability_1"])
    assert got["interlock_row"].to_list() == list(range(1, 501))


def test_gzip_and_pieces_give_the_same_answers(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = rows(3_000).with_columns(note=pl.lit('said "a,\nb"'))
    path = project.put("f.csv", frame)
    (path.parent / "f.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    monkeypatch.setattr(pieces, "PIECE_BYTES", 20_000)
    assert only(project.run()).status == "published"
    got = answers(project)
    assert got["id"].to_list() == frame["id"].to_list()
    assert got["interlock_row"].to_list() == list(range(1, 3_001))
    assert got["probability_1"].equals(FORM.answer(frame)["probability_1"])


def test_answers_do_not_depend_on_chunks_and_row_groups(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = rows(5_000)
    path = project.put("f.parquet", frame)
    frame.write_parquet(path, row_group_size=700)
    monkeypatch.setattr(intake, "CHUNK_ROWS", 333)
    assert only(project.run()).status == "published"
    got = answers(project)
    assert got.select("prediction", "probability_0", "probability_1").equals(FORM.answer(frame))
    assert got["interlock_row"].to_list() == list(range(1, 5_001))


def test_columns_beyond_the_signature_are_not_copied_unless_asked(project: Project) -> None:
    frame = rows(300).with_columns(secret=pl.lit("x"), shop=pl.lit("north"))
    project.put("f.parquet", frame)
    project.set(keep=("shop", "id"))
    assert only(project.run()).status == "published"
    assert answers(project).columns[:3] == ["shop", "id", "prediction"]


def test_lineage_is_cheap(project: Project) -> None:
    project.put("f.parquet", rows(20_000))
    result = only(project.run())
    metadata = pq.read_metadata(project.root / result.output)
    group = metadata.row_group(0)
    sizes = {group.column(place).path_in_schema: group.column(place).total_compressed_size for place in range(10)}
    assert all(sizes[name] < 400 for name in LINEAGE if name != "interlock_row"), sizes


def test_scoring_does_not_import_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from answer.kit import *; from interlock.answer import tiers\n"
        f"root = Path({str(tmp_path)!r}); project = make_project(root / 'p'); opened = opened_bundle(root / 'b')\n"
        "tiers.open_bundle = lambda _, wanted: opened\n"
        "project.release(opened, 1); project.put('f.parquet', rows(300)); print(project.run()[0].status)\n"
        "print(sorted({'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split("\n")[:2] == ["published", "[]"], done.stderr[-2_000:]


# ---- once ----------------------------------------------------------------------------------------------------------


def test_a_published_file_is_not_scored_again_by_anyone(project: Project, tmp_path: Path) -> None:
    project.put("monday.parquet", rows(300))
    project.run()
    assert project.run() == []
    project.put("copy.parquet", rows(300))
    assert project.run() == [], "the same bytes under another name"
    project.release(opened_bundle(tmp_path / "bundle-2"), 2)
    project.put("tuesday.parquet", rows(300, seed=1))
    result = only(project.run())
    assert (result.name, result.generation) == ("tuesday.parquet", 2)
    assert project.kinds() == ["batch.published"] * 2


def test_a_known_file_is_not_hashed_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project.put("monday.parquet", rows(300))
    os.utime(path, (1_000_000_000, 1_000_000_000))  # long before: a later change would show
    project.run()
    monkeypatch.setattr(waiting, "content_digest", lambda *_: pytest.fail("it was hashed again"))
    assert project.run() == []


def test_without_a_release_nothing_answers(project: Project) -> None:
    assert project.run() == []
    with project.turn.transaction(project.parts.ledger):
        pass
    project.parts.ledger._state.documents.clear()  # type: ignore[attr-defined]
    assert project.run() == [], "nothing waits, so nothing is missing"
    project.put("monday.parquet", rows(300))
    with pytest.raises(NothingToServe):
        project.run()


# ---- bad rows ------------------------------------------------------------------------------------------------------


def test_bad_rows_go_to_a_quarantine_file_and_the_rest_is_answered(project: Project) -> None:
    frame = rows(1_000)
    frame = frame.with_columns(
        x=pl.when(pl.col("id") == 1_004).then(np.nan).otherwise(pl.col("x")),
        colour=pl.when(pl.col("id") == 1_007).then(None).otherwise(pl.col("colour")),
    )
    project.put("f.parquet", frame)
    result = only(project.run())
    assert (result.status, result.rows, result.scored, result.quarantined) == ("published", 1_000, 998, 2)
    stem = f"f-{result.digest[:12]}-r1"
    published = project.published()
    assert sorted(published) == [f"{stem}.parquet", f"{stem}.quarantine.parquet"]
    assert published[f"{stem}.quarantine.parquet"].rows() == [
        (5, "x", "is not a finite number"),
        (8, "colour", "is empty, and never was before"),
    ]
    good = frame.filter(~pl.col("id").is_in([1_004, 1_007]))
    got = published[f"{stem}.parquet"]
    assert got["id"].to_list() == good["id"].to_list()
    assert got["interlock_row"].to_list() == [number for number in range(1, 1_001) if number not in (5, 8)]
    assert got["probability_1"].equals(FORM.answer(good)["probability_1"])


def test_too_many_bad_rows_publish_nothing_until_the_rules_change(project: Project) -> None:
    empty = pl.when(pl.col("id") < 1_003).then(None).otherwise(pl.col("x"))
    project.put("f.csv", rows(100).with_columns(x=empty))
    result = only(project.run())
    assert result.status == "refused"
    assert "3 of 100 rows break the signature" in result.reason
    assert "max_bad_rows" in result.next_step
    assert project.published() == {}
    kept = sorted(path.name for path in (project.root / ".interlock" / "refused").iterdir())
    assert [name.partition(".")[2] for name in kept] == ["parquet", "quarantine.parquet"]
    assert str(project.root / ".interlock" / "refused") in result.reason
    assert project.run() == [], "the same refusal is told once"
    project.set(max_bad_rows=0.05)
    assert only(project.run()).status == "published"


def test_nullable_columns_may_be_empty(project: Project) -> None:
    project.put("f.parquet", rows(300, n=[None] * 300).with_columns(pl.col("n").cast(pl.Int64)))
    assert only(project.run()).quarantined == 0


def test_a_line_that_is_no_json_is_quarantined(project: Project) -> None:
    path = project.put("f.jsonl", rows(300))
    lines = path.read_text().splitlines()
    lines[4] = "{"
    path.write_text("\n".join(lines) + "\n")
    result = only(project.run())
    assert (result.status, result.rows, result.scored, result.quarantined) == ("published", 300, 299, 1)


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_a_missing_column_is_named(project: Project) -> None:
    project.put("f.parquet", rows(300).drop("colour"))
    result = only(project.run())
    assert result.status == "refused"
    assert "Column 'colour' is missing from f.parquet" in result.reason
    assert project.published() == {}
    assert project.run() == []


@pytest.mark.parametrize("content", [b"PAR1 and no more", b"", b"\x00" * 100])
def test_an_unreadable_file_is_told_once_and_the_others_go_on(project: Project, content: bytes) -> None:
    (project.root / "to_score" / "a.parquet").write_bytes(content)
    project.put("b.parquet", rows(300))
    first, second = project.run()
    assert (first.status, second.status) == ("unreadable", "published")
    assert first.next_step
    assert project.run() == []


def test_a_page_that_breaks_in_the_middle_leaves_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CHUNK_ROWS", 1_000)
    path = project.put("a.parquet", rows(20_000))
    rows(20_000).write_parquet(path, row_group_size=2_000, compression="zstd")
    content = bytearray(path.read_bytes())
    middle = pq.read_metadata(path).row_group(5).column(1).data_page_offset
    content[middle : middle + 2_000] = b"\xff" * 2_000
    path.write_bytes(content)
    assert only(project.run()).status == "unreadable"
    assert project.published() == {}


def test_an_empty_table_is_refused(project: Project) -> None:
    project.put("a.parquet", rows(0))
    result = only(project.run())
    assert result.status == "refused"
    assert "nothing to publish" in result.reason


def test_other_answers_than_on_the_holdout_are_held_back(project: Project) -> None:
    project.put("f.parquet", rows(2_000).with_columns(x=pl.lit(9.0)))
    result = only(project.run())
    assert result.status == "refused"
    assert [one.name for one in result.audits if not one.passed] == ["shift"]
    assert "max_shift" in result.next_step
    assert project.published() == {}
    event = project.parts.ledger.events(kinds=["batch.refused"])[0]
    assert event.facts["reason"] == result.reason
    assert project.parts.ledger.scan("served", dict[str, Any]) == []


def test_new_categories_are_counted_and_limited(project: Project) -> None:
    frame = rows(2_000)
    frame = frame.with_columns(colour=pl.when(pl.col("id") % 4 == 0).then(pl.lit("mauve")).otherwise("colour"))
    project.put("f.parquet", frame)
    result = only(project.run())
    assert result.status == "refused"
    assert "500 rows hold a category never seen in training (25.00%; 'colour' in 500" in result.reason
    project.set(max_new_categories=0.3)
    assert only(project.run()).status == "published"


def test_a_column_called_like_an_answer_cannot_be_kept(project: Project) -> None:
    project.put("f.parquet", rows(300).with_columns(prediction=pl.lit(1)))
    project.set(keep=("prediction",))
    assert "called like a column of the answers" in only(project.run()).reason


# ---- models that answer badly --------------------------------------------------------------------------------------


class _Fake:
    """A predictor that gives what ``answer`` makes of a frame."""

    form = "native"

    def __init__(self, answer: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        self._answer = answer
        self.closed = False

    def ready(self) -> None:
        return

    def predict(self, frame: pl.DataFrame, *, encoded: bool) -> pl.DataFrame:
        assert encoded
        return self._answer(frame)

    def close(self) -> None:
        self.closed = True


def _native(project: Project, monkeypatch: pytest.MonkeyPatch, answer: Callable[[pl.DataFrame], pl.DataFrame]) -> _Fake:
    fake = _Fake(answer)
    project.release(opened_bundle(project.root / "native", kind="native"), 2)
    monkeypatch.setattr(tiers, "open_predictor", lambda *_: fake)
    return fake


def test_a_native_model_gets_text_as_text_and_a_runner(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes: list[pl.DataType] = []

    def answer(frame: pl.DataFrame) -> pl.DataFrame:
        dtypes.extend(frame.dtypes)
        return FORM.answer(frame)

    fake = _native(project, monkeypatch, answer)
    project.put("f.parquet", rows(300))
    result = only(project.run())
    assert (result.status, result.form) == ("published", "native")
    assert dtypes == [pl.Float64(), pl.Int64(), pl.String()]
    assert project.runners == ["asked"]
    assert fake.closed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("finite", lambda f: f.with_columns(prediction=pl.lit(None, dtype=pl.String))),
        ("signature", lambda f: f.with_columns(prediction=pl.lit("maybe"))),
        ("signature", lambda f: f.with_columns(prediction=pl.lit(1.0))),
        ("probabilities", lambda f: f.with_columns(probability_1=pl.lit(0.9))),
        ("probabilities", lambda f: f.with_columns(probability_0=pl.lit(-0.5), probability_1=pl.lit(1.5))),
        ("probabilities", lambda f: f.with_columns(probability_1=pl.lit(np.nan))),
        ("signature", lambda f: f.drop("probability_1")),
    ],
)
def test_bad_answers_fail_their_audit(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    _native(project, monkeypatch, lambda frame: change(FORM.answer(frame)))
    project.put("f.parquet", rows(300))
    result = only(project.run())
    assert result.status == "refused"
    assert name in [one.name for one in result.audits if not one.passed]
    assert project.published() == {}


def test_a_failure_of_user_code_is_told_and_a_killed_worker_gets_another_turn(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    causes = ["killed", "raised"]

    def fail(_: pl.DataFrame) -> pl.DataFrame:
        raise UserCodeFailed("predict failed.", next_step="Mend predict.py.", cause=causes.pop(0))

    _native(project, monkeypatch, fail)
    project.put("f.parquet", rows(300))
    assert only(project.run()).reason == "predict failed."
    assert only(project.run()).next_step == "Mend predict.py."
    assert project.run() == []
    assert project.published() == {}


def test_too_few_answers_are_nonsense(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    _native(project, monkeypatch, lambda frame: FORM.answer(frame)[1:])
    project.put("f.parquet", rows(300))
    assert "299 answers for 300 rows" in only(project.run()).reason


# ---- crashes -------------------------------------------------------------------------------------------------------


class _Killed(BaseException):
    """Stands for the end of the process."""


def _kill_in(monkeypatch: pytest.MonkeyPatch, target: object, name: str, *, call: int, after: bool) -> None:
    original, calls = getattr(target, name), []

    def stand_in(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == call and not after:
            raise _Killed
        result = original(*arguments, **named)
        if len(calls) == call:
            raise _Killed
        return result

    monkeypatch.setattr(target, name, stand_in)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("target", "name", "call"),
    [
        (Stage, "add", 2),
        (Stage, "finish", 1),
        (FolderOutlet, "publish", 1),
        (FolderOutlet, "publish", 2),
        (batch, "_record", 1),
        (batch, "mark_served", 1),
    ],
)
def test_a_kill_anywhere_is_cured_by_running_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, target: object, name: str, call: int, after: bool
) -> None:
    monkeypatch.setattr(intake, "CHUNK_ROWS", 100)
    frame = rows(1_000).with_columns(pl.when(pl.col("id") == 1_004).then(None).otherwise(pl.col("x")).alias("x"))
    project.put("f.parquet", frame)
    with monkeypatch.context() as patch:
        # A killed process cleans nothing up.
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        _kill_in(patch, target, name, call=call, after=after)
        with pytest.raises(_Killed):
            project.run()
    finals = [name for name in project.published() if not name.startswith(".")]
    for final in finals:
        assert project.published()[final].height in (1, 999), "what has a final name is whole"
    project.next_turn()
    project.run()
    assert sorted(project.published()) == sorted(
        [f"f-{(digest := _digest(project))[:12]}-r1.parquet", f"f-{digest[:12]}-r1.quarantine.parquet"]
    )
    assert answers(project)["id"].len() == 999
    assert project.kinds() == ["batch.published"]
    result = project.parts.ledger.scan("batch", BatchResult)[0][1]
    assert (result.rows, result.scored, result.quarantined) == (1_000, 999, 1)
    project.next_turn()
    assert project.run() == []


def _digest(project: Project) -> str:
    return project.parts.ledger.scan("batch", BatchResult)[0][1].digest


def test_what_a_killed_turn_published_keeps_its_release(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project.put("f.parquet", rows(300))
    with monkeypatch.context() as patch:
        _kill_in(patch, batch, "_record", call=1, after=False)
        with pytest.raises(_Killed):
            project.run()
    project.release(opened_bundle(tmp_path / "bundle-2"), 2)
    result = only(project.run())
    assert (result.status, result.generation) == ("published", 1)
    assert len(project.published()) == 1
    assert project.parts.ledger.read("served", "0000000001", dict[str, Any]) is not None
    assert project.parts.ledger.read("served", "0000000002", dict[str, Any]) is None


def test_somebody_elses_file_is_never_written_over(project: Project) -> None:
    path = project.put("f.parquet", rows(300))
    name = f"f-{blake3(path.read_bytes()).hexdigest()[:12]}-r1.parquet"
    (project.root / "predictions").mkdir()
    rows(3).write_parquet(project.root / "predictions" / name)
    with pytest.raises(Conflict):
        project.run()
    assert project.published()[name].height == 3
    assert project.kinds() == []


def test_a_file_that_changes_meanwhile_is_left_for_the_next_turn(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project.put("f.parquet", rows(300))
    finish = Stage.finish

    def change(stage: Stage, tally: Any) -> Any:
        rows(400).write_parquet(path)
        return finish(stage, tally)

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "finish", change)
        assert project.run() == []
    assert project.published() == {}
    assert only(project.run()).rows == 400


def test_everything_is_durable_in_order(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content before name, name before record: a power cut at any moment leaves nothing half true."""
    steps: list[str] = []
    fsync, link = os.fsync, Path.hardlink_to

    def synced(handle: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        fsync(handle)

    def linked(final: Path, staged: Path) -> None:
        steps.append(f"link {staged.name}")
        link(final, staged)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "hardlink_to", linked)
    monkeypatch.setattr(batch, "_record", lambda *_, **__: steps.append("record"))
    project.put("f.parquet", rows(300))
    project.run()
    place = next(place for place, step in enumerate(steps) if step.startswith("link"))
    staged = steps[place].removeprefix("link ")
    assert f"sync {staged}" in steps[:place]
    assert steps[place + 1 :] == ["sync predictions", "record"]


def test_inbox_and_output_on_an_object_store(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = {"s3://in/here": MemoryBlobs(), "s3://out": MemoryBlobs()}
    monkeypatch.setattr(inbox, "open_blobs", lambda location, _: stores[location])
    monkeypatch.setattr(outlet, "open_blobs", lambda location, _: stores[location])
    project.set(inbox="s3://in/here", output="s3://out")
    frame = rows(300).with_columns(x=pl.when(pl.col("id") == 1_000).then(None).otherwise(pl.col("x")))
    path = project.root / "f.parquet"
    frame.write_parquet(path)
    stores["s3://in/here"].put("deep/f.parquet", path)
    project.set(max_bad_rows=0.1)
    result = only(project.run())
    assert (result.status, result.name) == ("published", "deep/f.parquet")
    names = [info.key for info in stores["s3://out"].list()]
    assert names == [f"f-{result.digest[:12]}-r1.parquet", f"f-{result.digest[:12]}-r1.quarantine.parquet"]
    assert result.output == f"s3://out/{names[0]}"
    stores["s3://out"].fetch(names[0], project.root / "got.parquet")
    assert pl.read_parquet(project.root / "got.parquet").height == 299
    assert project.run() == []
    assert list((project.root / ".interlock" / "work").rglob("*.parquet")) == []


# ---- one file by hand ----------------------------------------------------------------------------------------------


def test_one_file_by_hand(project: Project, tmp_path: Path) -> None:
    rows(300).write_csv(tmp_path / "mine.csv")
    output = tmp_path / "out" / "mine.parquet"
    result = score_file(project.parts, project.turn, tmp_path / "mine.csv", output, project.runner)
    assert result.status == "published"
    assert result.output == str(output)
    assert pl.read_parquet(output)["probability_1"].equals(FORM.answer(rows(300))["probability_1"])
    again = score_file(project.parts, project.turn, tmp_path / "mine.csv", output, project.runner)
    assert again.status == "published"
    rows(301).write_csv(tmp_path / "mine.csv")
    with pytest.raises(Conflict, match="not what this release"):
        score_file(project.parts, project.turn, tmp_path / "mine.csv", output, project.runner)
    assert project.parts.ledger.scan("batch", BatchResult) == [], "the inbox still answers the same file"


def test_a_file_that_is_not_there(project: Project, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        score_file(project.parts, project.turn, tmp_path / "no.csv", tmp_path / "o.parquet", project.runner)


def test_a_project_without_batches(project: Project) -> None:
    project.set(inbox="")
    assert score_inbox(project.parts, project.turn, project.runner) == []


def test_signature_and_json_are_in_step() -> None:
    assert json.loads(FORM.files()["form.json"])["classes"] == list(SIGNATURE.output.classes or ())  # type: ignore[union-attr]
