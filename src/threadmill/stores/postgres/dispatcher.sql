-- The working side: claiming, fencing, renewing, what is due.

-- name: claim
SELECT * FROM threadmill.claim(%(worker_id)s, %(graphs)s, %(n)s,
                               make_interval(secs => %(lease_seconds)s))

-- name: lock_run
SELECT 1 FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
   FOR UPDATE

-- name: fence
-- Locks the activation by its token; a take-over waits for us, or we learn of it.
WITH f AS MATERIALIZED (
  SELECT 1 FROM threadmill.activation
   WHERE tenant_id = %(tenant)s AND activation_id = %(activation_id)s
     AND thread_id = %(thread_id)s AND token = %(token)s
     FOR UPDATE
)
SELECT threadmill.require(EXISTS (SELECT FROM f), 'lease_lost')

-- name: begin
-- A hand-over between supersteps is not a new attempt: only a first claim of the
-- run and a claim after a loss are. The run starts at the head, or at the checkpoint
-- that it forks from.
WITH start AS (
  SELECT h.checkpoint_id, (c.metadata ->> 'step')::integer AS step
    FROM threadmill.run r
    LEFT JOIN threadmill.head h
      ON h.tenant_id = r.tenant_id AND h.thread_id = r.thread_id::text AND h.ns = ''
    LEFT JOIN threadmill.checkpoint c
      ON c.tenant_id = h.tenant_id AND c.thread_id = h.thread_id AND c.ns = h.ns
     AND c.checkpoint_id = coalesce(r.kwargs #>> '{checkpoint,checkpoint_id}',
                                    h.checkpoint_id)
   WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
     AND r.status = 'pending'
)
UPDATE threadmill.run
   SET status = %(target)s, updated_at = now(),
       started_at = coalesce(started_at, now()),
       start_checkpoint = CASE WHEN status = 'pending'
                          THEN (SELECT checkpoint_id FROM start)
                          ELSE start_checkpoint END,
       start_step = CASE WHEN status = 'pending'
                    THEN coalesce((SELECT step FROM start), -2)
                    ELSE start_step END,
       attempt = attempt
                 + (status = 'pending' OR %(claim_attempt)s > 1)::integer
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
   AND status = ANY (%(sources)s)
RETURNING *, extract(epoch FROM clock_timestamp() - started_at)::float8
             AS running_seconds

-- name: close_activation
WITH f AS (
  DELETE FROM threadmill.activation
   WHERE tenant_id = %(tenant)s AND activation_id = %(activation_id)s
     AND thread_id = %(thread_id)s AND token = %(token)s
  RETURNING 1
)
SELECT threadmill.require(EXISTS (SELECT FROM f), 'lease_lost')

-- name: release
UPDATE threadmill.activation
   SET state = 'ready', worker_id = NULL, lease_until = NULL,
       attempt = greatest(attempt - %(give_back)s::integer, 0),
       not_before = now() + make_interval(secs => %(delay_seconds)s)
 WHERE tenant_id = %(tenant)s AND activation_id = %(activation_id)s
   AND thread_id = %(thread_id)s AND token = %(token)s AND state = 'leased'

-- name: reopen
SELECT * FROM threadmill.reopen(%(dead)s, make_interval(secs => %(backoff_seconds)s),
                                %(limit)s)

-- name: due
SELECT * FROM threadmill.due(make_interval(secs => %(hold_seconds)s), %(limit)s)

-- name: drop_timers
DELETE FROM threadmill.timer
 WHERE tenant_id = %(tenant)s AND kind = %(kind)s AND ref = ANY (%(refs)s::text[])

-- name: drop_events
DELETE FROM threadmill.event e
 USING threadmill.run r
 WHERE r.tenant_id = %(tenant)s AND r.run_id = ANY (%(refs)s::text[]::uuid[])
   AND e.tenant_id = %(tenant)s AND e.thread_id = r.thread_id AND e.run_id = r.run_id

-- name: drop_keys
DELETE FROM threadmill.idempotency
 WHERE tenant_id = %(tenant)s AND key = ANY (%(refs)s::text[])

-- name: still_temporary
-- Comes after the thread's lock.
SELECT threadmill.require(
         EXISTS (SELECT FROM threadmill.thread
                  WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
                    AND temporary AND holder IS NULL),
         'conflict', 'the thread is in use')
