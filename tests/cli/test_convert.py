"""Notebooks taken apart: what is written runs, and answers as the notebook's own model would."""

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.impute import SimpleImputer

from cli import notebooks
from interlock.cli.convert import Converted, convert
from interlock.cli.from_notebook import scaffold_from_notebook
from interlock.errors import ContractError, InterlockError, Misuse, NotFound


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    """Convert cells, import the files, and give what was converted with its train and predict."""

    def make(*cells: str | tuple[str, str], target: str = "") -> tuple[Converted, dict[str, Any]]:
        path = tmp_path / "n.ipynb"
        path.write_text(notebooks.notebook(*cells))
        converted = convert(path, target)
        names: dict[str, Any] = {}
        for name in ("features.py", "train.py", "predict.py"):
            if name in converted.files:
                (tmp_path / name).write_text(converted.files[name])
        if "train.py" in converted.files:
            sys.modules.pop("features", None)
            for name in ("train.py", "predict.py"):
                exec(compile(converted.files[name], name, "exec"), names)
        return converted, names

    sys.path.insert(0, str(tmp_path))
    yield make
    sys.path.remove(str(tmp_path))
    sys.modules.pop("features", None)


def frame(rows: int = 60) -> pd.DataFrame:
    """a: float with gaps, b: letters, n: int, y: float that follows from them."""
    a = [None if i % 9 == 4 else float(i % 13) for i in range(rows)]
    b = ["klm"[i % 3] for i in range(rows)]
    y = [(value or 6.0) * 2 + "klm".index(letter) for value, letter in zip(a, b, strict=True)]
    return pd.DataFrame({"a": a, "b": b, "n": range(rows), "y": y})


READ = "import pandas as pd\nimport numpy as np\ndf = pd.read_csv('rows.csv')"
FIT = (
    "from sklearn.tree import DecisionTreeRegressor\nX = df.drop(columns=['y'])\ny = df['y']\n"
    "model = DecisionTreeRegressor(random_state=0).fit(X, y)"
)


@pytest.mark.parametrize(
    "cell",
    [
        "df['a'] = df['a'].fillna(df['a'].median())\ndf = pd.get_dummies(df)",
        "df['a'] = df['a'].fillna(df['a'].quantile(0.3))\ndf = pd.get_dummies(df, columns=['b'], drop_first=True)",
        "df = df.fillna({'a': np.nanmean(df['a'])})\ndf['b'] = df['b'].map({'k': 0, 'l': 1, 'm': 2})",
        "for c in ['a', 'n']:\n    df[c] = df[c].fillna(df[c].mean()) / df[c].max()\ndf = df.drop('b', axis=1)",
        (
            "def clean(rows):\n    rows = rows.copy()\n    rows['b'] = rows['b'].str.upper().map(ord)\n"
            "    return rows\ndf = clean(df).fillna(-1)"
        ),
        (
            "from sklearn.preprocessing import OrdinalEncoder\nenc = OrdinalEncoder()\n"
            "df[['b']] = enc.fit_transform(df[['b']])\ndf['a'] = df['a'].fillna(len(df))"
        ),
        "df['b'] = df['b'].map(df.groupby('b')['n'].mean())\ndf = df.fillna(df['a'].mode()[0])",
    ],
)
def test_a_row_alone_is_answered_as_among_the_training_rows(made: Any, cell: str) -> None:
    """What is learned from all rows (a median, the columns of dummies, a fitted encoder) is kept with the model."""
    _, names = made(READ, cell, FIT)
    rows = frame()
    model = names["train"](rows)
    together = list(names["predict"](model, rows.drop(columns="y")))
    alone = [names["predict"](model, rows.drop(columns="y").iloc[[i]].reset_index(drop=True))[0] for i in range(20)]
    assert alone == together[:20]
    assert sum((p - y) ** 2 for p, y in zip(together, rows["y"], strict=True)) < 200


def test_the_rows_handed_over_stay_as_they_are(made: Any) -> None:
    _, names = made(READ, "df['a'] = df['a'].fillna(0)\ndf['b'] = df['b'].map({'k': 0, 'l': 1, 'm': 2})", FIT)
    rows = frame()
    names["train"](rows)
    pd.testing.assert_frame_equal(rows, frame())


def test_scalers_between_split_and_fit_are_kept(made: Any) -> None:
    _, names = made(
        READ,
        "from sklearn.model_selection import train_test_split\nfrom sklearn.impute import SimpleImputer\n"
        "from sklearn.linear_model import LinearRegression\nX = df[['a', 'n']]\ny = df['y']\n"
        "A, B, c, d = train_test_split(X, y, random_state=0)",
        "imputer = SimpleImputer()\nA = imputer.fit_transform(A)\nB = imputer.transform(B)",
        "lr = LinearRegression()\nlr.fit(A, c)\nlr.score(B, d)",
    )
    model = names["train"](frame())
    assert [type(scaler) for scaler in model["scalers"]] == [SimpleImputer]
    assert len(names["predict"](model, frame().drop(columns="y"))) == 60


