-- Runs: accepting, handing the thread on, cancelling. Lock order: idempotency,
-- thread, run, activation. A statement that decides on other rows of a locked thread
-- comes after the lock, so that its snapshot sees what the lock's last owner did.

-- name: claim_key
-- The first request under a key wins; a second waits for it and is told so.
WITH k AS (
  INSERT INTO threadmill.idempotency (tenant_id, key, body_hash, run_id)
  VALUES (%(tenant)s, %(key)s, %(body_hash)s, %(run_id)s)
  ON CONFLICT DO NOTHING
  RETURNING 1
), t AS (
  INSERT INTO threadmill.timer (tenant_id, kind, ref, due_at)
  SELECT %(tenant)s, 'drop_key', %(key)s,
         now() + make_interval(secs => %(ttl_seconds)s) FROM k
  ON CONFLICT DO NOTHING
)
SELECT threadmill.require(EXISTS (SELECT FROM k), 'already_exists',
                          'the idempotency key is taken')

-- name: key_owner
SELECT body_hash, run_id FROM threadmill.idempotency
 WHERE tenant_id = %(tenant)s AND key = %(key)s

-- name: create_thread
INSERT INTO threadmill.thread (tenant_id, thread_id, temporary)
VALUES (%(tenant)s, %(thread_id)s, %(temporary)s)
ON CONFLICT DO NOTHING

-- name: lock_thread
SELECT 1 FROM threadmill.thread
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
   FOR UPDATE

-- name: may_accept
SELECT threadmill.require(t.thread_id IS NOT NULL, 'not_found',
                          'thread or assistant not found'),
       threadmill.require(NOT %(reject)s OR (t.holder IS NULL AND q.ready = 0),
                          'thread_busy',
                          'the thread has an active or queued run '
                          '(multitask_strategy is reject)'),
       threadmill.require(q.n < %(queue_max)s, 'overloaded',
                          'the thread has too many queued runs '
                          '(THREADMILL_QUEUE_PER_THREAD_MAX)')
  FROM (SELECT count(*) AS n,
               count(*) FILTER (WHERE not_before <= clock_timestamp()) AS ready
          FROM (SELECT not_before FROM threadmill.run
                 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
                   AND status = 'pending'
                 LIMIT %(queue_max)s) pending) q
  LEFT JOIN threadmill.thread t
    ON t.tenant_id = %(tenant)s AND t.thread_id = %(thread_id)s

-- name: may_fork
-- Comes after the lock: who prunes the thread has it, and finds the run from now on.
SELECT threadmill.require(
         EXISTS (SELECT FROM threadmill.checkpoint c
                  WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread_id)s::text
                    AND c.ns = '' AND c.checkpoint_id = %(checkpoint_id)s),
         'invalid_request',
         format('thread %%s has no checkpoint %%s', %(thread_id)s::text,
                %(checkpoint_id)s::text))

-- name: accept
-- Draws the run's place in its thread's order; starts it if the thread is free and
-- the run is not delayed. A stateless run's thread that is used again is kept.
WITH t AS (
  UPDATE threadmill.thread t
     SET next_seq = t.next_seq + 1,
         metadata = t.metadata || %(thread_metadata)s,
         temporary = t.temporary AND %(temporary)s,
         holder = CASE WHEN %(after_seconds)s > 0 THEN t.holder
                       ELSE coalesce(t.holder, %(run_id)s) END,
         status = CASE WHEN %(after_seconds)s > 0 AND t.holder IS NULL
                       THEN t.status ELSE 'busy' END,
         updated_at = now()
   WHERE t.tenant_id = %(tenant)s AND t.thread_id = %(thread_id)s
  RETURNING t.next_seq - 1 AS seq, t.holder
), a AS (
  INSERT INTO threadmill.activation
    (tenant_id, activation_id, thread_id, run_id, kind, graph_id, labels)
  SELECT %(tenant)s, gen_random_uuid(), %(thread_id)s, %(run_id)s, 'step',
         %(graph_id)s, %(labels)s
    FROM t WHERE t.holder = %(run_id)s
), d AS (
  INSERT INTO threadmill.timer (tenant_id, kind, ref, due_at)
  SELECT %(tenant)s, 'promote', %(run_id)s::text,
         now() + make_interval(secs => %(after_seconds)s)
   WHERE %(after_seconds)s > 0
)
INSERT INTO threadmill.run
  (tenant_id, run_id, thread_id, seq, assistant_id, graph_id, multitask_strategy,
   metadata, kwargs, payload, labels, not_before)
SELECT %(tenant)s, %(run_id)s, %(thread_id)s, t.seq, %(assistant_id)s, %(graph_id)s,
       %(strategy)s, %(metadata)s, %(kwargs)s, %(payload)s, %(labels)s,
       now() + make_interval(secs => %(after_seconds)s)
  FROM t
RETURNING *

-- name: promote
-- Hands a locked thread on to its oldest run that may go. Its holder gives it up, or
-- (no holder) a delayed run's time has come and the thread is free. Nothing happens if
-- somebody else holds it, who will look at the queue himself. The clock is read after
-- the lock: whoever had it before may have looked just before a run was due.
WITH next AS (
  SELECT r.run_id, r.graph_id, r.labels
    FROM threadmill.run r
   WHERE r.tenant_id = %(tenant)s AND r.thread_id = %(thread_id)s
     AND r.status = 'pending' AND r.not_before <= clock_timestamp()
   ORDER BY r.seq
   LIMIT 1
), th AS (
  UPDATE threadmill.thread th
     SET holder = (SELECT run_id FROM next),
         status = CASE WHEN EXISTS (SELECT FROM next) THEN 'busy'
                       ELSE coalesce(%(status)s,
                                     nullif(th.status, 'busy'), 'idle') END,
         error = %(error)s,
         updated_at = now(), state_updated_at = now()
   WHERE th.tenant_id = %(tenant)s AND th.thread_id = %(thread_id)s
     AND th.holder IS NOT DISTINCT FROM %(holder)s::uuid
     AND (th.holder IS NOT NULL OR EXISTS (SELECT FROM next))
  RETURNING th.holder
)
INSERT INTO threadmill.activation
  (tenant_id, activation_id, thread_id, run_id, kind, graph_id, labels)
