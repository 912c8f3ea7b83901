"""The eight stages as a script, with nothing kept but model, predictions and report."""

import sys

import work

folder = sys.argv[1]
training, holdout = work.split(work.check(work.ingest(folder)))
model = work.train(training)
scores = work.evaluate(model, training, holdout)
if work.decide(scores):
    work.save(model, folder)
    work.predict(model, folder)
work.report(scores, folder)
