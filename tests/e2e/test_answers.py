"""Projects whose answers are lists or text, and whose training sees a source for reference."""

import csv
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from infra.program import interlock

pytestmark = pytest.mark.slow

TOML = """[model]
name = "finder"
task = "{task}"
predict = "predict.py"
target = "goal"

[data]
query = "select * from asked"

[data.sources.things]
inbox = "things"
key = ["thing"]
reference = true

[data.sources.asked]
inbox = "asked"
key = ["id"]

[batch]
inbox = "to_score"
keep = ["{keep}"]
"""
TRAIN = """def train(things, X, y):
    assert "goal" not in things and len(things) == 12 and list(X.columns) == ["words"]
    return {word: name for name, words in zip(things["thing"], things["words"]) for word in words.split()}
"""
FIND = """def predict(model, X):
    found = [[model[w] for w in words.split() if w in model] or ["none"] for words in X["words"]]
    return [list(dict.fromkeys(names)) for names in found]
"""
TELL = """import pandas as pd

def predict(model, X):
    best = [next((model[w] for w in words.split() if w in model), "") for words in X["words"]]
    return pd.DataFrame({"prediction": best, "because": X["words"].str.split().str[0], "all": X["words"].str.split()})
"""


def project(folder: Path, task: str, predict: str, keep: str = "id") -> Path:
    for name in ("things", "asked", "to_score"):
        (folder / name).mkdir(parents=True)
    (folder / "interlock.toml").write_text(TOML.format(task=task, keep=keep))
    (folder / "train.py").write_text(TRAIN)
    (folder / "predict.py").write_text(predict)
    write(folder / "things" / "a.csv", ["thing", "words"], [[f"t{n}", f"w{n} v{n}"] for n in range(12)])
    asked = [[n, f"{'wv'[n % 2]}{n % 12} x{n}", f"t{n % 12}"] for n in range(300)]
    write(folder / "asked" / "a.csv", ["id", "words", "goal"], asked)
    write(folder / "to_score" / "a.csv", ["id", "words"], [[n, f"v{n}"] for n in range(5)])
    return folder


def write(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_a_ranking_is_judged_published_and_replayed(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", "ranking", FIND)
    held = interlock(folder, "run", code=1)
    assert held["outcome"] == "held", "no error at all is too good to be believed"
    assert held["decision"]["checks"][0]["reason"].startswith("Judged by recall_at_10 on ")
    interlock(folder, "promote", str(held["receipt"]), "--because", "the words are the names")
    again = interlock(folder, "run")
    assert [batch["status"] for batch in again["batches"]] == ["published"]
    answers = pl.read_parquet(next((folder / "predictions").glob("*.parquet")))
    assert answers["prediction"].to_list() == [[f"t{n}"] for n in range(5)]
    assert interlock(folder, "replay", str(held["receipt"]))["differences"] == []
    assert interlock(folder, "verify")["problems"] == []
    assert r"recall\_at\_10" in Path(interlock(folder, "report")["markdown"]).read_text()


def test_more_things_make_another_snapshot_and_the_rows_for_reference_are_pinned(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", "ranking", FIND)
    first = interlock(folder, "run", code=1)
    kept = next((folder / ".interlock").rglob("reference-things.parquet"))
    assert pl.read_parquet(kept)["thing"].to_list() == sorted(f"t{n}" for n in range(12))
    (folder / "train.py").write_text(TRAIN.replace("== 12", "== 13"))
    write(folder / "things" / "b.csv", ["thing", "words"], [["t12", "w12"]])
    assert interlock(folder, "run", code=1)["snapshot"] != first["snapshot"]
    kept.chmod(0o644)
    kept.write_bytes(kept.read_bytes().replace(b"PAR1", b"PARX"))
    (folder / "things" / "b.csv").unlink()
    assert interlock(folder, "verify")["problems"] == [], "nothing was released from that snapshot"


def test_text_comes_with_what_it_rests_on(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", "text", TELL)
    held = interlock(folder, "run", code=1)
    interlock(folder, "promote", str(held["receipt"]), "--because", "the words are the names")
    interlock(folder, "run")
    answers = pl.read_parquet(next((folder / "predictions").glob("*.parquet")))
    assert answers.columns[:4] == ["id", "prediction", "because", "all"]
    assert answers["prediction"].to_list() == [f"t{n}" for n in range(5)]
    assert answers["all"].to_list() == [[f"v{n}"] for n in range(5)]


def test_a_column_of_the_answer_that_is_published_already_is_refused(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", "text", TELL.replace("because", "words"), keep="words")
    held = interlock(folder, "run", code=1)
    interlock(folder, "promote", str(held["receipt"]), "--because", "see above")
    told = interlock(folder, "run", code=1)
    assert "has a column 'words'" in told["batches"][0]["reason"]


def test_names_for_reference_that_mean_something_else(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", "ranking", FIND)
    toml = folder / "interlock.toml"
    toml.write_text(toml.read_text().replace("sources.things", "sources.seed"))
    told = interlock(folder, "run", code=2)
    assert "'seed' is also a name that Interlock gives" in told["error"]["message"]
    toml.write_text(
        toml.read_text().replace("sources.seed", "sources.things").replace('["id"]\n\n', '["id"]\nreference = true\n\n')
    )
    assert "no rows to judge by" in interlock(folder, "run", code=2)["error"]["message"]
