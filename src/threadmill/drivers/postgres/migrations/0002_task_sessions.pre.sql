-- Tasks of one superstep on many workers, labels, dead letters, effects, drains.
--
-- A `step` activation plans a superstep. When its tasks are spread over the workers it
-- is replaced by one `task` activation for each; `superstep` counts them down, and the
-- transaction that ends the last one adds a `join`: a step at a superstep whose results
-- are all there. Processes of the version before claim steps only, and only those
-- that need no label.

CREATE TABLE threadmill.superstep (
  tenant_id     text NOT NULL,
  run_id        uuid NOT NULL,
  thread_id     uuid NOT NULL,
  checkpoint_id text NOT NULL,
  width         integer NOT NULL,
  remaining     integer NOT NULL CHECK (remaining >= 0),
  created_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, run_id)
) WITH (fillfactor = 50);

-- `task_path` is LangGraph's place of the task in its superstep, which the task shares
-- with the handler of its errors; `checkpoint_id` is its superstep's. `avoid` lost this activation: for a while, others are
-- preferred. `cause` says why the last attempt ended without progress.
ALTER TABLE threadmill.activation
  ADD COLUMN task_id text,
  ADD COLUMN task_path text,
  ADD COLUMN checkpoint_id text,
  ADD COLUMN node text,
  ADD COLUMN labels text[] NOT NULL DEFAULT '{}',
  ADD COLUMN avoid uuid,
  ADD COLUMN avoid_until timestamptz,
  ADD COLUMN cause text,
  ADD CONSTRAINT activation_task CHECK
    ((kind = 'task') = (task_id IS NOT NULL AND checkpoint_id IS NOT NULL)),
  ADD CONSTRAINT activation_run CHECK ((kind = 'update') = (run_id IS NULL));
ALTER TABLE threadmill.activation
  DROP CONSTRAINT activation_kind_check,
  DROP CONSTRAINT activation_check1,
  ADD CONSTRAINT activation_kind CHECK (kind IN ('step', 'join', 'task', 'update'));
DROP INDEX threadmill.activation_one_step;
CREATE UNIQUE INDEX activation_by_run
  ON threadmill.activation (tenant_id, run_id, coalesce(task_id, ''));
-- Wider rows and a new index change what the planner believes of an empty table: it is
-- shown once more what the table will look like (see the first migration), with a
-- hundred to a thread. The size says whether it is empty, whatever row-level security
-- lets this login see.
ALTER TABLE threadmill.activation NO FORCE ROW LEVEL SECURITY;
DO $$ BEGIN
  IF pg_relation_size('threadmill.activation') = 0 THEN
    INSERT INTO threadmill.activation (tenant_id, activation_id, thread_id, run_id, kind,
                                       graph_id, state, worker_id, lease_until)
    SELECT 'example', md5('run' || n)::uuid, md5((n % 10)::text)::uuid,
           md5('run' || n)::uuid, 'step', 'graph',
           CASE WHEN n % 2 = 0 THEN 'leased' ELSE 'ready' END,
           CASE WHEN n % 2 = 0 THEN md5((n % 20)::text)::uuid END,
           CASE WHEN n % 2 = 0 THEN now() END
      FROM generate_series(1, 1000) n;
    ANALYZE threadmill.activation;
    TRUNCATE threadmill.activation;
  END IF;
END $$;
ALTER TABLE threadmill.activation FORCE ROW LEVEL SECURITY;

-- What a worker must have to take anything of this run.
ALTER TABLE threadmill.run ADD COLUMN labels text[] NOT NULL DEFAULT '{}';

-- A run that was given up, until it is redriven or discarded.
CREATE TABLE threadmill.dead_letter (
  tenant_id     text NOT NULL,
  run_id        uuid NOT NULL,
  thread_id     uuid NOT NULL,
  graph_id      text NOT NULL,
  node          text,
  cause         jsonb NOT NULL,
  attempts      integer NOT NULL,
  checkpoint_id text,
  died_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, run_id)
);
CREATE INDEX dead_letter_by_time
  ON threadmill.dead_letter (tenant_id, died_at DESC, run_id);

-- What a task has done outside, once: `intent` until its outcome is known, `void` when
-- it is known not to have happened. Task ids are the same in every attempt, and after an
-- interrupt in every run. `call_id` tells a repeated intent from somebody else's;
-- `answers` counts the human's answers that the effect has used up.
CREATE TABLE threadmill.effect (
  tenant_id    text NOT NULL,
  thread_id    uuid NOT NULL,
  task_id      text NOT NULL,
  key          text NOT NULL,
  state        text NOT NULL CHECK (state IN ('intent', 'done', 'void')),
  call_id      uuid NOT NULL,
  run_id       uuid,
  token        bigint NOT NULL,
  answers      integer NOT NULL DEFAULT 0,
  outcome_type text,
  outcome      bytea,
  created_at   timestamptz NOT NULL DEFAULT now(),
  updated_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, thread_id, task_id, key),
  CHECK ((state = 'done') = (outcome_type IS NOT NULL)),
  CHECK ((outcome IS NULL) = (outcome_type IS NULL))
);

