"""Pages whose console blocks are run: the commands of a page, and whether they print what it shows.

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

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?P<note><!-- not run: [^>]+-->\n\n?)?```console\n(?P<body>.*?)```", re.DOTALL)
HOME = re.compile(r"^<!-- run in: (?P<folder>[\w/.-]+) -->", re.MULTILINE)


def sessions(text: str) -> list[tuple[str, str]]:
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


def matches(expected: str, output: str) -> bool:
    pattern = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


def run(command: str, folder: Path) -> str:
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


def follow(page: Path, folder: Path) -> list[str]:
    """Run every command of a page in ``folder``, which is made for it; gives what they printed, which is as shown."""
    text = page.read_text()
    home = HOME.search(text)
    if home:
        ignored = shutil.ignore_patterns(".interlock", "data", "reports", "__pycache__")
        shutil.copytree(ROOT / home["folder"], folder, ignore=ignored)
    else:
        folder.mkdir()
    here, outputs = folder, []
    for command, expected in sessions(text):
        if command.startswith("cd "):
            here = (here / command.removeprefix("cd ").strip()).resolve()
            assert here.is_relative_to(folder)
            continue
        outputs.append(run(command, here))
        assert matches(expected, outputs[-1]), f"$ {command}\n{outputs[-1]}\n--- the page shows\n{expected}"
    return outputs
