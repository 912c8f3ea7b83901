"""The documents are run: every console block is executed, every link leads somewhere, every key is explained.

How a page is run is told in ``infra/console.py``.
"""

import re
from pathlib import Path

import pytest

from e2e.test_examples import EXAMPLES
from infra.console import ROOT, follow, matches, sessions

GLOBS = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "examples/**/README.md")
PAGES = sorted(path for glob in GLOBS for path in ROOT.glob(glob))
VERBS = {
    "init",
    "run",
    "keys",
    "trip",
    "reset",
    "predict",
    "status",
    "history",
    "promote",
    "rollback",
    "verify",
    "replay",
    "report",
    "serve",
    "load",
    "sync",
    "export",
    "doctor",
}
FOLLOWED = {ROOT / "examples" / name / "README.md" for name in EXAMPLES}
"""Run by ``tests/e2e/test_examples.py``, which looks at what they leave."""


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if sessions(page.read_text()) and page not in FOLLOWED], ids=_name
)
def test_every_command_prints_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    follow(page, tmp_path / "page")


def test_the_matcher_can_fail() -> None:
    assert matches("a … c", "a b\nb c")
    assert not matches("a … c", "a b")
    assert not matches("a", "b")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_no_page_names_a_verb_that_is_not_there() -> None:
    for page in PAGES:
        named = set(re.findall(r"`interlock (?:-\S+ \S+ )*([a-z]+)", page.read_text()))
        assert named <= VERBS, f"{page.name}: {named - VERBS}"
