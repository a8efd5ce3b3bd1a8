-- How long threads are kept, and what their states held when.
--
-- Who is to be looked at across tenants is known by the dispatcher, which sees nothing of
-- threads but whose they are. What goes is decided and done tenant by tenant.

------------------------------------------------------------------------ retention
-- A thread's own rule, which wins over all others. `pruned_as_of` is the change of the
-- thread after which its older checkpoints were dropped: nothing is left to drop while
-- it equals `updated_at`.
ALTER TABLE threadmill.thread
  ADD COLUMN ttl_minutes double precision CHECK (ttl_minutes > 0),
  ADD COLUMN ttl_strategy text CHECK (ttl_strategy IN ('delete', 'keep_latest')),
  ADD COLUMN pruned_as_of timestamptz,
  ADD CONSTRAINT thread_ttl CHECK ((ttl_minutes IS NULL) = (ttl_strategy IS NULL));
CREATE INDEX thread_own_ttl
  ON threadmill.thread (tenant_id, updated_at DESC, thread_id)
  WHERE NOT temporary AND ttl_minutes IS NOT NULL;

-- What a tenant's threads are kept for, where neither they nor their graph say.
CREATE TABLE threadmill.retention (
  tenant_id   text NOT NULL,
  strategy    text NOT NULL CHECK (strategy IN ('delete', 'keep_latest')),
  ttl_minutes double precision NOT NULL CHECK (ttl_minutes > 0),
  updated_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id)
);

-- When a tenant's threads are looked at again. `rules` is a digest of what the process
-- that looks knows of graphs: processes that know different ones do not wait for each
-- other.
CREATE TABLE threadmill.retention_round (
  tenant_id text NOT NULL,
  rules     text NOT NULL,
  due_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, rules)
);

-------------------------------------------------------------------------- history
-- What a checkpoint holds at the paths that its graph declares: what PostgreSQL could
-- not read out of a body. `value` is the value as JSON, numbers in one form;
-- `number` is set for numbers. `changed`: at its parent it was another, or none.
CREATE TABLE threadmill.history_value (
  tenant_id     text NOT NULL,
  thread_id     text NOT NULL,
  path          text NOT NULL,
  checkpoint_id text NOT NULL,
  graph_id      text NOT NULL,
  value         text NOT NULL,
  number        double precision,
  changed       boolean NOT NULL,
  created_at    timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, thread_id, checkpoint_id, path)
);
CREATE INDEX history_value_equal ON threadmill.history_value
  (tenant_id, graph_id, path, value, created_at DESC, thread_id, checkpoint_id);
CREATE INDEX history_value_by_time ON threadmill.history_value
  (tenant_id, graph_id, path, created_at DESC, thread_id, checkpoint_id);

-- As the tables that it grows with.
ALTER TABLE threadmill.history_value SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05);

-- See the first migration: the planner is shown what the tables will look like.
INSERT INTO threadmill.retention (tenant_id, strategy, ttl_minutes)
SELECT 'example' || n, 'delete', 1 FROM generate_series(1, 100) n;
INSERT INTO threadmill.retention_round (tenant_id, rules)
SELECT 'example' || n, 'rules' FROM generate_series(1, 100) n;
INSERT INTO threadmill.history_value (tenant_id, thread_id, path, checkpoint_id, graph_id,
                                      value, changed, created_at)
SELECT 'example', md5((n % 100 + 1)::text), 'path' || n % 4, md5(n::text), 'graph',
       '"value' || n % 20 || '"', n % 5 = 0, now() + n * interval '1 s'
  FROM generate_series(1, 1000) n;
ANALYZE threadmill.retention, threadmill.retention_round, threadmill.history_value;
SAVEPOINT filled;
TRUNCATE threadmill.retention, threadmill.retention_round, threadmill.history_value;
RELEASE SAVEPOINT filled;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['retention', 'retention_round', 'history_value'] LOOP
    EXECUTE format('ALTER TABLE threadmill.%I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE threadmill.%I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON threadmill.%I TO threadmill_app '
                   'USING (tenant_id = threadmill.tenant()) '
                   'WITH CHECK (tenant_id = threadmill.tenant())', t);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON threadmill.%I '
                   'TO threadmill_app', t);
  END LOOP;
