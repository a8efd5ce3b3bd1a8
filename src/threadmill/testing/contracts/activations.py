"""What an adapter of `Checkpoints` must hold that also stores activations and events.

They become true in the same commit as checkpoints and task results, or not at all.
"""

# ruff: noqa: S101, D102 - tests: they assert, and their names are sentences

from __future__ import annotations

import pytest

from threadmill.errors import HeadMoved, LeaseLost
from threadmill.streams.base import NewEvent
from threadmill.testing.checkpoints import (
    ActivationsHarness,
    ActivationState,
    put,
    writes,
)
from threadmill.testing.contracts.checkpoints import CheckpointsContract


class ActivationsContract(CheckpointsContract):
    """Inherit where activations and events become true with checkpoints."""

    async def test_a_stale_token_appends_no_event_and_releases_nothing(
        self, harness: ActivationsHarness
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
                events=(NewEvent("values", "{}"),),
                release=True,
            )
        stored = await self._get(harness, new)
        assert (stored.checkpoint["id"], list(stored.writes)) == ("c1", [])
        assert await harness.events(new) == []
        assert (await harness.activation(new)).state == "leased"
        await self._commit(harness, new, puts=(put("c2", "c1", expected="c1"),))

    async def test_a_refusal_in_the_middle_leaves_no_event_and_no_release(
        self, harness: ActivationsHarness
    ) -> None:
        fence = await harness.claim()
        await self._commit(harness, fence, puts=(put("c1"),))
        with pytest.raises(HeadMoved):
            await self._commit(
                harness,
                fence,
                writes=(writes("c1", "t1", ("a", 1)),),
                puts=(put("s1", ns="sub:1"), put("c2", "c1", expected="c0")),
                events=(NewEvent("values", "{}"),),
                release=True,
            )
        assert list((await self._get(harness, fence)).writes) == []
        assert await self._ids(harness, fence, ns="sub:1") == []
        assert await harness.events(fence) == []
        assert (await harness.activation(fence)).state == "leased"

    async def test_everything_of_one_commit_becomes_true(
        self, harness: ActivationsHarness
    ) -> None:
        fence = await harness.claim()
        await self._commit(
            harness,
            fence,
            writes=(writes("c1", "t1", ("a", 1)),),
            puts=(put("c1"),),
            events=(NewEvent("updates", "1"), NewEvent("values", "2")),
        )
        await self._commit(harness, fence, events=(NewEvent("values", "3"),))
        stored = await self._get(harness, fence)
        assert list(stored.writes) == [("t1", "a", 1)]
        assert await harness.events(fence) == ["1", "2", "3"]

    async def test_a_release_keeps_the_token_until_the_next_claim(
        self, harness: ActivationsHarness
    ) -> None:
        fence = await harness.claim()
        await self._commit(harness, fence, puts=(put("c1"),), release=True)
        released = await harness.activation(fence)
        assert released == ActivationState("ready", 0, fence.token)
        await self._commit(harness, fence, writes=(writes("c1", "t1", ("a", 1)),))
        await harness.take_over(fence)
        with pytest.raises(LeaseLost):
            await self._commit(harness, fence, puts=(put("c2", "c1"),))

    @pytest.mark.parametrize(("progress", "left"), [(False, 1), (True, 0)])
    async def test_who_releases_what_is_as_it_was_makes_up_for_no_loss(
        self, harness: ActivationsHarness, *, progress: bool, left: int
    ) -> None:
        """Else a task that kills its workers is handed on for ever."""
        fence = await harness.take_over(await harness.claim())
        assert (await harness.activation(fence)).attempt == 2
        await self._commit(harness, fence, release=True, progress=progress)
        assert (await harness.activation(fence)).attempt == left

    async def test_progress_makes_it_a_first_attempt_again(
        self, harness: ActivationsHarness
    ) -> None:
        fence = await harness.take_over(await harness.claim())
        assert (await harness.activation(fence)).attempt == 2
        await self._commit(harness, fence, puts=(put("c1"),), progress=True)
        assert await harness.activation(fence) == ActivationState(
            "leased", 1, fence.token
        )
