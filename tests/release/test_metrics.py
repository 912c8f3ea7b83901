import pytest

from interlock.errors import SettingsError
from interlock.release.metrics import chosen_metric, named_metric, shown_metrics

TASKS = ("classification", "regression", "forecast", "ranking", "text")


def test_choosing_a_metric():
    assert [chosen_metric("", task) for task in TASKS] == [
        "f1_macro",
        "r2",
        "neg_mean_absolute_error",
        "recall_at_10",
        "token_f1",
    ]
    assert chosen_metric("metrics.py:cost", "custom") == "metrics.py:cost"
    assert chosen_metric("accuracy", "custom") == "accuracy"
    with pytest.raises(SettingsError, match="no metric of its own"):
        chosen_metric("", "custom")
    with pytest.raises(SettingsError, match="'f1_macro'"):
        chosen_metric("f1_marco", "classification")
    with pytest.raises(SettingsError, match="'neg_mean_squared_error'"):
        named_metric("mean_squared_error", "regression")
    with pytest.raises(SettingsError, match="answers with numbers"):
        named_metric("accuracy", "regression")
    with pytest.raises(SettingsError, match="answers with labels"):
        named_metric("r2", "classification")
    with pytest.raises(SettingsError, match="recall_at_10 is a metric of ranking, and a text model answers with text"):
        named_metric("recall_at_10", "text")


@pytest.mark.parametrize("task", TASKS)
def test_shown_metrics_fit_the_task_and_leave_out_the_deciding_one(task):
    deciding = chosen_metric("", task)
    shown = shown_metrics(task, (deciding, "r2"), deciding)
    assert deciding not in shown
    assert len(set(shown)) == len(shown)
    for name in shown:
        if name != "r2":
            named_metric(name, task)


def test_how_far_apart_two_models_can_be():
    from interlock.release.metrics import METRICS, span_of

    assert span_of("accuracy") == span_of("f1_macro") == span_of("roc_auc") == span_of("recall_at_10") == 1.0
    assert span_of("matthews_corrcoef") == 2.0
    for name in ("r2", "neg_log_loss", "neg_mean_absolute_error", "own.py:f"):
        assert span_of(name) == float("inf")
    assert {span_of(name) for name in METRICS} == {1.0, 2.0, float("inf")}
