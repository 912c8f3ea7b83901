"""Make bookings and hotels: seeded, with a signal worth learning or with none at all.

    python prepare.py                  # signal: status depends on lead time, stay, dates, guests and country
    python prepare.py --mode noise     # the same bookings with the statuses shuffled: nothing to be learned
    python prepare.py --next           # after a first run: one more file of bookings, and one more file to score
    python prepare.py --reset          # forget everything: data/, .interlock/ and reports/

data/bookings/bookings_1.csv to bookings_3.csv: 4,000 bookings each. From the second on, 30 bookings of the file before
come again, 5 of them with a later leave_on, and 20 bookings name a hotel that nobody has described.
data/hotels/hotels_1.csv and hotels_2.csv: 300 hotels; the second brings the newest 40 and 5 old ones with another star.
data/to_score/arrivals_1.csv: 1,500 bookings yet to come, joined with their hotels, without a status.

Going from one mode to the other needs ``--reset``: rows once accepted stay accepted.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent
SEED = 2024
HOTELS, NEW_HOTELS, RESTARRED = 300, 40, 5
PER_FILE, FILES, TO_SCORE = 4_000, 3, 1_500
RESENT, CHANGED, HOMELESS = 30, 5, 20
STATUSES = np.array(["stayed", "cancelled", "no_show"])
COUNTRIES = np.array(["BR", "DE", "ES", "FR", "GB", "IT", "PT", "US"])
CANCELLING = np.array([1.0, -0.9, -0.2, 0.3, -0.5, 0.2, 1.1, 0.6])
"""How much more the guests of a hotel in each country cancel, on the log-odds scale."""


def hotels() -> pd.DataFrame:
    """Make the hotels, one row each: hotel_id, country_code (ISO 3166), stars (2 to 5), rooms."""
    rng = np.random.default_rng([SEED, 0])
    return pd.DataFrame(
        {
            "hotel_id": [f"H{number:03d}" for number in range(1, HOTELS + 1)],
            "country_code": rng.choice(COUNTRIES, HOTELS),
            "stars": rng.choice([2, 3, 4, 5], HOTELS, p=[0.15, 0.35, 0.35, 0.15]),
            "rooms": rng.integers(12, 240, HOTELS),
        }
    )


def bookings(part: int, mode: str) -> pd.DataFrame:
    """Make the 4,000 bookings that file ``part`` (from 1) is the first to bring; raises ValueError for another mode."""
    if mode not in ("signal", "noise"):
        raise ValueError(f"mode must be signal or noise, not {mode}.")
    rng = np.random.default_rng([SEED, part])
    guests = _guests(rng, PER_FILE, first=(part - 1) * PER_FILE + 1)
    status = _status(rng, guests.merge(hotels(), on="hotel_id", how="left", validate="many_to_one"))
    if mode == "noise":
        status = rng.permutation(status)
    homeless = rng.choice(PER_FILE, HOMELESS, replace=False) if part > 1 else []
    guests.loc[homeless, "hotel_id"] = "H999"
    return guests.assign(status=status)


def booking_file(part: int, mode: str) -> pd.DataFrame:
    """Give all rows of bookings_``part``.csv: what was sent before and comes again first, then the new bookings."""
    fresh = bookings(part, mode)
    if part == 1:
        return fresh
    again = bookings(part - 1, mode).iloc[-RESENT:].copy()
    later = again["leave_on"].iloc[:CHANGED] + pd.Timedelta(days=1)
    again.iloc[:CHANGED, again.columns.get_loc("leave_on")] = later
    return pd.concat([again, fresh], ignore_index=True)


def hotel_file(part: int) -> pd.DataFrame:
    """Give all rows of hotels_1.csv or hotels_2.csv."""
    known = hotels()
    if part == 1:
        old = known.iloc[:-NEW_HOTELS].copy()
        stars = old["stars"].to_numpy().copy()
        stars[:RESTARRED] = np.where(stars[:RESTARRED] == 5, 4, stars[:RESTARRED] + 1)
        return old.assign(stars=stars)
    return pd.concat([known.iloc[:RESTARRED], known.iloc[-NEW_HOTELS:]], ignore_index=True)


def to_score(part: int) -> pd.DataFrame:
    """Make bookings yet to come, with the columns of the query in interlock.toml except the status."""
    rng = np.random.default_rng([SEED, 1_000 + part])
    guests = _guests(rng, TO_SCORE, first=900_001 + (part - 1) * TO_SCORE)
    joined = guests.merge(hotels(), on="hotel_id", validate="many_to_one")
    order = ["booking_id", "hotel_id", "country_code", "stars", "rooms"]
    return joined[[*order, *(name for name in guests.columns if name not in order)]]


def _guests(rng: np.random.Generator, rows: int, first: int) -> pd.DataFrame:
    """Draw who books what and when, all over one year: lead times of 0 to 300 days, stays of 1 to 14 nights."""
    booked = pd.Timestamp("2025-01-01") + pd.to_timedelta(rng.integers(0, 365, rows), unit="D")
    lead = np.minimum(rng.exponential(45.0, rows).astype(np.int64), 300)
    nights = np.minimum(rng.geometric(0.35, rows), 14)
    arrive = booked + pd.to_timedelta(lead, unit="D")
    return pd.DataFrame(
        {
            "booking_id": [f"B{number:06d}" for number in range(first, first + rows)],
            "hotel_id": [f"H{number:03d}" for number in rng.integers(1, HOTELS + 1, rows)],
            "booked_on": booked,
            "arrive_on": arrive,
            "leave_on": arrive + pd.to_timedelta(nights, unit="D"),
            "adults": rng.choice([1, 2, 3, 4], rows, p=[0.30, 0.52, 0.11, 0.07]),
            "children": rng.choice([0, 1, 2, 3], rows, p=[0.70, 0.15, 0.12, 0.03]),
        }
    )


def _status(rng: np.random.Generator, data: pd.DataFrame) -> np.ndarray:
    """Draw a status for each row, shape (n,), from odds that depend on the row."""
    lead = (data["arrive_on"] - data["booked_on"]).dt.days.to_numpy()
    nights = (data["leave_on"] - data["arrive_on"]).dt.days.to_numpy()
    weekend = data["arrive_on"].dt.day_of_week.to_numpy() >= 4
    summer = data["arrive_on"].dt.month.isin([6, 7, 8]).to_numpy()
    country = CANCELLING[np.searchsorted(COUNTRIES, data["country_code"].to_numpy())]
    alone = (data["adults"] + data["children"]).to_numpy() == 1
    cancelled = -5.6 + 2.4 * np.log1p(lead / 15.0) + 1.8 * country + 0.25 * nights + 0.9 * summer
    stars = data["stars"].to_numpy()
    no_show = -3.6 + 2.6 * (lead <= 5) + 1.8 * (nights == 1) + 1.8 * alone + 1.0 * weekend - 0.3 * stars
    odds = np.exp(np.column_stack([np.zeros(len(data)), cancelled, no_show]))
    shares = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)
    return STATUSES[(rng.random((len(data), 1)) > shares).sum(axis=1)]


def drop(frame: pd.DataFrame, path: Path) -> None:
    """Put ``frame`` at ``path`` as CSV in one step, so that nobody reads half a file; leave an equal file alone.

    Exits with a message when another file is there already, which happens when the mode was changed.
    """
    text = frame.to_csv(index=False)
    if path.exists():
        if path.read_text() != text:
            raise SystemExit(f"{path} was made in the other mode. Add --reset to start afresh.")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent.parent / f"{path.name}.partial"
    partial.write_text(text)
    partial.replace(path)
    print(f"{path.relative_to(path.parent.parent.parent)}: {len(frame)} rows")


def prepare(mode: str, *, one_more: bool = False) -> None:
    """Write the files of a first run, or with ``one_more`` the next file of each kind that grows."""
    if one_more:
        files = len(list((FOLDER / "data/bookings").glob("bookings_*.csv"))) + 1
        parts, waves = [files], [max(files - FILES, 0) + 1]
    else:
        parts, waves = list(range(1, FILES + 1)), [1]
        for part in (1, 2):
            drop(hotel_file(part), FOLDER / f"data/hotels/hotels_{part}.csv")
    for part in parts:
        drop(booking_file(part, mode), FOLDER / f"data/bookings/bookings_{part}.csv")
    for wave in waves:
        drop(to_score(wave), FOLDER / f"data/to_score/arrivals_{wave}.csv")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("signal", "noise"), default="signal")
    parser.add_argument("--next", action="store_true", help="one more file of bookings and one more file to score")
    parser.add_argument("--reset", action="store_true", help="forget data/, .interlock/ and reports/ first")
    options = parser.parse_args(arguments)
    if options.reset:
        for made in ("data", ".interlock", "reports"):
            shutil.rmtree(FOLDER / made, ignore_errors=True)
    if options.next and not (FOLDER / "data/bookings").is_dir():
        raise SystemExit("Nothing is there to go on from. Run prepare.py without --next first.")
    prepare(options.mode, one_more=options.next)


if __name__ == "__main__":
    main()
