-- Everything a thread leaves behind, table by table; the thread's row goes last and
-- takes its runs along.

-- name: runs
-- Locked before their activations, as everybody does; they go with the thread.
SELECT 1 FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
   FOR UPDATE

-- name: activations
WITH held AS MATERIALIZED (
  SELECT activation_id FROM threadmill.activation
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
   ORDER BY activation_id
     FOR UPDATE
)
DELETE FROM threadmill.activation a
 USING held
 WHERE a.tenant_id = %(tenant)s AND a.activation_id = held.activation_id

-- name: supersteps
DELETE FROM threadmill.superstep
 WHERE tenant_id = %(tenant)s AND run_id IN (
   SELECT run_id FROM threadmill.run
    WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s)

-- name: dead_letters
DELETE FROM threadmill.dead_letter
 WHERE tenant_id = %(tenant)s AND run_id IN (
   SELECT run_id FROM threadmill.run
    WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s)

-- name: effects
DELETE FROM threadmill.effect
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s

-- name: hold_chunks
-- Locked after activations and before heads, as everybody does.
SELECT threadmill.hold_chunks(%(tenant)s, %(thread_id)s::text, true)

-- name: chunks_elsewhere
-- Those in a chunk store go later.
SELECT threadmill.drop_chunks_later(%(tenant)s, %(thread_id)s::text)

-- name: chunks
DELETE FROM threadmill.chunk
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s::text

-- name: writes
DELETE FROM threadmill.checkpoint_write
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s::text

-- name: values
DELETE FROM threadmill.history_value
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s::text

-- name: checkpoints
DELETE FROM threadmill.checkpoint
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s::text

-- name: heads
DELETE FROM threadmill.head
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s::text

-- name: events
DELETE FROM threadmill.event
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s

-- name: stream
DELETE FROM threadmill.stream
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s

-- name: timers
DELETE FROM threadmill.timer
 WHERE tenant_id = %(tenant)s AND kind IN ('promote', 'drop_events')
   AND ref = ANY (ARRAY (SELECT r.run_id::text FROM threadmill.run r
                          WHERE r.tenant_id = %(tenant)s AND r.thread_id = %(thread_id)s))

-- name: thread
DELETE FROM threadmill.thread
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
RETURNING thread_id
