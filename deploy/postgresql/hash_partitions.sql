-- Cuts the tables that hold most of the bytes into sixteen partitions each, by thread.
--
--   threadmill migrate
--   psql "$DATABASE_URI" -v ON_ERROR_STOP=1 -f deploy/postgresql/hash_partitions.sql
--
-- For a new database, before its first thread: refuses if there are checkpoints. As the
-- login that has migrated. What it gives and costs: docs/how-to/large-databases.md.

BEGIN;
DO $$
DECLARE
  partitions constant int := 16;
  t text; key text; item record; there boolean;
BEGIN
  -- Views hold on to the tables: they are made anew over the new ones.
  CREATE TEMPORARY TABLE views ON COMMIT DROP AS
    SELECT c.relname AS name, pg_get_viewdef(c.oid) AS definition FROM pg_class c
     WHERE c.relnamespace = 'threadmill'::regnamespace AND c.relkind = 'v';
  FOR item IN SELECT name FROM views LOOP
    EXECUTE format('DROP VIEW threadmill.%I', item.name);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['checkpoint', 'checkpoint_write', 'chunk'] LOOP
    EXECUTE format('ALTER TABLE threadmill.%I NO FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('SELECT EXISTS (SELECT FROM threadmill.%I)', t) INTO there;
    IF there THEN
      RAISE EXCEPTION 'threadmill.% has rows; partition a database before its first thread', t;
    END IF;
    EXECUTE format('ALTER TABLE threadmill.%I RENAME TO %I', t, t || '_whole');
    EXECUTE format(
      'CREATE TABLE threadmill.%I (LIKE threadmill.%I INCLUDING DEFAULTS '
      'INCLUDING CONSTRAINTS INCLUDING STORAGE) PARTITION BY HASH (thread_id)',
      t, t || '_whole');
    FOR n IN 0 .. partitions - 1 LOOP
      EXECUTE format(
        'CREATE TABLE threadmill.%I PARTITION OF threadmill.%I '
        'FOR VALUES WITH (MODULUS %s, REMAINDER %s) WITH ('
        'autovacuum_vacuum_scale_factor = 0.02, '
        'autovacuum_vacuum_insert_scale_factor = 0.05, '
        'autovacuum_analyze_scale_factor = 0.05)',
        t || '_' || n, t, partitions, n);
      -- Nobody reads one directly; if somebody may some day, security is there.
      EXECUTE format('ALTER TABLE threadmill.%I ENABLE ROW LEVEL SECURITY, '
                     'FORCE ROW LEVEL SECURITY', t || '_' || n);
      EXECUTE format('CREATE POLICY tenant ON threadmill.%I TO threadmill_app '
                     'USING (tenant_id = threadmill.tenant()) '
                     'WITH CHECK (tenant_id = threadmill.tenant())', t || '_' || n);
    END LOOP;
    SELECT pg_get_constraintdef(c.oid) INTO STRICT key FROM pg_constraint c
     WHERE c.conrelid = format('threadmill.%I', t || '_whole')::regclass
       AND c.contype = 'p';
    CREATE TEMPORARY TABLE wanted ON COMMIT DROP AS
      SELECT replace(pg_get_indexdef(x.indexrelid), t || '_whole', t) AS definition
        FROM pg_index x
       WHERE x.indrelid = format('threadmill.%I', t || '_whole')::regclass
         AND NOT x.indisprimary;
    EXECUTE format('DROP TABLE threadmill.%I', t || '_whole');
    EXECUTE format('ALTER TABLE threadmill.%I ADD %s', t, key);
    FOR item IN SELECT definition FROM wanted LOOP
      EXECUTE item.definition;
    END LOOP;
    DROP TABLE wanted;
    EXECUTE format('ALTER TABLE threadmill.%I ENABLE ROW LEVEL SECURITY, '
                   'FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON threadmill.%I TO threadmill_app '
                   'USING (tenant_id = threadmill.tenant()) '
                   'WITH CHECK (tenant_id = threadmill.tenant())', t);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON threadmill.%I '
                   'TO threadmill_app', t);
  END LOOP;
  FOR item IN SELECT name, definition FROM views LOOP
    EXECUTE format('CREATE VIEW threadmill.%I WITH (security_invoker = true) AS %s',
                   item.name, item.definition);
    EXECUTE format('GRANT SELECT ON threadmill.%I TO threadmill_app', item.name);
  END LOOP;
END $$;
COMMIT;
