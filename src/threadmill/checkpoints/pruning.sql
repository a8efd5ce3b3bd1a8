-- Pruning a thread at rest. Lock order: thread, run, superstep, activations, chunks, head,
-- stream.

-- name: lock_at_rest
-- Nobody waits for anybody: who has the lock is about to change the thread.
WITH held AS MATERIALIZED (
  SELECT FROM threadmill.thread
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s::uuid AND NOT temporary
     FOR UPDATE SKIP LOCKED
)
SELECT threadmill.require(EXISTS (SELECT FROM held), 'thread_busy',
                          'the thread is in use, or not there')

-- name: require_rest
-- Comes after the lock, so that its snapshot sees what the lock's last owner did. A run
-- that is to start later may begin at any checkpoint.
SELECT threadmill.require(
         t.holder IS NULL
         AND NOT EXISTS (
           SELECT FROM threadmill.run r
            WHERE r.tenant_id = %(tenant)s AND r.thread_id = %(thread_id)s::uuid
              AND r.status = 'pending')
         AND NOT EXISTS (
           SELECT FROM threadmill.run r
            WHERE r.tenant_id = %(tenant)s AND r.thread_id = %(thread_id)s::uuid
              AND r.status = 'running')
         AND (%(as_of)s::timestamptz IS NULL
              OR t.updated_at = %(as_of)s::timestamptz
             AND (%(delete)s OR t.status <> 'interrupted')),
         'thread_busy', 'the thread has an open run, or has changed meanwhile')
  FROM threadmill.thread t
 WHERE t.tenant_id = %(tenant)s AND t.thread_id = %(thread_id)s::uuid

-- name: is_over
-- Whether nothing of the thread goes on where it is: the last run that began has ended
-- with success, and asked nobody anything.
SELECT t.status = 'idle' AND 'success' = (
         SELECT r.status FROM threadmill.run r
          WHERE r.tenant_id = %(tenant)s AND r.thread_id = %(thread_id)s::uuid
            AND r.started_at IS NOT NULL
          ORDER BY r.seq DESC
          LIMIT 1) AS is_over
  FROM threadmill.thread t
 WHERE t.tenant_id = %(tenant)s AND t.thread_id = %(thread_id)s::uuid

-- name: pruned
-- Comes last, once nothing more is left than was to be kept. No change of the thread:
-- what counts from its last one goes on counting.
UPDATE threadmill.thread SET pruned_as_of = updated_at
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s::uuid
   AND %(kept)s::bigint >= (
     SELECT count(*) FROM (SELECT FROM threadmill.checkpoint c
                            WHERE c.tenant_id = %(tenant)s
                              AND c.thread_id = %(thread_id)s::uuid::text
                            LIMIT %(kept)s::bigint + 1) left_over)

-- name: weigh
-- What a thread takes as a whole: values as they are stored, not rows and indexes.
SELECT (SELECT count(*) FROM threadmill.checkpoint c
         WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread_id)s::uuid::text)
         AS checkpoints,
       coalesce((SELECT sum(octet_length(c.body) + pg_column_size(c.metadata)
                            + pg_column_size(c.chunks))
                   FROM threadmill.checkpoint c
                  WHERE c.tenant_id = %(tenant)s
                    AND c.thread_id = %(thread_id)s::uuid::text), 0)::bigint
       + coalesce((SELECT sum(octet_length(k.data)) FROM threadmill.chunk k
                    WHERE k.tenant_id = %(tenant)s
                      AND k.thread_id = %(thread_id)s::uuid::text), 0)::bigint
       + coalesce((SELECT sum(octet_length(w.value)) FROM threadmill.checkpoint_write w
                    WHERE w.tenant_id = %(tenant)s
                      AND w.thread_id = %(thread_id)s::uuid::text), 0)::bigint
       + coalesce((SELECT sum(octet_length(e.data)) FROM threadmill.event e
                    WHERE e.tenant_id = %(tenant)s
                      AND e.thread_id = %(thread_id)s::uuid), 0)::bigint AS bytes