END $$;
CREATE POLICY dispatcher ON threadmill.thread FOR SELECT TO threadmill_dispatcher
  USING (true);
CREATE POLICY dispatcher ON threadmill.retention_round TO threadmill_dispatcher
  USING (true) WITH CHECK (true);
GRANT SELECT (tenant_id) ON threadmill.thread TO threadmill_dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON threadmill.retention_round
  TO threadmill_dispatcher;

-- Takes up to `n` tenants whose threads are due to be looked at, for as long as `hold`:
-- who dies with one loses it then. Tenants are found by skipping through the key of
-- threads, one look in it for each.
CREATE FUNCTION threadmill.retention_rounds(rules text, hold interval, n integer)
RETURNS TABLE (tenant_id text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  INSERT INTO retention_round (tenant_id, rules)
  WITH RECURSIVE known AS (
    (SELECT t.tenant_id FROM thread t ORDER BY t.tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT t.tenant_id FROM thread t WHERE t.tenant_id > known.tenant_id
             ORDER BY t.tenant_id LIMIT 1)
      FROM known WHERE known.tenant_id IS NOT NULL)
  SELECT known.tenant_id, retention_rounds.rules FROM known
   WHERE known.tenant_id IS NOT NULL
     AND NOT EXISTS (SELECT FROM retention_round r
                      WHERE r.tenant_id = known.tenant_id
                        AND r.rules = retention_rounds.rules)
  ON CONFLICT DO NOTHING;
  -- Rounds of rules that no process has any more.
  DELETE FROM retention_round r WHERE r.due_at < now() - interval '30 days';
  RETURN QUERY
  WITH d AS MATERIALIZED (
    SELECT r.tenant_id, r.rules FROM retention_round r
     WHERE r.rules = retention_rounds.rules AND r.due_at <= now()
     ORDER BY r.due_at LIMIT retention_rounds.n
       FOR UPDATE SKIP LOCKED)
  UPDATE retention_round r SET due_at = clock_timestamp() + retention_rounds.hold
    FROM d
   WHERE r.tenant_id = d.tenant_id AND r.rules = d.rules
  RETURNING r.tenant_id;
END $$;

GRANT CREATE ON SCHEMA threadmill TO threadmill_dispatcher;
DO $$
DECLARE f regprocedure;
BEGIN
  FOR f IN SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
            WHERE p.pronamespace = 'threadmill'::regnamespace AND p.prosecdef
              AND p.proowner <> 'threadmill_dispatcher'::regrole LOOP
    EXECUTE format('ALTER FUNCTION %s OWNER TO threadmill_dispatcher', f);
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO threadmill_app', f);
  END LOOP;
END $$;
REVOKE CREATE ON SCHEMA threadmill FROM threadmill_dispatcher;

---------------------------------------------------------------------------- views
-- For people who ask with SQL. They hold no values of states, and who reads them is
-- bound by row-level security as if he read the tables.
CREATE VIEW threadmill.history_checkpoints WITH (security_invoker = true) AS
SELECT c.tenant_id, c.thread_id, c.ns AS namespace, c.checkpoint_id, c.parent_id,
       c.ordinal, c.run_id, c.metadata ->> 'graph_id' AS graph_id,
       c.metadata ->> 'source' AS source, (c.metadata ->> 'step')::integer AS step,
       octet_length(c.body) AS body_bytes, c.created_at
  FROM threadmill.checkpoint c;

CREATE VIEW threadmill.history_tasks WITH (security_invoker = true) AS
SELECT w.tenant_id, w.thread_id, w.ns AS namespace, w.checkpoint_id, w.task_id,
       w.task_path, w.run_id, w.channel, octet_length(w.value) AS value_bytes
  FROM threadmill.checkpoint_write w;

CREATE VIEW threadmill.history_runs WITH (security_invoker = true) AS
SELECT r.tenant_id, r.thread_id, r.run_id, r.seq, r.graph_id, r.status, r.attempt,
       r.start_checkpoint, r.end_checkpoint, r.error ->> 'error' AS error,
       r.created_at, r.started_at, r.finished_at
  FROM threadmill.run r;
GRANT SELECT ON threadmill.history_checkpoints, threadmill.history_tasks,
                threadmill.history_runs TO threadmill_app;
