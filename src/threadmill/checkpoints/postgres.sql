-- Checkpoints, their heads and their pending writes.
--
-- Lock order: run, superstep, activations by id, the thread's chunks, head, stream (in
-- one transaction). A head's `ordinal` is the last one that its namespace gave out: it
-- only rises, so a cursor stays valid when checkpoints are deleted.
--
-- A put returns its namespace's epoch, under which its chunks are there (`chunks.sql`).

----------------------------------------------------------------- checkpoints: put
-- The head moves first and stays locked, which gives the ordinal; the checkpoint is
-- dated under that lock. A checkpoint that exists keeps its parent and its ordinal.

-- name: put_next
-- The head must be the expected one.
WITH moved AS (
  UPDATE threadmill.head SET checkpoint_id = %(checkpoint_id)s, ordinal = ordinal + 1
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s AND ns = %(ns)s
     AND checkpoint_id = %(expected)s
  RETURNING ordinal, gc_epoch
)
INSERT INTO threadmill.checkpoint AS c
  (tenant_id, thread_id, ns, checkpoint_id, parent_id, ordinal, run_id, activation_id,
   token, format, body_type, body, chunks, metadata, created_at)
SELECT %(tenant)s, %(thread)s, %(ns)s, %(checkpoint_id)s, %(parent_id)s,
       (SELECT ordinal FROM moved), %(run_id)s::uuid, %(activation_id)s::uuid,
       %(token)s::bigint, %(format)s, %(body_type)s, %(body)b, %(chunks)b::bytea[],
       %(metadata)s::jsonb, clock_timestamp()
 WHERE threadmill.require(EXISTS (SELECT FROM moved), 'head_moved',
         format('the head of thread %%s is no longer %%s',
                %(thread)s::text, %(expected)s::text))
ON CONFLICT (tenant_id, thread_id, ns, checkpoint_id) DO UPDATE
   SET format = excluded.format, body_type = excluded.body_type, body = excluded.body,
       chunks = excluded.chunks, metadata = excluded.metadata
RETURNING (SELECT gc_epoch FROM moved)

-- name: put_first
-- There must be no head yet.
WITH moved AS (
  INSERT INTO threadmill.head (tenant_id, thread_id, ns, checkpoint_id, ordinal)
  VALUES (%(tenant)s, %(thread)s, %(ns)s, %(checkpoint_id)s, 1)
  ON CONFLICT (tenant_id, thread_id, ns) DO NOTHING
  RETURNING ordinal, gc_epoch
)
INSERT INTO threadmill.checkpoint
  (tenant_id, thread_id, ns, checkpoint_id, parent_id, ordinal, run_id, activation_id,
   token, format, body_type, body, chunks, metadata, created_at)
SELECT %(tenant)s, %(thread)s, %(ns)s, %(checkpoint_id)s, %(parent_id)s,
       (SELECT ordinal FROM moved), %(run_id)s::uuid, %(activation_id)s::uuid,
       %(token)s::bigint, %(format)s, %(body_type)s, %(body)b, %(chunks)b::bytea[],
       %(metadata)s::jsonb, clock_timestamp()
 WHERE threadmill.require(EXISTS (SELECT FROM moved), 'head_moved',
         format('thread %%s has a head already', %(thread)s::text))
RETURNING (SELECT gc_epoch FROM moved)

-- name: put_any
-- Whatever the head is: subgraphs, whose root compares for them, and use without a
-- fence. Putting a stored checkpoint again changes its content only, so that a late
-- repetition does not turn the head back.
WITH known AS (
  UPDATE threadmill.checkpoint
     SET format = %(format)s, body_type = %(body_type)s, body = %(body)b,
         chunks = %(chunks)b::bytea[], metadata = %(metadata)s::jsonb
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s AND ns = %(ns)s
     AND checkpoint_id = %(checkpoint_id)s
  RETURNING 1
), moved AS (
  INSERT INTO threadmill.head AS h (tenant_id, thread_id, ns, checkpoint_id, ordinal)
  SELECT %(tenant)s, %(thread)s, %(ns)s, %(checkpoint_id)s, 1
   WHERE NOT EXISTS (SELECT FROM known)
  ON CONFLICT (tenant_id, thread_id, ns) DO UPDATE
     SET checkpoint_id = excluded.checkpoint_id, ordinal = h.ordinal + 1
  RETURNING ordinal, gc_epoch
)
INSERT INTO threadmill.checkpoint
  (tenant_id, thread_id, ns, checkpoint_id, parent_id, ordinal, run_id, activation_id,
   token, format, body_type, body, chunks, metadata, created_at)
