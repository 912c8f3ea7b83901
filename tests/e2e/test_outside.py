"""Clients that nobody here wrote, against a running server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from infra.program import interlock
from infra.server import serving

pytestmark = pytest.mark.slow


@pytest.mark.timeout(450)
def test_the_doors_keep_what_their_document_says(shades: Path) -> None:
    """Schemathesis, thousands of cases: no 5xx, no status or reply that is not described, no way in without a key."""
    with serving(shades) as served:
        key = served.wait_for("this key opens every door").rsplit(" ", 1)[1]
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{served.url}/openapi.json"),
                *("-H", f"X-API-Key: {key}", "--max-examples", "90", "--workers", "1", "--no-color"),
                # every date-time is valid by the document, and the first and last hours of the calendar have no time
                # in UTC: that they are refused (422) is tested with the reader
                *("--generation-deterministic", "--exclude-checks", "positive_data_acceptance"),
            ],
            cwd=shades,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-2_000:]
        cases = re.search(r"(\d+) generated", done.stdout)
        assert cases is not None
        assert int(cases[1]) >= 2_000
        assert served.ask("/ping")[0] == 200


def test_answers_online_are_those_of_the_batch(shades: Path) -> None:
    """Nulls, unicode, quotes: the same rows in a file and over the wire."""
    published = pl.read_parquet(next((shades / "predictions").glob("*.parquet"))).sort("id")
    rows = pl.read_csv(shades / "to_score" / "b.csv").sort("id")
    with serving(shades, "--insecure") as served:
        _, headers, found = served.ask("/batch", {"instances": rows.to_dicts()})
        assert found["predictions"] == published["prediction"].to_list()
        assert headers["interlock-tier"] == "champion"
        assert headers["interlock-model"] == published["interlock_model"][0][:12]
        lists = rows.drop("id").rows()
        names = [column["name"] for column in json.loads(signature(shades))["inputs"]]
        assert rows.drop("id").columns == names
        assert served.ask("/score", lists)[2] == found["predictions"]


def signature(project: Path) -> str:
    """The signature of the champion."""
    champion = interlock(project, "status")["release"]["champion"]
    return (project / ".interlock/lake/bundles" / champion / "signature.json").read_text("utf-8")
