"""What a booking tells, as numbers: shared by train.py and predict.py, so that both see the same thing."""

from collections.abc import Sequence

import pandas as pd


def derive(data: pd.DataFrame, countries: Sequence[str]) -> pd.DataFrame:
    """Give the columns for the trees, one row per booking, in order.

    ``data`` has the dates booked_on, arrive_on and leave_on, and adults, children, stars, rooms and country_code.
    ``countries`` are the country codes met in training: the category code of each is its place in that list, and a
    code that is not among them becomes a missing value.
    """
    booked, arrive, leave = (pd.to_datetime(data[name]) for name in ("booked_on", "arrive_on", "leave_on"))
    return pd.DataFrame(
        {
            "lead_days": (arrive - booked).dt.days,
            "nights": (leave - arrive).dt.days,
            "arrive_month": arrive.dt.month,
            "arrive_weekday": arrive.dt.day_of_week,
            "booked_weekday": booked.dt.day_of_week,
            "adults": data["adults"],
            "children": data["children"],
            "stars": data["stars"],
            "rooms": data["rooms"],
            "country": pd.Categorical(data["country_code"], categories=list(countries)),
        },
        index=data.index,
    )
