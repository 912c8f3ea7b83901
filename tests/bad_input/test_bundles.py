"""A bundle whose bytes changed: named and refused by whoever meets it; another model answers, or nobody."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bad_input.kit import ROWS, accepted, check_ledger, published, release, run
from e2e.small_project import make_project, write_rows
from infra.program import exit_of

FILES = [
    "MLmodel",
    "code/interlock_loader.py",
    "code/train.py",
    "conda.yaml",
    "manifest.json",
    "model/model.pkl",
    "profile.json",
    "python_env.yaml",
    "requirements.txt",
    "signature.json",
]
INSTEAD = ["batch.fallback=[]"]
NEXT = "or send new rows or change the code, and run 'interlock run' for another champion."


def champion(project: Path) -> Path:
    found = release(project)
    assert found is not None
    return project / ".interlock" / "lake" / "bundles" / found.champion


def more_to_score(project: Path) -> None:
    (project / "to_score" / "later.csv").write_text("part,width,weight\n1,0.1,0.1\n")


def verified(project: Path) -> list[str]:
    """What ``interlock verify`` finds."""
    done = subprocess.run(
        [sys.executable, "-m", "interlock", "verify", "--json"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 3, done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return list(found["problems"])


def answered(project: Path, message: str) -> None:
    """The turn says what is damaged; the baseline answers, for a first release has no last good model."""
    before, live = published(project), release(project)
    assert live is not None
    more_to_score(project)
    restore = f"Restore .interlock/lake/bundles/{live.champion} from a backup, {NEXT}"
    nobody = run(project, *INSTEAD).result
    assert nobody.sentence == f"The turn could not do 'batch'. {message} It was not opened."
    assert (nobody.exit_code, nobody.batches) == (3, ())
    assert published(project) == before
    seen = run(project).result
    assert seen.sentence == (
        f"1 prediction published from 1 file. The champion {live.champion[:12]} of release 1 is damaged: {message} "
        f"It was not opened. The baseline {live.baseline[:12]} answers in its place."
    )
    assert (seen.next_step, seen.exit_code, seen.outcome) == (restore, 3, "failed")
    (batch,) = seen.batches
    assert (batch.status, batch.tier, batch.model) == ("published", "baseline", live.baseline)
    assert release(project) == live, "the champion is not replaced"
    assert accepted(project) == list(range(ROWS))
    check_ledger(project)


def test_these_are_all_kinds_of_files(project: Path) -> None:
    folder = champion(project)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_named(project: Path, name: str) -> None:
    path = champion(project) / name
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    more_to_score(project)
    seen = run(project).result
    start, _, rest = seen.sentence.partition(" has the digest ")
    assert start.startswith("1 prediction published from 1 file. The champion ")
    assert start.endswith(f" of release 1 is damaged: The bundle's file '{name}'")
    assert "…. It was not opened. The baseline " in rest
    assert rest.endswith(" answers in its place.")
    assert seen.exit_code == 3
    assert [(batch.status, batch.tier) for batch in seen.batches] == [("published", "baseline")]
    check_ledger(project)


def _missing(folder: Path) -> None:
    (folder / "signature.json").unlink()


def _more(folder: Path) -> None:
    (folder / "x.py").write_text("1")


def _link(folder: Path) -> None:
    path = folder / "signature.json"
    away = folder.parent.parent / "away.json"
    path.rename(away)
    path.symlink_to(away)


def _folder(folder: Path) -> None:
    (folder / "signature.json").unlink()
    (folder / "signature.json").mkdir()


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (_missing, "The bundle's file 'signature.json' is missing."),
    "more": (_more, "The bundle's file 'x.py' was not packed."),
    "a link": (_link, "The bundle's file 'signature.json' is a link or no plain file."),
    "a folder": (_folder, "The bundle's file 'signature.json' is missing."),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_was_not_packed_so_is_named(project: Path, kind: str) -> None:
    change, message = CHANGES[kind]
    change(champion(project))
    answered(project, message)


def test_a_manifest_of_a_newer_format_has_another_name(project: Path) -> None:
    path = champion(project) / "manifest.json"
    path.chmod(0o644)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format": 99}))
    more_to_score(project)
    assert "The bundle's file 'manifest.json' has the digest" in run(project).result.sentence


def test_a_bundle_that_is_gone_is_told(project: Path) -> None:
    name = champion(project).name[:12]
    shutil.rmtree(champion(project))
    more_to_score(project)
    seen = run(project).result
    told = f"The champion {name} of release 1 is damaged: There is no bundle {name}. The baseline "
    assert told in seen.sentence
    assert seen.exit_code == 3
    assert accepted(project) == list(range(ROWS))


@pytest.mark.slow
def test_verify_names_it_too(project: Path) -> None:
    path = champion(project) / "signature.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    (problem,) = verified(project)
    assert "signature.json" in problem


# ---- by a person's word ------------------------------------------------------------------------------------------


def flip(project: Path, digest: str, name: str = "signature.json") -> None:
    path = project / ".interlock" / "lake" / "bundles" / digest / name
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two releases that both served. Copy it, do not change it."""
    root = make_project(tmp_path_factory.mktemp("twice") / "project")
    good = (root / "train.py").read_text()
    half = good.replace("values = np.asarray(X, dtype=float)", "values = np.asarray(X, dtype=float) * [1, 0]")
    (root / "train.py").write_text(half)
    assert run(root).result.outcome == "released"
    (root / "train.py").write_text(good)
    write_rows(root / "inbox" / "b.csv", 400, 1500)
    more_to_score(root)
    second = run(root).result
    assert second.outcome == "released", second.sentence
    return root


@pytest.fixture
def two(twice: Path, tmp_path: Path) -> Path:
    shutil.copytree(twice, tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.slow
def test_a_rollback_to_a_damaged_bundle_is_refused(two: Path) -> None:
    live = release(two)
    assert live is not None
    assert live.last_good is not None
    flip(two, live.last_good)
    code, told = exit_of(two, "rollback", "--because", "slow", "--to", "1")
    assert code == 3
    assert told["error"]["code"] == "BundleCorrupt"
    assert told["error"]["message"].startswith("The bundle's file 'signature.json' has the digest ")
    assert told["error"]["message"].endswith("…. It was not opened.")
    assert told["error"]["next_step"] == (
        "Restore the bundle from a backup, or release another one: 'interlock rollback'."
    )
    code, told = exit_of(two, "rollback", "--because", "slow")
    assert code == 1
    assert told["error"]["message"] == (
        "No earlier release than 2 has another champion that really served and is intact."
    )
    assert told["error"]["next_step"] == (
        "Name a generation with --to, or add data or change the code and run 'interlock run'."
    )
    assert release(two) == live
    check_ledger(two)


@pytest.mark.slow
def test_a_report_on_a_damaged_bundle_shows_nothing_of_the_damaged_file(two: Path) -> None:
    live = release(two)
    assert live is not None
    path = two / ".interlock" / "lake" / "bundles" / live.champion / "code" / "train.py"
    path.chmod(0o644)
    path.write_text("# SECRET of somebody else\n")
    code, told = exit_of(two, "report")
    assert code == 0
    page = Path(told["html"]).read_text()
    assert "SECRET of somebody else" not in page
    assert "code/train.py" in page
    assert "The bundle&#39;s file code/train.py is not the one that was recorded: its digest differs." in page
