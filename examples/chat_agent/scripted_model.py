"""A chat model that needs no key: it follows a script, and streams word by word.

It stands where a real model would. To use one, replace `ScriptedModel()` in agent.py
by, say, `init_chat_model("...")`; nothing else changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

_PRODUCT = re.compile(r"(\d+)\s*(?:\*|x|times)\s*(\d+)")


class ScriptedModel(BaseChatModel):
    """Calls `multiply` when asked for a product, and chats about everything else."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> Runnable[Any, AIMessage]:
        """The script knows its one tool."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> ChatResult:
        first, *rest = _chunks(messages)
        whole = message_chunk_to_message(sum(rest, start=first))
        return ChatResult(generations=[ChatGeneration(message=whole)])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(messages):
            generation = ChatGenerationChunk(message=chunk)
            if run_manager is not None:
                await run_manager.on_llm_new_token(str(chunk.content), chunk=generation)
            yield generation


def _chunks(messages: Sequence[BaseMessage]) -> Iterator[AIMessageChunk]:
    """What the model says next."""
    last = messages[-1]
    asked = _PRODUCT.search(str(last.content))
    if isinstance(last, ToolMessage):
        yield from _words(f"That makes {last.content}.")
    elif asked:
        yield AIMessageChunk(
            content="",
            tool_call_chunks=[
                {
                    "type": "tool_call_chunk",
                    "name": "multiply",
                    "args": json.dumps({"a": int(asked[1]), "b": int(asked[2])}),
                    "id": f"call_{uuid4().hex}",
                    "index": 0,
                }
            ],
        )
    else:
        yield from _words("I am a script. Ask me for 6 times 7.")


def _words(text: str) -> Iterator[AIMessageChunk]:
    for word in re.findall(r"\S+\s*", text):
        yield AIMessageChunk(content=word)
