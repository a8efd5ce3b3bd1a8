-- Since when somebody has an activation, for who asks why a run does not move. What is
-- leased as it is made has had its owner since then.
ALTER TABLE threadmill.activation
  ADD COLUMN claimed_at timestamptz NOT NULL DEFAULT now();

-- Claims up to `n` ready activations of graphs that the worker has loaded, whose
-- labels it has all. Each draws its own token and counts an attempt. With a run, only
-- tasks of its superstep at that checkpoint. The number of losses is `SUSPECT_LOSSES`.
CREATE OR REPLACE FUNCTION threadmill.claim(
  worker uuid, loaded text[], able text[], n integer, lease interval, run uuid,
  at_checkpoint text, tasks boolean
) RETURNS TABLE (
  tenant_id text, activation_id uuid, thread_id uuid, run_id uuid, kind text,
  task_id text, task_path text, node text, token bigint, attempt integer
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH suspect AS MATERIALIZED (
    SELECT r.tenant_id, r.activation_id
      FROM activation r
     WHERE r.state = 'ready' AND r.attempt >= 2
       AND r.kind <> 'update' AND r.not_before <= now()
       AND r.graph_id = ANY (claim.loaded) AND r.labels <@ claim.able
       AND (r.avoid IS DISTINCT FROM claim.worker
            OR r.avoid_until <= clock_timestamp())
       AND (claim.tasks OR r.kind <> 'task')
       AND (claim.run IS NULL
            OR r.run_id = claim.run AND r.checkpoint_id = claim.at_checkpoint)
       -- A claim counts as an attempt.
       AND NOT EXISTS (SELECT FROM activation h
                        WHERE h.worker_id = claim.worker AND h.state = 'leased'
                          AND h.attempt > 2)
     ORDER BY r.not_before
     LIMIT least(claim.n, 1)
       FOR UPDATE SKIP LOCKED
  ), ready AS MATERIALIZED (
    SELECT r.tenant_id, r.activation_id
      FROM activation r
     WHERE r.state = 'ready' AND r.attempt < 2
       AND r.kind <> 'update' AND r.not_before <= now()
       AND r.graph_id = ANY (claim.loaded) AND r.labels <@ claim.able
       AND (r.avoid IS DISTINCT FROM claim.worker
            OR r.avoid_until <= clock_timestamp())
       AND (claim.tasks OR r.kind <> 'task')
       AND (claim.run IS NULL
            OR r.run_id = claim.run AND r.checkpoint_id = claim.at_checkpoint)
     ORDER BY r.not_before
     LIMIT claim.n - (SELECT count(*) FROM suspect)
       FOR UPDATE SKIP LOCKED
  ), taken AS (
    SELECT * FROM suspect UNION ALL SELECT * FROM ready
  )
  UPDATE activation a
     SET state = 'leased', worker_id = claim.worker, claimed_at = clock_timestamp(),
         token = nextval('threadmill.token_seq'),
         lease_until = clock_timestamp() + claim.lease, attempt = a.attempt + 1
    FROM taken
   WHERE a.tenant_id = taken.tenant_id AND a.activation_id = taken.activation_id
  RETURNING a.tenant_id, a.activation_id, a.thread_id, a.run_id, a.kind, a.task_id,
            a.task_path, a.node, a.token, a.attempt;
END $$;
