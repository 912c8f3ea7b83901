"""Shipped kit for tests: fakes of every port and the conformance suites that adapters must pass."""
