-- How long threads are kept. Lock order: thread, run, superstep, activations, chunks,
-- head, stream.

-- name: take_rounds
SELECT tenant_id FROM threadmill.retention_rounds(
  %(rules)s, make_interval(secs => %(hold_seconds)s), %(limit)s)

-- name: end_round
UPDATE threadmill.retention_round
   SET due_at = clock_timestamp() + make_interval(secs => %(again_seconds)s)
 WHERE tenant_id = %(tenant)s AND rules = %(rules)s

-- name: rule
SELECT strategy, ttl_minutes FROM threadmill.retention WHERE tenant_id = %(tenant)s

-- name: set_rule
INSERT INTO threadmill.retention (tenant_id, strategy, ttl_minutes)
VALUES (%(tenant)s, %(strategy)s, %(ttl_minutes)s)
ON CONFLICT (tenant_id) DO UPDATE
   SET strategy = excluded.strategy, ttl_minutes = excluded.ttl_minutes,
       updated_at = now()

-- name: clear_rule
DELETE FROM threadmill.retention WHERE tenant_id = %(tenant)s

-- name: idle
-- Along the index thread_by_update, backwards. What a page leaves out is read all the
-- same, so a page is bounded before it is narrowed down. `after_at` stands twice: once
-- for the index, once for the place within one instant.
WITH page AS MATERIALIZED (
  SELECT * FROM threadmill.thread t
   WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
     AND t.updated_at <= now() - make_interval(secs => %(idle_seconds)s)
     AND t.updated_at >= %(after_at)s::timestamptz
     AND (t.updated_at > %(after_at)s::timestamptz OR t.thread_id < %(after_id)s::uuid)
   ORDER BY t.updated_at, t.thread_id DESC
   LIMIT %(limit)s
)
SELECT t.thread_id, t.metadata ->> 'graph_id' AS graph_id, t.updated_at, t.ttl_minutes,
       t.ttl_strategy, t.status = 'interrupted' AS interrupted,
       t.pruned_as_of IS NOT DISTINCT FROM t.updated_at AS pruned,
       t.holder IS NOT NULL AS busy,
       extract(epoch FROM now() - t.updated_at)::float8 / 60 AS idle_minutes
  FROM page t
 ORDER BY t.updated_at, t.thread_id DESC

-- name: idle_own
-- The same along the index of threads that have a rule of their own.
SELECT t.thread_id, t.metadata ->> 'graph_id' AS graph_id, t.updated_at, t.ttl_minutes,
       t.ttl_strategy, t.status = 'interrupted' AS interrupted,
       t.pruned_as_of IS NOT DISTINCT FROM t.updated_at AS pruned,
       t.holder IS NOT NULL AS busy,
       extract(epoch FROM now() - t.updated_at)::float8 / 60 AS idle_minutes
  FROM threadmill.thread t
 WHERE t.tenant_id = %(tenant)s AND NOT t.temporary AND t.ttl_minutes IS NOT NULL
   AND t.updated_at <= now() - make_interval(secs => %(idle_seconds)s)
   AND t.updated_at >= %(after_at)s::timestamptz
   AND (t.updated_at > %(after_at)s::timestamptz OR t.thread_id < %(after_id)s::uuid)
 ORDER BY t.updated_at, t.thread_id DESC
 LIMIT %(limit)s
