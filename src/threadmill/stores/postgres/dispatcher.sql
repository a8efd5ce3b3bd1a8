-- The working side: claiming, fencing, what is due. Renewing: renewal.sql.

-- name: claim
SELECT * FROM threadmill.claim(%(worker_id)s, %(graphs)s::text[], %(labels)s::text[],
                               %(n)s, make_interval(secs => %(lease_seconds)s),
                               %(run_id)s::uuid, %(checkpoint_id)s::text, %(tasks)s)

-- name: lock_run
SELECT 1 FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
   FOR UPDATE

-- name: lock_run_to_end
-- With its superstep: whoever ends the last task of that adds an activation, which the
-- statement that follows must see.
WITH superstep AS (
  DELETE FROM threadmill.superstep
   WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
)
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
-- run is, and each claim after a loss until the run gets on. The run starts at the head, or at the checkpoint
-- that it forks from.
WITH r AS MATERIALIZED (
  SELECT kwargs #>> '{checkpoint,checkpoint_id}' AS forks_from,
         (SELECT h.checkpoint_id FROM threadmill.head h
           WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread_id)s::uuid::text
             AND h.ns = '') AS head
    FROM threadmill.run
   WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
), start AS MATERIALIZED (
  SELECT r.head AS checkpoint_id,
         (SELECT (c.metadata ->> 'step')::integer FROM threadmill.checkpoint c
           WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread_id)s::uuid::text
             AND c.ns = '' AND c.checkpoint_id = coalesce(r.forks_from, r.head)) AS step
    FROM r
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
             AS running_seconds,
          (SELECT a.cause FROM threadmill.activation a
            WHERE a.tenant_id = %(tenant)s AND a.activation_id = %(activation_id)s
              AND a.thread_id = %(thread_id)s)
          AS lost_by

-- name: look
-- A run that was released and taken again in one transaction: nothing has changed.
SELECT *, extract(epoch FROM clock_timestamp() - started_at)::float8 AS running_seconds
  FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s AND status = %(status)s

-- name: begin_tasks
-- For an attempt at tasks of a superstep: its run is running already. The tasks are
-- those of the thread's head.
SELECT r.*, extract(epoch FROM clock_timestamp() - r.started_at)::float8
            AS running_seconds,
       (SELECT format('in node %%s, %%s', a.node, a.cause)
          FROM threadmill.activation a
         WHERE a.tenant_id = %(tenant)s AND a.activation_id = %(activation_id)s
           AND a.thread_id = %(thread_id)s AND a.cause IS NOT NULL) AS lost_by
  FROM threadmill.run r
  JOIN threadmill.superstep s ON s.tenant_id = r.tenant_id AND s.run_id = r.run_id
  JOIN threadmill.head h ON h.checkpoint_id = s.checkpoint_id
   AND h.tenant_id = %(tenant)s AND h.thread_id = %(thread_id)s::uuid::text AND h.ns = ''
 WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s AND r.status = %(status)s

-- name: count_attempt
-- Only a task that was lost itself repeats something.
UPDATE threadmill.run SET attempt = attempt + 1, updated_at = now()
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
   AND EXISTS (SELECT FROM threadmill.activation a
                WHERE a.tenant_id = %(tenant)s AND a.activation_id = %(activation_id)s
                  AND a.thread_id = %(thread_id)s AND a.cause IS NOT NULL)

-- name: close
-- Ends whatever there is to do for a run: the closer's own activations, which it must
-- hold, and with them its siblings'. Comes after `lock_run_to_end`.
WITH held AS MATERIALIZED (
  SELECT activation_id, token FROM threadmill.activation
   WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
   ORDER BY activation_id
     FOR UPDATE
), gone AS (
  DELETE FROM threadmill.activation a
   USING held
   WHERE a.tenant_id = %(tenant)s AND a.run_id = %(run_id)s
     AND a.activation_id = held.activation_id
  RETURNING a.activation_id, a.token, a.state = 'leased'
            AND a.activation_id <> ALL (%(ids)s::uuid[]) AS stops
)
SELECT (SELECT coalesce(array_agg(activation_id), '{}') FROM gone WHERE stops) AS ids,
       (SELECT coalesce(array_agg(token), '{}') FROM gone WHERE stops) AS tokens,
       threadmill.require(
         NOT EXISTS (SELECT FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[]) AS n (id, token)
                      WHERE NOT EXISTS (SELECT FROM held
                                         WHERE activation_id = n.id AND held.token = n.token)),
         'lease_lost')

