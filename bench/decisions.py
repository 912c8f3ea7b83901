"""How often is the gate wrong? Simulated retrains, judged by the gate's own code. Prints tables.

Parts (``--only``): ``false`` an equally good model on fresh holdouts; ``unlike`` one that is as good but errs in
another way; ``keys`` several rows of one key; ``serial`` errors that follow one another in time; ``power`` a better
model, by rows and gain; ``campaign`` two hundred equally good challengers on one holdout, and two hundred of pure
noise; ``price`` a better model after many questions; ``slices`` innocent and guilty ones; ``leaks`` a column that tells
the target. ``--images FOLDER`` draws what ``false`` and ``power`` found. The models and the gate's answers are in
``retrains.py``.

The ± is the Monte-Carlo standard error.
"""

import argparse
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from retrains import (
    CONFIDENCE,
    COURSES,
    FIRST,
    LEAKS,
    RETRAINS,
    UNLIKE,
    Share,
    campaigns,
    kept_for_slices,
    keyed_rate,
    leak,
    numbers,
    power,
    rate,
    rows_needed,
    serial_rate,
)

SIZES = (200, 1000, 10_000)


def table_false(trials: int) -> Iterator[tuple[str, int, Share]]:
    print(f"\nAn equally good model, fresh holdouts, {trials} a cell. Released though no better (allowed: {FIRST:.4f})")
    for metric, make in RETRAINS.items():
        for rows in SIZES:
            found = rate(metric, make, rows, trials=trials)
            beyond = (found.value - FIRST) / math.sqrt(FIRST * (1 - FIRST) / trials)
            print(f"  {metric:<24} {rows:>6}   {found}   {beyond:+.1f} standard errors from it", flush=True)
            yield metric, rows, found


def table_unlike(trials: int) -> None:
    print(
        f"\nAs good, but wrong in another way, {trials} a cell: without and with the skewness taken out ({FIRST:.4f})"
    )
    for name, (metric, make) in UNLIKE.items():
        for rows in (50, 200, 1000):
            found = [rate(metric, make, rows, trials=trials, edition=edition) for edition in (1, 2)]
            print(f"  {name:<24} {rows:>6}   {found[0]}   {found[1]}", flush=True)


def table_keys(trials: int) -> None:
    print(f"\nEqually good, several rows of one key, {trials} a cell: row by row and by key (allowed: {FIRST:.4f})")
    for keys, each in ((40, 5), (100, 10)):
        found = [keyed_rate(keys, each, by_key=by_key, trials=trials) for by_key in (False, True)]
        print(f"  {keys} keys of {each} rows   {found[0]}   {found[1]}", flush=True)


def table_serial(trials: int) -> None:
    print(f"\nEqually good forecasts, MAE, {trials} a cell, as if each row were new and in order of time ({FIRST:.4f})")
    for steps in (28, 120, 1000):
        for course in COURSES:
            found = [serial_rate(steps, course, in_time=in_time, trials=trials) for in_time in (False, True)]
            print(f"  {steps:>5}   {course:<20} {found[0]}   {found[1]}", flush=True)
    print("\nThe price where nothing follows: a forecast with smaller errors, released")
    for steps, better in ((28, 0.5), (120, 0.3), (1000, 0.12)):
        found = [
            serial_rate(steps, "each its own", in_time=in_time, better=better, trials=trials)
            for in_time in (False, True)
        ]
        print(f"  {steps:>5}   {better:.0%} smaller   {found[0]}   {found[1]}", flush=True)


def table_power(trials: int) -> dict[float, list[tuple[int, Share]]]:
    print(
        f"\nRows at which a gain in accuracy is released 4 times in 5, and the share released there ({trials} trials)"
    )
    for disagree in (0.05, 0.1, 0.2, 0.3):
        for gain in (0.01, 0.02, 0.05):
            if gain < disagree:
                rows = rows_needed(gain, disagree)
                shares = [power(gain, disagree, n, trials=trials) for n in (rows, math.ceil(1.1 * rows))]
                told = f"{rows:>7,} rows   {shares[0]}   a tenth more: {shares[1]}"
                print(f"  +{gain:.2f}, one right in {disagree:.0%} of rows   {told}", flush=True)
    curves: dict[float, list[tuple[int, Share]]] = {}
    for gain in (0.01, 0.02, 0.05):
        curves[gain] = [
            (rows, power(gain, 0.2, rows, trials=trials)) for rows in (200, 500, 1000, 2000, 5000, 10_000, 20_000)
        ]
        print(f"  +{gain:.2f}, disagreeing in 20 %:", ", ".join(f"{n:,}: {s.value:.2f}" for n, s in curves[gain]))
    return curves


def table_campaign(runs: int) -> None:
    print(f"\nTwo hundred challengers in a row on one holdout of 1,000 rows, {runs} campaigns: any release")
    for kind, shared, alone in (("equally good", 0.1, 1 / 9), ("noise against noise", 0.0, 0.5)):
        for budget in (False, True):
            found = campaigns(1000, 200, runs=runs, budget=budget, shared=shared, alone=alone)
            print(f"  {kind:<20} {'with the budget' if budget else 'each one at 0.05':<18} {found}", flush=True)


