-- Searches among very many threads of one tenant.
--
-- Row-level security keeps `metadata @> filter` out of a GIN index (the operator might
-- leak), so the entries of metadata that can be compared by equality stand in a table of
-- their own, under a btree index that begins with the tenant. A search narrows itself by
-- one of them and checks the rest on the thread's row.
--
-- The migration reads all threads once; new ones wait for it.

CREATE TABLE threadmill.facet (
  tenant_id  text NOT NULL,
  thread_id  uuid NOT NULL,
  key        text NOT NULL,
  value      text NOT NULL,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, thread_id, key, value),
  FOREIGN KEY (tenant_id, thread_id) REFERENCES threadmill.thread ON DELETE CASCADE
);
CREATE INDEX facet_by_value
  ON threadmill.facet (tenant_id, key, value, created_at DESC, thread_id);

-- The scalar entries of an object. Long ones are cut, as keys of an index are short;
-- equal numbers are written alike.
CREATE FUNCTION threadmill.facets(metadata jsonb)
RETURNS TABLE (key text, value text) LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT left(e.key, 200),
         CASE jsonb_typeof(e.value)
           WHEN 'number' THEN trim_scale(e.value::numeric)::text
           ELSE left(e.value::text, 200)
         END
    FROM jsonb_each(metadata) e
   WHERE jsonb_typeof(e.value) IN ('string', 'number', 'boolean', 'null')
$$;

CREATE FUNCTION threadmill.keep_facets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' THEN
    DELETE FROM threadmill.facet f
     WHERE f.tenant_id = NEW.tenant_id AND f.thread_id = NEW.thread_id
       AND (f.key, f.value) NOT IN (SELECT * FROM threadmill.facets(NEW.metadata));
  END IF;
  INSERT INTO threadmill.facet (tenant_id, thread_id, key, value, created_at)
  SELECT NEW.tenant_id, NEW.thread_id, n.key, n.value, NEW.created_at
    FROM threadmill.facets(NEW.metadata) n
  ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;

-- A stateless run's thread is not searched for, unless it is kept.
CREATE TRIGGER facets_of_new AFTER INSERT ON threadmill.thread FOR EACH ROW
  WHEN (NOT NEW.temporary AND NEW.metadata <> '{}')
  EXECUTE FUNCTION threadmill.keep_facets();
CREATE TRIGGER facets_of_changed AFTER UPDATE OF metadata, temporary
  ON threadmill.thread FOR EACH ROW
  WHEN (NOT NEW.temporary AND (NEW.metadata IS DISTINCT FROM OLD.metadata
                               OR OLD.temporary))
  EXECUTE FUNCTION threadmill.keep_facets();

-- Before security is forced on the new table, and with that of threads lifted for a
-- moment: the owner, too, sees no tenant's rows.
ALTER TABLE threadmill.thread NO FORCE ROW LEVEL SECURITY;
INSERT INTO threadmill.facet (tenant_id, thread_id, key, value, created_at)
SELECT t.tenant_id, t.thread_id, n.key, n.value, t.created_at
  FROM threadmill.thread t, threadmill.facets(t.metadata) n
 WHERE NOT t.temporary
ON CONFLICT DO NOTHING;
-- See the first migration: the planner is shown what the table will look like.
INSERT INTO threadmill.thread (tenant_id, thread_id, metadata)
SELECT 'example', md5('facets' || n)::uuid,
       jsonb_build_object('graph_id', 'graph', 'assistant_id', 'assistant',
                          'user', n / 2, 'topic', n % 20)
  FROM generate_series(1, 250) n;
ANALYZE threadmill.facet;
DELETE FROM threadmill.thread WHERE tenant_id = 'example';
ALTER TABLE threadmill.thread FORCE ROW LEVEL SECURITY;

ALTER TABLE threadmill.facet ENABLE ROW LEVEL SECURITY;
ALTER TABLE threadmill.facet FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON threadmill.facet TO threadmill_app
  USING (tenant_id = threadmill.tenant()) WITH CHECK (tenant_id = threadmill.tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON threadmill.facet TO threadmill_app;

-- Searches leave temporary threads out; read backwards, these give the other order.
DROP INDEX threadmill.thread_by_creation;
DROP INDEX threadmill.thread_by_update;
CREATE INDEX thread_by_creation
  ON threadmill.thread (tenant_id, created_at DESC, thread_id) WHERE NOT temporary;
CREATE INDEX thread_by_update
  ON threadmill.thread (tenant_id, updated_at DESC, thread_id) WHERE NOT temporary;
-- Most threads are idle.
CREATE INDEX thread_not_idle
  ON threadmill.thread (tenant_id, status, created_at DESC, thread_id)
  WHERE NOT temporary AND status <> 'idle';
