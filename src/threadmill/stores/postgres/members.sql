-- The fleet. The advisory lock (29805, lock_key) is held by the member's own session.

-- name: join
-- Draws a key. It is stored when its lock is held (renewal.sql): until then a free lock
-- would look like a death.
INSERT INTO threadmill.worker
  (worker_id, name, role, version, graphs, labels, slots)
VALUES (%(worker_id)s, %(name)s, %(role)s, %(version)s, %(graphs)s, %(labels)s,
        %(slots)s)
ON CONFLICT (worker_id) DO UPDATE
  SET seen_at = now(), graphs = excluded.graphs, slots = excluded.slots
RETURNING CASE WHEN %(present)s THEN nextval('threadmill.presence_seq')::integer END
          AS lock_key

-- name: leave
DELETE FROM threadmill.worker WHERE worker_id = %(worker_id)s

-- name: absent
-- Shared locks, so that two sweepers do not take each other for the member.
SELECT w.worker_id
  FROM threadmill.worker w
 WHERE w.lock_key IS NOT NULL
   AND pg_postmaster_start_time() < now() - make_interval(secs => %(settle_seconds)s)
   AND pg_try_advisory_xact_lock_shared(29805, w.lock_key)

-- name: forget_silent
-- Who was asked to drain and may not have heard of it yet must still find that here when
-- he comes back: nothing else remembers it.
DELETE FROM threadmill.worker
 WHERE seen_at < now() - make_interval(secs => %(silent_seconds)s)
   AND (NOT drain OR seen_at < now() - interval '1 day')