SELECT %(tenant)s, %(thread)s, %(ns)s, %(checkpoint_id)s, %(parent_id)s,
       moved.ordinal, %(run_id)s::uuid, %(activation_id)s::uuid,
       %(token)s::bigint, %(format)s, %(body_type)s, %(body)b, %(chunks)b::bytea[],
       %(metadata)s::jsonb, clock_timestamp()
  FROM moved
-- Two processes that put one checkpoint for the first time at once meet here.
ON CONFLICT (tenant_id, thread_id, ns, checkpoint_id) DO UPDATE
   SET format = excluded.format, body_type = excluded.body_type, body = excluded.body,
       chunks = excluded.chunks, metadata = excluded.metadata
RETURNING (SELECT gc_epoch FROM moved)

-------------------------------------------------------------- pending writes: put

-- name: replace_writes
-- Under the fence, a task's writes are its complete result so far. LangGraph's loop
-- sees it the same way: each of its calls drops what it knew of the task, and writes
-- of the null task, which do accumulate, are sent again as a whole each time.
--
-- What an earlier attempt left must go, or a crash between two attempts mixes both:
-- output beyond the new output, an error of a task that succeeded when it was run
-- again, a question that it no longer asks, an answer that was used up.
--
-- One thing stays: marks (slots below zero) of an earlier *run*. LangGraph keeps the
-- question that the run which now resumes has answered, so that the history and the
-- end of that earlier run still show it; a task counts as finished by its output
-- whatever marks it has. The null task has no history, so its marks go as well.
--
-- A write of the null task that is the same as before keeps the run that stored it:
-- accumulated writes that are only sent again still belong to the run that made them.
-- A task that asks the same question in a later run has asked it in that one, too.
WITH dropped AS (
  DELETE FROM threadmill.checkpoint_write
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s AND ns = %(ns)s
     AND checkpoint_id = %(checkpoint_id)s AND task_id = %(task_id)s
     AND idx <> ALL (%(idx)s::integer[])
     AND (idx >= 0 OR run_id IS NOT DISTINCT FROM %(run_id)s::uuid
          OR task_id = '00000000-0000-0000-0000-000000000000')
)
INSERT INTO threadmill.checkpoint_write AS w
  (tenant_id, thread_id, ns, checkpoint_id, task_id, idx, task_path, channel, run_id,
   token, value_type, value)
SELECT %(tenant)s, %(thread)s, %(ns)s, %(checkpoint_id)s, %(task_id)s, n.idx,
       %(task_path)s, n.channel, %(run_id)s::uuid, %(token)s::bigint, n.type, n.value
  FROM unnest(%(idx)s::integer[], %(channel)s::text[], %(type)s::text[],
              %(value)b::bytea[]) AS n (idx, channel, type, value)
ON CONFLICT (tenant_id, thread_id, ns, checkpoint_id, task_id, idx) DO UPDATE
   SET channel = excluded.channel, task_path = excluded.task_path,
       run_id = excluded.run_id, token = excluded.token,
       value_type = excluded.value_type, value = excluded.value
 WHERE (w.channel, w.value_type, w.value)
       IS DISTINCT FROM (excluded.channel, excluded.value_type, excluded.value)
    OR w.task_id <> '00000000-0000-0000-0000-000000000000'
   AND w.run_id IS DISTINCT FROM excluded.run_id

