"""Two turns of one conversation.

THREADMILL_URL names the server; any server will do, for each turn anew.
"""

from __future__ import annotations

import os
from typing import Any

from langgraph_sdk import get_sync_client

URL = os.environ.get("THREADMILL_URL", "http://127.0.0.1:2024")


def main() -> None:
    """Says two things, and prints what came back."""
    client = get_sync_client(url=URL, api_key=None)
    thread_id = client.threads.create()["thread_id"]
    messages: list[dict[str, Any]] = []
    for turn, text in enumerate(["Hello", "Continue"], start=1):
        messages.append({"role": "user", "content": text})
        state: Any = client.runs.wait(
            thread_id, "conversation", input={"messages": messages, "user_id": "ada"}
        )
        messages = state["messages"]
        print(f"Turn {turn} - Messages: {len(messages)}")
        print(f"Turn {turn} - Turn count: {state['turn_count']}")
        print(f"Turn {turn} - Last message: {messages[-1]['content']}")
    print(f"The thread is {thread_id}; ask for it from any server.")


if __name__ == "__main__":
    main()
