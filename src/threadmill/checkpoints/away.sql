-- What PostgreSQL knows of values that lie in a chunk store.

-- name: drop_later
-- Comes before what removes checkpoints of a thread. Whoever reads one at this moment
-- still finds what it holds.
INSERT INTO threadmill.timer (tenant_id, kind, ref, due_at)
SELECT %(tenant)s, 'drop_chunks', %(thread)s, now() + interval '60 seconds'
 WHERE EXISTS (SELECT FROM threadmill.checkpoint
                WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s
                  AND body_type = 'away')
ON CONFLICT (tenant_id, kind, ref) DO UPDATE SET due_at = excluded.due_at

-- name: archive_soon
-- Comes with what names new chunks. One that waits already waits no longer for it; who
-- archives at this moment finds that there is more.
INSERT INTO threadmill.timer AS t (tenant_id, kind, ref, due_at)
VALUES (%(tenant)s, 'archive_chunks', %(thread)s, now())
ON CONFLICT (tenant_id, kind, ref) DO UPDATE SET due_at = least(t.due_at, excluded.due_at)

-- name: hold_timer
-- Who has changed the time since has more to do.
UPDATE threadmill.timer SET due_at = clock_timestamp() + interval '30 seconds'
 WHERE tenant_id = %(tenant)s AND kind = %(kind)s AND ref = %(thread)s
RETURNING due_at

-- name: end_timer
WITH held AS MATERIALIZED (
  SELECT due_at FROM threadmill.timer
   WHERE tenant_id = %(tenant)s AND kind = %(kind)s AND ref = %(thread)s
     FOR UPDATE
)
DELETE FROM threadmill.timer
 WHERE tenant_id = %(tenant)s AND kind = %(kind)s AND ref = %(thread)s
   AND (SELECT due_at FROM held) = %(due_at)s::timestamptz

-- name: require_rest
-- Nobody may commit to the thread now, so whatever is on its way there never arrives.
WITH held AS MATERIALIZED (
  SELECT holder FROM threadmill.thread
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s::uuid
     FOR UPDATE
)
SELECT threadmill.require(NOT EXISTS (SELECT FROM held WHERE holder IS NOT NULL),
                          'thread_busy', 'the thread is in use')

-- name: used
-- The chunks that checkpoints and results of a thread name, in the store.
SELECT c.body AS name FROM threadmill.checkpoint c
 WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s AND c.body_type = 'away'
 UNION
SELECT unnest(c.chunks) FROM threadmill.checkpoint c
 WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s AND c.body_type = 'away'
 UNION
SELECT w.value FROM threadmill.checkpoint_write w
 WHERE w.tenant_id = %(tenant)s AND w.thread_id = %(thread)s AND w.value_type = 'away'

-- name: archived
SELECT k.name FROM threadmill.chunk k
 WHERE k.tenant_id = %(tenant)s AND k.thread_id = %(thread)s

-- name: from_archive
SELECT k.name, k.type, k.data FROM threadmill.chunk k
 WHERE k.tenant_id = %(tenant)s AND k.thread_id = %(thread)s
   AND k.name = ANY (%(names)b::bytea[])

-- name: lag
SELECT * FROM threadmill.archive_lag()
