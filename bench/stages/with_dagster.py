"""The eight stages as Dagster ops in one job, in one process, with the default IO manager on the disk."""

import os
import sys

import work
from dagster import DagsterInstance, In, Nothing, Out, execute_job, in_process_executor, job, op, reconstructable

FOLDER = os.environ.get("BENCH_FOLDER", "")


@op
def ingest_op():
    return work.ingest(FOLDER)


@op
def check_op(rows):
    return work.check(rows)


@op(out={"training": Out(), "holdout": Out()})
def split_op(rows):
    return work.split(rows)


@op
def train_op(training):
    return work.train(training)


@op
def evaluate_op(model, training, holdout):
    return work.evaluate(model, training, holdout)


@op
def release_op(model, scores):
    assert work.decide(scores)
    work.save(model, FOLDER)
    return model


@op
def predict_op(model):
    work.predict(model, FOLDER)


@op(ins={"after": In(Nothing)})
def report_op(scores):
    work.report(scores, FOLDER)


@job(executor_def=in_process_executor)
def loop():
    training, holdout = split_op(check_op(ingest_op()))
    model = train_op(training)
    scores = evaluate_op(model, training, holdout)
    report_op(scores=scores, after=predict_op(release_op(model, scores)))


if __name__ == "__main__":
    with DagsterInstance.get() as instance:
        sys.exit(0 if execute_job(reconstructable(loop), instance=instance).success else 1)
