"""Asks the agent, and prints its answer word by word as it comes.

THREADMILL_URL names the server.
"""

from __future__ import annotations

import os
from typing import Any

from langgraph_sdk import get_sync_client

URL = os.environ.get("THREADMILL_URL", "http://127.0.0.1:2024")


def main() -> None:
    """Has a conversation of two questions."""
    client = get_sync_client(url=URL, api_key=None)
    thread_id = client.threads.create()["thread_id"]
    for question in ["Who are you?", "What is 6 times 7?"]:
        print(f"You:   {question}")
        print("Agent: ", end="", flush=True)
        for part in client.runs.stream(
            thread_id,
            "agent",
            input={"messages": [{"role": "user", "content": question}]},
            stream_mode="messages-tuple",
        ):
            if part.event == "messages":
                show(*part.data)
            elif part.event == "error":
                raise SystemExit(f"the run failed: {part.data}")
        print()


def show(message: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Prints a piece of a message: words, a tool call, or a tool's result."""
    if metadata["langgraph_node"] == "tools":
        print(f"-> {message['content']}] ", end="", flush=True)
        return
    for call in message.get("tool_calls") or ():
        print(f"[{call['name']}({call['args']}) ", end="", flush=True)
    print(message["content"], end="", flush=True)


if __name__ == "__main__":
    main()
