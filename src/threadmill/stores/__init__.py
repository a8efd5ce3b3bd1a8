"""Durable truth about threads, runs, activations and workers: ports and adapters."""
