"""Acceptance: suites of rows, runs of them, what their figures are worth, and the verdict."""
