-- What PostgreSQL knows of values that lie in a chunk store.

-- name: drop_later
-- Comes before what removes checkpoints of a thread.
SELECT threadmill.drop_chunks_later(%(tenant)s, %(thread)s)

-- name: drop_refused
-- What a commit has sent was refused: no checkpoint names it, if not by chance.
INSERT INTO threadmill.chunk_chore (tenant_id, thread_id, kind, due_at)
VALUES (%(tenant)s, %(thread)s, 'drop', now() + interval '60 seconds')
ON CONFLICT (tenant_id, thread_id, kind) DO UPDATE SET due_at = excluded.due_at

-- name: archive_soon
-- Comes with what names new chunks. Who archives at this moment finds that there is
-- more; a chore that is due already stays as it is.
INSERT INTO threadmill.chunk_chore AS c (tenant_id, thread_id, kind, due_at)
VALUES (%(tenant)s, %(thread)s, 'archive', now())
ON CONFLICT (tenant_id, thread_id, kind) DO UPDATE SET due_at = excluded.due_at
 WHERE c.due_at > excluded.due_at

-- name: chores
SELECT * FROM threadmill.chunk_chores(make_interval(secs => %(hold_seconds)s), %(limit)s)

-- name: end_chore
-- Not if somebody has changed its time since: then there is more to do, but only of what
-- came after it was looked at.
WITH held AS MATERIALIZED (
  SELECT due_at FROM threadmill.chunk_chore
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s AND kind = %(kind)s
     FOR UPDATE
), ended AS (
  DELETE FROM threadmill.chunk_chore
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s AND kind = %(kind)s
     AND (SELECT due_at FROM held) = %(due_at)s::timestamptz
  RETURNING 1
)
UPDATE threadmill.chunk_chore SET since = greatest(since, %(seen_at)s::timestamptz)
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s AND kind = %(kind)s
   AND NOT EXISTS (SELECT FROM ended)

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
SELECT DISTINCT name FROM threadmill.chunks_away(%(tenant)s, %(thread)s) AS name

-- name: require_known
-- All that a thread names is among these.
SELECT threadmill.require(NOT EXISTS (
         SELECT FROM threadmill.chunks_away(%(tenant)s, %(thread)s) AS name
          WHERE name <> ALL (%(names)b::bytea[])),
         'chunks_dropped', format('thread %%s has gone on meanwhile', %(thread)s::text))

-- name: seen
-- When a thread is looked at, and what rises when chunks of it are dropped: each time
-- all its heads draw a new epoch, and a head that is new draws one that is higher.
SELECT now() AS at, (SELECT min(h.gc_epoch) FROM threadmill.head h
                      WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread)s)
                    AS epoch

-- name: require_same
-- Comes after `hold`: what was named when the thread was looked at still is.
SELECT threadmill.require(
         (SELECT min(h.gc_epoch) FROM threadmill.head h
           WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread)s)
         IS NOT DISTINCT FROM %(epoch)s::bigint,
         'chunks_dropped', format('thread %%s was pruned meanwhile', %(thread)s::text))

-- name: archived
SELECT k.name FROM threadmill.chunk k
 WHERE k.tenant_id = %(tenant)s AND k.thread_id = %(thread)s

-- name: archive
-- Comes after `require_same`.
INSERT INTO threadmill.chunk (tenant_id, thread_id, name, type, data)
SELECT %(tenant)s, %(thread)s, n.name, n.type, n.data
  FROM unnest(%(names)b::bytea[], %(types)s::text[], %(data)b::bytea[])
         AS n (name, type, data)
ON CONFLICT (tenant_id, thread_id, name) DO NOTHING

-- name: from_archive
SELECT k.name, k.type, k.data FROM threadmill.chunk k
 WHERE k.tenant_id = %(tenant)s AND k.thread_id = %(thread)s
   AND k.name = ANY (%(names)b::bytea[])

-- name: lag
SELECT * FROM threadmill.archive_lag()
