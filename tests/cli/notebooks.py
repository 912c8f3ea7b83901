"""Notebooks in the ways that people write them, with the data that they read. All made up here, with a seed."""

import csv
import json
import random
from pathlib import Path


def notebook(*cells: str | tuple[str, str]) -> str:
    """Notebook JSON. A cell is code; a pair is ``("markdown", text)`` or ``("parameters", code)``."""
    made = []
    for cell in cells:
        kind, source = cell if isinstance(cell, tuple) else ("code", cell)
        tags = {"tags": ["parameters"]} if kind == "parameters" else {}
        item: dict[str, object] = {"cell_type": "markdown" if kind == "markdown" else "code", "metadata": tags}
        item["source"] = source.splitlines(keepends=True)
        if item["cell_type"] == "code":
            item |= {"execution_count": None, "outputs": []}
        made.append(item)
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    return json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4})


def passengers(path: Path, rows: int = 500, *, seed: int = 1, labelled: bool = True) -> Path:
    """A ship's list: class, sex, age with gaps, fare, port with gaps; who survived follows from class, sex and age."""
    source = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        head = ["PassengerId", *(["Survived"] if labelled else []), "Pclass", "Name", "Sex", "Age", "Fare", "Embarked"]
        writer.writerow(head)
        for number in range(rows):
            grade, sex = source.choice([1, 2, 3]), source.choice(["male", "female"])
            age = round(source.uniform(1, 70), 1)
            fare = round(90 / grade + source.gauss(0, 5), 2)
            port = source.choice(["S", "C", "Q"])
            fate = int((sex == "female") * 1.6 - 0.5 * grade - age / 60 + source.gauss(0, 0.4) + 0.6 > 0)
            row = [grade, f"P. {number}", sex, age if source.random() > 0.1 else "", fare]
            writer.writerow([number, *([fate] if labelled else []), *row, port if source.random() > 0.02 else ""])
    return path


def houses(path: Path, rows: int = 400, *, seed: int = 2) -> Path:
    """Homes: size in m2, rooms, district, year; the price follows from them."""
    source = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["area", "rooms", "district", "year", "price"])
        for _ in range(rows):
            area, rooms = round(source.uniform(30, 200), 1), source.randint(1, 7)
            district, year = source.choice(["north", "south", "old town"]), source.randint(1900, 2020)
            price = 3.1 * area + 12 * rooms + 60 * (district == "old town") + 0.4 * (year - 1900) + source.gauss(0, 12)
            writer.writerow([area, rooms, district, year, round(price, 2)])
    return path


TITANIC = notebook(
    ("markdown", "# Who survives?"),
    "import numpy as np\nimport pandas as pd\nimport matplotlib.pyplot as plt\n"
    "import seaborn as sns\n%matplotlib inline",
    "train_df = pd.read_csv('passengers.csv')\ntest_df = pd.read_csv('test.csv')\ntrain_df.head()",
    "train_df.info()\ntrain_df.describe()",
    "sns.countplot(x='Survived', data=train_df)\nplt.show()",
    "train_df['Age'] = train_df['Age'].fillna(train_df['Age'].median())\n"
    "train_df['Embarked'] = train_df['Embarked'].fillna(train_df['Embarked'].mode()[0])\n"
    "test_df['Age'] = test_df['Age'].fillna(test_df['Age'].median())",
    "train_df['Child'] = (train_df['Age'] < 16).astype(int)\n"
    "train_df['Sex'] = train_df['Sex'].map({'male': 0, 'female': 1})",
    "train_df = train_df.drop(['Name', 'PassengerId'], axis=1)\n"
    "train_df = pd.get_dummies(train_df, columns=['Embarked'], drop_first=True)",
    "from sklearn.model_selection import train_test_split\n"
    "X = train_df.drop('Survived', axis=1)\ny = train_df['Survived']\n"
    "X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=42)",
    "from sklearn.linear_model import LogisticRegression\n"
    "logreg = LogisticRegression(max_iter=1000)\nlogreg.fit(X_train, y_train)\nlogreg.score(X_test, y_test)",
    "from sklearn.ensemble import RandomForestClassifier\nfrom sklearn.metrics import accuracy_score\n"
    "rf = RandomForestClassifier(n_estimators=60, random_state=42)\nrf.fit(X_train, y_train)\n"
    "pred = rf.predict(X_test)\nprint('Accuracy:', accuracy_score(y_test, pred))",
)

