-- Checkpoints whose values lie in a chunk store.
--
-- Their `body_type` is 'away' and their body is the name of a chunk; a large result of a
-- task is a name in the same way. A chore is what is to be done for a thread that no
-- transaction can do: chunks that nobody names are dropped from the store; new ones are
-- copied to its archive, the table `chunk`. Chores are apart from timers: a store that
-- is slow holds nothing else up.

CREATE TABLE threadmill.chunk_chore (
  tenant_id text NOT NULL,
  thread_id text NOT NULL,
  kind      text NOT NULL CHECK (kind IN ('drop', 'archive')),
  since     timestamptz NOT NULL DEFAULT now(),
  due_at    timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, thread_id, kind)
);
CREATE INDEX chunk_chore_due ON threadmill.chunk_chore (due_at);
ALTER TABLE threadmill.chunk_chore SET (
  fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- See the first migration: the planner is shown what the table will look like.
INSERT INTO threadmill.chunk_chore (tenant_id, thread_id, kind, due_at)
SELECT 'example', md5(n::text), 'drop', now() + n * interval '1 s'
  FROM generate_series(1, 1000) n;
ANALYZE threadmill.chunk_chore;
SAVEPOINT filled;
TRUNCATE threadmill.chunk_chore;
RELEASE SAVEPOINT filled;

ALTER TABLE threadmill.chunk_chore ENABLE ROW LEVEL SECURITY;
ALTER TABLE threadmill.chunk_chore FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON threadmill.chunk_chore TO threadmill_app
  USING (tenant_id = threadmill.tenant()) WITH CHECK (tenant_id = threadmill.tenant());
CREATE POLICY dispatcher ON threadmill.chunk_chore TO threadmill_dispatcher
  USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON threadmill.chunk_chore TO threadmill_app;
GRANT SELECT, UPDATE ON threadmill.chunk_chore TO threadmill_dispatcher;

-- The chunks that a thread names in the store; some of them more than once.
CREATE FUNCTION threadmill.chunks_away(tenant text, thread text)
RETURNS SETOF bytea LANGUAGE sql STABLE AS $$
  SELECT unnest(c.body || c.chunks) FROM threadmill.checkpoint c
   WHERE c.tenant_id = tenant AND c.thread_id = thread AND c.body_type = 'away'
   UNION ALL
  SELECT w.value FROM threadmill.checkpoint_write w
   WHERE w.tenant_id = tenant AND w.thread_id = thread AND w.value_type = 'away'
$$;
GRANT EXECUTE ON FUNCTION threadmill.chunks_away(text, text) TO threadmill_app;

-- Comes before what removes checkpoints of a thread. Whoever reads one at this moment
-- still finds what it holds.
CREATE FUNCTION threadmill.drop_chunks_later(tenant text, thread text)
RETURNS void LANGUAGE sql AS $$
  INSERT INTO threadmill.chunk_chore (tenant_id, thread_id, kind, due_at)
  SELECT tenant, thread, 'drop', now() + interval '60 seconds'
   WHERE EXISTS (SELECT FROM threadmill.checkpoint c
                  WHERE c.tenant_id = tenant AND c.thread_id = thread
                    AND c.body_type = 'away')
  ON CONFLICT (tenant_id, thread_id, kind) DO UPDATE SET due_at = excluded.due_at
$$;
GRANT EXECUTE ON FUNCTION threadmill.drop_chunks_later(text, text) TO threadmill_app;

-- Takes due chores for a while, so that two processes do not work on one.
CREATE FUNCTION threadmill.chunk_chores(hold interval, n integer)
RETURNS TABLE (tenant_id text, thread_id text, kind text, due_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH d AS MATERIALIZED (
    SELECT c.tenant_id, c.thread_id, c.kind FROM chunk_chore c
     WHERE c.due_at <= now()
     ORDER BY c.due_at LIMIT chunk_chores.n
       FOR UPDATE SKIP LOCKED)
  UPDATE chunk_chore c SET due_at = clock_timestamp() + chunk_chores.hold
    FROM d
   WHERE c.tenant_id = d.tenant_id AND c.thread_id = d.thread_id AND c.kind = d.kind
  RETURNING c.tenant_id, c.thread_id, c.kind, c.due_at;
END $$;

-- How many threads have values that are not in the archive yet, and for how long the
-- first of them. Numbers only, of all tenants together.
CREATE FUNCTION threadmill.archive_lag()
RETURNS TABLE (threads bigint, oldest_seconds float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
  SELECT count(*),
         coalesce(greatest(extract(epoch FROM clock_timestamp() - min(c.since)), 0),
                  0)::float8
    FROM chunk_chore c
   WHERE c.kind = 'archive'
$$;

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
