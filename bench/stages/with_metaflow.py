"""The eight stages as a Metaflow flow on the local machine: one step each."""

import work
from metaflow import FlowSpec, Parameter, step


class Loop(FlowSpec):
    folder = Parameter("folder")

    @step
    def start(self):
        self.rows = work.ingest(self.folder)
        self.next(self.check)

    @step
    def check(self):
        self.rows = work.check(self.rows)
        self.next(self.split)

    @step
    def split(self):
        self.training, self.holdout = work.split(self.rows)
        self.next(self.train)

    @step
    def train(self):
        self.model = work.train(self.training)
        self.next(self.evaluate)

    @step
    def evaluate(self):
        self.scores = work.evaluate(self.model, self.training, self.holdout)
        self.next(self.release)

    @step
    def release(self):
        assert work.decide(self.scores)
        work.save(self.model, self.folder)
        self.next(self.predict)

    @step
    def predict(self):
        work.predict(self.model, self.folder)
        self.next(self.end)

    @step
    def end(self):
        work.report(self.scores, self.folder)


if __name__ == "__main__":
    Loop()
