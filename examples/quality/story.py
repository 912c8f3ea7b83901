"""Run the whole story of this example: slot after slot arrives, and the loop decides each time.

python story.py [--fast]       # begins anew; --fast does not pause between the chapters
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CHAPTERS = [
    ("Slot 1 arrives, with a test inbox and a file to score", [], 0),
    ("Slot 2 arrives damaged: the file is refused, the champion stays", ["--slot", "2"], 1),
    ("Slot 3 arrives, mostly repeated: a candidate is trained, and kept out", ["--slot", "3"], 1),
    ("Slot 4 arrives with kinds of samples not seen before: a better candidate", ["--slot", "4"], 0),
    ("Nothing new", None, 0),
]


def heading(text: str) -> None:
    """Print a chapter's title, in bold on a terminal."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}== {text}{plain}", flush=True)


def interlock(*arguments: str) -> int:
    """Run a verb in this folder and show the command first; returns the exit code."""
    print(f"$ interlock {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "interlock", *arguments], cwd=FOLDER, check=False).returncode


def prepare(*arguments: str) -> None:
    """Let files arrive."""
    subprocess.run([sys.executable, "prepare.py", *arguments], cwd=FOLDER, check=True)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fast", action="store_true", help="no pause between the chapters")
    pause_s = 0.0 if options.parse_args().fast or not sys.stdout.isatty() else 1.0
    prepare("--reset")
    for title, arrives, expected in CHAPTERS:
        heading(title)
        if arrives is not None:
            prepare(*arrives)
        code = interlock("run")
        if code != expected:
            print(f"This turn ended with exit code {code}, and the story has {expected}.", file=sys.stderr)
            return 1
        time.sleep(pause_s)
    heading("What is live, why, and whether it can be proved")
    return interlock("status") or interlock("history") or interlock("verify") or interlock("report")


if __name__ == "__main__":
    sys.exit(main())
