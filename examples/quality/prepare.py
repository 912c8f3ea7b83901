"""Cut scikit-learn's bundled breast cancer table into slots that arrive one after the other.

    python prepare.py              # the test inbox, the file to score and slot 1: ready for the first run
    python prepare.py --slot 2     # drop slot 2 into the inbox; so for 3 and 4
    python prepare.py --test       # only the test inbox
    python prepare.py --to-score   # only the file to score
    python prepare.py --reset      # forget everything: data/, .interlock/ and reports/

569 samples of breast tissue, 30 measurements each (Wolberg, Street and Mangasarian, UCI, 1995). A seeded shuffle gives
200 samples to the test inbox and 40 to the file to score; the slots share the other 329, all measurements unchanged
but for the damage in slot 2:

slot 1  110 samples with smooth outlines (mean concavity at or below 0.07), as from a screening practice
slot 2  60 samples with rougher outlines, damaged: 12 of them have text where numbers belong
slot 3  40 samples of slot 1 again, 10 of these twice, and 8 new ones of the same smooth kind
slot 4  slot 2 again, undamaged, all the samples left over, and 20 samples of slot 3 once more

Whatever is dropped twice is the same to the byte; running any of this again changes nothing.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

FOLDER = Path(__file__).parent
SEED = 7
SMOOTH = 0.07
TEST, TO_SCORE = 200, 40
SLOT_1, SLOT_2, SLOT_3 = 110, 60, 8
RESENT, TWICE, DAMAGED = 40, 10, 12
SLOTS = (1, 2, 3, 4)


def table() -> pd.DataFrame:
    """Give all 569 rows: ``sample_id`` (a made-up name for the row), 30 float columns, ``malignant`` (1 or 0)."""
    bundled = load_breast_cancer(as_frame=True).frame
    bundled.columns = [name.replace(" ", "_") for name in bundled.columns]
    bundled.insert(0, "sample_id", [f"S{number:03d}" for number in range(1, len(bundled) + 1)])
    return bundled.drop(columns="target").assign(malignant=1 - bundled["target"])


def parts() -> dict[str, pd.DataFrame]:
    """Make the disjoint groups of samples that all files are made of."""
    rows = table().iloc[np.random.default_rng(SEED).permutation(569)]
    arriving = rows.iloc[TEST + TO_SCORE :]
    smooth = arriving[arriving["mean_concavity"] <= SMOOTH]
    rough = arriving[arriving["mean_concavity"] > SMOOTH]
    return {
        "test": rows.iloc[:TEST],
        "to_score": rows.iloc[TEST : TEST + TO_SCORE].drop(columns="malignant"),
        "first": smooth.iloc[:SLOT_1],
        "few_more": smooth.iloc[SLOT_1 : SLOT_1 + SLOT_3],
        "rough": rough.iloc[:SLOT_2],
        "rest": pd.concat([smooth.iloc[SLOT_1 + SLOT_3 :], rough.iloc[SLOT_2:]]),
    }


def slot(number: int) -> pd.DataFrame:
    """Give the rows of one slot, duplicates and damage included; raises KeyError for a number that is not in SLOTS."""
    group = parts()
    resent = group["first"].iloc[:RESENT]
    third = pd.concat([resent, group["few_more"], resent.iloc[:TWICE]])
    return {
        1: group["first"],
        2: damaged(group["rough"]),
        3: third,
        4: pd.concat([group["rough"], group["rest"], third.iloc[RESENT - 12 : RESENT + SLOT_3]]),
    }[number]


def damaged(rows: pd.DataFrame) -> pd.DataFrame:
    """Give the same rows, every fifth with the word of a failing instrument instead of two measurements."""
    broken = rows.astype({"mean_radius": object, "mean_area": object})
    every = len(rows) // DAMAGED
    broken.iloc[::every, [broken.columns.get_loc(name) for name in ("mean_radius", "mean_area")]] = "LENS DIRTY"
    return broken


def drop(frame: pd.DataFrame, path: Path) -> None:
    """Put ``frame`` at ``path`` as CSV in one step, so that nobody reads half a file; leave an equal file alone."""
    text = frame.to_csv(index=False)
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent.parent / f"{path.name}.partial"
    partial.write_text(text)
    partial.replace(path)
    print(f"{path.relative_to(path.parent.parent.parent)}: {len(frame)} rows")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slot", type=int, choices=SLOTS, action="append", default=[])
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--to-score", action="store_true")
    parser.add_argument("--reset", action="store_true")
    options = parser.parse_args(arguments)
    plain = not (options.slot or options.test or options.to_score or options.reset)
    if options.reset:
        for made in ("data", ".interlock", "reports"):
            shutil.rmtree(FOLDER / made, ignore_errors=True)
    if options.test or plain:
        drop(parts()["test"], FOLDER / "data/test/test.csv")
    if options.to_score or plain:
        drop(parts()["to_score"], FOLDER / "data/to_score/samples.csv")
    for number in options.slot or ([1] if plain else []):
        drop(slot(number), FOLDER / f"data/inbox/slot_{number}.csv")


if __name__ == "__main__":
    main()
