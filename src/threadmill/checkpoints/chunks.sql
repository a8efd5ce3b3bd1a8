-- Chunks: what checkpoints of one thread share.
--
-- Lock order: run, superstep, activations by id, the thread's chunks, head, stream.

-- name: hold
-- Comes before everything that refers to chunks: none is dropped meanwhile.
SELECT threadmill.hold_chunks(%(tenant)s, %(thread)s, false)

-- name: hold_alone
-- Comes before everything that drops chunks: nobody refers to any meanwhile.
SELECT threadmill.hold_chunks(%(tenant)s, %(thread)s, true)

-- name: rely
-- What was known of a checkpoint still holds, so its chunks are there.
SELECT threadmill.require(
         EXISTS (SELECT FROM threadmill.head
                  WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s
                    AND ns = %(ns)s AND gc_epoch = %(epoch)s)
         AND EXISTS (SELECT FROM threadmill.checkpoint
                      WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s
                        AND ns = %(ns)s AND checkpoint_id = %(checkpoint_id)s),
         'chunks_dropped', format('thread %%s was pruned meanwhile', %(thread)s::text))

-- name: send
INSERT INTO threadmill.chunk (tenant_id, thread_id, name, type, data)
SELECT %(tenant)s, %(thread)s, n.name, n.type, n.data
  FROM unnest(%(names)b::bytea[], %(types)s::text[], %(data)b::bytea[])
         AS n (name, type, data)
ON CONFLICT (tenant_id, thread_id, name) DO NOTHING

-- name: drop_unused
-- Comes after what has removed checkpoints, under `hold_alone`. Of values that lie in a
-- chunk store, these are the archive.
WITH gone AS (
  DELETE FROM threadmill.chunk k
   WHERE k.tenant_id = %(tenant)s AND k.thread_id = %(thread)s
     AND NOT EXISTS (
           SELECT FROM (SELECT unnest(c.chunks) AS name FROM threadmill.checkpoint c
                         WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread)s
                         UNION ALL
                        SELECT name
                          FROM threadmill.chunks_away(%(tenant)s, %(thread)s) AS name) used
            WHERE used.name = k.name)
  RETURNING octet_length(k.data) AS bytes
)
SELECT coalesce(sum(bytes), 0)::bigint AS bytes FROM gone

-- name: raise_epochs
-- Whoever knew of chunks of this thread knows nothing now.
UPDATE threadmill.head SET gc_epoch = nextval('threadmill.epoch_seq')
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s

-- name: drop_all
DELETE FROM threadmill.chunk
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread)s
