-- The members, for whoever watches over them.

-- name: list
-- With the database's time: seconds of silence are counted by one clock.
SELECT w.*, coalesce(t.n, 0) AS taken, now() AS now,
       extract(epoch FROM now() - w.seen_at)::float8 AS silent_seconds
  FROM threadmill.worker w
  LEFT JOIN threadmill.taken() t ON t.worker_id = w.worker_id
 ORDER BY w.slots = 0, w.name, w.worker_id

-- name: drain
UPDATE threadmill.worker SET drain = true
 WHERE worker_id = %(worker_id)s
RETURNING worker_id
