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

-- name: presence
-- Shared locks, so that two sweepers do not take each other for the member.
-- Who holds his lock, and has not renewed since, may be about to lose it: a backend of
-- before a break outlives it for a while, and so may a session whose renewal fails.
SELECT coalesce(array_agg(worker_id)
                  FILTER (WHERE NOT is_free AND (%(since)s::timestamptz IS NULL
                                                 OR seen_at > %(since)s::timestamptz)),
                '{}') AS back,
       coalesce(array_agg(worker_id) FILTER (WHERE is_free), '{}') AS free,
       pg_postmaster_start_time() AS database_since,
       pg_postmaster_start_time() < now() - make_interval(secs => %(settle_seconds)s)
         AS settled
  FROM (SELECT worker_id, seen_at,
               pg_try_advisory_xact_lock_shared(29805, lock_key) AS is_free
          FROM threadmill.worker WHERE lock_key IS NOT NULL) AS member

-- name: forget_silent
-- Who was asked to drain and may not have heard of it yet must still find that here when
-- he comes back: nothing else remembers it.
DELETE FROM threadmill.worker
 WHERE seen_at < now() - make_interval(secs => %(silent_seconds)s)
   AND (NOT drain OR seen_at < now() - interval '1 day')
