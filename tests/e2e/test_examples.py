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

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A clean copy of the example that the test names."""
    ignored = shutil.ignore_patterns(".interlock", "data", "reports", "__pycache__")
    return Path(shutil.copytree(ROOT / "examples" / request.param, tmp_path / request.param, ignore=ignored))


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


def turn(folder: Path, code: int = 0) -> dict[str, Any]:
    """One turn."""
    found = json.loads(call(folder, "-m", "interlock", "run", "--json", code=code))
    assert isinstance(found, dict)
    return found


def shown(text: str) -> list[str]:
    """Lines without what differs from machine to machine: digests and times."""
    return [re.sub(r"\b[0-9a-f]{12}\b|\[[^\]]* s\]|in [0-9.]+ s", "#", line) for line in text.splitlines() if line]


@pytest.mark.parametrize("copied", ["quality"], indirect=True)
def test_quality_tells_the_story_that_the_readme_shows(copied: Path) -> None:
    told = shown(call(copied, "story.py", "--fast"))
    block = re.search(r"<!-- story -->\n```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    assert [line for line in shown(block[1]) if line not in told] == []
    ledger = json.loads(call(copied, "-m", "interlock", "history", "--events", "--limit", "200", "--json"))["events"]
    kinds = [event["kind"] for event in reversed(ledger)]
    assert kinds.count("file.refused") + kinds.count("file.unreadable") == 1
    assert kinds.count("training.done") == 3, "the refused slot and the last turn train nothing"
    verdicts = [event["facts"]["decision"]["verdict"] for event in reversed(ledger) if event["kind"] == "gate.decided"]
    assert verdicts == ["promote", "keep", "promote"]
    assert kinds.count("batch.published") >= 1


@pytest.mark.parametrize("copied", ["diabetes"], indirect=True)
def test_diabetes_is_released_on_r2(copied: Path) -> None:
    call(copied, "prepare.py")
    result = turn(copied)
    assert result["outcome"] == "released", result["sentence"]
    receipts = json.loads(call(copied, "-m", "interlock", "history", "--events", "--limit", "99", "--json"))["events"]
    evaluation = next(event for event in receipts if event["kind"] == "gate.decided")["facts"]["evaluation"]
    assert evaluation["rows"] == 20
    assert 0.42 <= evaluation["scores"]["candidate"]["value"] <= 0.48


@pytest.mark.parametrize("copied", ["sagemaker"], indirect=True)
def test_a_sagemaker_script_is_released_and_answers(copied: Path) -> None:
    call(copied, "prepare.py")
    result = turn(copied)
    assert result["outcome"] == "released", result["sentence"]
    assert [batch["status"] for batch in result["batches"]] == ["published"]
    events = json.loads(call(copied, "-m", "interlock", "history", "--events", "--limit", "99", "--json"))["events"]
    trained = next(event for event in events if event["kind"] == "training.done")["facts"]
    assert trained["metrics"]["validation:accuracy"] > 0.8


@pytest.mark.parametrize("copied", ["hotel"], indirect=True)
def test_hotel_is_released_with_a_signal_and_refused_without(copied: Path) -> None:
    call(copied, "prepare.py", "--mode", "signal")
    released = turn(copied)
    assert released["outcome"] == "released", released["sentence"]
    assert [batch["status"] for batch in released["batches"]] == ["published"]
    shutil.rmtree(copied / ".interlock")
    shutil.rmtree(copied / "data")
    call(copied, "prepare.py", "--mode", "noise")
    refused = turn(copied, code=1)
    assert refused["outcome"] == "kept"
    assert "baseline" in refused["sentence"]


@pytest.mark.parametrize("copied", ["search"], indirect=True)
def test_search_finds_pages_and_learns_of_another_manual(copied: Path) -> None:
    call(copied, "prepare.py")
    first = turn(copied)
    assert first["outcome"] == "released", first["sentence"]
    found = pl.read_parquet(next((copied / "data" / "found").glob("*.parquet")))
    assert found["prediction"].list.len().to_list() == [10] * 6
    assert "numpy.linalg.solve" in found["prediction"][2].head(3).to_list()
    call(copied, "prepare.py", "--next")
    second = turn(copied)
    assert (second["outcome"], second["release"]["generation"]) == ("released", 2), second["sentence"]


@pytest.mark.parametrize("copied", ["digits"], indirect=True)
def test_digits_are_read_from_image_files_and_more_of_them_make_a_better_model(copied: Path) -> None:
    call(copied, "prepare.py")
    first = turn(copied)
    assert first["outcome"] == "released", first["sentence"]
    answered = pl.read_parquet(next((copied / "data" / "answered").glob("*.parquet")))
    assert answered["file"].to_list() == [f"{number}.png" for number in range(1_697, 1_797)]
    assert set(answered["prediction"]) <= {str(digit) for digit in range(10)}
    call(copied, "prepare.py", "--next")
    shutil.copy(copied / "data" / "inbox" / "0" / "0000.png", copied / "data" / "to_score" / "late.png")
    second = turn(copied)
    assert (second["outcome"], second["release"]["generation"]) == ("released", 2), second["sentence"]
    late = [pl.read_parquet(path) for path in (copied / "data" / "answered").glob("*.parquet")]
    assert sorted(frame.height for frame in late) == [1, 100]
    call(copied, "-m", "interlock", "report")
    page = (copied / "reports" / "release-0002.html").read_text()
    assert "bytes each" in page
    assert "data:image/png" not in page, "no image of the data is in the dossier"


@pytest.mark.parametrize("copied", ["answers"], indirect=True)
def test_answers_are_pieces_of_their_pages(copied: Path) -> None:
    call(copied, "prepare.py")
    assert turn(copied)["outcome"] == "released"
    answered = pl.read_parquet(next((copied / "data" / "answered").glob("*.parquet")))
    pages = dict(pl.read_csv(copied / "data" / "documents" / "numpy.csv").iter_rows())
    assert answered["prediction"][0] == "-1"
    for row in answered.iter_rows(named=True):
        assert pages[row["page"]][row["start"] : row["end"]] == row["prediction"]


@pytest.mark.parametrize("copied", ["forecast"], indirect=True)
def test_forecast_beats_the_season_and_more_data_does_not_beat_it(copied: Path) -> None:
    call(copied, "prepare.py")
    first = turn(copied)
    assert first["outcome"] == "released", first["sentence"]
    ahead = pl.read_parquet(next((copied / "data" / "forecasts").glob("1996*.parquet")))
    assert ahead.height == 12
    assert ahead["prediction"].is_between(355, 370).all()
    call(copied, "prepare.py", "--next")
    assert turn(copied, code=1)["outcome"] == "kept"
    assert len(list((copied / "data" / "forecasts").glob("2002*.parquet"))) == 1


@pytest.mark.parametrize("copied", ["notebook"], indirect=True)
def test_notebook_is_released_shown_and_not_trained_again_by_opening_it(copied: Path) -> None:
    call(copied, "prepare.py")
    result = turn(copied)
    assert result["outcome"] == "released", result["sentence"]
    call(copied, "-m", "interlock", "report")
    page = (copied / "reports" / "release-0001.html").read_text()
    assert "cv_accuracy" in page
    assert 'src="data:image/png;base64,' in page
    notebook = json.loads((copied / "model.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "the example is kept without outputs"
    notebook["cells"][1]["execution_count"] = 1
    (copied / "model.ipynb").write_text(json.dumps(notebook))
    assert turn(copied)["outcome"] == "unchanged"
