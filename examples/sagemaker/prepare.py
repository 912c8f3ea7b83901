"""Write scikit-learn's bundled wine data as one file to learn from and one to score.

    python prepare.py

178 wines of three cultivars (Forina et al., PARVUS, 1988). Every tenth is to be scored. Running it again changes
nothing.
"""

from pathlib import Path

import pandas as pd
from sklearn.datasets import load_wine

FOLDER = Path(__file__).parent


def table() -> pd.DataFrame:
    """Give all 178 rows: ``bottle`` (a made-up name), 13 measurements, ``cultivar`` (barolo, grignolino, barbera)."""
    bundled = load_wine(as_frame=True)
    rows = bundled.data.rename(columns={"od280/od315_of_diluted_wines": "od280_od315"})
    names = pd.Series(["barolo", "grignolino", "barbera"])
    rows.insert(0, "bottle", [f"W{number:03d}" for number in range(1, len(rows) + 1)])
    return rows.assign(cultivar=names[bundled.target].to_numpy())


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


def main() -> None:
    rows = table()
    asked = rows.index % 10 == 9
    drop(rows[~asked], FOLDER / "data/train/wines.csv")
    drop(rows[asked].drop(columns="cultivar"), FOLDER / "data/to_score/new_wines.csv")


if __name__ == "__main__":
    main()
