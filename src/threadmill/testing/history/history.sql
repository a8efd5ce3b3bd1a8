-- What the history checker reads: one tenant's rows of some threads. Nothing is
-- written, and the role is the application's, as for everybody else.

-- name: open_runs
SELECT count(*) AS n FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND thread_id = ANY (%(threads)s::uuid[])
   AND status IN ('pending', 'running') AND not_before <= now()

-- name: threads
SELECT thread_id::text AS thread, status, holder::text AS holder
  FROM threadmill.thread
 WHERE tenant_id = %(tenant)s AND thread_id = ANY (%(threads)s::uuid[])

-- name: runs
SELECT r.thread_id::text AS thread, r.run_id::text AS id, r.seq, r.status,
       r.kwargs #>> '{checkpoint,checkpoint_id}' IS NOT NULL AS forks,
       r.status = 'pending' AND r.not_before > now() AS scheduled,
       r.started_at IS NOT NULL OR r.attempt > 0 AS begun,
       d.run_id IS NOT NULL AS dead_letter
  FROM threadmill.run r
  LEFT JOIN threadmill.dead_letter d
    ON d.tenant_id = r.tenant_id AND d.run_id = r.run_id
 WHERE r.tenant_id = %(tenant)s AND r.thread_id = ANY (%(threads)s::uuid[])
 ORDER BY r.thread_id, r.seq

-- name: claimed
SELECT r.thread_id::text AS thread, i.key, i.run_id::text AS run
  FROM threadmill.idempotency i
  JOIN threadmill.run r ON r.tenant_id = i.tenant_id AND r.run_id = i.run_id
 WHERE i.tenant_id = %(tenant)s AND i.key = ANY (%(keys)s::text[])

-- name: checkpoints
SELECT thread_id AS thread, checkpoint_id AS id, parent_id AS parent, ordinal,
       run_id::text AS run, token, coalesce(metadata ->> 'source', '') AS source
  FROM threadmill.checkpoint
 WHERE tenant_id = %(tenant)s AND thread_id = ANY (%(threads)s::text[]) AND ns = ''
 ORDER BY thread_id, ordinal

-- name: heads
SELECT h.thread_id AS thread, h.thread_id, h.checkpoint_id AS head, c.format,
       c.body_type AS type, c.body AS value, c.chunks
  FROM threadmill.head h
  LEFT JOIN threadmill.checkpoint c
    ON c.tenant_id = h.tenant_id AND c.thread_id = h.thread_id AND c.ns = h.ns
   AND c.checkpoint_id = h.checkpoint_id
 WHERE h.tenant_id = %(tenant)s AND h.thread_id = ANY (%(threads)s::text[])
   AND h.ns = ''

-- name: chunks
-- Of the heads; see there.
SELECT k.thread_id AS thread, k.name, k.type, k.data AS value
  FROM threadmill.head h
  JOIN threadmill.checkpoint c
    ON c.tenant_id = h.tenant_id AND c.thread_id = h.thread_id AND c.ns = h.ns
   AND c.checkpoint_id = h.checkpoint_id
  JOIN threadmill.chunk k
    ON k.tenant_id = h.tenant_id AND k.thread_id = h.thread_id
   AND k.name = ANY (c.chunks)
 WHERE h.tenant_id = %(tenant)s AND h.thread_id = ANY (%(threads)s::text[])
   AND h.ns = ''

-- name: results
-- Marks (slots below zero) are no results, and the task of input has no path.
SELECT thread_id AS thread, ns, checkpoint_id AS checkpoint, task_id AS task,
       task_path AS path,
       array_remove(array_agg(DISTINCT run_id::text), NULL) AS runs
  FROM threadmill.checkpoint_write
 WHERE tenant_id = %(tenant)s AND thread_id = ANY (%(threads)s::text[])
   AND idx >= 0 AND task_path <> ''
 GROUP BY thread_id, ns, checkpoint_id, task_id, task_path

-- name: events
SELECT thread_id::text AS thread, seq, run_id::text AS run, event AS name, ms
  FROM threadmill.event
 WHERE tenant_id = %(tenant)s AND thread_id = ANY (%(threads)s::uuid[])
 ORDER BY thread_id, seq

-- name: streams
SELECT thread_id::text AS thread, next_seq - 1 AS last_event
  FROM threadmill.stream
 WHERE tenant_id = %(tenant)s AND thread_id = ANY (%(threads)s::uuid[])

-- name: leftovers
SELECT thread_id::text AS thread, 'activation' AS kind, run_id::text AS run,
       format('%%s %%s, %%s, token %%s, attempt %%s, run %%s', kind, activation_id,
              state, token, attempt, run_id) AS what
  FROM threadmill.activation
 WHERE tenant_id = %(tenant)s AND thread_id = ANY (%(threads)s::uuid[])
UNION ALL
SELECT thread_id::text, 'superstep', run_id::text,
       format('run %%s at checkpoint %%s, %%s of %%s tasks remain', run_id,
              checkpoint_id, remaining, width)
  FROM threadmill.superstep
 WHERE tenant_id = %(tenant)s AND thread_id = ANY (%(threads)s::uuid[])
