"""What a worker has lost, or failed at, is tried by another one, if there is one."""

from __future__ import annotations

from uuid import uuid4

from tests.stores.run_store import RunStore, contract
from threadmill.engine.attempt import fence_of


@contract
async def test_who_gives_up_because_of_a_failure_leaves_it_to_others_for_a_while(
    store: RunStore,
) -> None:
    await store.accept(await store.thread())
    worker = uuid4()
    (claim,) = await store.claim(worker_id=worker)
    await store.dispatcher.release(
        fence_of(claim), count_attempt=True, cause="no", shun_seconds=3600
    )
    assert await store.claim(worker_id=worker) == []
    (again,) = await store.claim()
    assert again.activation_id == claim.activation_id


@contract
async def test_who_has_lost_it_leaves_it_to_others_for_a_while(store: RunStore) -> None:
    await store.accept(await store.thread())
    worker = uuid4()
    (claim,) = await store.claim(worker_id=worker)
    await store.dispatcher.reopen(
        [worker], backoff_seconds=0, shun_seconds=3600, limit=10
    )
    assert await store.claim(worker_id=worker) == []
    (again,) = await store.claim()
    assert again.activation_id == claim.activation_id
