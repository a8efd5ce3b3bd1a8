"""The functional interface: its result is a bare value."""

from typing import Any

from langgraph.func import entrypoint, task


@task
async def add(count: int) -> int:
    return count + 1


@entrypoint()
async def counter(n: int, *, previous: Any = None) -> int:
    return await add((previous or 0) + n)
