import pickle
import sys

import msgspec
import polars as pl
import pytest

from interlock.model.compile import check_parity, compile_model, difference, made_rows
from interlock.model.forms import CategoryTerm, Linear, NumberTerm, load_form
from interlock.records import Column, Output, Signature, canonical

SIGNATURE = Signature(
    inputs=(
        Column(name="x", type="float", nullable=True, low=-1.0, high=2.0),
        Column(name="n", type="int", nullable=False, low=0.0, high=5.0),
        Column(name="c", type="str", nullable=False, categories=("a", "b")),
        Column(name="t", type="bool", nullable=False),
        Column(name="d", type="date", nullable=True),
    ),
    output=Output(kind="number", type="float"),
)
DTYPES = {"x": pl.Float64, "n": pl.Int64, "c": pl.String, "t": pl.Boolean, "d": pl.Date}
ROWS = pl.DataFrame(
    {"x": [0.5, -1.0, 2.0], "n": [0, 3, 5], "c": ["a", "b", "a"], "t": [True, False, True], "d": [None, None, None]},
    schema=DTYPES,
)
FORM = Linear(
    link="number",
    intercepts=(1.0,),
    terms=(
        NumberTerm(column="x", shift=0.0, weights=(2.0,), fill=0.0),
        CategoryTerm(column="c", keys=("a", "b"), weights=((0.5,), (-0.5,)), unknown=(0.0,), missing=(0.0,)),
    ),
)


class TestMadeRows:
    def test_known_values_are_calm_and_the_rest_is_risky(self):
        made = made_rows(ROWS, SIGNATURE)
        assert made.calm.schema == made.risky.schema == DTYPES
        assert {-1.0, 0.5, 2.0} <= set(made.calm["x"])
        assert set(made.calm["c"]) == {"a", "b"}
        assert set(made.calm["t"]) == {True, False}
        assert made.calm["x"].null_count() == 0
        assert {1e12, -1e12, None} <= set(made.risky["x"])
        assert {"", "A"} <= set(made.risky["c"]) - {"a", "b"}
        assert made.risky["n"].null_count() == 0

    def test_bytes_are_not_varied(self):
        signature = Signature(inputs=(Column(name="image", type="bytes", nullable=True), SIGNATURE.inputs[1]))
        rows = ROWS.select(pl.lit(b"\xff").alias("image"), "n")
        made = made_rows(rows, signature)
        assert set(made.calm["image"]) == {b"\xff"}
        assert set(made.risky["image"]) == {b"\xff", None}

    def test_without_rows(self):
        made = made_rows(ROWS.clear(), SIGNATURE)
        assert made.calm.height == made.risky.height == 0


def parity(native, form=FORM):
    return check_parity(native, form, ROWS, native(ROWS), made_rows(ROWS, SIGNATURE))


