"""Put measured months into the inbox: carbon dioxide in the air over Mauna Loa, 1958 to 2001, bundled with statsmodels.

Keeling and Whorf, Atmospheric CO2 concentrations derived from in situ air samples, 2004. Parts per million, by month.
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd
from statsmodels.datasets import co2

HERE = Path(__file__).parent


def write(name: str, rows: pd.DataFrame) -> None:
    """One CSV file."""
    path = HERE / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(path, index=False)
    print(f"{path.relative_to(HERE)}: {len(rows)} rows")


def main() -> None:
    """The months until 1995, and the horizon to forecast; with ``--next`` the years that came after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--next", action="store_true", help="add 1996 to 2001")
    more = parser.parse_args().next
    months = co2.load_pandas().data["co2"].resample("MS").mean().round(3).dropna().rename_axis("month").reset_index()
    old = months["month"] < "1996"
    if more:
        write("months/1996-2001.csv", months[~old])
        write("to_score/2002.csv", pd.DataFrame({"month": pd.date_range("2002-01", periods=12, freq="MS")}))
        return
    shutil.rmtree(HERE / "data", ignore_errors=True)
    write("months/1958-1995.csv", months[old])
    write("to_score/1996.csv", pd.DataFrame({"month": pd.date_range("1996-01", periods=12, freq="MS")}))


if __name__ == "__main__":
    main()
