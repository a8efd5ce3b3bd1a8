-- What is looked for by its id is found by it, also with plans that were made while
-- nothing waited: on an empty table every index that begins with the tenant looks alike,
-- and a plan is kept for as long as its connection. An index that leaves rows out is no
-- candidate for a query that does not.
DROP INDEX threadmill.activation_by_run;
CREATE UNIQUE INDEX activation_by_run
  ON threadmill.activation (tenant_id, run_id, coalesce(task_id, ''))
  WHERE run_id IS NOT NULL;