-- Somebody has asked this process to drain (`threadmill workers drain`).
ALTER TABLE threadmill.worker
  ADD COLUMN drain boolean NOT NULL DEFAULT false;

-- See the first migration: the planner is shown what the tables will look like.
INSERT INTO threadmill.superstep (tenant_id, run_id, thread_id, checkpoint_id, width,
                                  remaining)
SELECT 'example', md5('run' || n)::uuid, md5((n % 100 + 1)::text)::uuid, md5(n::text),
       10, 10
  FROM generate_series(1, 1000) n;
INSERT INTO threadmill.dead_letter (tenant_id, run_id, thread_id, graph_id, cause,
                                    attempts)
SELECT tenant_id, run_id, thread_id, 'graph', '{}', 5 FROM threadmill.superstep;
INSERT INTO threadmill.effect (tenant_id, thread_id, task_id, key, state, call_id, run_id,
                               token)
SELECT tenant_id, thread_id, md5(run_id::text), 'key', 'intent', run_id, run_id, 1
  FROM threadmill.superstep;
ANALYZE threadmill.superstep, threadmill.dead_letter, threadmill.effect;
SAVEPOINT filled;
TRUNCATE threadmill.superstep, threadmill.dead_letter, threadmill.effect;
RELEASE SAVEPOINT filled;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['superstep', 'dead_letter', 'effect'] LOOP
    EXECUTE format('ALTER TABLE threadmill.%I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE threadmill.%I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON threadmill.%I TO threadmill_app '
                   'USING (tenant_id = threadmill.tenant()) '
                   'WITH CHECK (tenant_id = threadmill.tenant())', t);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON threadmill.%I '
                   'TO threadmill_app', t);
  END LOOP;
END $$;

---------------------------------------------------------- dispatcher's functions
-- Whoever locks several activations and waits for them locks them in the order of
-- their ids.