-- name: merge_writes
-- Without a fence, as LangGraph's own savers do: a slot's first value stays, marks
-- (slots below zero) are overwritten.
INSERT INTO threadmill.checkpoint_write
  (tenant_id, thread_id, ns, checkpoint_id, task_id, idx, task_path, channel, run_id,
   token, value_type, value)
SELECT %(tenant)s, %(thread)s, %(ns)s, %(checkpoint_id)s, %(task_id)s, n.idx,
       %(task_path)s, n.channel, %(run_id)s::uuid, %(token)s::bigint, n.type, n.value
  FROM unnest(%(idx)s::integer[], %(channel)s::text[], %(type)s::text[],
              %(value)b::bytea[]) AS n (idx, channel, type, value)
ON CONFLICT (tenant_id, thread_id, ns, checkpoint_id, task_id, idx) DO UPDATE
   SET channel = excluded.channel, value_type = excluded.value_type,
       value = excluded.value
 WHERE excluded.idx < 0

----------------------------------------------------------------------------- reads
-- A checkpoint, its pending writes and its chunks come as rows of one statement, so of
-- one snapshot and without a transaction around it: first the checkpoints, then the
-- writes, then each chunk once, unless it lies in a chunk store. Writes are in LangGraph's order (task path, task, slot),
-- compared by bytes as Python does, whatever the database's collation.

-- name: get
-- One checkpoint; without an id, the head's, or the one that a run ended at. (coalesce()
-- in the place of CASE would not be taken into the index condition under row-level
-- security: it is not leakproof.)
WITH found AS (
  SELECT * FROM threadmill.checkpoint
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s AND ns = %(ns)s
     AND checkpoint_id = CASE
           WHEN %(checkpoint_id)s::text IS NOT NULL THEN %(checkpoint_id)s::text
           WHEN %(ended_run)s::uuid IS NOT NULL THEN
             (SELECT r.end_checkpoint FROM threadmill.run r
               WHERE r.tenant_id = %(tenant)s AND r.run_id = %(ended_run)s::uuid)
           ELSE
             (SELECT h.checkpoint_id FROM threadmill.head h
               WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread)s
                 AND h.ns = %(ns)s)
         END
)
SELECT c.thread_id, c.ns, c.checkpoint_id, c.run_id, c.body_type AS type,
       c.body AS value, c.format, c.parent_id, c.ordinal, c.metadata, c.created_at,
       NULL AS channel, NULL COLLATE "C" AS task_path, NULL COLLATE "C" AS task_id,
       NULL::integer AS idx, c.chunks, NULL::bytea AS name,
       (SELECT h.gc_epoch FROM threadmill.head h
         WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread)s
           AND h.ns = %(ns)s) AS gc_epoch
  FROM found c
 UNION ALL
SELECT w.thread_id, w.ns, w.checkpoint_id, w.run_id, w.value_type, w.value,
       NULL, NULL, NULL, NULL, NULL,
       w.channel, w.task_path COLLATE "C", w.task_id COLLATE "C", w.idx, NULL, NULL,
       NULL
  FROM found c
  JOIN threadmill.checkpoint_write w
    ON w.tenant_id = %(tenant)s AND w.thread_id = %(thread)s AND w.ns = %(ns)s
   AND w.checkpoint_id = c.checkpoint_id
 UNION ALL
SELECT k.thread_id, NULL, NULL, NULL, k.type, k.data, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, k.name, NULL
  FROM threadmill.chunk k
 WHERE k.tenant_id = %(tenant)s AND k.thread_id = %(thread)s
   AND k.name = ANY (ARRAY(SELECT unnest(c.chunks) FROM found c
                          WHERE c.body_type <> 'away'))
 ORDER BY ordinal NULLS LAST, task_path, task_id, idx

-- name: place
-- Where a checkpoint stands; in the namespace that is asked for, if it is there too.
SELECT thread_id, ns, ordinal, created_at
  FROM threadmill.checkpoint
 WHERE tenant_id = %(tenant)s AND checkpoint_id = %(checkpoint_id)s
   AND (%(thread)s::text IS NULL OR thread_id = %(thread)s::text)
 ORDER BY (ns = %(ns)s::text) DESC NULLS LAST, created_at
 LIMIT 1