SELECT %(tenant)s, gen_random_uuid(), %(thread_id)s, next.run_id, 'step', next.graph_id,
       next.labels
  FROM next JOIN th ON th.holder = next.run_id
RETURNING run_id, graph_id, tenant_id, thread_id, labels

-- name: get
SELECT * FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
   AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s::uuid)

-- name: list
SELECT r.* FROM threadmill.run r
 WHERE r.tenant_id = %(tenant)s AND r.thread_id = %(thread_id)s
   AND (%(status)s::text IS NULL OR r.status = %(status)s::text)
 ORDER BY r.seq DESC
 LIMIT %(limit)s OFFSET %(offset)s

-- name: thread_of
SELECT thread_id FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s

-- name: end
-- Every ending of a run goes through here; `sources` comes from domain.run. The
-- run's own last checkpoint is the head, if this run put it there.
WITH r AS (
  UPDATE threadmill.run r
     SET status = %(target)s, error = %(error)s, finished_at = now(),
         updated_at = now(),
         end_checkpoint = (
           SELECT c.checkpoint_id
             FROM threadmill.head h
             JOIN threadmill.checkpoint c
               ON c.tenant_id = h.tenant_id AND c.thread_id = h.thread_id
              AND c.ns = h.ns AND c.checkpoint_id = h.checkpoint_id
            WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread_id)s::text
              AND h.ns = '' AND (c.run_id = r.run_id OR r.status = 'running'))
   WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
     AND r.thread_id = %(thread_id)s AND r.status = ANY (%(sources)s)
  RETURNING r.kwargs, r.thread_id, r.not_before > r.created_at AS delayed
), e AS (
  INSERT INTO threadmill.timer (tenant_id, kind, ref, due_at)
  SELECT %(tenant)s, 'drop_events', %(run_id)s::text,
         now() + make_interval(secs => %(events_seconds)s)
    FROM r WHERE %(told)s
              OR jsonb_array_length(coalesce(r.kwargs -> 'stream_mode', '[]')) > 0
), d AS (
  INSERT INTO threadmill.timer (tenant_id, kind, ref, due_at)
  SELECT %(tenant)s, 'drop_thread', r.thread_id::text,
         now() + make_interval(secs => %(temporary_seconds)s)
    FROM r WHERE coalesce((r.kwargs ->> 'temporary')::boolean, false)
), p AS (
  DELETE FROM threadmill.timer t
   USING r
   WHERE r.delayed AND t.tenant_id = %(tenant)s AND t.kind = 'promote'
     AND t.ref = %(run_id)s::text
)
SELECT threadmill.require(EXISTS (SELECT FROM r), %(refusal)s,
                          'the run does not exist or has ended already')

-- name: drop_activations
-- All that is left of a run that ends, after its superstep (drop_superstep): its
-- activations, in the order in which everybody locks them.
WITH held AS MATERIALIZED (
  SELECT activation_id FROM threadmill.activation
   WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
   ORDER BY activation_id
     FOR UPDATE
)
DELETE FROM threadmill.activation a
 USING held
 WHERE a.tenant_id = %(tenant)s AND a.activation_id = held.activation_id
RETURNING a.activation_id, a.token, a.worker_id

-- name: drop_superstep
DELETE FROM threadmill.superstep
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s

-- name: lock
SELECT 1 FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s AND run_id = %(run_id)s
   FOR UPDATE

-- name: delete
-- Comes after the lock: whoever had it before may have deleted the run. Its dead letter
-- goes too, and then the thread of a stateless run as it would have gone without.
WITH r AS (
  DELETE FROM threadmill.run
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
     AND run_id = %(run_id)s AND status NOT IN ('pending', 'running')
  RETURNING run_id, run_id::text AS ref, thread_id,
            coalesce((kwargs ->> 'temporary')::boolean, false) AS temporary
), e AS (
  DELETE FROM threadmill.event e
   USING r
   WHERE e.tenant_id = %(tenant)s AND e.thread_id = %(thread_id)s
     AND e.run_id = r.run_id
), t AS (
  DELETE FROM threadmill.timer
   WHERE tenant_id = %(tenant)s AND kind = 'drop_events' AND ref = (SELECT ref FROM r)
), l AS (
  DELETE FROM threadmill.dead_letter
   WHERE tenant_id = %(tenant)s AND run_id = (SELECT run_id FROM r)
  RETURNING run_id
), d AS (
  INSERT INTO threadmill.timer (tenant_id, kind, ref, due_at)
  SELECT %(tenant)s, 'drop_thread', r.thread_id::text,
         now() + make_interval(secs => %(temporary_seconds)s)
    FROM r JOIN l USING (run_id) WHERE r.temporary
  ON CONFLICT DO NOTHING
)
SELECT threadmill.require(
         EXISTS (SELECT FROM threadmill.run
                  WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
                    AND run_id = %(run_id)s),
         'not_found', format('run %%s not found', %(run_id)s::text)),
       threadmill.require(EXISTS (SELECT FROM r), 'conflict',
                          'the run is pending or running; cancel it first')