def test_rows_taken_out_in_training_are_still_answered(made: Any) -> None:
    converted, names = made(
        READ, "df = df[df['n'] > 10]\ndf = df.drop_duplicates()", "df = df.fillna(0)[['n', 'a', 'y']]", FIT
    )
    model = names["train"](frame())
    assert len(names["predict"](model, frame().drop(columns="y"))) == 60
    assert converted.query == ""


def test_labels_that_were_mapped_are_mapped_back(made: Any) -> None:
    _, names = made(
        READ,
        "from sklearn.tree import DecisionTreeClassifier\nX = df[['n']]\ny = df['b'].map({'k': 0, 'l': 1, 'm': 2})\n"
        "model = DecisionTreeClassifier()\nmodel.fit(X, y)",
    )
    rows = frame()
    assert list(names["predict"](names["train"](rows), rows)) == list(rows["b"])


def test_the_parameters_cell_becomes_params_and_seed(made: Any) -> None:
    converted, _ = made(
        ("parameters", "depth = 3\nseed = 4\nfast = True"),
        READ,
        "from sklearn.tree import DecisionTreeRegressor\nX = df[['n']]\ny = df.y\n"
        "m = DecisionTreeRegressor(max_depth=depth, random_state=seed)\nm.fit(X, y)",
    )
    assert (converted.params, converted.seed, converted.target) == ({"depth": 3}, 4, "y")
    assert "def train(data, depth, seed):" in converted.files["train.py"]


def test_the_saved_model_is_the_model(made: Any) -> None:
    converted, _ = made(
        READ,
        "from sklearn.tree import DecisionTreeRegressor as T\nX = df[['n']]\ny = df['y']\n"
        "first = T()\nfirst.fit(X, y)\nsecond = T()\nsecond.fit(X, y)",
        "import pickle\npickle.dump(first, open('m.pkl', 'wb'))",
    )
    assert '"model": first' in converted.files["train.py"]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("df['r'] = df['n'].rank()", "Code cell 2: 'rank' looks at other rows"),
        ("df['c'] = df['b'].astype('category').cat.codes", "'cat' looks at other rows"),
        ("df['a'] = df['a'].apply(lambda v: v - df['a'].mean())", "asked for row by row"),
        ("def f(d):\n    return d - d.mean()\ndf['a'] = f(df['a'])", r"f\(\) learns from the rows"),
        ("df['y'] = df['y'] * 2", "'y' is changed in its place"),
        ("df = df.dropna(axis=1)", "dropna by columns"),
        ("df['a'] = df['a'] + unknown", "uses 'unknown', which no earlier cell defines"),
        ("df = df.dropna().assign(k=1)", "more in one statement"),
        ("other = pd.read_csv('more.csv')\ndf = pd.concat([df, other])", "rests on 2 files"),
    ],
)
def test_what_is_not_certain_leaves_the_notebook_as_it_is(made: Any, cell: str, said: str) -> None:
    if "rests on 2" in said:
        with pytest.raises(Misuse, match=said):
            made(READ, cell, FIT, target="y")
        return
    converted, _ = made(READ, cell, FIT, target="y")
    assert converted.train == "n.ipynb"
    assert converted.predict == ""
    import re

    assert re.search(said, converted.notes[0])
    cells = json.loads(converted.files["n.ipynb"])["cells"]
    assert cells[0]["metadata"]["tags"] == ["parameters"]
    assert cells[0]["source"] == "train_path = 'data/inbox/rows.csv'"
    assert "pd.read_csv(train_path)" in cells[1]["source"]


@pytest.mark.parametrize(
    ("cells", "error", "said"),
    [
        (["x = 1"], Misuse, "no statement of the form"),
        ([READ, "x ="], ContractError, "code cell 2, line 1"),
        ([READ, "df['r'] = df['n'].rank()", FIT], Misuse, "Code cell 2"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_the_cell(
    tmp_path: Path, cells: list[str], error: type[InterlockError], said: str
) -> None:
    (tmp_path / "n.ipynb").write_text(notebooks.notebook(*cells))
    with pytest.raises(error, match=said) as raised:
        convert(tmp_path / "n.ipynb", "")
    assert raised.value.next_step


def test_a_missing_notebook_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        convert(tmp_path / "n.ipynb", "")


def test_the_project_around_it(tmp_path: Path) -> None:
    notebooks.passengers(tmp_path / "passengers.csv")
    (tmp_path / "ship.ipynb").write_text(notebooks.MESSY)
    made = scaffold_from_notebook(tmp_path / "ship", tmp_path / "ship.ipynb", data=None, target="Survived")
    settings = tomllib.loads((tmp_path / "ship" / "interlock.toml").read_text())
    assert settings["model"] == {
        "name": "ship",
        "task": "classification",
        "train": "train.py",
        "predict": "predict.py",
        "target": "Survived",
    }
    assert settings["data"]["query"] == 'select * from data where "Age" is not null'
    assert (tmp_path / "ship" / "data" / "inbox" / "passengers.csv").is_file()
    assert "code cells 1, 2, 6, 7, 8" in made.notes[1]
    with pytest.raises(Misuse, match="already"):
        scaffold_from_notebook(tmp_path / "ship", tmp_path / "ship.ipynb", data=None, target="")