-- name: list_namespace
-- One namespace of one thread, newest first, by the unique index on the ordinal.
-- `outer_*` is a bound in another namespace, as LangGraph uses it to find a subgraph's
-- state before a point of its parent: a checkpoint comes before it when the
-- checkpoint of that namespace which it was made under does. Where that is unknown,
-- the database's clock decides.
WITH found AS (
  SELECT c.* FROM threadmill.checkpoint c
   WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s AND c.ns = %(ns)s
     AND c.ordinal < %(below)s
     AND (%(outer_ns)s::text IS NULL OR coalesce(
           (SELECT o.ordinal < %(outer_ordinal)s::bigint FROM threadmill.checkpoint o
             WHERE o.tenant_id = %(tenant)s AND o.thread_id = %(thread)s
               AND o.ns = %(outer_ns)s::text
               AND o.checkpoint_id = c.metadata -> 'parents' ->> %(outer_ns)s::text),
           c.created_at < %(outer_at)s::timestamptz))
     AND (%(filter)s::jsonb IS NULL OR c.metadata @> %(filter)s::jsonb)
     AND (%(checkpoint_id)s::text IS NULL
          OR c.checkpoint_id = %(checkpoint_id)s::text)
   ORDER BY c.ordinal DESC
   LIMIT %(limit)s
)
SELECT c.thread_id, c.ns, c.checkpoint_id, c.run_id, c.body_type AS type,
       c.body AS value, c.format, c.parent_id, c.ordinal, c.metadata, c.created_at,
       NULL AS channel, NULL COLLATE "C" AS task_path, NULL COLLATE "C" AS task_id,
       NULL::integer AS idx, c.chunks, NULL::bytea AS name, NULL::bigint AS gc_epoch
  FROM found c
 UNION ALL
SELECT w.thread_id, w.ns, w.checkpoint_id, w.run_id, w.value_type, w.value,
       NULL, NULL, NULL, NULL, NULL,
       w.channel, w.task_path COLLATE "C", w.task_id COLLATE "C", w.idx, NULL, NULL,
       NULL
  FROM found c
  JOIN threadmill.checkpoint_write w USING (tenant_id, thread_id, ns, checkpoint_id)
 UNION ALL
SELECT k.thread_id, NULL, NULL, NULL, k.type, k.data, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, k.name, NULL
  FROM (SELECT DISTINCT c.thread_id, unnest(c.chunks) AS name FROM found c
         WHERE c.body_type <> 'away') used
  JOIN threadmill.chunk k
    ON k.tenant_id = %(tenant)s AND k.thread_id = used.thread_id AND k.name = used.name
 ORDER BY ordinal DESC NULLS LAST, task_path, task_id, idx

-- name: list_all
-- All namespaces of one thread, or of every thread of the tenant. Ordinals of two
-- namespaces do not compare; the time of the commit does, by the database's clock.
WITH found AS (
  SELECT c.* FROM threadmill.checkpoint c
   WHERE c.tenant_id = %(tenant)s
     AND (%(thread)s::text IS NULL OR c.thread_id = %(thread)s::text)
     AND (%(below_at)s::timestamptz IS NULL
          OR (c.created_at, c.ordinal, c.thread_id, c.ns)
             < (%(below_at)s::timestamptz, %(below)s::bigint, %(below_thread)s::text,
                %(below_ns)s::text))
     AND (%(filter)s::jsonb IS NULL OR c.metadata @> %(filter)s::jsonb)
     AND (%(checkpoint_id)s::text IS NULL
          OR c.checkpoint_id = %(checkpoint_id)s::text)
   ORDER BY c.created_at DESC, c.ordinal DESC, c.thread_id DESC, c.ns DESC
   LIMIT %(limit)s
)
SELECT c.thread_id, c.ns, c.checkpoint_id, c.run_id, c.body_type AS type,
       c.body AS value, c.format, c.parent_id, c.ordinal, c.metadata, c.created_at,
       NULL AS channel, NULL COLLATE "C" AS task_path, NULL COLLATE "C" AS task_id,
       NULL::integer AS idx, c.chunks, NULL::bytea AS name, NULL::bigint AS gc_epoch
  FROM found c
 UNION ALL
