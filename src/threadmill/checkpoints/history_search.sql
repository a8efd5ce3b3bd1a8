-- Searching histories. Each statement reads a bounded number of rows along an index that
-- begins with the tenant; what it reads is judged by the caller.

-- name: index_values
-- What a checkpoint holds at its graph's paths; comes after its put.
INSERT INTO threadmill.history_value AS v
  (tenant_id, thread_id, path, checkpoint_id, graph_id, value, number, changed,
   created_at)
SELECT c.tenant_id, c.thread_id, n.path, c.checkpoint_id, %(graph_id)s, n.value,
       n.number,
       n.value IS DISTINCT FROM (
         SELECT before.value FROM threadmill.history_value before
          WHERE before.tenant_id = %(tenant)s AND before.thread_id = %(thread)s
            AND before.checkpoint_id = c.parent_id AND before.path = n.path),
       c.created_at
  FROM threadmill.checkpoint c
 CROSS JOIN unnest(%(paths)s::text[], %(values)s::text[], %(numbers)s::float8[])
              AS n (path, value, number)
 WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s AND c.ns = ''
   AND c.checkpoint_id = %(checkpoint_id)s
ON CONFLICT (tenant_id, thread_id, checkpoint_id, path) DO UPDATE
   SET value = excluded.value, number = excluded.number, changed = excluded.changed

-- name: by_value
-- Along history_value_equal.
SELECT v.thread_id, v.checkpoint_id, v.value, v.number, v.changed, v.created_at
  FROM threadmill.history_value v
 WHERE v.tenant_id = %(tenant)s AND v.graph_id = %(graph_id)s AND v.path = %(path)s
   AND v.value = %(value)s
   AND v.created_at >= %(since)s::timestamptz AND v.created_at <= %(at)s::timestamptz
   AND (v.created_at < %(at)s::timestamptz
        OR v.thread_id > %(thread)s::text
        OR v.thread_id = %(thread)s::text AND v.checkpoint_id > %(checkpoint_id)s::text)
 ORDER BY v.created_at DESC, v.thread_id, v.checkpoint_id
 LIMIT %(limit)s

-- name: by_path
-- Along history_value_by_time.
SELECT v.thread_id, v.checkpoint_id, v.value, v.number, v.changed, v.created_at
  FROM threadmill.history_value v
 WHERE v.tenant_id = %(tenant)s AND v.graph_id = %(graph_id)s AND v.path = %(path)s
   AND v.created_at >= %(since)s::timestamptz AND v.created_at <= %(at)s::timestamptz
   AND (v.created_at < %(at)s::timestamptz
        OR v.thread_id > %(thread)s::text
        OR v.thread_id = %(thread)s::text AND v.checkpoint_id > %(checkpoint_id)s::text)
 ORDER BY v.created_at DESC, v.thread_id, v.checkpoint_id
 LIMIT %(limit)s

-- name: threads_by_creation
-- Along thread_by_creation; what does not fit is read all the same, so a page is
-- bounded before it is narrowed down. A thread that has not changed since then, and that
-- no run has now (commits do not touch it), has no checkpoint since then. The thread of the place comes again: it may not be done.
WITH page AS MATERIALIZED (
  SELECT * FROM threadmill.thread t
   WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
     AND t.created_at <= %(at)s::timestamptz
     AND (t.created_at < %(at)s::timestamptz OR t.thread_id >= %(thread)s::uuid)
   ORDER BY t.created_at DESC, t.thread_id
   LIMIT %(limit)s
)
SELECT t.thread_id, t.created_at,
       (t.holder IS NOT NULL OR t.updated_at >= %(since)s::timestamptz)
       AND (%(graph_id)s::text IS NULL OR t.metadata ->> 'graph_id' = %(graph_id)s::text)
       AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb) AS fits
  FROM page t
 ORDER BY t.created_at DESC, t.thread_id

-- name: threads_named
-- The same for threads that are named, or whose run is.
WITH page AS MATERIALIZED (
  SELECT * FROM threadmill.thread t
   WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
     AND t.created_at <= %(at)s::timestamptz
     AND (t.created_at < %(at)s::timestamptz OR t.thread_id >= %(thread)s::uuid)
     AND t.thread_id = ANY (%(ids)s::uuid[])
   ORDER BY t.created_at DESC, t.thread_id
   LIMIT %(limit)s
)
SELECT t.thread_id, t.created_at,
       (t.holder IS NOT NULL OR t.updated_at >= %(since)s::timestamptz)
       AND (%(graph_id)s::text IS NULL OR t.metadata ->> 'graph_id' = %(graph_id)s::text)
       AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb) AS fits
  FROM page t
 ORDER BY t.created_at DESC, t.thread_id

