-- Removing and copying whole parts of a thread.
--
-- Each transaction is of one thread and locks its chunks and its heads first, so a put
-- waits for it or it for the put. A fenced activation that is under way notices by its compare of
-- the head.

-- name: copy_thread
-- One statement, so one snapshot: the copy is what the source was at one moment. The
-- copy belongs to no run.
WITH vacant AS (
  SELECT threadmill.require(
           NOT EXISTS (SELECT FROM threadmill.checkpoint
                        WHERE tenant_id = %(tenant)s AND thread_id = %(target)s),
           'already_exists',
           format('thread %%s has checkpoints already', %(target)s::text)) AS ok
), heads AS (
  INSERT INTO threadmill.head (tenant_id, thread_id, ns, checkpoint_id, ordinal)
  SELECT h.tenant_id, %(target)s, h.ns, h.checkpoint_id, h.ordinal
    FROM vacant, threadmill.head h
   WHERE vacant.ok AND h.tenant_id = %(tenant)s AND h.thread_id = %(source)s
), checkpoints AS (
  INSERT INTO threadmill.checkpoint
    (tenant_id, thread_id, ns, checkpoint_id, parent_id, ordinal, format, body_type,
     body, chunks, metadata, created_at)
  SELECT c.tenant_id, %(target)s, c.ns, c.checkpoint_id, c.parent_id, c.ordinal,
         c.format, c.body_type, c.body, c.chunks, c.metadata, c.created_at
    FROM vacant, threadmill.checkpoint c
   WHERE vacant.ok AND c.tenant_id = %(tenant)s AND c.thread_id = %(source)s
), chunks AS (
  INSERT INTO threadmill.chunk (tenant_id, thread_id, name, type, data)
  SELECT k.tenant_id, %(target)s, k.name, k.type, k.data
    FROM vacant, threadmill.chunk k
   WHERE vacant.ok AND k.tenant_id = %(tenant)s AND k.thread_id = %(source)s
  ON CONFLICT (tenant_id, thread_id, name) DO NOTHING
), valued AS (
  INSERT INTO threadmill.history_value
    (tenant_id, thread_id, path, checkpoint_id, graph_id, value, number, changed,
     created_at)
  SELECT v.tenant_id, %(target)s, v.path, v.checkpoint_id, v.graph_id, v.value, v.number,
         v.changed, v.created_at
    FROM vacant, threadmill.history_value v
   WHERE vacant.ok AND v.tenant_id = %(tenant)s AND v.thread_id = %(source)s
)
INSERT INTO threadmill.checkpoint_write
  (tenant_id, thread_id, ns, checkpoint_id, task_id, idx, task_path, channel,
   value_type, value)
SELECT w.tenant_id, %(target)s, w.ns, w.checkpoint_id, w.task_id, w.idx, w.task_path,
       w.channel, w.value_type, w.value
  FROM vacant, threadmill.checkpoint_write w
 WHERE vacant.ok AND w.tenant_id = %(tenant)s AND w.thread_id = %(source)s

-- name: threads_of_runs
-- Runs are found by their id in an index; names that are no UUIDs, as plain scripts may
-- use them, only by reading all metadata of the tenant.
SELECT thread_id FROM threadmill.checkpoint
 WHERE tenant_id = %(tenant)s AND run_id = ANY (%(run_ids)s::uuid[])
 UNION
SELECT thread_id::text FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND run_id = ANY (%(run_ids)s::uuid[])
 UNION
SELECT thread_id FROM threadmill.checkpoint
 WHERE cardinality(%(names)s::text[]) > 0 AND tenant_id = %(tenant)s
   AND run_id IS NULL AND metadata ->> 'run_id' = ANY (%(names)s::text[])

-- name: lock_heads
SELECT FROM threadmill.head
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s
 ORDER BY ns
   FOR UPDATE

-- name: delete_runs
-- Also what these runs wrote at checkpoints of others, so that a thread is again as it
-- was before them.
WITH gone AS (
  DELETE FROM threadmill.checkpoint
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s
     AND (run_id = ANY (%(run_ids)s::uuid[])
          OR run_id IS NULL AND metadata ->> 'run_id' = ANY (%(names)s::text[]))
  RETURNING ns, checkpoint_id
), unvalued AS (
  DELETE FROM threadmill.history_value v
   USING gone g
   WHERE v.tenant_id = %(tenant)s AND v.thread_id = %(thread)s
     AND g.ns = '' AND v.checkpoint_id = g.checkpoint_id
)
DELETE FROM threadmill.checkpoint_write w
 WHERE w.tenant_id = %(tenant)s AND w.thread_id = %(thread)s
   AND (w.run_id = ANY (%(run_ids)s::uuid[])
        OR EXISTS (SELECT FROM gone g
                    WHERE g.ns = w.ns AND g.checkpoint_id = w.checkpoint_id))

-- name: settle_heads
-- A head whose checkpoint is gone goes back to the newest that is left.
UPDATE threadmill.head h SET checkpoint_id = newest.checkpoint_id
  FROM (SELECT DISTINCT ON (ns) ns, checkpoint_id FROM threadmill.checkpoint
         WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s
         ORDER BY ns, ordinal DESC) newest
 WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread)s AND h.ns = newest.ns
   AND NOT EXISTS (SELECT FROM threadmill.checkpoint c
                    WHERE c.tenant_id = h.tenant_id AND c.thread_id = h.thread_id
                      AND c.ns = h.ns AND c.checkpoint_id = h.checkpoint_id)

-- name: drop_empty_heads
DELETE FROM threadmill.head h
 WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread)s
   AND NOT EXISTS (SELECT FROM threadmill.checkpoint c
                    WHERE c.tenant_id = h.tenant_id AND c.thread_id = h.thread_id
                      AND c.ns = h.ns)