SELECT w.thread_id, w.ns, w.checkpoint_id, w.run_id, w.value_type, w.value,
       NULL, NULL, NULL, NULL, NULL,
       w.channel, w.task_path COLLATE "C", w.task_id COLLATE "C", w.idx, NULL, NULL,
       NULL
  FROM found c
  JOIN threadmill.checkpoint_write w USING (tenant_id, thread_id, ns, checkpoint_id)
 UNION ALL
SELECT k.thread_id, NULL, NULL, NULL, k.type, k.data, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, k.name, NULL
  FROM (SELECT DISTINCT c.thread_id, unnest(c.chunks) AS name FROM found c
         WHERE c.body_type <> 'away') used
  JOIN threadmill.chunk k
    ON k.tenant_id = %(tenant)s AND k.thread_id = used.thread_id AND k.name = used.name
 ORDER BY created_at DESC NULLS LAST, ordinal DESC, thread_id DESC, ns DESC,
          task_path, task_id, idx

-- name: channel_writes
-- Writes to some channels at several checkpoints of one namespace.
SELECT checkpoint_id, task_id, channel, value_type AS type, value
  FROM threadmill.checkpoint_write
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s AND ns = %(ns)s
   AND checkpoint_id = ANY (%(checkpoint_ids)s::text[])
   AND channel = ANY (%(channels)s::text[])
 ORDER BY task_path COLLATE "C", task_id COLLATE "C", idx

-- name: ancestors
-- The checkpoints that lead to one (or to the head), nearest first, itself left out.
-- Each is looked up by its id: a join might read the whole namespace instead.
WITH RECURSIVE chain AS (
  SELECT parent_id, 0 AS depth FROM threadmill.checkpoint
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s AND ns = %(ns)s
     AND checkpoint_id = CASE WHEN %(checkpoint_id)s::text IS NULL THEN
           (SELECT h.checkpoint_id FROM threadmill.head h
             WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread)s
               AND h.ns = %(ns)s)
           ELSE %(checkpoint_id)s::text END
  UNION ALL
  SELECT (SELECT c.parent_id FROM threadmill.checkpoint c
           WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s
             AND c.ns = %(ns)s AND c.checkpoint_id = chain.parent_id),
         chain.depth + 1
    FROM chain
   WHERE chain.parent_id IS NOT NULL AND chain.depth < %(limit)s - 1
), found AS (
  SELECT chain.depth, c.thread_id, c.checkpoint_id, c.format, c.body_type, c.body, c.chunks
    FROM chain CROSS JOIN LATERAL (
           SELECT * FROM threadmill.checkpoint c
            WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s
              AND c.ns = %(ns)s AND c.checkpoint_id = chain.parent_id
            LIMIT 1) c
)
SELECT c.thread_id, c.checkpoint_id, c.format, c.body_type AS type, c.body AS value,
       c.chunks, c.depth, NULL::bytea AS name
  FROM found c
 UNION ALL
SELECT k.thread_id, NULL, NULL, k.type, k.data, NULL, NULL, k.name
  FROM threadmill.chunk k
 WHERE k.tenant_id = %(tenant)s AND k.thread_id = %(thread)s
   AND k.name = ANY (ARRAY(SELECT unnest(c.chunks) FROM found c
                          WHERE c.body_type <> 'away'))
 ORDER BY depth NULLS LAST

--------------------------------------------------------------------------- delete
-- Under `hold_alone`; the heads first, so that a put that is under way ends before.

-- name: delete_heads
DELETE FROM threadmill.head WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s

-- name: delete_checkpoints
DELETE FROM threadmill.checkpoint
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s

-- name: delete_writes
DELETE FROM threadmill.checkpoint_write
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s

-- name: delete_values
DELETE FROM threadmill.history_value
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s
