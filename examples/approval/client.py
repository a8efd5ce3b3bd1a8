"""Orders something, looks at the question, and answers it.

THREADMILL_URL names the server.
"""

from __future__ import annotations

import os
from typing import Any

from langgraph_sdk import get_sync_client

URL = os.environ.get("THREADMILL_URL", "http://127.0.0.1:2024")


def main() -> None:
    """Two runs: one ends with a question, the next one brings the answer."""
    client = get_sync_client(url=URL, api_key=None)
    thread_id = client.threads.create()["thread_id"]
    asked: Any = client.runs.wait(
        thread_id, "approval", input={"order": "a mill", "amount": 120}
    )
    (question,) = asked["__interrupt__"]
    print(f"Asked: {question['value']['question']}")
    print(f"The thread is {client.threads.get(thread_id)['status']}, nothing runs.")

    answered: Any = client.runs.wait(
        thread_id,
        "approval",
        command={"resume": {question["id"]: {"approved": True}}},
    )
    print(f"Answered: yes. The order is {answered['outcome']}.")
    print(f"The thread is {client.threads.get(thread_id)['status']}.")


if __name__ == "__main__":
    main()
