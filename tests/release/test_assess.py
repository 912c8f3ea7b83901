import numpy as np
import polars as pl
import pytest

from interlock.errors import SettingsError, StoreFault
from interlock.records import canonical
from interlock.release.assess import (
    Header,
    Terms,
    Witness,
    assess,
    groups_of,
    problem_of,
    read_evidence,
    shuffled_answers,
    write_evidence,
)

MODELS = (Witness(who="candidate"), Witness(who="champion"), Witness(who="baseline"))


def terms(**changes):
    facts = {
        "metric": "accuracy",
        "greater_is_better": True,
        "confidence": 0.95,
        "alpha": 0.03,
        "min_slice_rows": 30,
        "seed": 0,
        "resamples": 500,
    }
    return Terms(**(facts | changes))


def evidence(rows=240, slices=1, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.choice(["a", "b"], rows)
    columns = {"row": np.arange(rows, dtype=np.uint64), "truth": truth}
    for who, skill in (("candidate", 0.8), ("champion", 0.7), ("baseline", 0.5)):
        columns[f"{who}.prediction"] = np.where(rng.random(rows) < skill, truth, np.where(truth == "a", "b", "a"))
    columns["slice.part"] = [f"p{number % slices}" for number in range(rows)]
    return pl.DataFrame(columns), Header(task="classification", models=MODELS, also=("f1_macro", "neg_log_loss"))


def test_evidence_survives_its_bytes():
    frame, header = evidence()
    again, told = read_evidence(write_evidence(frame, header))
    assert again.equals(frame)
    assert told == header
    assert write_evidence(again, told) == write_evidence(frame, header)
    with pytest.raises(StoreFault, match="cannot be read"):
        read_evidence(b"PAR1 but not really")


def test_everything_follows_from_evidence_and_terms():
    frame, header = evidence()
    one, two = (assess(frame, header, terms()) for _ in range(2))
    assert canonical(one) == canonical(two)
    assert canonical(one) != canonical(assess(frame, header, terms(seed=1)))
    assert set(one.extra["candidate"]) == {"f1_macro"}  # nobody gave probabilities
    assert one.scores["candidate"].low < one.scores["candidate"].value < one.scores["candidate"].high
    assert [found.against for found in one.comparisons] == ["champion", "baseline"]


def test_a_smaller_alpha_lowers_the_bound_and_leaves_the_rest():
    frame, header = evidence()
    loose, strict = (assess(frame, header, terms(alpha=alpha)) for alpha in (0.03, 0.0003))
    assert strict.comparisons[0].low < loose.comparisons[0].low
    assert strict.scores == loose.scores
    assert strict.slices == loose.slices


def test_slices_share_the_confidence():
    """The same rows: the more slices are judged beside it, the wider the bound of each."""
    frame, header = evidence()
    halves = frame.with_columns(
        pl.when(pl.col("row") < 120).then(pl.lit("x")).otherwise(pl.lit("y")).alias("slice.part")
    )
    crowd = halves.with_columns(
        pl.when(pl.col("slice.part") == "x")
        .then(pl.lit("x"))
        .otherwise(pl.concat_str(pl.lit("y"), (pl.col("row") % 3).cast(pl.String)))
        .alias("slice.part")
    )
    two = next(found for found in assess(halves, header, terms()).slices if found.value == "x")
    four = next(found for found in assess(crowd, header, terms()).slices if found.value == "x")
    assert (two.rows, two.gain) == (four.rows, four.gain)
    assert four.high > two.high
    many = assess(crowd, header, terms(min_slice_rows=100)).slices  # the three small ones are not judged
    assert next(found for found in many if found.value == "x").high < two.high


def test_labels_of_different_types_are_brought_together():
    frame = pl.DataFrame(
        {
            "truth": [1, 0, 1, 1],
            "candidate.prediction": [1.0, 0.0, 1.0, 0.0],
            "champion.prediction": [True, False, True, True],
            "baseline.prediction": [2, 2, 2, 2],
        }
    )
    header = Header(task="classification", models=MODELS)
    problem = problem_of(frame, header, "labels")
    assert problem.classes == (0.0, 1.0, 2.0)
    assert problem.codes.tolist() == [1, 0, 1, 1]
    assert [answer.labels.tolist() for answer in problem.answers] == [[1, 0, 1, 0], [1, 0, 1, 1], [2, 2, 2, 2]]
    text = problem_of(frame.with_columns(pl.col("truth").cast(pl.String)), header, "labels")
    assert "1" in text.classes


def test_a_metric_of_numbers_cannot_score_text():
    frame, header = evidence()
    with pytest.raises(SettingsError, match="metric of numbers"):
        problem_of(frame, header, "numbers")


def test_guessing_is_told_from_knowing_on_few_rows():
    """Twenty rows and a correlation of 0.7 are enough, in whichever order the answers were shuffled."""
    rng = np.random.default_rng(5)
    truth = rng.normal(size=20)
    known, blind = 0.6 * truth + 0.4 * rng.normal(size=20), 0.6 * rng.normal(size=20)
    for name, answers, knows in (("known", known, True), ("blind", blind, False)):
        frame = pl.DataFrame(
            {
                "row": np.arange(20, dtype=np.uint64),
                "truth": truth,
                "candidate.prediction": answers,
                "baseline.prediction": np.zeros(20),
            }
        )
        for seed in range(5):
            shown, shuffled = shuffled_answers(frame, MODELS[0], seed)
            header = Header(task="regression", models=(MODELS[0], MODELS[2], shuffled))
            found = assess(shown, header, terms(metric="r2", seed=seed))
            guessing = next(one for one in found.comparisons if one.against == "shuffled")
            assert (guessing.low > 0.0) == knows, name
            assert found.scores["shuffled"].low <= found.scores["shuffled"].value <= found.scores["shuffled"].high


def test_rows_of_one_key_count_as_one():
    """Eight copies of every row: by key the bounds are those of the rows, and the copies prove nothing."""
    single, header = evidence(rows=60)
    copies = pl.concat([single] * 8)
    for metric in ("accuracy", "f1_macro"):
        alone = assess(single, header, terms(metric=metric, resamples=2000))
        by_key = assess(copies, header, terms(metric=metric, resamples=2000))
        bold = assess(copies, header, terms(metric=metric, resamples=2000, edition=1))
        assert (alone.units, by_key.units, bold.units) == (60, 60, None)
        for one, same, more in zip(alone.comparisons, by_key.comparisons, bold.comparisons, strict=True):
            assert same.low == pytest.approx(one.low, abs=0.03)
            assert more.low > one.low + 0.05
            assert same.differing == one.differing
            assert more.differing == 8 * one.differing


def test_groups_are_numbered_by_name_and_none_where_all_differ():
    assert groups_of(pl.Series("row", [7, 9, 8], dtype=pl.UInt64)) is None
    found = groups_of(pl.Series("row", [2**63 + 9, 5, 2**63 + 9, 6], dtype=pl.UInt64))
    assert found.tolist() == [2, 0, 2, 1]
