-- How much work waits, for whoever decides how many workers there are. Numbers only, of
-- all tenants together: workers serve all of them.

-- What the function counts; nothing of what runs hold.
GRANT SELECT (tenant_id, run_id, status, not_before, labels)
  ON threadmill.run TO threadmill_dispatcher;
GRANT SELECT (tenant_id, run_id) ON threadmill.dead_letter TO threadmill_dispatcher;
CREATE POLICY dispatcher ON threadmill.run FOR SELECT TO threadmill_dispatcher
  USING (true);
CREATE POLICY dispatcher ON threadmill.dead_letter FOR SELECT TO threadmill_dispatcher
  USING (true);

-- A row for each set of labels that some work needs. An activation is runnable once its
-- time has come; it is delayed before that, and blocked while another task of its
-- superstep must end first. A run without an activation waits behind its thread, or for
-- its time.
CREATE FUNCTION threadmill.queues()
RETURNS TABLE (
  labels text[], runnable bigint, oldest_seconds float8, running bigint,
  blocked bigint, delayed bigint, dead_letters bigint
) LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH found AS (
    SELECT a.labels, a.state = 'ready' AND a.not_before <= now() AS runnable,
           a.not_before, a.state = 'leased' AS running,
           a.state = 'ready' AND a.not_before = 'infinity' AS blocked,
           a.state = 'ready' AND a.not_before > now() AND isfinite(a.not_before)
             AS delayed, false AS dead
      FROM activation a
     WHERE a.kind <> 'update'
    UNION ALL
    SELECT r.labels, false, NULL, false, r.not_before <= now(), r.not_before > now(),
           false
      FROM run r
     WHERE r.status = 'pending'
       AND NOT EXISTS (SELECT FROM activation a
                        WHERE a.tenant_id = r.tenant_id AND a.run_id = r.run_id)
    UNION ALL
    SELECT r.labels, false, NULL, false, false, false, true
      FROM dead_letter d
      JOIN run r ON r.tenant_id = d.tenant_id AND r.run_id = d.run_id
  )
  SELECT f.labels, count(*) FILTER (WHERE f.runnable),
         coalesce(extract(epoch FROM now() - min(f.not_before)
                                             FILTER (WHERE f.runnable)), 0)::float8,
         count(*) FILTER (WHERE f.running), count(*) FILTER (WHERE f.blocked),
         count(*) FILTER (WHERE f.delayed), count(*) FILTER (WHERE f.dead)
    FROM found f
   GROUP BY f.labels;
END $$;

GRANT CREATE ON SCHEMA threadmill TO threadmill_dispatcher;
ALTER FUNCTION threadmill.queues() OWNER TO threadmill_dispatcher;
REVOKE ALL ON FUNCTION threadmill.queues() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION threadmill.queues() TO threadmill_app;
REVOKE CREATE ON SCHEMA threadmill FROM threadmill_dispatcher;
