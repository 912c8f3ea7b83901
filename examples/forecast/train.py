"""Holt-Winters: level, trend and season, each smoothed exponentially (Winters, Management Science 6, 1960)."""

import pandas as pd
from statsmodels.tsa.holtwinters import ExponentialSmoothing


class Forecast:
    """A fitted series; ``predict`` takes any months after its last one, in any order."""

    def __init__(self, fitted, last):
        self.fitted, self.last = fitted, last

    def predict(self, X):
        """One value for each month asked for: as many steps ahead as it lies beyond the last month known."""
        ahead = pd.PeriodIndex(X["month"], freq="M").astype("int64") - self.last.ordinal
        steps = self.fitted.forecast(int(ahead.max()))
        return steps.to_numpy()[ahead - 1]


def train(data, season):
    """Fit the whole series; months that nobody measured are bridged by a straight line."""
    months = pd.PeriodIndex(data["month"], freq="M")
    series = pd.Series(data["co2"].to_numpy(), index=months).sort_index()
    series = series.reindex(pd.period_range(months.min(), months.max(), freq="M")).interpolate()
    model = ExponentialSmoothing(series, trend="add", seasonal="add", seasonal_periods=season)
    return Forecast(model.fit(), series.index[-1])