PIPELINE = notebook(
    ("parameters", "alpha = 1.0\nseed = 7"),
    "import pandas as pd\nfrom sklearn.compose import ColumnTransformer\nfrom sklearn.linear_model import Ridge\n"
    "from sklearn.pipeline import Pipeline\nfrom sklearn.preprocessing import OneHotEncoder, StandardScaler\n"
    "from sklearn.model_selection import train_test_split, cross_val_score",
    "df = pd.read_csv('houses.csv')\nnumeric = ['area', 'rooms', 'year']\ncategorical = ['district']",
    "X = df[numeric + categorical]\ny = df['price']\n"
    "X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=seed)",
    "pre = ColumnTransformer([('num', StandardScaler(), numeric),\n"
    "                         ('cat', OneHotEncoder(handle_unknown='ignore'), categorical)])\n"
    "pipe = Pipeline([('pre', pre), ('ridge', Ridge(alpha=alpha))])\npipe.fit(X_train, y_train)",
    "cross_val_score(pipe, X, y, cv=5).mean()\npipe.score(X_test, y_test)",
    "import joblib\njoblib.dump(pipe, 'model.joblib')",
)

LIGHTGBM = notebook(
    "import lightgbm as lgb\nimport pandas as pd\nfrom sklearn.model_selection import train_test_split",
    "data = pd.read_csv('houses.csv')\ndata.shape",
    "for column in ['district']:\n    data[column] = data[column].astype('category')",
    "target = 'price'\nfeatures = [c for c in data.columns if c != target]",
    "X = data[features]\ny = data['price']",
    "X_tr, X_val, y_tr, y_val = train_test_split(X, y, test_size=0.2, random_state=0)",
    "model = lgb.LGBMRegressor(n_estimators=300, learning_rate=0.05, verbose=-1)\n"
    "model.fit(X_tr, y_tr, eval_set=[(X_val, y_val)], callbacks=[lgb.early_stopping(20, verbose=False)])",
    "lgb.plot_importance(model)",
)

MESSY = notebook(
    "!pip install -q scikit-learn",
    "results.append(score)  # from an earlier attempt",
    "%load_ext autoreload\n%autoreload 2\nimport pandas as pd, numpy as np\n"
    "from sklearn.preprocessing import StandardScaler",
    "df = pd.read_csv('passengers.csv')\ndf?",
    "df = df.dropna(subset=['Age'])\ndf",
    "plt.hist(df['Age'])",
    "df2 = df[df.Fare > 20]\ndf2.groupby('Pclass').mean(numeric_only=True)",
    "files = !ls\nprint(files)",
    "X = df[['Pclass', 'Age', 'Fare']]\ny = df.Survived",
    "%%time\nfrom sklearn.neighbors import KNeighborsClassifier\nfrom sklearn.model_selection import train_test_split\n"
    "Xa, Xb, ya, yb = train_test_split(X, y, random_state=3)\n"
    "sc = StandardScaler()\nXa = sc.fit_transform(Xa)\nXb = sc.transform(Xb)\n"
    "knn = KNeighborsClassifier(15)\nknn.fit(Xa, ya)\nprint(knn.score(Xb, yb))",
    "%%bash\nls -l",
)

ENTANGLED = notebook(
    "import pandas as pd\nfrom sklearn.ensemble import RandomForestRegressor",
    "df = pd.read_csv('houses.csv')",
    "df['rank'] = df.groupby('district')['area'].rank()",
    "X = df[['area', 'rooms', 'rank']]\ny = df['price']",
    "model = RandomForestRegressor(n_estimators=20).fit(X, y)",
)