-- What the version before calls: steps that anybody may take.
CREATE OR REPLACE FUNCTION threadmill.claim(
  worker uuid, loaded text[], n integer, lease interval
) RETURNS TABLE (
  tenant_id text, activation_id uuid, thread_id uuid, run_id uuid, token bigint,
  attempt integer
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH ready AS MATERIALIZED (
    SELECT r.tenant_id, r.activation_id
      FROM activation r
     WHERE r.state = 'ready' AND r.kind = 'step' AND r.not_before <= now()
       AND r.graph_id = ANY (claim.loaded) AND r.labels = '{}'
     ORDER BY r.not_before
     LIMIT claim.n
       FOR UPDATE SKIP LOCKED)
  UPDATE activation a
     SET state = 'leased', worker_id = claim.worker,
         token = nextval('threadmill.token_seq'),
         lease_until = clock_timestamp() + claim.lease, attempt = a.attempt + 1
    FROM ready
   WHERE a.tenant_id = ready.tenant_id AND a.activation_id = ready.activation_id
  RETURNING a.tenant_id, a.activation_id, a.thread_id, a.run_id, a.token, a.attempt;
END $$;

-- Claims up to `n` ready activations of graphs that the worker has loaded, whose
-- labels it has all. Each draws its own token and counts an attempt. With a run, only
-- tasks of its superstep at that checkpoint.
CREATE FUNCTION threadmill.claim(
  worker uuid, loaded text[], able text[], n integer, lease interval, run uuid,
  at_checkpoint text, tasks boolean
) RETURNS TABLE (
  tenant_id text, activation_id uuid, thread_id uuid, run_id uuid, kind text,
  task_id text, task_path text, node text, token bigint, attempt integer
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH ready AS MATERIALIZED (
    SELECT r.tenant_id, r.activation_id
      FROM activation r
     WHERE r.state = 'ready' AND r.kind <> 'update' AND r.not_before <= now()
       AND r.graph_id = ANY (claim.loaded) AND r.labels <@ claim.able
       AND (r.avoid IS DISTINCT FROM claim.worker
            OR r.avoid_until <= clock_timestamp())
       AND (claim.tasks OR r.kind <> 'task')
       AND (claim.run IS NULL
            OR r.run_id = claim.run AND r.checkpoint_id = claim.at_checkpoint)
     ORDER BY r.not_before
     LIMIT claim.n
       FOR UPDATE SKIP LOCKED)
  UPDATE activation a
     SET state = 'leased', worker_id = claim.worker,
         token = nextval('threadmill.token_seq'),
         lease_until = clock_timestamp() + claim.lease, attempt = a.attempt + 1
    FROM ready
   WHERE a.tenant_id = ready.tenant_id AND a.activation_id = ready.activation_id
  RETURNING a.tenant_id, a.activation_id, a.thread_id, a.run_id, a.kind, a.task_id,
            a.task_path, a.node, a.token, a.attempt;
END $$;

-- Extends every lease that the worker still holds; what is not returned is lost. An
-- update is short and is not extended: its lease bounds how long a dead one blocks.
CREATE OR REPLACE FUNCTION threadmill.renew(worker uuid, lease interval)
RETURNS TABLE (
  tenant_id text, activation_id uuid, thread_id uuid, run_id uuid, token bigint,
  attempt integer
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH held AS MATERIALIZED (
    SELECT h.tenant_id, h.activation_id
      FROM activation h
     WHERE h.worker_id = renew.worker AND h.state = 'leased' AND h.kind <> 'update'
     ORDER BY h.activation_id
       FOR UPDATE)
  UPDATE activation a SET lease_until = clock_timestamp() + renew.lease
    FROM held
   WHERE a.tenant_id = held.tenant_id AND a.activation_id = held.activation_id
  RETURNING a.tenant_id, a.activation_id, a.thread_id, a.run_id, a.token, a.attempt;
END $$;

-- Re-opens activations whose lease has run out, or that belong to `dead`. The
-- token stays until the next claim: until then nobody else acts. The first death
-- is retried at once, later ones after a jittered, doubling pause; for `shun` longer
-- not by the worker that lost it. An update cannot be resumed: its caller is gone, so
-- it is held for whoever asked, to end it.
CREATE FUNCTION threadmill.reopen(
  dead uuid[], backoff interval, shun interval, n integer
) RETURNS TABLE (
  tenant_id text, activation_id uuid, thread_id uuid, run_id uuid, token bigint,
  attempt integer, kind text, node text, cause text
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH lost AS MATERIALIZED (
    SELECT r.tenant_id, r.activation_id,
           clock_timestamp() + reopen.backoff * (0.5 + random())
             * (power(2, least(greatest(r.attempt, 1) - 1, 8)) - 1) AS again_at
      FROM activation r
     WHERE r.state = 'leased'
       AND (r.lease_until < clock_timestamp()
            OR r.worker_id = ANY (reopen.dead))
     LIMIT reopen.n
       FOR UPDATE SKIP LOCKED)
  UPDATE activation a
     SET state = CASE a.kind WHEN 'update' THEN a.state ELSE 'ready' END,
         worker_id = CASE a.kind WHEN 'update' THEN '00000000-0000-0000-0000-000000000000'::uuid END,
         lease_until = CASE a.kind WHEN 'update'
                       THEN clock_timestamp() + interval '30 s' END,
         not_before = lost.again_at,
         avoid = a.worker_id, avoid_until = lost.again_at + reopen.shun,
         cause = format(CASE WHEN a.worker_id = ANY (reopen.dead)
                             THEN 'worker %s ended while it ran'
                             ELSE 'worker %s lost its lease: it hung, or was cut off'
                        END, a.worker_id)
    FROM lost
   WHERE a.tenant_id = lost.tenant_id AND a.activation_id = lost.activation_id
  RETURNING a.tenant_id, a.activation_id, a.thread_id, a.run_id, a.token,
            a.attempt, a.kind, a.node, a.cause;
END $$;

-- How many slots of each process are taken, by all tenants: numbers only. Tasks of one
-- run share a slot.
CREATE FUNCTION threadmill.taken()
RETURNS TABLE (worker_id uuid, n bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT a.worker_id, count(DISTINCT (a.tenant_id, a.run_id)) FROM activation a
   WHERE a.state = 'leased' AND a.kind <> 'update'
   GROUP BY a.worker_id;
END $$;

-- The version before re-opens with this one.
CREATE OR REPLACE FUNCTION threadmill.reopen(dead uuid[], backoff interval, n integer)
RETURNS TABLE (
  tenant_id text, activation_id uuid, thread_id uuid, run_id uuid, token bigint,
  attempt integer, kind text
) LANGUAGE sql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
  SELECT r.tenant_id, r.activation_id, r.thread_id, r.run_id, r.token, r.attempt, r.kind
    FROM reopen(dead, backoff, interval '0', n) r
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
