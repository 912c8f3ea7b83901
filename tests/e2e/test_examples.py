"""The examples, run as their READMEs say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from infra.console import ROOT, follow

EXAMPLES = ("answers", "diabetes", "digits", "forecast", "hotel", "notebook", "sagemaker", "search")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_every_example_is_run() -> None:
    assert {page.parent.name for page in (ROOT / "examples").glob("*/README.md")} == {*EXAMPLES, "quality"}


def followed(name: str, place: Path) -> tuple[Path, list[str]]:
    """A clean copy of an example in which all that its README says has been run, and what was printed."""
    told = follow(ROOT / "examples" / name / "README.md", place / name)
    return place / name, told


def call(folder: Path, *command: str, code: int = 0) -> str:
    """Run a Python program in the example's folder."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if "story.py" in command else subprocess.PIPE,
        text=True,
        timeout=200,
        check=False,
        env=os.environ,
    )
    assert done.returncode == code, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def events(folder: Path) -> list[dict[str, Any]]:
    """Every event of its ledger, the oldest first."""
    told = json.loads(call(folder, "-m", "interlock", "history", "--events", "--limit", "200", "--json"))["events"]
    return list(reversed(told))


def turns(folder: Path) -> list[dict[str, Any]]:
    """How each turn ended."""
    return [event["facts"] for event in events(folder) if event["kind"] == "turn.ended"]


def shown(text: str) -> list[str]:
    """Lines without what differs from machine to machine: digests and times."""
    return [re.sub(r"\b[0-9a-f]{12}\b|\[[^\]]* s\]|in [0-9.]+ s", "#", line) for line in text.splitlines() if line]


def test_quality_tells_the_story_that_the_readme_shows(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns(".interlock", "data", "reports", "__pycache__")
    folder = Path(shutil.copytree(ROOT / "examples" / "quality", tmp_path / "quality", ignore=ignored))
    told = shown(call(folder, "story.py", "--fast"))
    block = re.search(r"<!-- story -->\n```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    assert [line for line in shown(block[1]) if line not in told] == []
    kinds = [event["kind"] for event in events(folder)]
    assert kinds.count("file.refused") + kinds.count("file.unreadable") == 1
    assert kinds.count("training.done") == 3, "the refused slot and the last turn train nothing"
    verdicts = [event["facts"]["decision"]["verdict"] for event in events(folder) if event["kind"] == "gate.decided"]
    assert verdicts == ["promote", "keep", "promote"]
    assert kinds.count("batch.published") >= 1


def test_diabetes_is_released_on_r2(tmp_path: Path) -> None:
    folder, _ = followed("diabetes", tmp_path)
    assert [turn["outcome"] for turn in turns(folder)] == ["released"]
    decided = next(event for event in events(folder) if event["kind"] == "gate.decided")
    assert decided["facts"]["evaluation"]["rows"] == 20
    assert 0.42 <= decided["facts"]["evaluation"]["scores"]["candidate"]["value"] <= 0.48


def test_a_sagemaker_script_is_released_and_answers(tmp_path: Path) -> None:
    folder, _ = followed("sagemaker", tmp_path)
    (ended,) = turns(folder)
    assert ended["outcome"] == "released"
    assert [batch["status"] for batch in ended["batches"]] == ["published"]
    trained = next(event for event in events(folder) if event["kind"] == "training.done")["facts"]
    assert trained["metrics"]["validation:accuracy"] > 0.8


def test_hotel_is_released_with_a_signal_and_refused_without(tmp_path: Path) -> None:
    folder, told = followed("hotel", tmp_path)
    assert "Release 1" in told[1]
    assert "published" in told[1]
    (refused,) = turns(folder)
    assert refused["outcome"] == "kept"
    assert "baseline" in refused["sentence"]


def test_search_finds_pages_and_learns_of_another_manual(tmp_path: Path) -> None:
    folder, _ = followed("search", tmp_path)
    found = pl.read_parquet(next((folder / "data" / "found").glob("*-r1.parquet")))
    assert found["prediction"].list.len().to_list() == [10] * 6
    assert "numpy.linalg.solve" in found["prediction"][2].head(3).to_list()
    assert [(turn["outcome"], turn["release"]["generation"]) for turn in turns(folder)] == [
        ("released", 1),
        ("released", 2),
    ]


def test_digits_are_read_from_image_files_and_more_of_them_make_a_better_model(tmp_path: Path) -> None:
    folder, _ = followed("digits", tmp_path)
    assert [(turn["outcome"], turn["release"]["generation"]) for turn in turns(folder)] == [
        ("released", 1),
        ("released", 2),
    ]
    answered = pl.read_parquet(next((folder / "data" / "answered").glob("*-r1.parquet")))
    assert answered["file"].to_list() == [f"{number}.png" for number in range(1_697, 1_797)]
    assert set(answered["prediction"]) <= {str(digit) for digit in range(10)}
    shutil.copy(folder / "data" / "inbox" / "0" / "0000.png", folder / "data" / "to_score" / "late.png")
    call(folder, "-m", "interlock", "run")
    late = [pl.read_parquet(path) for path in (folder / "data" / "answered").glob("*.parquet")]
    assert sorted(frame.height for frame in late) == [1, 100]
    call(folder, "-m", "interlock", "report")
    page = (folder / "reports" / "release-0002.html").read_text()
    assert "bytes each" in page
    assert "data:image/png" not in page, "no image of the data is in the dossier"


def test_answers_are_pieces_of_their_pages(tmp_path: Path) -> None:
    folder, _ = followed("answers", tmp_path)
    assert [turn["outcome"] for turn in turns(folder)] == ["released"]
    answered = pl.read_parquet(next((folder / "data" / "answered").glob("*.parquet")))
    pages = dict(pl.read_csv(folder / "data" / "documents" / "numpy.csv").iter_rows())
    assert answered["prediction"][0] == "-1"
    for row in answered.iter_rows(named=True):
        assert pages[row["page"]][row["start"] : row["end"]] == row["prediction"]


def test_forecast_beats_the_season_and_more_data_does_not_beat_it(tmp_path: Path) -> None:
    folder, _ = followed("forecast", tmp_path)
    ahead = pl.read_parquet(next((folder / "data" / "forecasts").glob("1996*.parquet")))
    assert ahead.height == 12
    assert ahead["prediction"].is_between(355, 370).all()
    assert [turn["outcome"] for turn in turns(folder)] == ["released", "kept"]
    assert len(list((folder / "data" / "forecasts").glob("2002*.parquet"))) == 1


def test_notebook_is_released_shown_and_not_trained_again_by_opening_it(tmp_path: Path) -> None:
    folder, _ = followed("notebook", tmp_path)
    page = (folder / "reports" / "release-0001.html").read_text()
    assert "cv_accuracy" in page
    assert 'src="data:image/png;base64,' in page
    notebook = json.loads((folder / "model.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "the example is kept without outputs"
    notebook["cells"][1]["execution_count"] = 1
    (folder / "model.ipynb").write_text(json.dumps(notebook))
    call(folder, "-m", "interlock", "run")
    assert [turn["outcome"] for turn in turns(folder)] == ["released", "unchanged"]
