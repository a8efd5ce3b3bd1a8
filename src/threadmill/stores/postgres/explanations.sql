-- What may keep a run from moving; read in one snapshot.

-- name: run
-- With its thread. The graph waits if nothing came after its question: no other run and
-- no change of the state.
SELECT r.run_id, r.thread_id, r.graph_id, r.status, r.not_before, r.finished_at, r.error,
       r.status = 'success' AND t.status = 'interrupted'
         AND r.end_checkpoint IS NOT DISTINCT FROM (
           SELECT h.checkpoint_id FROM threadmill.head h
            WHERE h.tenant_id = r.tenant_id AND h.thread_id = r.thread_id::text
              AND h.ns = '')
         AND NOT EXISTS (
           SELECT FROM threadmill.run later
            WHERE later.tenant_id = r.tenant_id AND later.thread_id = r.thread_id
              AND later.seq > r.seq) AS waits,
       t.status AS thread_status, t.holder,
       (SELECT a.lease_until FROM threadmill.activation a
         WHERE a.tenant_id = t.tenant_id AND a.activation_id = t.holder
           AND a.kind = 'update') AS updating_until,
       (SELECT count(*) FROM threadmill.run q
         WHERE q.tenant_id = r.tenant_id AND q.thread_id = r.thread_id
           AND q.status = 'pending' AND q.seq < r.seq AND q.not_before <= now()
           AND q.run_id IS DISTINCT FROM t.holder) AS ahead,
       now() AS now
  FROM threadmill.run r
  JOIN threadmill.thread t
    ON t.tenant_id = r.tenant_id AND t.thread_id = r.thread_id
 WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s

-- name: work
-- What is held comes first: of a very wide superstep not all is read. A task that waits
-- for others of its superstep may be claimed at no time yet.
SELECT activation_id, kind, graph_id, labels, attempt, node, worker_id, lease_until,
       CASE WHEN state = 'leased' THEN claimed_at END AS claimed_at,
       cause, avoid, avoid_until,
       CASE WHEN isfinite(not_before) THEN not_before END AS ready_at
  FROM threadmill.activation
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
 ORDER BY state, not_before, activation_id
 LIMIT %(limit)s

-- name: superstep
SELECT width, remaining FROM threadmill.superstep
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
