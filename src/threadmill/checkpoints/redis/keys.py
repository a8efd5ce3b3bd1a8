"""The names of all keys.

Every key of a thread begins with `{tenant:thread}`. What stands in braces decides on
which node of a Cluster a key lies, so all of a thread is in one place and one script
may touch it. Tenant and thread are percent-encoded: no id reaches into another's keys.

    {tenant:thread}:head        namespace -> id of its head; and the last ordinal
    {tenant:thread}:checkpoint  namespace, id -> checkpoint
    {tenant:thread}:order       checkpoints of all namespaces by ordinal
    {tenant:thread}:lane        checkpoints of each namespace by ordinal
    {tenant:thread}:chunk       name of content -> content
    {tenant:thread}:write       namespace, id, task -> its pending writes
    {tenant:thread}:fence       activation -> token; and the floor of tokens

Where PostgreSQL keeps the checkpoints, and Redis what they hold, a thread has one key:

    {tenant:thread}:value       name of content -> content; "" -> when some last came

Two kinds of keys are of no thread. They tell where to look, no more: a thread that they
name may be gone, or be about to come.

    {tenant}:threads            threads by when they were last put to
    {tenant:run}:threads        threads that a run has put to
    {tenant}:again              what to look at again in these, by when that was found
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

# In the order of `thread.lua`.
_PARTS: Final = ("head", "checkpoint", "order", "lane", "chunk", "write", "fence")


def thread_keys(tenant: str, thread_id: str) -> list[str]:
    """All keys of a thread, as every script takes them."""
    tag = f"{{{_plain(tenant)}:{_plain(thread_id)}}}"
    return [f"{tag}:{part}" for part in _PARTS]


def chunks_key(tenant: str, thread_id: str) -> str:
    """The chunks of a thread whose checkpoints are in PostgreSQL."""
    return f"{{{_plain(tenant)}:{_plain(thread_id)}}}:value"


def index_key(tenant: str) -> str:
    """The threads of a tenant."""
    return f"{{{_plain(tenant)}}}:threads"


def run_key(tenant: str, run: str) -> str:
    """The threads of a run."""
    return f"{{{_plain(tenant)}:{_plain(run)}}}:threads"


def again_key(tenant: str) -> str:
    """What is to be looked at again in the lists of a tenant and of its runs."""
    return f"{{{_plain(tenant)}}}:again"


def again_name(run: str, thread_id: str) -> str:
    """A thread in the list of a run, or of the tenant for no run."""
    return f"{_plain(run)}:{_plain(thread_id)}"


def again_parts(name: str) -> tuple[str, str]:
    """The run and the thread of such a name."""
    run, _, thread_id = name.partition(":")
    return _text(run), _text(thread_id)


def _text(plain: str) -> str:
    return unquote(plain, errors="surrogatepass")


def _plain(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")
