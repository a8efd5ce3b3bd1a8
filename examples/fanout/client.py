"""Counts the words of a few texts, and prints each result as it commits.

THREADMILL_URL names the server.
"""

from __future__ import annotations

import os
from typing import Any

from langgraph_sdk import get_sync_client

URL = os.environ.get("THREADMILL_URL", "http://127.0.0.1:2024")
TEXTS = [
    "the mill grinds",
    "threads go through it",
    "any worker takes the next one",
    "nothing is lost",
]


def main() -> None:
    """Runs without a thread of its own: the run gets a temporary one."""
    client = get_sync_client(url=URL, api_key=None)
    for part in client.runs.stream(
        None, "fanout", input={"texts": TEXTS}, stream_mode="updates"
    ):
        if part.event == "error":
            raise SystemExit(f"the run failed: {part.data}")
        if part.event == "updates":
            for node, update in part.data.items():
                show(node, update)


def show(node: str, update: dict[str, Any]) -> None:
    """Prints what one task contributed."""
    if node == "count":
        for one in update["counts"]:
            print(f"{one['words']} words in '{one['text']}'")
    else:
        print(f"{update['total']} words in all")


if __name__ == "__main__":
    main()
