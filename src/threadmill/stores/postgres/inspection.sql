-- What the doctor asks. Every statement also runs where no schema is yet.

-- name: server
SELECT current_setting('server_version_num')::integer AS version,
       current_setting('server_version') AS version_text,
       pg_postmaster_start_time() AS started_at,
       d.oid::bigint AS database_id,
       pg_is_in_recovery() AS standby,
       current_setting('fsync')::boolean AS fsync,
       current_setting('full_page_writes')::boolean AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       least(current_setting('max_connections')::integer
             - current_setting('superuser_reserved_connections')::integer
             - coalesce(current_setting('reserved_connections', true)::integer, 0),
             nullif(d.datconnlimit, -1), nullif(r.rolconnlimit, -1)) AS connections
  FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
 WHERE d.datname = current_database() AND r.rolname = current_user

-- name: session
SELECT pg_backend_pid() AS pid, extract(epoch FROM clock_timestamp())::float8 AS now

-- name: roles
SELECT wanted.name, r.oid IS NOT NULL AS present,
       coalesce(r.rolsuper OR r.rolbypassrls, false) AS bypasses
  FROM unnest(%(names)s::text[]) AS wanted (name)
  LEFT JOIN pg_catalog.pg_roles r ON r.rolname = wanted.name
 ORDER BY wanted.name

-- name: become
-- Fails if the login may not: that is the answer.
SELECT set_config('role', %(role)s, true), set_config('threadmill.tenant', '', true)

-- name: tables
SELECT c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
       coalesce((SELECT bool_and(pg_get_expr(p.polqual, p.polrelid)
                                 LIKE '%%tenant_id = threadmill.tenant()%%')
                   FROM pg_catalog.pg_policy p
                  WHERE p.polrelid = c.oid AND p.polpermissive
                    AND p.polroles && ARRAY[0, to_regrole(%(role)s)::oid]), false)
         AS scoped
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'threadmill' AND c.relkind IN ('r', 'p')
   AND EXISTS (SELECT FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attname = 'tenant_id'
                  AND NOT a.attisdropped)
 ORDER BY c.relname

-- name: read_without_tenant
-- Really reads every table, as the role that the transaction has become.
DO $$
DECLARE
  t name;
  seen boolean;
  leaking text[] := '{}';
BEGIN
  FOR t IN
    SELECT c.relname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
     WHERE n.nspname = 'threadmill' AND c.relkind IN ('r', 'p')
       AND a.attname = 'tenant_id' AND NOT a.attisdropped
  LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM threadmill.%I)', t) INTO seen;
    IF seen THEN
      leaking := leaking || t::text;
    END IF;
  END LOOP;
  PERFORM set_config('threadmill.leaking', array_to_string(leaking, ' '), true);
END $$

-- name: leaking
SELECT string_to_array(nullif(current_setting('threadmill.leaking', true), ''), ' ')
       AS names
