"""Rows that break the layout of their source: what is refused, what is kept aside, and in which words."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from bad_input.kit import (
    MARKER,
    ROWS,
    accepted,
    check_ledger,
    recorded,
    refused,
    release,
    rows_of,
    run,
    secretless,
    unharmed,
)
from e2e.small_project import make_project, write_rows
from interlock.app import open_parts
from interlock.configuration import load_settings

HEAD = "part,width,weight,ok\n"
MEND = "Mend the file and send it again, or set types, nullable or max_bad_rows of the source."
REFUSED: dict[str, tuple[str, str, str]] = {
    "a column renamed": (
        f"part,width,kg,ok\n400,0.5,{MARKER},yes\n",
        "Column 'weight' is missing from b.csv (it has 3 of 4 columns). Nothing was ingested.",
        "Send the file with it, or add 'weight' to 'optional' of the source.",
    ),
    "the target missing": (
        "part,width,weight\n400,0.5,0.5\n",
        "Column 'ok' is missing from b.csv (it has 3 of 4 columns). Nothing was ingested.",
        "Send the file with it, or add 'ok' to 'optional' of the source.",
    ),
    "a wrong delimiter": (
        f"part#width#weight#ok\n400#0.5#0.5#{MARKER}\n",
        "Column 'part' and 3 more is missing from b.csv (it has 0 of 4 columns). Nothing was ingested.",
        "Send the file with it, or add 'part' to 'optional' of the source.",
    ),
    "the target empty": (
        f"{HEAD}400,0.5,0.5,\n401,0.5,0.6,\n",
        (
            "2 of 2 rows are bad, 1.00% are allowed: 2 x column 'ok' is empty, and never was before (first in row 1). "
            "Nothing was ingested."
        ),
        MEND,
    ),
    "text for a number": (
        f"{HEAD}400,{MARKER},0.5,yes\n",
        (
            "1 of 1 rows are bad, 1.00% are allowed: 1 x column 'width' is not a number (first in row 1). "
            "Nothing was ingested."
        ),
        MEND,
    ),
    "NaN and infinities": (
        f"{HEAD}400,nan,inf,yes\n401,1e999,0.5,no\n",
        (
            "2 of 2 rows are bad, 1.00% are allowed: 2 x column 'width' is not a finite number (first in row 1); "
            "1 x column 'weight' is not a finite number (first in row 1). Nothing was ingested."
        ),
        MEND,
    ),
    "no key": (
        f"{HEAD},0.1,0.5,yes\n,0.2,0.5,yes\n",
        (
            "2 of 2 rows are bad, 1.00% are allowed: 2 x column 'part' is empty, and never was before "
            "(first in row 1). "
            "Nothing was ingested."
        ),
        MEND,
    ),
    "a name that Interlock writes": (
        f"{HEAD.strip()},prediction\n400,0.1,0.5,yes,{MARKER}\n",
        "b.csv has a column named 'prediction', a name that Interlock itself writes.",
        "Rename it (reserved: _file, _row, _seq, _mark, prediction, probability_<n>, interlock_...).",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_of_bad_rows_is_refused_whole(project: Path, kind: str) -> None:
    content, reason, next_step = REFUSED[kind]
    (project / "inbox" / "b.csv").write_text(content)
    seen = run(project)
    refused(project, seen, reason, next_step, status="refused")
    secretless(project, seen)


def test_a_header_without_rows_is_noted(project: Path) -> None:
    (project / "inbox" / "b.csv").write_text(HEAD)
    seen = run(project)
    assert seen.result.notes == ("b.csv: the file has a header and no rows",)
    assert seen.result.exit_code == 0
    unharmed(project)


def test_a_few_bad_rows_go_to_the_quarantine_table_only(project: Path) -> None:
    """The quarantine holds the row itself, by design; nothing else does."""
    rows = rows_of(ROWS, 150).with_columns(pl.col("width").cast(pl.String))
    bad = rows.with_row_index().with_columns(
        width=pl.when(pl.col("index") == 7).then(pl.lit(MARKER)).otherwise("width")
    )
    bad.drop("index").write_csv(project / "inbox" / "b.csv")
    seen = run(project)
    (file,) = seen.result.files
    assert (file.status, file.accepted, file.quarantined) == ("accepted", 149, 1)
    assert accepted(project) == [number for number in range(ROWS + 150) if number != ROWS + 7]
    secretless(project, seen)
    with open_parts(load_settings(project)) as parts:
        (cell,) = parts.tables.scan("quarantine/data").collect().to_dicts()
    assert (cell["name"], cell["row"], cell["column"], cell["reason"]) == ("b.csv", 8, "width", "is not a number")
    assert MARKER in cell["raw"]
    check_ledger(project)


def test_a_label_never_seen_before_is_noted_without_its_name(project: Path) -> None:
    (project / "inbox" / "b.csv").write_text(f"{HEAD}400,0.5,0.5,{MARKER}\n")
    seen = run(project, "gate.at_least=0.999")
    assert "b.csv: column 'ok': 1 rows hold a category never seen before" in seen.result.notes
    assert MARKER not in seen.printed
    assert MARKER in recorded(project), "the signature lists the labels of a column with few of them, by design"
    found = release(project)
    assert found is not None
    assert found.generation == 1


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a date, and rows that were taken in; nothing was trained."""
    root = make_project(tmp_path_factory.mktemp("dated") / "project")
    rows = rows_of(0, 40).with_columns(day=pl.lit(date(2026, 1, 2)))
    (root / "inbox" / "a.csv").unlink()
    rows.write_csv(root / "inbox" / "a.csv")
    (root / "train.py").write_text("def train(X, y):\n    raise SystemExit\n")
    assert run(root).result.files[0].status == "accepted"
    return root


