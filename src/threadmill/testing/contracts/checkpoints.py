"""What every adapter of the `Checkpoints` port must hold.

An adapter's tests inherit `CheckpointsContract` and give it a fixture `harness`::

    class TestRedisCheckpoints(CheckpointsContract):
        @pytest.fixture
        def harness(self, redis_uri): ...

One whose commits also carry events and release activations, because these lie in the
same store, inherits `ActivationsContract` (`activations`), which holds all of these.
"""

# ruff: noqa: S101, D102 - tests: they assert, and their names are sentences

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME

from threadmill.checkpoints.base import Commit, Stored
from threadmill.errors import HeadMoved, LeaseLost, NotFound, StateUnserializable
from threadmill.testing.checkpoints import (
    NULL_TASK,
    CheckpointsHarness,
    put,
    writes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.domain.fence import Fence


class CheckpointsContract:
    """Inherit and provide `harness`."""

    # ----------------------------------------------------------------- puts and head

    async def test_a_thread_without_checkpoints_reads_empty(
        self, harness: CheckpointsHarness
    ) -> None:
        assert await harness.checkpoints.get("default", str(uuid4()), "") is None

    async def test_a_checkpoint_reads_back_as_it_was_put(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        first = put("c1", metadata={"user": "ada"}, n=1, text="a\x00b", tags={"x"})
        await self._commit(harness, fence, puts=(first, put("c2", "c1", n=2)))
        stored = await self._get(harness, fence, checkpoint_id="c1")
        assert stored.checkpoint == first.checkpoint
        assert stored.metadata == first.metadata
        assert (stored.parent_id, stored.ordinal) == (None, 1)
        assert stored.run_id == fence.run_id
        assert (await self._get(harness, fence)).parent_id == "c1"

    async def test_the_head_is_what_was_put_last_whatever_its_id(
        self, harness: CheckpointsHarness
    ) -> None:
        """Ids come from the clocks of workers, which may be behind."""
        fence = await harness.claim()
        for ns in ("", "sub:1"):
            for checkpoint_id in ("c9", "c5", "c1"):
                await self._commit(harness, fence, puts=(put(checkpoint_id, ns=ns),))
            assert (await self._get(harness, fence, ns)).checkpoint["id"] == "c1"
            assert await self._ids(harness, fence, ns=ns) == ["c1", "c5", "c9"]

    async def test_a_head_that_is_not_the_expected_one_refuses_the_put(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        await self._commit(harness, fence, puts=(put("c1", expected=None),))
        for wrong in (put("c2", expected=None), put("c2", "c0", expected="c0")):
            with pytest.raises(HeadMoved):
                await self._commit(harness, fence, puts=(wrong,))
        await self._commit(harness, fence, puts=(put("c2", "c1", expected="c1"),))
        assert await self._ids(harness, fence) == ["c2", "c1"]

    async def test_an_expected_head_on_an_empty_thread_refuses_the_put(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        with pytest.raises(HeadMoved):
            await self._commit(harness, fence, puts=(put("c2", expected="c1"),))
        assert await self._ids(harness, fence) == []

    async def test_several_puts_of_one_commit_follow_each_other(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        chain = (put("c1", expected=None), put("c2", "c1", expected="c1"))
        await self._commit(harness, fence, puts=chain)
        assert await self._ids(harness, fence) == ["c2", "c1"]

    async def test_a_checkpoint_put_again_changes_its_content_only(
        self, harness: CheckpointsHarness
    ) -> None:
        thread = str(uuid4())
        for item in (put("c1", n=1), put("c2", "c1"), put("c1", n=2)):
            commit = Commit(puts=(item,))
            await harness.checkpoints.commit("default", thread, commit)
        head = await harness.checkpoints.get("default", thread, "")
        again = await harness.checkpoints.get("default", thread, "", "c1")
        assert head is not None
        assert again is not None
        assert head.checkpoint["id"] == "c2"
        assert again.checkpoint["channel_values"] == {"n": 2}
        assert again.ordinal == 1

    # --------------------------------------------------------------------- the fence

    async def test_a_stale_token_changes_nothing(
        self, harness: CheckpointsHarness
    ) -> None:
        old = await harness.claim()
        await self._commit(harness, old, puts=(put("c1"),))
        new = await harness.take_over(old)
        with pytest.raises(LeaseLost):
            await self._commit(
                harness,
                old,
                writes=(writes("c1", "t1", ("a", 1)),),
                puts=(put("c2", "c1", expected="c1"),),
            )
        stored = await self._get(harness, new)
        assert (stored.checkpoint["id"], list(stored.writes)) == ("c1", [])
        await self._commit(harness, new, puts=(put("c2", "c1", expected="c1"),))

    async def test_another_thread_is_out_of_the_fence(
        self, harness: CheckpointsHarness
    ) -> None:
        fence, other = await harness.claim(), await harness.claim()
        forged = replace(fence, thread_id=other.thread_id)
        with pytest.raises(LeaseLost):
            await self._commit(harness, forged, puts=(put("c1"),))
        assert await self._ids(harness, other) == []

    async def test_a_refusal_in_the_middle_leaves_nothing_behind(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        await self._commit(harness, fence, puts=(put("c1"),))
        with pytest.raises(HeadMoved):
            await self._commit(
                harness,
                fence,
                writes=(writes("c1", "t1", ("a", 1)),),
                puts=(put("s1", ns="sub:1"), put("c2", "c1", expected="c0")),
            )
        assert list((await self._get(harness, fence)).writes) == []
        assert await self._ids(harness, fence, ns="sub:1") == []

    async def test_what_one_commit_stores_becomes_true_together(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        await self._commit(
            harness,
            fence,
            writes=(writes("c1", "t1", ("a", 1)),),
            puts=(put("c1"), put("s1", ns="sub:1")),
        )
        assert list((await self._get(harness, fence)).writes) == [("t1", "a", 1)]
        assert await self._ids(harness, fence, ns="sub:1") == ["s1"]

    # -------------------------------------------------------------------- the writes

    async def test_writes_come_in_the_order_of_path_task_and_slot(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        results = (
            writes("c1", "a", ("x", 1), ("y", 2), path="~2"),
            writes("c1", "Z", ("x", 3), path="~1"),
            writes("c1", "b", ("x", 4), (ERROR, "no"), path="~1"),
            writes("c1", NULL_TASK, ("x", 5)),
        )
        await self._commit(harness, fence, puts=(put("c1"),), writes=results)
        stored = await self._get(harness, fence)
        assert list(stored.writes) == [
            (NULL_TASK, "x", 5),
            ("Z", "x", 3),
            ("b", ERROR, "no"),
            ("b", "x", 4),
            ("a", "x", 1),
            ("a", "y", 2),
        ]
        assert list(stored.write_runs) == [fence.run_id] * 6

    async def test_a_new_attempt_replaces_what_the_last_one_left(
        self, harness: CheckpointsHarness
    ) -> None:
        old = await harness.claim()
        left = (
            writes("c1", "t1", ("a", 1), ("b", 1), (ERROR, "boom")),
            writes("c1", "t2", (INTERRUPT, "really?"), (RESUME, ["no"])),
            writes("c1", "t3", ("a", 3)),
        )
        await self._commit(harness, old, puts=(put("c1"),), writes=left)
        new = await harness.take_over(old)
        await self._commit(harness, new, writes=(writes("c1", "t1", ("a", 2)),))
        await self._commit(harness, new, writes=(writes("c1", "t2"),))
        assert await self._writes(harness, new) == [("t1", "a", 2), ("t3", "a", 3)]

    async def test_a_later_run_keeps_the_question_that_it_answers(
        self, harness: CheckpointsHarness
    ) -> None:
        """The run that asked still shows its question, and history does too."""
        asking = await harness.claim()
        question = writes("c1", "t1", (INTERRUPT, "really?"))
        await self._commit(harness, asking, puts=(put("c1"),), writes=(question,))
        answering = await harness.next_run(asking)
        answer = writes("c1", "t1", (RESUME, ["yes"]), ("a", 1))
        await self._commit(harness, answering, writes=(answer,))
        stored = await self._get(harness, answering)
        assert list(zip(stored.writes, stored.write_runs, strict=True)) == [
            (("t1", RESUME, ["yes"]), answering.run_id),
            (("t1", INTERRUPT, "really?"), asking.run_id),
            (("t1", "a", 1), answering.run_id),
        ]

    async def test_writes_of_the_null_task_accumulate_under_their_runs(
        self, harness: CheckpointsHarness
    ) -> None:
        """LangGraph sends all of them each time, without the marks it has used up."""
        first = await harness.claim()
        sent = writes("c1", NULL_TASK, ("a", {"n": 1}), (RESUME, "yes"))
        await self._commit(harness, first, puts=(put("c1"),), writes=(sent,))
        second = await harness.next_run(first)
        sent = writes("c1", NULL_TASK, ("a", {"n": 1}), ("a", {"n": 2}))
        await self._commit(harness, second, writes=(sent,))
        stored = await self._get(harness, second)
        assert list(zip(stored.writes, stored.write_runs, strict=True)) == [
            ((NULL_TASK, "a", {"n": 1}), first.run_id),
            ((NULL_TASK, "a", {"n": 2}), second.run_id),
        ]

    async def test_a_mark_given_twice_is_stored_once_the_last_one(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        result = writes("c1", "t1", (RESUME, ["a"]), ("x", 1), (RESUME, ["a", "b"]))
        await self._commit(harness, fence, puts=(put("c1"),), writes=(result,))
        assert await self._writes(harness, fence) == [
            ("t1", RESUME, ["a", "b"]),
            ("t1", "x", 1),
        ]

    async def test_without_a_fence_the_first_value_stays_and_marks_change(
        self, harness: CheckpointsHarness
    ) -> None:
        thread = str(uuid4())
        for n in (1, 2):
            result = writes("c1", "t1", ("a", n), (RESUME, [n]))
            commit = Commit(puts=(put("c1"),), writes=(result,))
            await harness.checkpoints.commit("default", thread, commit)
        stored = await harness.checkpoints.get("default", thread, "")
        assert stored is not None
        assert list(stored.writes) == [("t1", RESUME, [2]), ("t1", "a", 1)]

    async def test_what_cannot_be_stored_is_named(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        state = put("c1", fine=1, broken=[{"deep": object()}])
        with pytest.raises(StateUnserializable, match=r"'broken'.*'object'"):
            await self._commit(harness, fence, puts=(state,))
        result = writes("c1", "t1", ("out", lambda: None))
        with pytest.raises(StateUnserializable, match=r"'out'.*'function'"):
            await self._commit(harness, fence, writes=(result,))
        assert await self._ids(harness, fence) == []

    # --------------------------------------------------------------------- the lists

    async def test_a_list_is_newest_first_in_pages(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        names = [f"c{n:03}" for n in range(70)]
        puts = [put(name, metadata={"step": n}) for n, name in enumerate(names)]
        await self._commit(harness, fence, puts=puts)
        await self._commit(harness, fence, puts=(put("s1", ns="sub:1"),))
        newest_first = names[::-1]
        assert await self._ids(harness, fence) == newest_first
        assert await self._ids(harness, fence, limit=40) == newest_first[:40]
        assert await self._ids(harness, fence, limit=0) == []
        assert await self._ids(harness, fence, before="c033", limit=2) == [
            "c032",
            "c031",
        ]
        assert await self._ids(harness, fence, filter={"step": 7}) == ["c007"]
        assert await self._ids(harness, fence, ns=None) == ["s1", *newest_first]
        assert await self._ids(harness, fence, ns=None, before="s1", limit=1) == [
            "c069"
        ]

    async def test_a_list_shows_the_writes_of_each(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        await self._commit(
            harness,
            fence,
            puts=(put("c1"), put("c2", "c1")),
            writes=(writes("c1", "t1", ("a", 1)), writes("c2", "t2", ("a", 2))),
        )
        found = [
            list(stored.writes)
            async for stored in harness.checkpoints.list(
                "default", str(fence.thread_id)
            )
        ]
        assert found == [[("t2", "a", 2)], [("t1", "a", 1)]]

    async def test_before_a_checkpoint_of_the_parent_graph(
        self, harness: CheckpointsHarness
    ) -> None:
        """A subgraph's state before a point of its parent, whatever the clocks say."""
        fence = await harness.claim()

        def under(root: str) -> dict[str, Any]:
            return {"parents": {"": root}}

        # s2 was made under c2, though it was committed before c2 was.
        for item in (
            put("c1"),
            put("s1", ns="sub", metadata=under("c1")),
            put("s2", ns="sub", metadata=under("c2")),
            put("c2", "c1"),
            put("s3", ns="sub", metadata=under("c2")),
            put("c3", "c2"),
        ):
            await self._commit(harness, fence, puts=(item,))
        for before, found in {
            "c1": [],
            "c2": ["s1"],
            "c3": ["s3", "s2", "s1"],
        }.items():
            assert await self._ids(harness, fence, ns="sub", before=before) == found

    async def test_before_a_checkpoint_that_is_not_there(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        with pytest.raises(NotFound, match="c7"):
            await self._ids(harness, fence, before="c7")

    async def test_a_list_over_all_threads_is_of_one_tenant(
        self, harness: CheckpointsHarness
    ) -> None:
        mine, also_mine = await harness.claim(), await harness.claim()
        theirs = await harness.claim("other")
        for n, fence in enumerate((mine, theirs, also_mine)):
            await self._commit(harness, fence, puts=(put(f"c{9 - n}"),))
        found = [
            (stored.thread_id, stored.checkpoint["id"])
            async for stored in harness.checkpoints.list("default", None)
        ]
        assert found == [(str(also_mine.thread_id), "c7"), (str(mine.thread_id), "c9")]

    # ------------------------------------------------------------ tenants, deletions

    async def test_tenants_with_one_thread_id_do_not_meet(
        self, harness: CheckpointsHarness
    ) -> None:
        thread = str(uuid4())
        for tenant in ("one", "two"):
            commit = Commit(
                puts=(put("c1", who=tenant),),
                writes=(writes("c1", "t1", ("who", tenant)),),
            )
            await harness.checkpoints.commit(tenant, thread, commit)
        await harness.checkpoints.delete_thread("one", thread)
        assert await harness.checkpoints.get("one", thread, "") is None
        stored = await harness.checkpoints.get("two", thread, "")
        assert stored is not None
        assert stored.checkpoint["channel_values"] == {"who": "two"}
        assert list(stored.writes) == [("t1", "who", "two")]

    async def test_a_deleted_thread_begins_anew(
        self, harness: CheckpointsHarness
    ) -> None:
        fence = await harness.claim()
        thread = str(fence.thread_id)
        await self._commit(
            harness,
            fence,
            puts=(put("c1"), put("s1", ns="sub:1")),
            writes=(writes("c1", "t1", ("a", 1)),),
        )
        await harness.checkpoints.delete_thread("default", thread)
        assert await self._ids(harness, fence, ns=None) == []
        await self._commit(harness, fence, puts=(put("c1", expected=None),))
        assert await self._writes(harness, fence) == []

    # ----------------------------------------------------------------------- helpers

    @staticmethod
    async def _commit(harness: CheckpointsHarness, fence: Fence, **parts: Any) -> None:
        await harness.checkpoints.commit(
            fence.tenant, str(fence.thread_id), Commit(**parts), fence
        )

    @staticmethod
    async def _get(
        harness: CheckpointsHarness,
        fence: Fence,
        ns: str = "",
        checkpoint_id: str | None = None,
    ) -> Stored:
        stored = await harness.checkpoints.get(
            fence.tenant, str(fence.thread_id), ns, checkpoint_id
        )
        assert stored is not None
        return stored

    async def _writes(
        self, harness: CheckpointsHarness, fence: Fence
    ) -> Sequence[tuple[str, str, Any]]:
        return list((await self._get(harness, fence, checkpoint_id="c1")).writes)

    @staticmethod
    async def _ids(
        harness: CheckpointsHarness,
        fence: Fence,
        *,
        ns: str | None = "",
        **options: Any,
    ) -> list[str]:
        return [
            stored.checkpoint["id"]
            async for stored in harness.checkpoints.list(
                fence.tenant, str(fence.thread_id), ns=ns, **options
            )
        ]