-- name: threads_by_facet
-- The same along one entry of their metadata.
WITH page AS MATERIALIZED (
  SELECT f.thread_id, f.created_at FROM threadmill.facet f
   WHERE f.tenant_id = %(tenant)s AND (f.key, f.value) =
         (SELECT key, value FROM threadmill.facets(%(facet)s::jsonb))
     AND f.created_at <= %(at)s::timestamptz
     AND (f.created_at < %(at)s::timestamptz OR f.thread_id >= %(thread)s::uuid)
   ORDER BY f.created_at DESC, f.thread_id
   LIMIT %(limit)s
)
SELECT t.thread_id, page.created_at,
       NOT t.temporary
       AND (t.holder IS NOT NULL OR t.updated_at >= %(since)s::timestamptz)
       AND (%(graph_id)s::text IS NULL OR t.metadata ->> 'graph_id' = %(graph_id)s::text)
       AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb) AS fits
  FROM page
  JOIN threadmill.thread t ON t.tenant_id = %(tenant)s AND t.thread_id = page.thread_id
 ORDER BY page.created_at DESC, t.thread_id

-- name: thread_of_run
SELECT thread_id FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s

-- name: newest
-- Checkpoints of some threads, thread by thread, along the unique index on the ordinal.
SELECT n.place, c.thread_id, c.checkpoint_id, c.ordinal
  FROM unnest(%(threads)s::text[], %(belows)s::bigint[])
         WITH ORDINALITY AS n (thread_id, below, place)
 CROSS JOIN LATERAL (
   SELECT c.thread_id, c.checkpoint_id, c.ordinal FROM threadmill.checkpoint c
    WHERE c.tenant_id = %(tenant)s AND c.thread_id = n.thread_id AND c.ns = ''
      AND c.ordinal < n.below
    ORDER BY c.ordinal DESC
    LIMIT %(limit)s) c
 ORDER BY n.place, c.ordinal DESC
 LIMIT %(limit)s

-- name: moments
-- What is known of some checkpoints, each by its key. Nodes are named by the paths of
-- the tasks whose writes lie at the parent. A thread's id is given twice: a cast of one
-- would not be let into the index before row-level security has judged.
SELECT n.place, c.thread_id, c.checkpoint_id, c.parent_id, c.run_id,
       c.metadata ->> 'source' AS source, (c.metadata ->> 'step')::integer AS step,
       c.created_at, t.metadata ->> 'graph_id' AS graph_id,
       NOT t.temporary
       AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb) AS fits,
       ARRAY(SELECT DISTINCT w.task_path FROM threadmill.checkpoint_write w
              WHERE w.tenant_id = c.tenant_id AND w.thread_id = c.thread_id
                AND w.ns = c.ns AND w.checkpoint_id = c.parent_id) AS task_paths,
       (SELECT r.error FROM threadmill.run r
         WHERE r.tenant_id = c.tenant_id AND r.run_id = c.run_id
           AND r.end_checkpoint = c.checkpoint_id
           AND r.status IN ('error', 'timeout')) AS run_error,
       f.value_type AS failure_type, f.value AS failure
  FROM unnest(%(threads)s::text[], %(ids)s::uuid[], %(checkpoints)s::text[])
         WITH ORDINALITY AS n (thread_id, id, checkpoint_id, place)
  JOIN threadmill.checkpoint c
    ON c.tenant_id = %(tenant)s AND c.thread_id = n.thread_id AND c.ns = ''
   AND c.checkpoint_id = n.checkpoint_id
  JOIN threadmill.thread t
    ON t.tenant_id = %(tenant)s AND t.thread_id = n.id
  LEFT JOIN LATERAL (
    SELECT w.value_type, w.value FROM threadmill.checkpoint_write w
     WHERE w.tenant_id = %(tenant)s AND w.thread_id = n.thread_id AND w.ns = ''
       AND w.checkpoint_id = n.checkpoint_id AND w.channel = '__error__'
     LIMIT 1) f ON true
 ORDER BY n.place

-- name: bodies
-- Some checkpoints of root namespaces, as they are stored.
SELECT c.thread_id, c.checkpoint_id, c.format, c.body_type AS type, c.body AS value,
       c.chunks
  FROM unnest(%(threads)s::text[], %(checkpoints)s::text[]) AS n (thread_id, checkpoint_id)
  JOIN threadmill.checkpoint c
    ON c.tenant_id = %(tenant)s AND c.thread_id = n.thread_id AND c.ns = ''
   AND c.checkpoint_id = n.checkpoint_id

-- name: chunks
-- Some chunks of several threads.
SELECT k.thread_id, k.name, k.type, k.data
  FROM unnest(%(threads)s::text[], %(names)b::bytea[]) AS n (thread_id, name)
  JOIN threadmill.chunk k
    ON k.tenant_id = %(tenant)s AND k.thread_id = n.thread_id AND k.name = n.name