def test_a_date_that_is_none_is_told(dated: Path) -> None:
    (dated / "inbox" / "b.csv").write_text(f"part,width,weight,ok,day\n40,1,1,yes,{MARKER}\n41,1,1,yes,2026-02-30\n")
    (file,) = run(dated, "model.deadline=5s").result.files
    assert file.reason == (
        "2 of 2 rows are bad, 1.00% are allowed: 2 x column 'day' is not a date like 2026-11-21 (first in row 1). "
        "Nothing was ingested."
    )
    assert file.next_step == MEND
    assert accepted(dated) == list(range(40))
    secretless(dated)


def test_one_class_is_told_before_training(tmp_path: Path) -> None:
    root = make_project(tmp_path / "project")
    text = (root / "inbox" / "a.csv").read_text().replace(",no\n", ",yes\n").replace(",no\r\n", ",yes\r\n")
    (root / "inbox" / "a.csv").write_text(text)
    seen = run(root).result
    assert seen.sentence == ONE_CLASS[0]
    assert seen.next_step == ONE_CLASS[1]
    assert seen.exit_code == 1
    assert release(root) is None
    assert accepted(root) == list(range(ROWS))
    check_ledger(root)


ONE_CLASS = (
    "The turn could not do 'snapshot'. The target 'ok' has one class only in the 315 rows of training.",
    "Send rows of the other classes too, or name another target.",
)


def test_types_that_differ_from_stored_rows_are_noted(project: Path) -> None:
    (note,) = run(project, "data.types={width='int'}").result.notes
    assert note == (
        "'types' says int for column 'width', and its stored rows are float: files are refused until it says float "
        "(or str), or the source is a new one"
    )
    (note,) = run(project, "data.types={part='float'}").result.notes
    assert (
        note == "'types' says float for column 'part', and its stored rows are int: they become so with the next file"
    )
    unharmed(project)


def test_a_duplicate_key_is_refused_where_that_is_the_rule(project: Path) -> None:
    write_rows(project / "inbox" / "b.csv", 10, 1, seed=9)
    (file,) = run(project, "data.on_duplicate=refuse", "model.deadline=1ms").result.files
    assert file.status == "refused"
    assert (file.reason, file.next_step) == DUPLICATE
    assert accepted(project) == list(range(ROWS))


DUPLICATE = (
    "1 of 1 rows are there already, and duplicates are refused. Nothing was ingested.",
    'Take them out, or set on_duplicate = "keep-last" or "keep-first".',
)


def test_values_of_parquet_that_are_no_numbers_are_told(project: Path) -> None:
    rows = rows_of(ROWS, 4).with_columns(
        width=pl.Series([float("inf"), 0.5, float("nan"), float("-inf")]), ok=pl.Series(["yes", None, "no", "no"])
    )
    rows.write_parquet(project / "inbox" / "b.parquet")
    seen = run(project)
    why = (
        "4 of 4 rows are bad, 1.00% are allowed: 3 x column 'width' is not a finite number (first in row 1); "
        "1 x column 'ok' is empty, and never was before (first in row 2). Nothing was ingested."
    )
    refused(project, seen, why, MEND, status="refused", name="b.parquet")


def test_a_target_that_is_nan_is_told(tmp_path: Path) -> None:
    root = make_project(tmp_path / "project")
    text = (root / "interlock.toml").read_text().replace('"classification"', '"regression"').replace("accuracy", "r2")
    (root / "interlock.toml").write_text(text)
    (root / "inbox" / "a.csv").unlink()
    numbers = [float("nan") if place == 7 else 2.0 * place for place in range(400)]
    rows_of(0, 400).with_columns(ok=pl.Series(numbers)).write_parquet(root / "inbox" / "a.parquet")
    (file,) = run(root, "data.max_bad_rows=0").result.files
    assert (file.status, file.reason) == (
        "refused",
        (
            "1 of 400 rows are bad, 0.00% are allowed: 1 x column 'ok' is not a finite number (first in row 8). "
            "Nothing was ingested."
        ),
    )
    assert file.next_step == MEND
    assert accepted(root) == []


def test_a_category_never_seen_in_training_is_told_where_there_are_too_many(tmp_path: Path) -> None:
    root = make_project(tmp_path / "project")
    for name in ("inbox/a.csv", "to_score/today.csv"):
        rows = pl.read_csv(root / name)
        shade = pl.Series("shade", ["blue", "red"] * (rows.height // 2))
        rows.with_columns(shade if "inbox" in name else pl.lit(MARKER).alias("shade")).write_csv(root / name)
    train = (root / "train.py").read_text().replace("(X, dtype=float)", "(X[['width', 'weight']], dtype=float)")
    (root / "train.py").write_text(train)
    seen = run(root)
    (batch,) = seen.result.batches
    why = "50 rows hold a category never seen in training (100.00%; 'shade' in 50"
    assert batch.status == "refused"
    assert batch.reason.startswith(f"new categories: {why}")
    assert "max_new_categories" in batch.next_step
    assert MARKER not in seen.printed
    assert MARKER not in recorded(root)
