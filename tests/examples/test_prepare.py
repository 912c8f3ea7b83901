"""The examples' own files: what their generators promise, and that their models learn what they claim."""

import importlib.util
import io
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import f1_score, r2_score

from interlock.configuration import load_settings

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("diabetes", "quality", "hotel", "sagemaker")
HOTEL_FEATURES = ["country_code", "stars", "rooms", "booked_on", "arrive_on", "leave_on", "adults", "children"]


def load(example: str, module: str) -> ModuleType:
    """Load ``examples/<example>/<module>.py`` as it is run: with its own folder on the path, under its own name."""
    folder = EXAMPLES / example
    siblings = [path.stem for path in folder.glob("*.py")]
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location(module, folder / f"{module}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded
    finally:
        sys.path.remove(str(folder))
        for name in siblings:
            sys.modules.pop(name, None)


def prepare(name: str, folder: Path, *arguments: str) -> dict[str, tuple[bytes, int]]:
    """Run the example's prepare.py for another folder; gives what is there then (see ``contents``)."""
    module = load(name, "prepare")
    module.FOLDER = folder
    module.main(list(arguments)) if name not in ("diabetes", "sagemaker") else module.main()
    return contents(folder)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every data file, by relative path."""
    files = sorted(path for path in (folder / "data").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# ---- all of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_preparing_twice_changes_nothing_and_elsewhere_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    first = prepare(name, tmp_path / "one")
    assert first
    assert prepare(name, tmp_path / "one") == first
    again = prepare(name, tmp_path / "two")
    assert {path: text for path, (text, _) in again.items()} == {path: text for path, (text, _) in first.items()}
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_valid_and_the_inboxes_are_what_prepare_fills(name: str, tmp_path: Path) -> None:
    found = load_settings(EXAMPLES / name)
    inboxes = [source.inbox for source in found.sources.values()]
    inboxes += [inbox for inbox in (found.data.holdout.inbox, found.batch.inbox) if inbox]
    assert {str(Path(path).parent) for path in prepare(name, tmp_path)} == set(inboxes)


@pytest.mark.parametrize("name", NAMES)
def test_the_users_files_import_nothing_of_ours(name: str) -> None:
    for path in (EXAMPLES / name).rglob("*.py"):
        assert "import interlock" not in path.read_text()
        assert "from interlock" not in path.read_text()


# ---- diabetes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patients() -> tuple[pd.DataFrame, pd.DataFrame]:
    prepare = load("diabetes", "prepare")
    rows = prepare.table()
    return rows.iloc[: -prepare.HOLDOUT_ROWS], rows.iloc[-prepare.HOLDOUT_ROWS :]


@pytest.fixture(scope="module")
def diabetes() -> ModuleType:
    return load("diabetes", "train")


@pytest.fixture(scope="module")
def line(diabetes: ModuleType) -> type:
    return diabetes.SimpleLinearRegression


@pytest.mark.parametrize("seed", range(20))
def test_descent_comes_as_near_as_least_squares_whatever_the_seed(
    seed: int, diabetes: ModuleType, patients: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    seen, held_out = patients
    params = tomllib.loads((EXAMPLES / "diabetes/interlock.toml").read_text())["params"]
    model = diabetes.train(seen[["bmi"]], seen["progression"], seed=seed, **params)
    score = r2_score(held_out["progression"], model.predict(held_out[["bmi"]]))
    assert len(held_out) == 20
    assert score >= 0.42
    assert score == pytest.approx(0.4726, abs=0.005)
    assert model.epochs_run_ < params["epochs"]


def test_the_last_twenty_patients_are_held_out_and_the_others_are_not(tmp_path: Path) -> None:
    made = prepare("diabetes", tmp_path)
    seen, held_out = (
        pd.read_csv(io.BytesIO(made[f"data/{name}.csv"][0])) for name in ("train/patients", "test/held_out")
    )
    assert (len(seen), len(held_out)) == (422, 20)
    together = pd.concat([seen, held_out], ignore_index=True)
    bundled = load_diabetes(scaled=False)
    assert together["bmi"].to_numpy() == pytest.approx(bundled.data[:, 2])
    assert together["progression"].to_numpy() == pytest.approx(bundled.target)
    assert together["patient"].is_unique


def test_the_same_seed_gives_the_same_line_and_another_seed_another(line: type) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=200), rng.normal(size=200)
    slopes = [line(seed=seed).fit(x, y).slope_ for seed in (3, 3, 4)]
    assert slopes[0] == slopes[1] != slopes[2]


@settings(max_examples=25, deadline=None)
@given(
    slope=st.floats(-100, 100),
    intercept=st.floats(-1e4, 1e4),
    centre=st.floats(-1e3, 1e3),
    spread=st.floats(0.01, 100),
    seed=st.integers(0, 2**31),
)
def test_descent_agrees_with_the_closed_form_in_any_units(
    line: type, slope: float, intercept: float, centre: float, spread: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = centre + spread * rng.normal(size=300)
    noise = spread * (abs(slope) + 1.0)
    y = intercept + slope * x + noise * rng.normal(size=300)
    model = line(seed=seed).fit(x, y)
    exact = LinearRegression().fit(x[:, None], y)
    grid = np.array([centre - 2 * spread, centre, centre + 2 * spread])
    assert np.abs(model.predict(grid) - exact.predict(grid[:, None])).max() < 0.25 * y.std()
    assert abs(r2_score(y, model.predict(x)) - r2_score(y, exact.predict(x[:, None]))) < 0.005


def test_a_constant_feature_gives_the_mean_and_a_perfect_line_is_found(line: type) -> None:
    y = np.arange(50.0)
    assert line().fit(np.full(50, 7.0), y).predict([7.0]) == pytest.approx([24.5], abs=0.5)
    model = line().fit(y[:, None], 3.0 * y - 2.0)
    assert model.predict(y) == pytest.approx(3.0 * y - 2.0, abs=0.02 * 3.0 * y.std())
    assert model.losses_[-1] < model.losses_[0]


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1.0, 2.0], [1.0], "2 rows and y has 1"),
        ([1.0], [1.0], "at least 2 rows"),
        ([1.0, float("nan")], [1.0, 2.0], "X holds NaN"),
        ([1.0, 2.0], [1.0, float("inf")], "y holds NaN or infinity"),
        ([[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0], "X must have one dimension"),
    ],
)
def test_data_that_cannot_be_used_is_named(line: type, x: object, y: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        line().fit(x, y)


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"epochs": 0}, {"tolerance": -1.0}]
)
def test_parameters_that_cannot_be_used_are_named(line: type, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        line(**wrong)
    with pytest.raises(ValueError, match="Call fit first"):
        line().predict([1.0])


# ---- quality -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cut() -> ModuleType:
    return load("quality", "prepare")


def ids(rows: pd.DataFrame) -> set[str]:
    return set(rows["sample_id"])


def test_the_groups_share_out_the_table_without_overlap(cut: ModuleType) -> None:
    groups = cut.parts()
    names = [name for rows in groups.values() for name in rows["sample_id"]]
    assert sorted(names) == sorted(cut.table()["sample_id"])
    assert (len(groups["test"]), len(groups["to_score"])) == (200, 40)


def test_slots_overlap_as_told(cut: ModuleType) -> None:
    slots = {number: cut.slot(number) for number in cut.SLOTS}
    judged = ids(cut.parts()["test"]) | ids(cut.parts()["to_score"])
    assert not any(ids(rows) & judged for rows in slots.values())
    assert [len(slots[number]) for number in cut.SLOTS] == [110, 60, 58, 231]
    assert not ids(slots[1]) & ids(slots[2])
    assert len(ids(slots[3]) & ids(slots[1])) == 40
    assert len(ids(slots[3]) - ids(slots[1])) == 8
    assert int(slots[3].duplicated().sum()) == 10
    assert ids(slots[2]) < ids(slots[4])
    assert len(ids(slots[4]) & ids(slots[3])) == 20
    everything = pd.concat([slots[1], slots[3], slots[4]]).drop_duplicates()
    assert not everything["sample_id"].duplicated().any(), "a sample that comes again must be the same"
    assert len(everything) == 329


def test_only_slot_two_is_damaged_and_beyond_one_percent(cut: ModuleType) -> None:
    numbers = [name for name in cut.table().columns if name not in ("sample_id", "malignant")]
    bad = {n: cut.slot(n)[numbers].apply(pd.to_numeric, errors="coerce").isna().any(axis=1) for n in cut.SLOTS}
    assert {number: int(rows.sum()) for number, rows in bad.items()} == {1: 0, 2: 12, 3: 0, 4: 0}
    whole = cut.slot(4).set_index("sample_id").loc[cut.slot(2)["sample_id"]]
    sound = cut.slot(2)[~bad[2].to_numpy()].set_index("sample_id")
    pd.testing.assert_frame_equal(sound.astype(whole.dtypes), whole.loc[sound.index])


def test_the_first_practice_sends_smooth_samples_only(cut: ModuleType) -> None:
    for number in (1, 3):
        assert cut.slot(number)["mean_concavity"].max() <= cut.SMOOTH
    assert cut.slot(4)["mean_concavity"].max() > cut.SMOOTH
    assert int(cut.slot(1)["malignant"].sum()) == 4


def test_the_story_has_room_to_happen(cut: ModuleType) -> None:
    """Slot 3 adds nothing, slot 4 adds far more than chance: paired bootstrap of the F1 gain on the test inbox."""
    train = load("quality", "train").train
    test = cut.parts()["test"]
    truth, rows, answers = test["malignant"].to_numpy(), pd.DataFrame(), []
    params = tomllib.loads((EXAMPLES / "quality/interlock.toml").read_text())["params"]
    for number in (1, 3, 4):
        rows = pd.concat([rows, cut.slot(number)]).drop_duplicates("sample_id", keep="last")
        features = rows.drop(columns=["sample_id", "malignant"])
        answers.append(train(features, rows["malignant"], seed=0, **params).predict(test[features.columns]))
    scores = [f1_score(truth, answer) for answer in answers]
    assert 0.6 < scores[0] < 0.8
    assert scores[1] <= scores[0]
    assert scores[2] > 0.9
    assert (scores[2] - scores[0]) / (1 - scores[0]) < 0.85, "a gain that looks too good would be held"
    draws = np.random.default_rng(0).integers(0, len(truth), (2_000, len(truth)))
    first, last = (2 * (truth & answer)[draws].sum(1) / (truth + answer)[draws].sum(1) for answer in answers[::2])
    assert np.quantile(last - first, 0.01) > 0.05


# ---- hotel -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hotel() -> ModuleType:
    return load("hotel", "prepare")


def joined(hotel: ModuleType, mode: str) -> pd.DataFrame:
    bookings = pd.concat([hotel.booking_file(part, mode) for part in (1, 2, 3)])
    hotels = pd.concat([hotel.hotel_file(part) for part in (1, 2)])
    bookings = bookings.drop_duplicates("booking_id", keep="last")
    return bookings.merge(hotels.drop_duplicates("hotel_id", keep="last"), on="hotel_id", validate="many_to_one")


@pytest.fixture(scope="module", params=["signal", "noise"])
def judged(request: pytest.FixtureRequest, hotel: ModuleType) -> tuple[str, pd.Series, np.ndarray]:
    """Mode, truth and answers of the example's own model on a fifth of the rows."""
    rows = joined(hotel, request.param)
    held, aside, used = np.split(
        np.random.default_rng(5).permutation(len(rows)), [len(rows) // 5, len(rows) // 5 + len(rows) * 4 // 25]
    )
    params = tomllib.loads((EXAMPLES / "hotel/interlock.toml").read_text())["params"]
    X, y = rows[HOTEL_FEATURES], rows["status"]
    model = load("hotel", "train").train(X.iloc[used], y.iloc[used], X.iloc[aside], y.iloc[aside], params, seed=0)
    answers = load("hotel", "predict").predict(model, X.iloc[held])
    columns = [f"probability_{place}" for place in range(3)]
    assert answers[columns].sum(axis=1).to_numpy() == pytest.approx(1.0)
    assert (model["statuses"][answers[columns].to_numpy().argmax(axis=1)] == answers["prediction"]).all()
    return request.param, y.iloc[held], answers["prediction"].to_numpy()


def test_the_signal_is_learned_and_in_noise_the_model_is_the_baseline(
    judged: tuple[str, pd.Series, np.ndarray],
) -> None:
    mode, truth, answers = judged
    by_chance = f1_score(truth, np.random.default_rng(0).permutation(truth), average="macro")
    prior = f1_score(truth, np.full(len(truth), "stayed"), average="macro")
    score = f1_score(truth, answers, average="macro")
    if mode == "signal":
        assert score > 0.55
        assert score > max(by_chance, prior) + 0.2
    else:
        assert score <= prior + 0.005


def test_noise_has_the_marginals_of_the_signal_and_nothing_else(hotel: ModuleType) -> None:
    signal, noise = hotel.bookings(1, "signal"), hotel.bookings(1, "noise")
    pd.testing.assert_frame_equal(signal.drop(columns="status"), noise.drop(columns="status"))
    assert sorted(signal["status"]) == sorted(noise["status"])
    lead = (noise["arrive_on"] - noise["booked_on"]).dt.days
    means = {mode: lead.groupby(rows["status"]).mean() for mode, rows in (("signal", signal), ("noise", noise))}
    assert means["signal"]["cancelled"] > 2 * means["signal"]["stayed"]
    assert means["noise"].max() < 1.2 * means["noise"].min()
    with pytest.raises(ValueError, match="signal or noise"):
        hotel.bookings(1, "both")


def test_files_repeat_change_and_orphan_as_told(hotel: ModuleType) -> None:
    first, second = hotel.booking_file(1, "signal"), hotel.booking_file(2, "signal")
    again = second[second["booking_id"].isin(first["booking_id"])].set_index("booking_id")
    before = first.set_index("booking_id").loc[again.index]
    assert len(again) == hotel.RESENT
    assert int((again["leave_on"] != before["leave_on"]).sum()) == hotel.CHANGED
    assert again.drop(columns="leave_on").equals(before.drop(columns="leave_on"))
    described = set(hotel.hotel_file(1)["hotel_id"]) | set(hotel.hotel_file(2)["hotel_id"])
    assert int((~second["hotel_id"].isin(described)).sum()) == hotel.HOMELESS
    old, new = hotel.hotel_file(1).set_index("hotel_id"), hotel.hotel_file(2).set_index("hotel_id")
    both = new.index.intersection(old.index)
    assert len(both) == hotel.RESTARRED
    assert (old.loc[both, "stars"] != new.loc[both, "stars"]).all()


def test_what_is_to_be_scored_has_the_columns_of_the_query_without_the_status(hotel: ModuleType) -> None:
    query = load_settings(EXAMPLES / "hotel").data.query
    asked = [name.strip() for name in query.split("from")[0].replace("select", "").split(",")]
    assert [*hotel.to_score(1).columns, "status"] == asked
    assert not set(hotel.to_score(1)["booking_id"]) & set(hotel.to_score(2)["booking_id"])


def test_the_mode_cannot_change_under_way(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="without --next"):
        prepare("hotel", tmp_path, "--next")
    before = prepare("hotel", tmp_path)
    with pytest.raises(SystemExit, match="--reset"):
        prepare("hotel", tmp_path, "--mode", "noise")
    assert contents(tmp_path) == before
    more = prepare("hotel", tmp_path, "--next")
    assert more.keys() - before.keys() == {"data/bookings/bookings_4.csv", "data/to_score/arrivals_2.csv"}
    assert prepare("hotel", tmp_path, "--reset", "--mode", "noise").keys() == before.keys()
