"""The documents are run: every console block is executed, every link leads somewhere, every key is explained.

A block fenced as ``console`` holds lines that start with ``$ `` (commands, run one after the other in an empty folder
of its page) and the output they must print. ``…`` in the expected output stands for anything, also for several lines.
A page may begin with ``<!-- run in: FOLDER -->`` to run in a copy of a folder of the repository, and a block after
``<!-- not run: REASON -->`` is left out, with its reason; ``make`` verbs are run by the build itself.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GLOBS = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "examples/**/README.md")
PAGES = sorted(path for glob in GLOBS for path in ROOT.glob(glob))
VERBS = {
    "init",
    "run",
    "keys",
    "predict",
    "status",
    "history",
    "promote",
    "rollback",
    "verify",
    "replay",
    "report",
    "serve",
    "sync",
    "export",
    "doctor",
}
BLOCK = re.compile(r"(?P<note><!-- not run: [^>]+-->\n\n?)?```console\n(?P<body>.*?)```", re.DOTALL)
HOME = re.compile(r"^<!-- run in: (?P<folder>[\w/.-]+) -->", re.MULTILINE)


def _sessions(text: str) -> list[tuple[str, str]]:
    """(command, expected output) of every block that is run."""
    found = []
    for block in BLOCK.finditer(text):
        if block["note"]:
            continue
        for part in re.split(r"^\$ ", block["body"], flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            command = command.split("    # ")[0].strip()
            if not command.startswith("make "):
                found.append((command, expected.strip()))
    return found


def _matches(expected: str, output: str) -> bool:
    pattern = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


def _run(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | {"PATH": path, "COLUMNS": "100", "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if _sessions(page.read_text())], ids=_name)
def test_every_command_prints_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    home = HOME.search(text)
    folder = tmp_path / "page"
    if home:
        ignored = shutil.ignore_patterns(".interlock", "data", "reports", "__pycache__")
        shutil.copytree(ROOT / home["folder"], folder, ignore=ignored)
    else:
        folder.mkdir()
    here = folder
    for command, expected in _sessions(text):
        if command.startswith("cd "):
            here = (here / command.removeprefix("cd ").strip()).resolve()
            assert here.is_relative_to(folder)
            continue
        output = _run(command, here)
        assert _matches(expected, output), f"$ {command}\n{output}\n--- the page shows\n{expected}"


def test_the_matcher_can_fail() -> None:
    assert _matches("a … c", "a b\nb c")
    assert not _matches("a … c", "a b")
    assert not _matches("a", "b")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_no_page_names_a_verb_that_is_not_there() -> None:
    for page in PAGES:
        named = set(re.findall(r"`interlock (?:-\S+ \S+ )*([a-z]+)", page.read_text()))
        assert named <= VERBS, f"{page.name}: {named - VERBS}"
