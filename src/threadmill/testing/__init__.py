"""Tools for tests, shipped.

Contract suites of the ports, an in-process engine, and a checker of histories.
"""
