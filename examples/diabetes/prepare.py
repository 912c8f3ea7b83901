"""Write scikit-learn's bundled diabetes data, body-mass index only, as one training file and one file of held-out rows.

    python prepare.py

442 patients (Efron et al., Least Angle Regression, 2004). The last 20 rows are held out, as in scikit-learn's own
example, and go to the inbox ``data/test``; the other 422 go to ``data/train``. Running it again changes nothing.
"""

from pathlib import Path

import pandas as pd
from sklearn.datasets import load_diabetes

FOLDER = Path(__file__).parent
HOLDOUT_ROWS = 20


def table() -> pd.DataFrame:
    """Give all 442 rows.

    ``patient`` (a made-up name for the row), ``bmi`` (kg/m²), and ``progression`` of the disease one year later
    (25 to 346).
    """
    bundled = load_diabetes(as_frame=True, scaled=False).frame
    return pd.DataFrame(
        {
            "patient": [f"P{number:03d}" for number in range(1, len(bundled) + 1)],
            "bmi": bundled["bmi"],
            "progression": bundled["target"],
        }
    )


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
    drop(rows.iloc[:-HOLDOUT_ROWS], FOLDER / "data/train/patients.csv")
    drop(rows.iloc[-HOLDOUT_ROWS:], FOLDER / "data/test/held_out.csv")


if __name__ == "__main__":
    main()
