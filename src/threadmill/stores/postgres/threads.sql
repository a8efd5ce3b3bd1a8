-- Threads as clients manage them. Lock order: thread, run, activation.

-- name: create
INSERT INTO threadmill.thread (tenant_id, thread_id, metadata, ttl_minutes, ttl_strategy)
VALUES (%(tenant)s, %(thread_id)s, %(metadata)s, %(ttl_minutes)s, %(ttl_strategy)s)
ON CONFLICT DO NOTHING
RETURNING *

-- name: get
SELECT * FROM threadmill.thread
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s

-- name: patch
-- What has grown beyond the limits in another way may still be changed. Sizes are those
-- of JSON as PostgreSQL writes it.
UPDATE threadmill.thread
   SET metadata = metadata || %(metadata)s, updated_at = now(),
       ttl_minutes = CASE WHEN %(keeps_ttl)s THEN ttl_minutes
                          ELSE %(ttl_minutes)s::float8 END,
       ttl_strategy = CASE WHEN %(keeps_ttl)s THEN ttl_strategy
                           ELSE %(ttl_strategy)s::text END
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
   AND threadmill.require(
         (SELECT count(*) FROM jsonb_object_keys(metadata || %(metadata)s))
           <= greatest(%(keys_max)s::bigint,
                       (SELECT count(*) FROM jsonb_object_keys(metadata)))
         AND octet_length((metadata || %(metadata)s)::text)
           <= greatest(%(bytes_max)s::int, octet_length(metadata::text)),
         'invalid_request',
         'metadata: together with what the thread has, there would be more than '
         || %(keys_max)s::bigint || ' keys or ' || %(bytes_max)s::int || ' bytes')
RETURNING *

-- name: lock
SELECT 1 FROM threadmill.thread
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
   FOR UPDATE

-- name: may_update
-- Comes after the lock, so that its snapshot sees what the lock's last owner did. A
-- run that is to start later does not stand in the way.
SELECT threadmill.require(t.thread_id IS NOT NULL, 'not_found', 'thread not found'),
       threadmill.require(
         t.holder IS NULL AND NOT EXISTS (
           SELECT FROM threadmill.run r
            WHERE r.tenant_id = %(tenant)s AND r.thread_id = %(thread_id)s
              AND r.status IN ('pending', 'running') AND r.not_before <= now()),
         'thread_busy',
         'the thread has an active or queued run, or its state is being updated; '
         'wait for it or cancel it')
  FROM (SELECT) one
  LEFT JOIN threadmill.thread t
    ON t.tenant_id = %(tenant)s AND t.thread_id = %(thread_id)s

-- name: begin_update
-- The activation holds the thread: new runs queue up behind it.
WITH t AS (
  UPDATE threadmill.thread
     SET holder = %(activation_id)s, updated_at = now()
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s
)
INSERT INTO threadmill.activation
  (tenant_id, activation_id, thread_id, kind, graph_id, state, token, worker_id,
   lease_until, attempt)
VALUES (%(tenant)s, %(activation_id)s, %(thread_id)s, 'update', %(graph_id)s,
        'leased', nextval('threadmill.token_seq'), %(worker_id)s,
        clock_timestamp() + make_interval(secs => %(lease_seconds)s), 1)
RETURNING token

-- name: end_update
-- Whoever ends it first hands the thread on; the others learn that it is over.
WITH a AS (
  DELETE FROM threadmill.activation
   WHERE tenant_id = %(tenant)s AND activation_id = %(activation_id)s
     AND token = %(token)s AND kind = 'update'
  RETURNING 1
)
SELECT threadmill.require(EXISTS (SELECT FROM a), 'lease_lost')

-- name: ping
SELECT 1 AS answer