-- name: release
-- Whoever gives up because of a failure is not the first to try again, and who gave up
-- at the same moment tries at different ones. A join may have got further than its
-- superstep: whoever goes on looks.
WITH held AS MATERIALIZED (
  SELECT a.activation_id,
         clock_timestamp() + make_interval(secs => %(delay_seconds)s) * (0.5 + random())
           AS again_at
    FROM threadmill.activation a
    JOIN unnest(%(ids)s::uuid[], %(tokens)s::bigint[]) AS n (id, token)
      ON a.activation_id = n.id AND a.token = n.token
   WHERE a.tenant_id = %(tenant)s AND a.thread_id = %(thread_id)s AND a.state = 'leased'
     AND a.activation_id = ANY (%(ids)s::uuid[])
   ORDER BY a.activation_id
     FOR UPDATE OF a
)
UPDATE threadmill.activation a
   SET kind = CASE a.kind WHEN 'join' THEN 'step' ELSE a.kind END,
       state = 'ready', worker_id = NULL, lease_until = NULL,
       attempt = greatest(attempt - %(give_back)s::integer, 0),
       not_before = held.again_at,
       avoid = CASE WHEN %(cause)s::text IS NOT NULL THEN a.worker_id ELSE a.avoid END,
       avoid_until = CASE WHEN %(cause)s::text IS NOT NULL
                     THEN held.again_at + make_interval(secs => %(shun_seconds)s)
                     ELSE a.avoid_until END,
       cause = coalesce(%(cause)s::text, a.cause)
  FROM held
 WHERE a.tenant_id = %(tenant)s AND a.activation_id = held.activation_id

-- name: reopen
SELECT * FROM threadmill.reopen(%(dead)s, make_interval(secs => %(backoff_seconds)s),
                                make_interval(secs => %(shun_seconds)s), %(limit)s)

-- name: due
-- The time is read after they were taken: none of them is held for longer.
SELECT *, clock_timestamp() + make_interval(secs => %(hold_seconds)s) AS held_until
  FROM threadmill.due(make_interval(secs => %(hold_seconds)s), %(limit)s)

-- name: drop_timers
DELETE FROM threadmill.timer
 WHERE tenant_id = %(tenant)s AND kind = %(kind)s AND ref = ANY (%(refs)s::text[])

-- name: drop_events
-- Not of a run that was redriven meanwhile: its timer was dropped, or set anew.
WITH expired AS (
  DELETE FROM threadmill.timer t
   WHERE t.tenant_id = %(tenant)s AND t.kind = 'drop_events'
     AND t.ref = ANY (%(refs)s::text[])
     AND t.due_at <= (
       SELECT n.held_until
         FROM unnest(%(refs)s::text[], %(untils)s::timestamptz[]) AS n (ref, held_until)
        WHERE n.ref = t.ref)
  RETURNING t.ref
)
DELETE FROM threadmill.event e
 USING threadmill.run r
 WHERE r.tenant_id = %(tenant)s
   AND r.run_id = ANY (ARRAY (SELECT ref::uuid FROM expired))
   AND r.finished_at IS NOT NULL
   AND e.tenant_id = %(tenant)s AND e.thread_id = r.thread_id AND e.run_id = r.run_id

-- name: drop_keys
-- Not one that was claimed anew: a request that is sent again must still find it.
WITH expired AS (
  DELETE FROM threadmill.timer t
   WHERE t.tenant_id = %(tenant)s AND t.kind = 'drop_key'
     AND t.ref = ANY (%(refs)s::text[])
     AND t.due_at <= (
       SELECT n.held_until
         FROM unnest(%(refs)s::text[], %(untils)s::timestamptz[]) AS n (ref, held_until)
        WHERE n.ref = t.ref)
  RETURNING t.ref
)
DELETE FROM threadmill.idempotency
 WHERE tenant_id = %(tenant)s AND key = ANY (ARRAY (SELECT ref FROM expired))

-- name: still_temporary
-- Comes after the thread's lock.
SELECT threadmill.require(
         EXISTS (SELECT FROM threadmill.thread
                  WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
                    AND temporary AND holder IS NULL),
         'conflict', 'the thread is in use')
