"""Tools for tests, shipped: contract suites of the ports, an in-process engine, a
checker of histories."""
