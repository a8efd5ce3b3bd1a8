-- Event log of a thread. Lock order: stream comes last.

-- name: append
-- Numbers and inserts a batch under the stream row's lock, so numbers have no gaps
-- and appear in order. The clock may step back; `ms` never does.
WITH s AS (
  INSERT INTO threadmill.stream AS s (tenant_id, thread_id, next_seq, last_ms)
  VALUES (%(tenant)s, %(thread_id)s, 1 + cardinality(%(events)s::text[]),
          (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
  ON CONFLICT (tenant_id, thread_id) DO UPDATE
    SET next_seq = s.next_seq + cardinality(%(events)s::text[]),
        last_ms = greatest(s.last_ms, excluded.last_ms)
  RETURNING next_seq - cardinality(%(events)s::text[]) AS first, last_ms
), added AS (
  INSERT INTO threadmill.event
    (tenant_id, thread_id, seq, ms, run_id, attempt, token, event, data)
  SELECT %(tenant)s, %(thread_id)s, s.first + e.ord - 1, s.last_ms, %(run_id)s,
         %(attempt)s, %(token)s, e.event, e.data
    FROM s, unnest(%(events)s::text[], %(data)s::text[])
            WITH ORDINALITY AS e (event, data, ord)
)
SELECT s.first, s.last_ms FROM s

-- name: read
SELECT seq, ms, run_id, attempt, event, data
  FROM threadmill.event
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s AND seq > %(after)s
   AND (%(run_id)s::uuid IS NULL OR run_id = %(run_id)s::uuid)
 ORDER BY seq
 LIMIT %(limit)s

-- name: stream_end
SELECT next_seq - 1 AS seq FROM threadmill.stream
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s

-- name: run_status
SELECT status FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s AND run_id = %(run_id)s