-- name: cut_parents
-- No checkpoint names a parent that is not there.
UPDATE threadmill.checkpoint c SET parent_id = NULL
 WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s
   AND c.parent_id IS NOT NULL
   AND NOT EXISTS (SELECT FROM threadmill.checkpoint p
                    WHERE p.tenant_id = c.tenant_id AND p.thread_id = c.thread_id
                      AND p.ns = c.ns AND p.checkpoint_id = c.parent_id)

-- name: heads
-- Every head, with the delta channels that may need ancestors to be rebuilt.
SELECT h.ns, h.checkpoint_id, ARRAY(
         SELECT jsonb_object_keys(c.metadata -> 'counters_since_delta_snapshot')
       ) AS delta_channels
  FROM threadmill.head h
  JOIN threadmill.checkpoint c USING (tenant_id, thread_id, ns, checkpoint_id)
 WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread)s

-- name: expect_heads
-- Locks the heads; they must still be the ones that were read.
WITH held AS (
  SELECT ns, checkpoint_id FROM threadmill.head
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s
   ORDER BY ns
     FOR UPDATE
)
SELECT threadmill.require(
         (SELECT count(*) FROM held
            JOIN unnest(%(namespaces)s::text[], %(ids)s::text[])
                   AS e (ns, checkpoint_id) USING (ns, checkpoint_id))
         = cardinality(%(namespaces)s::text[]),
         'head_moved', format('thread %%s has gone on meanwhile', %(thread)s::text))

-- name: prune
-- Everything but `keep`, in the namespaces whose heads were read, the oldest first and no
-- more than `limit`. Writes go by the checkpoints deleted: those of a checkpoint that is
-- not stored yet stay.
WITH doomed AS MATERIALIZED (
  SELECT c.ns, c.checkpoint_id FROM threadmill.checkpoint c
   WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s
     AND c.ns = ANY (%(namespaces)s::text[])
     AND NOT EXISTS (
           SELECT FROM unnest(%(keep_namespaces)s::text[], %(keep_ids)s::text[])
                    AS k (ns, checkpoint_id)
            WHERE k.ns = c.ns AND k.checkpoint_id = c.checkpoint_id)
   ORDER BY c.ns, c.ordinal
   LIMIT %(limit)s
), gone AS (
  DELETE FROM threadmill.checkpoint c
   USING doomed d
   WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s
     AND c.ns = d.ns AND c.checkpoint_id = d.checkpoint_id
  RETURNING octet_length(c.body) + pg_column_size(c.metadata)
            + pg_column_size(c.chunks) AS bytes
), unwritten AS (
  DELETE FROM threadmill.checkpoint_write w
   USING doomed d
   WHERE w.tenant_id = %(tenant)s AND w.thread_id = %(thread)s
     AND w.ns = d.ns AND w.checkpoint_id = d.checkpoint_id
  RETURNING octet_length(w.value) AS bytes
), unvalued AS (
  DELETE FROM threadmill.history_value v
   USING doomed d
   WHERE v.tenant_id = %(tenant)s AND v.thread_id = %(thread)s
     AND d.ns = '' AND v.checkpoint_id = d.checkpoint_id
)
SELECT (SELECT count(*) FROM gone) AS checkpoints,
       coalesce((SELECT sum(bytes) FROM gone), 0)::bigint
       + coalesce((SELECT sum(bytes) FROM unwritten), 0)::bigint AS bytes

-- name: weigh
-- What `prune` would delete, and the chunks that only that names.
WITH doomed AS MATERIALIZED (
  SELECT c.ns, c.checkpoint_id,
         octet_length(c.body) + pg_column_size(c.metadata)
         + pg_column_size(c.chunks) AS bytes
    FROM threadmill.checkpoint c
   WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s
     AND c.ns = ANY (%(namespaces)s::text[])
     AND NOT EXISTS (
           SELECT FROM unnest(%(keep_namespaces)s::text[], %(keep_ids)s::text[])
                    AS k (ns, checkpoint_id)
            WHERE k.ns = c.ns AND k.checkpoint_id = c.checkpoint_id)
), named AS MATERIALIZED (
  SELECT unnest(CASE WHEN c.body_type = 'away'
                THEN c.body || c.chunks ELSE c.chunks END) AS name
    FROM threadmill.checkpoint c
   WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s
     AND NOT EXISTS (SELECT FROM doomed d
                      WHERE d.ns = c.ns AND d.checkpoint_id = c.checkpoint_id)
   UNION
  SELECT w.value FROM threadmill.checkpoint_write w
   WHERE w.tenant_id = %(tenant)s AND w.thread_id = %(thread)s
     AND w.value_type = 'away'
     AND NOT EXISTS (SELECT FROM doomed d
                      WHERE d.ns = w.ns AND d.checkpoint_id = w.checkpoint_id)
)
SELECT (SELECT count(*) FROM doomed) AS checkpoints,
       coalesce((SELECT sum(bytes) FROM doomed), 0)::bigint
       + coalesce((SELECT sum(octet_length(w.value)) FROM threadmill.checkpoint_write w
                     JOIN doomed d ON w.ns = d.ns AND w.checkpoint_id = d.checkpoint_id
                    WHERE w.tenant_id = %(tenant)s AND w.thread_id = %(thread)s),
                  0)::bigint
       + coalesce((SELECT sum(octet_length(k.data)) FROM threadmill.chunk k
                    WHERE k.tenant_id = %(tenant)s AND k.thread_id = %(thread)s
                      AND NOT EXISTS (SELECT FROM named WHERE named.name = k.name)),
                  0)::bigint AS bytes
