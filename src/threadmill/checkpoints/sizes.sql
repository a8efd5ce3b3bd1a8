-- What threads take. A thread's id is made a text where its page is read: a cast of it
-- in a join would not be let into an index before row-level security has judged.

-- name: every
-- Along thread_by_creation.
WITH page AS MATERIALIZED (
  SELECT t.thread_id, t.thread_id::text AS thread, t.created_at,
         t.metadata ->> 'graph_id' AS graph_id
    FROM threadmill.thread t
   WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
     AND t.created_at <= %(at)s::timestamptz
     AND (t.created_at < %(at)s::timestamptz OR t.thread_id > %(after)s::uuid)
   ORDER BY t.created_at DESC, t.thread_id
   LIMIT %(limit)s
)
SELECT page.thread_id, page.graph_id, page.created_at, c.*, k.*, w.*, e.*
  FROM page
 CROSS JOIN LATERAL (
   SELECT count(*) AS checkpoints,
          coalesce(sum(octet_length(c.body)), 0)::bigint AS bodies,
          coalesce(bool_or(c.body_type = 'away'), false) AS is_away,
          coalesce(sum(pg_column_size(c.metadata)
                       + pg_column_size(c.chunks)), 0)::bigint AS metadata
     FROM threadmill.checkpoint c
    WHERE c.tenant_id = %(tenant)s AND c.thread_id = page.thread) c
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(octet_length(k.data)), 0)::bigint AS chunks
     FROM threadmill.chunk k
    WHERE k.tenant_id = %(tenant)s AND k.thread_id = page.thread) k
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(octet_length(w.value)), 0)::bigint AS writes
     FROM threadmill.checkpoint_write w
    WHERE w.tenant_id = %(tenant)s AND w.thread_id = page.thread) w
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(octet_length(e.data)), 0)::bigint AS events
     FROM threadmill.event e
    WHERE e.tenant_id = %(tenant)s AND e.thread_id = page.thread_id) e
 ORDER BY page.created_at DESC, page.thread_id

-- name: of_graph
-- The same along the facet of a graph.
WITH page AS MATERIALIZED (
  SELECT f.thread_id, f.thread_id::text AS thread, f.created_at,
         %(graph_id)s::text AS graph_id
    FROM threadmill.facet f
   WHERE f.tenant_id = %(tenant)s AND (f.key, f.value) =
         (SELECT key, value FROM threadmill.facets(
            jsonb_build_object('graph_id', %(graph_id)s::text)))
     AND f.created_at <= %(at)s::timestamptz
     AND (f.created_at < %(at)s::timestamptz OR f.thread_id > %(after)s::uuid)
   ORDER BY f.created_at DESC, f.thread_id
   LIMIT %(limit)s
)
SELECT page.thread_id, page.graph_id, page.created_at, c.*, k.*, w.*, e.*
  FROM page
 CROSS JOIN LATERAL (
   SELECT count(*) AS checkpoints,
          coalesce(sum(octet_length(c.body)), 0)::bigint AS bodies,
          coalesce(bool_or(c.body_type = 'away'), false) AS is_away,
          coalesce(sum(pg_column_size(c.metadata)
                       + pg_column_size(c.chunks)), 0)::bigint AS metadata
     FROM threadmill.checkpoint c
    WHERE c.tenant_id = %(tenant)s AND c.thread_id = page.thread) c
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(octet_length(k.data)), 0)::bigint AS chunks
     FROM threadmill.chunk k
    WHERE k.tenant_id = %(tenant)s AND k.thread_id = page.thread) k
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(octet_length(w.value)), 0)::bigint AS writes
     FROM threadmill.checkpoint_write w
    WHERE w.tenant_id = %(tenant)s AND w.thread_id = page.thread) w
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(octet_length(e.data)), 0)::bigint AS events
     FROM threadmill.event e
    WHERE e.tenant_id = %(tenant)s AND e.thread_id = page.thread_id) e
 ORDER BY page.created_at DESC, page.thread_id

-- name: one
SELECT t.thread_id, t.metadata ->> 'graph_id' AS graph_id, t.created_at, c.*, k.*, w.*,
       e.*
  FROM threadmill.thread t
 CROSS JOIN LATERAL (
   SELECT count(*) AS checkpoints,
          coalesce(sum(octet_length(c.body)), 0)::bigint AS bodies,
          coalesce(bool_or(c.body_type = 'away'), false) AS is_away,
          coalesce(sum(pg_column_size(c.metadata)
                       + pg_column_size(c.chunks)), 0)::bigint AS metadata
     FROM threadmill.checkpoint c
    WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s) c
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(octet_length(k.data)), 0)::bigint AS chunks
     FROM threadmill.chunk k
    WHERE k.tenant_id = %(tenant)s AND k.thread_id = %(thread)s) k
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(octet_length(w.value)), 0)::bigint AS writes
     FROM threadmill.checkpoint_write w
    WHERE w.tenant_id = %(tenant)s AND w.thread_id = %(thread)s) w
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(octet_length(e.data)), 0)::bigint AS events
     FROM threadmill.event e
    WHERE e.tenant_id = %(tenant)s AND e.thread_id = %(thread_id)s) e
 WHERE t.tenant_id = %(tenant)s AND t.thread_id = %(thread_id)s

-- name: bodies
-- The newest of each namespace come first. A body of the first format holds whole
-- values, and not apart.
SELECT c.body_type AS type, c.body AS value, c.chunks
  FROM threadmill.checkpoint c
 WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s
   AND c.format = %(format)s
 ORDER BY c.ordinal DESC, c.ns
 LIMIT %(limit)s

-- name: chunks
SELECT k.name, octet_length(k.data) AS bytes FROM threadmill.chunk k
 WHERE k.tenant_id = %(tenant)s AND k.thread_id = %(thread)s

-- name: writes
SELECT w.channel, coalesce(sum(octet_length(w.value)), 0)::bigint AS bytes
  FROM threadmill.checkpoint_write w
 WHERE w.tenant_id = %(tenant)s AND w.thread_id = %(thread)s AND w.value_type <> 'away'
 GROUP BY w.channel

-- name: results_elsewhere
SELECT w.channel, w.value FROM threadmill.checkpoint_write w
 WHERE w.tenant_id = %(tenant)s AND w.thread_id = %(thread)s AND w.value_type = 'away'
