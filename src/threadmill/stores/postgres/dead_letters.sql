-- Runs that were given up. Lock order: thread, run, activation.

-- name: add
-- Comes after the run's end. The thread of a stateless run stays as long as the dead
-- letter does: it holds what there is to go on from.
WITH l AS (
  INSERT INTO threadmill.dead_letter
    (tenant_id, run_id, thread_id, graph_id, node, cause, attempts, checkpoint_id)
  SELECT r.tenant_id, r.run_id, r.thread_id, r.graph_id, %(node)s, %(cause)s,
         %(attempts)s,
         (SELECT c.checkpoint_id FROM threadmill.checkpoint c
           WHERE c.tenant_id = r.tenant_id AND c.thread_id = r.thread_id::text
             AND c.ns = '' AND c.checkpoint_id = r.end_checkpoint
             AND c.run_id = r.run_id)
    FROM threadmill.run r
   WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
  RETURNING thread_id::text AS ref
)
DELETE FROM threadmill.timer
 WHERE tenant_id = %(tenant)s AND kind = 'drop_thread' AND ref = (SELECT ref FROM l)

-- name: list
-- Walks the index dead_letter_by_time.
SELECT * FROM threadmill.dead_letter
 WHERE tenant_id = %(tenant)s
   AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s::text)
   AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s::uuid)
 ORDER BY died_at DESC, run_id
 LIMIT %(limit)s OFFSET %(offset)s

-- name: count
SELECT count(*) AS n FROM threadmill.dead_letter
 WHERE tenant_id = %(tenant)s
   AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s::text)
   AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s::uuid)

-- name: get
SELECT * FROM threadmill.dead_letter
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s

-- name: lock
-- The run and its dead letter: somebody may delete the one or discard the other.
SELECT 1
  FROM threadmill.run r
  JOIN threadmill.dead_letter d ON d.tenant_id = r.tenant_id AND d.run_id = r.run_id
 WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
   FOR UPDATE OF r, d

-- name: may_redrive
-- Comes after the locks. A run that has left something behind (a checkpoint, or results
-- at the checkpoint it entered at) goes on from there or not at all: with its input
-- given again, part of it would count twice.
SELECT threadmill.require(d.run_id IS NOT NULL, 'not_found',
                          'the run is no dead letter'),
       threadmill.require(r.status = ANY (%(sources)s), 'conflict',
                          format('a run that is %%s cannot be redriven', r.status)),
       threadmill.require(
         was.fresh OR was.head IS NOT DISTINCT FROM r.end_checkpoint,
         'conflict',
         format('the thread has gone on since the run ended; start a run from '
                'checkpoint %%s to go on from where it stopped, or send the message '
                'again; then discard the dead letter',
                coalesce(r.end_checkpoint, '(none)'))),
       threadmill.require(
         NOT was.fresh OR r.kwargs #>> '{checkpoint,checkpoint_id}' IS NULL OR EXISTS (
           SELECT FROM threadmill.checkpoint c
            WHERE c.tenant_id = r.tenant_id AND c.thread_id = r.thread_id::text
              AND c.ns = ''
              AND c.checkpoint_id = r.kwargs #>> '{checkpoint,checkpoint_id}'),
         'conflict',
         'the checkpoint that the run was to begin at was pruned; send the message '
         'again, and discard the dead letter'),
       threadmill.require(
         was.fresh OR t.holder IS NULL AND NOT EXISTS (
           SELECT FROM threadmill.run q
            WHERE q.tenant_id = r.tenant_id AND q.thread_id = r.thread_id
              AND q.status = 'pending' AND q.not_before <= clock_timestamp()),
         'thread_busy',
         'the run can only go on from where it stopped, and other runs of the thread '
         'would come first; wait for them or cancel them')
  FROM (SELECT) one
  LEFT JOIN threadmill.run r
    ON r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
  LEFT JOIN threadmill.dead_letter d
    ON d.tenant_id = r.tenant_id AND d.run_id = r.run_id
  LEFT JOIN threadmill.thread t
    ON t.tenant_id = r.tenant_id AND t.thread_id = r.thread_id
  CROSS JOIN LATERAL (
    SELECT (SELECT h.checkpoint_id FROM threadmill.head h
             WHERE h.tenant_id = r.tenant_id AND h.thread_id = r.thread_id::text
               AND h.ns = '') AS head,
           NOT EXISTS (
             SELECT FROM threadmill.checkpoint c
              WHERE c.tenant_id = r.tenant_id AND c.run_id = r.run_id)
           AND d.checkpoint_id IS NULL
           AND NOT EXISTS (
             SELECT FROM threadmill.checkpoint_write w
              WHERE w.tenant_id = r.tenant_id AND w.thread_id = r.thread_id::text
                AND w.run_id = r.run_id) AS fresh) was

-- name: redrive
-- A new place in the thread's order, and all of its life but the attempts anew.
WITH t AS (
  UPDATE threadmill.thread t
     SET next_seq = t.next_seq + 1, holder = coalesce(t.holder, %(run_id)s),
         status = 'busy', updated_at = now()
   WHERE t.tenant_id = %(tenant)s AND t.thread_id = %(thread_id)s
  RETURNING t.next_seq - 1 AS seq, t.holder
), r AS (
  UPDATE threadmill.run r
     SET status = %(target)s, seq = t.seq, error = NULL, end_checkpoint = NULL,
         started_at = NULL, finished_at = NULL, updated_at = now()
    FROM t
   WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
  RETURNING r.*, t.holder
), a AS (
  INSERT INTO threadmill.activation
    (tenant_id, activation_id, thread_id, run_id, kind, graph_id, labels)
  SELECT %(tenant)s, gen_random_uuid(), r.thread_id, r.run_id, 'step', r.graph_id,
         r.labels
    FROM r WHERE r.holder = r.run_id
), e AS (
  DELETE FROM threadmill.timer
   WHERE tenant_id = %(tenant)s AND kind = 'drop_events' AND ref = %(run_id)s::text
), d AS (
  DELETE FROM threadmill.dead_letter
   WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
)
SELECT r.*, r.holder = r.run_id AS starts FROM r

-- name: discard
-- The thread of a stateless run goes as it would have gone without.
WITH d AS (
  DELETE FROM threadmill.dead_letter
   WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
  RETURNING run_id
), t AS (
  INSERT INTO threadmill.timer (tenant_id, kind, ref, due_at)
  SELECT %(tenant)s, 'drop_thread', r.thread_id::text,
         now() + make_interval(secs => %(temporary_seconds)s)
    FROM d
    JOIN threadmill.run r ON r.tenant_id = %(tenant)s AND r.run_id = d.run_id
   WHERE coalesce((r.kwargs ->> 'temporary')::boolean, false)
  ON CONFLICT DO NOTHING
)
SELECT threadmill.require(EXISTS (SELECT FROM d), 'not_found',
                          'the run is no dead letter')
