"""Benchmarks: ratios against LangGraph's own PostgreSQL saver, measured side by side.

`python -m bench` (or `make bench`) prints one table. Absolute times belong to the
machine; the ratios are what is compared.
"""
