"""Counts many texts at once, and shows which worker counted how many.

THREADMILL_URL names the server.
"""

from __future__ import annotations

import os
import time
from collections import Counter

from langgraph_sdk import get_sync_client

URL = os.environ.get("THREADMILL_URL", "http://127.0.0.1:2024")
TEXTS = [f"text number {number}" for number in range(24)]


def main() -> None:
    """One run without a thread of its own."""
    client = get_sync_client(url=URL, api_key=None)
    started = time.perf_counter()
    state = client.runs.wait(None, "fanout", input={"texts": TEXTS})
    took = time.perf_counter() - started
    for worker, counted in sorted(
        Counter(c["worker"] for c in state["counts"]).items()
    ):
        print(f"{worker} counted {counted} texts")
    print(f"{state['total']} words in {len(state['counts'])} texts, {took:.1f} s")


if __name__ == "__main__":
    main()
