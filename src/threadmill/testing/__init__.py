"""Tools for tests, shipped: contract suites of the ports and an in-process engine."""