def table_price(trials: int) -> None:
    print(
        f"\nA gain of 0.02 (disagreeing in 10 % of rows) as question number k, {trials} a cell, and the rows for 80 %"
    )
    for asks in (1, 2, 5, 10, 30, 100):
        shares = [power(0.02, 0.1, rows, trials=trials, asks=asks) for rows in (1000, 2000, 4000)]
        told = "   ".join(f"{rows:,}: {one.value:.2f}" for rows, one in zip((1000, 2000, 4000), shares, strict=True))
        print(f"  k = {asks:>3}   {told}   80 %: {rows_needed(0.02, 0.1, asks=asks):,} rows", flush=True)


def table_slices(trials: int) -> None:
    print(f"\nA candidate 10 points better, {trials} a cell: better on the whole, and then kept back for its slices")
    for rows, slices in ((1000, 2), (1000, 10), (2000, 40)):
        better, kept = kept_for_slices(rows, slices, guilty=0.0, trials=trials)
        print(f"  {slices:>2} slices in {rows:,} rows, none worse        {better}   {kept}", flush=True)
    for guilty in (0.1, 0.2, 0.3):
        better, kept = kept_for_slices(2000, 10, guilty=guilty, trials=trials)
        print(f"  10 slices in 2,000 rows, one worse by {guilty:.1f}   {better}   {kept}", flush=True)


def table_leaks() -> None:
    print("\nA column that tells the target, 1,000 held-out rows, against a model without it")
    for task in ("classification", "regression"):
        for kind in LEAKS:
            decision = leak(kind, task)
            print(f"  {task:<15} {kind:<26} {decision.verdict:<8} {decision.reason.split('. ')[0][:90]}", flush=True)


def draw(folder: Path, false: list[tuple[str, int, Share]], curves: dict[float, list[tuple[int, Share]]]) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "interlock", "svg.fonttype": "none", "font.size": 9})
    if false:
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
        for place, rows in enumerate(SIZES):
            mine = [(metric, share) for metric, n, share in false if n == rows]
            at = [number + (place - 1) * 0.2 for number in range(len(mine))]
            values, errors = [s.value for _, s in mine], [2 * s.error for _, s in mine]
            axes.errorbar(at, values, yerr=errors, fmt="o", ms=4, capsize=2, label=f"{rows:,} rows")
        axes.axhline(FIRST, color="black", lw=1, ls="--", label=f"allowed: {FIRST:.4f}")
        axes.set_xticks(range(len(RETRAINS)), [name.replace("neg_mean_absolute_error", "MAE") for name in RETRAINS])
        axes.set_ylim(0, 0.06)
        axes.set_ylabel("released, though no better")
        axes.legend(fontsize=8, ncols=4, loc="lower center")
        figure.savefig(folder / "false-promotions.svg", metadata={"Date": None})
    if curves:
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
        for gain, curve in curves.items():
            rows, shares = [n for n, _ in curve], [s for _, s in curve]
            axes.errorbar(
                rows,
                [s.value for s in shares],
                yerr=[2 * s.error for s in shares],
                marker="o",
                ms=4,
                capsize=2,
                label=f"+{gain:.2f}",
            )
        axes.axhline(0.8, color="black", lw=1, ls="--")
        axes.set_xscale("log")
        axes.set_xticks(
            [200, 500, 1000, 2000, 5000, 10_000, 20_000], ["200", "500", "1,000", "2,000", "5,000", "10,000", "20,000"]
        )
        axes.minorticks_off()
        axes.set_xlabel("held-out rows (one of the two is right in 20 % of them)")
        axes.set_ylabel("released")
        axes.legend(title="gain in accuracy", fontsize=8)
        figure.savefig(folder / "power.svg", metadata={"Date": None})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--trials", type=int, default=1000)
    options.add_argument("--long", type=int, default=0, help="trials for r2 alone at 200 and 1,000 rows")
    options.add_argument("--only", nargs="*", default=None)
    options.add_argument("--images", type=Path, default=None)
    chosen = options.parse_args()
    started = time.monotonic()
    wanted = set(chosen.only or ("false", "unlike", "keys", "serial", "power", "campaign", "price", "slices", "leaks"))
    print(f"Python {platform.python_version()}, numpy {np.__version__}, polars {pl.__version__}; 300 to 500 resamples")
    false = list(table_false(chosen.trials)) if "false" in wanted else []
    curves = table_power(chosen.trials) if "power" in wanted else {}
    for name, table, trials in (
        ("unlike", table_unlike, chosen.trials),
        ("keys", table_keys, chosen.trials),
        ("serial", table_serial, chosen.trials),
        ("campaign", table_campaign, chosen.trials // 4),
        ("price", table_price, chosen.trials),
        ("slices", table_slices, min(chosen.trials, 400)),
    ):
        if name in wanted:
            table(trials)
    if "leaks" in wanted:
        table_leaks()
    if chosen.long:
        print(f"\nr2, {chosen.long:,} retrains (allowed: {FIRST:.4f} and 0.05)")
        for rows in (200, 1000):
            found = [rate("r2", numbers, rows, trials=chosen.long, alpha=alpha) for alpha in (FIRST, 1 - CONFIDENCE)]
            print(f"  {rows:>6}   {found[0]}   {found[1]}", flush=True)
    if chosen.images is not None:
        draw(chosen.images, false, curves)
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
