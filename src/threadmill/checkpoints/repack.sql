-- Checkpoints of the first format become checkpoints of the present one.

-- name: whole_page
-- In the order in which they were committed, so that each finds what it shares with
-- the one before it. So many are looked at, whatever their format: of millions that are
-- converted already none would be found in time.
WITH looked_at AS MATERIALIZED (
  SELECT c.thread_id, c.ns, c.checkpoint_id, c.ordinal, c.format
    FROM threadmill.checkpoint c
   WHERE c.tenant_id = %(tenant)s
     AND (c.thread_id, c.ns, c.ordinal)
         > (%(after_thread)s::text, %(after_ns)s::text, %(after_ordinal)s::bigint)
   ORDER BY c.thread_id, c.ns, c.ordinal
   LIMIT %(scan)s
), old AS MATERIALIZED (
  SELECT * FROM looked_at WHERE format = 1
   ORDER BY thread_id, ns, ordinal
   LIMIT %(limit)s
)
SELECT c.thread_id, c.ns, c.checkpoint_id, c.parent_id, c.ordinal, c.format,
       c.body_type AS type, c.body AS value, c.chunks
  FROM old o
  JOIN threadmill.checkpoint c
    ON c.tenant_id = %(tenant)s AND c.thread_id = o.thread_id AND c.ns = o.ns
   AND c.checkpoint_id = o.checkpoint_id
 ORDER BY c.thread_id, c.ns, c.ordinal

-- name: looked_at
-- The last of those that `whole_page` looks at, if there are that many.
SELECT c.thread_id, c.ns, c.ordinal
  FROM threadmill.checkpoint c
 WHERE c.tenant_id = %(tenant)s
   AND (c.thread_id, c.ns, c.ordinal)
       > (%(after_thread)s::text, %(after_ns)s::text, %(after_ordinal)s::bigint)
 ORDER BY c.thread_id, c.ns, c.ordinal
OFFSET %(scan)s - 1
 LIMIT 1

-- name: replace_whole
-- Only what is still as it was read: somebody may have put it again, or pruned it.
UPDATE threadmill.checkpoint
   SET format = %(format)s, body_type = %(body_type)s, body = %(body)b,
       chunks = %(chunks)b::bytea[]
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s AND ns = %(ns)s
   AND checkpoint_id = %(checkpoint_id)s
   AND format = 1 AND sha256(body) = %(digest)b
RETURNING (SELECT h.gc_epoch FROM threadmill.head h
            WHERE h.tenant_id = %(tenant)s AND h.thread_id = %(thread)s
              AND h.ns = %(ns)s) AS gc_epoch
