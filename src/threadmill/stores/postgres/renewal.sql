-- One member's session: presence and leases.

-- name: hold_presence
-- Tried, not awaited: an older session of ours may not have been noticed dead yet.
SELECT pg_try_advisory_lock(29805, %(lock_key)s)

-- name: enter
-- A renewal takes several round trips. Were its process to stand still in between, its
-- leases would run out and nobody could take them back: their rows stay locked. So the
-- session ends then, after a lease and not before: with it goes the presence lock. Who
-- waits for a row is told so before its session is given up for keeping silent, which
-- it is after a third of a lease.
SELECT set_config('role', 'threadmill_app', true),
       set_config('statement_timeout',
                  round(least(%(lease_seconds)s::numeric / 4, 5) * 1000)::text, true),
       set_config('lock_timeout',
                  round(least(%(lease_seconds)s::numeric / 6, 2) * 1000)::text, true),
       set_config('idle_in_transaction_session_timeout',
                  round(%(lease_seconds)s::numeric * 1000)::text, true)

-- name: see
-- A member that was taken for dead puts itself on the list again. The key is that of
-- the lock that it holds now: a lock that was never held does not look free. Tells
-- whether somebody wants it to drain, and where and when it was seen.
INSERT INTO threadmill.worker
  (worker_id, name, role, version, graphs, labels, slots, lock_key)
VALUES (%(worker_id)s, %(name)s, %(role)s, %(version)s, %(graphs)s, %(labels)s,
        %(slots)s, %(lock_key)s)
ON CONFLICT (worker_id) DO UPDATE SET seen_at = now(), lock_key = excluded.lock_key
RETURNING drain, seen_at, pg_postmaster_start_time() AS database_since

-- name: renew
SELECT * FROM threadmill.renew(%(worker_id)s,
                               make_interval(secs => %(lease_seconds)s))
