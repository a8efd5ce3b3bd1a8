-- Checkpoints whose values lie in a chunk store.
--
-- Their `body_type` is 'away' and their body is the name of a chunk; a large result of a
-- task is a name in the same way. Timers see to the store what a transaction cannot:
-- chunks that no checkpoint names any more are dropped (`drop_chunks`), and where the
-- store has an archive, new ones are copied to it (`archive_chunks`, the table `chunk`).

ALTER TABLE threadmill.timer DROP CONSTRAINT timer_kind_check;
ALTER TABLE threadmill.timer ADD CONSTRAINT timer_kind_check
  CHECK (kind IN ('promote', 'drop_events', 'drop_key', 'drop_thread', 'drop_chunks',
                  'archive_chunks'));

-- How many threads have values that are not in the archive yet, and for how long the
-- first of them. Numbers only, of all tenants together.
CREATE FUNCTION threadmill.archive_lag()
RETURNS TABLE (threads bigint, oldest_seconds float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
  SELECT count(*),
         coalesce(greatest(extract(epoch FROM clock_timestamp() - min(t.due_at)), 0),
                  0)::float8
    FROM timer t
   WHERE t.kind = 'archive_chunks'
$$;

GRANT CREATE ON SCHEMA threadmill TO threadmill_dispatcher;
ALTER FUNCTION threadmill.archive_lag() OWNER TO threadmill_dispatcher;
REVOKE ALL ON FUNCTION threadmill.archive_lag() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION threadmill.archive_lag() TO threadmill_app;
REVOKE CREATE ON SCHEMA threadmill FROM threadmill_dispatcher;
