"""Put scikit-learn's handwritten digits into the inboxes, as image files: a folder for each digit."""

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
FIRST = slice(0, 300)
NEXT = slice(300, 1_697)
TO_SCORE = slice(1_697, 1_797)


def write(folder: Path, which: slice, *, labelled: bool) -> None:
    """One PNG of 8 x 8 grey values for each digit, below a folder of its label or without any."""
    digits = load_digits()
    # 0 to 16 in the data set, 0 to 240 in the file
    greys = (digits.images * 15).astype(np.uint8)
    numbers = range(*which.indices(len(greys)))
    for number in numbers:
        path = folder / (str(digits.target[number]) if labelled else "") / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(greys[number]).save(path)
    print(f"{folder.relative_to(HERE)}: {len(numbers):,} images")


def main() -> None:
    """The first three hundred, and a hundred to score; with ``--next`` the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--next", action="store_true", help="add the other digits")
    if parser.parse_args().next:
        write(HERE / "data" / "inbox", NEXT, labelled=True)
        return
    shutil.rmtree(HERE / "data", ignore_errors=True)
    write(HERE / "data" / "inbox", FIRST, labelled=True)
    write(HERE / "data" / "to_score", TO_SCORE, labelled=False)


if __name__ == "__main__":
    main()