class TestParity:
    def test_equal(self):
        found = parity(FORM.answer)
        assert found.agrees
        assert found.largest_gap == 0.0
        assert found.made_rows > 30

    def test_rounding_is_allowed_and_more_is_not(self):
        assert parity(lambda rows: FORM.answer(rows) * (1 + 1e-12)).agrees
        found = parity(lambda rows: FORM.answer(rows) * (1 + 1e-8))
        assert not found.agrees
        assert "on the holdout" in found.reason

    def test_a_category_that_the_holdout_lacks(self):
        def native(rows):
            return FORM.answer(rows).with_columns(
                pl.when(rows["c"] == "A").then(9.0).otherwise("prediction").alias("prediction")
            )

        assert difference(native(ROWS), FORM.answer(ROWS)) == (0.0, "")
        found = parity(native)
        assert not found.agrees
        assert "made rows" in found.reason

    def test_refusals_must_match(self):
        def picky(rows):
            if not rows["c"].is_in(["a", "b"]).all():
                raise ValueError("unknown category")
            return FORM.answer(rows)

        found = parity(picky)
        assert (found.agrees, found.reason) == (False, "answers made rows where the model does not")
        refusing = msgspec.structs.replace(
            FORM, terms=(FORM.terms[0], msgspec.structs.replace(FORM.terms[1], unknown=None))
        )
        assert parity(picky, refusing).agrees
        found = parity(FORM.answer, refusing)
        assert (found.agrees, found.reason) == (False, "refuses made rows where the model does not")

    @pytest.mark.parametrize(
        ("form", "words"),
        [
            ({"prediction": ["a", "b"], "probability_0": [1.0, 0.0]}, ""),
            ({"prediction": ["a", "a"], "probability_0": [1.0, 0.0]}, "1 of 2 labels"),
            ({"prediction": ["a", "b"], "probability_0": [1.0, 1e-10]}, "times the allowed"),
            ({"prediction": ["a", "b"]}, "instead of prediction, probability_0"),
            ({"prediction": [1, 2], "probability_0": [1.0, 0.0]}, "answers Int64"),
        ],
    )
    def test_differences(self, form, words):
        native = pl.DataFrame({"prediction": ["a", "b"], "probability_0": [1.0, 0.0]})
        _, reason = difference(native, pl.DataFrame(form))
        assert (words in reason) if words else reason == ""


@pytest.fixture(autouse=True)
def _search_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


class Halves:
    """A model that the fold knows nothing of."""

    def predict(self, frame):
        return frame["x"].fillna(0.0) / 2


class Broken:
    def predict(self, frame):
        raise RuntimeError("no")


def compiled(tmp_path, model, signature=SIGNATURE):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pkl").write_bytes(pickle.dumps(model))
    manifest = {
        "native": {"model": "model.pkl", "folders": ["."], "frames": "pandas", "predict": None},
        "task": "regression",
        "params": {},
        "seed": 0,
        "columns": [],
    }
    (tmp_path / "manifest.json").write_bytes(canonical(manifest))
    ROWS.write_ipc(tmp_path / "rows.arrow")
    call = {
        "bundle": str(tmp_path),
        "signature": msgspec.to_builtins(signature),
        "holdout": str(tmp_path / "rows.arrow"),
        "sample": str(tmp_path / "rows.arrow"),
        "output": str(tmp_path / "fast"),
        "answers": str(tmp_path / "answers.arrow"),
    }
    return compile_model(call)


class TestCompile:
    def test_a_linear_model(self, tmp_path):
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline

        signature = Signature(inputs=SIGNATURE.inputs[:2], output=SIGNATURE.output)
        frame = ROWS.select("x", "n").to_pandas()
        model = make_pipeline(SimpleImputer(), LinearRegression()).fit(frame, [1.0, 2.0, 4.0])
        result = compiled(tmp_path, model, signature)
        assert (result["form"], result["reason"]) == ("linear", "")
        assert result["parity"]["native_s"] > 0
        form = load_form(tmp_path / "fast", "linear", signature)
        assert form.answer(ROWS)["prediction"].to_list() == pytest.approx(list(model.predict(frame)), rel=1e-9)
        assert pl.read_ipc(tmp_path / "answers.arrow").height == 3

    def test_an_unknown_model_is_native(self, tmp_path):
        result = compiled(tmp_path, Halves())
        assert (result["form"], result["reason"], result["answered"]) == ("native", "no rule for Halves", True)
        assert not (tmp_path / "fast").exists()
        assert pl.read_ipc(tmp_path / "answers.arrow")["prediction"].to_list() == [0.25, -0.5, 1.0]

    def test_a_model_that_fails_is_native_and_says_so(self, tmp_path):
        result = compiled(tmp_path, Broken())
        assert (result["form"], result["answered"]) == ("native", False)
        assert result["reason"] == "it failed on the holdout: RuntimeError: no"

    def test_a_model_that_cannot_answer(self, tmp_path):
        with pytest.raises(TypeError, match="a dict without a predict method"):
            compiled(tmp_path, {"weights": 1})
