"""Write scikit-learn's bundled breast-cancer data as one file.

    python prepare.py

569 samples (Wolberg, Street and Mangasarian, Wisconsin Diagnostic Breast Cancer, 1995). Running it again changes
nothing.
"""

from pathlib import Path

import pandas as pd
from sklearn.datasets import load_breast_cancer

FOLDER = Path(__file__).parent


def table() -> pd.DataFrame:
    """Give all rows: ``sample`` (a made-up name), thirty measurements, and ``diagnosis``."""
    bundled = load_breast_cancer(as_frame=True)
    rows = bundled.data.rename(columns=lambda name: name.replace(" ", "_"))
    rows.insert(0, "sample", [f"S{number:03d}" for number in range(1, len(rows) + 1)])
    return rows.assign(diagnosis=bundled.target.map(dict(enumerate(bundled.target_names))))


def main() -> None:
    path = FOLDER / "data/inbox/samples.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = FOLDER / "data/samples.partial"
    rows = table()
    rows.to_csv(partial, index=False)
    partial.replace(path)
    print(f"{path.relative_to(FOLDER)}: {len(rows)} rows")


if __name__ == "__main__":
    main()
