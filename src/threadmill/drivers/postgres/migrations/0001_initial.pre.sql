-- The first schema: tenants, fencing and the explicit head from the start.
--
-- Two roles own no data of ours and cannot log in. `threadmill_app` is what every
-- transaction becomes: it owns nothing and row-level security binds it to one
-- tenant. `threadmill_dispatcher` owns the few functions that look across tenants;
-- they return ids only.
--
-- There are no foreign keys on checkpoint, checkpoint_write and event: they would
-- take shared locks on rows that accepting transactions update.

-- Roles belong to the whole cluster: another database's migration may create them
-- at this very moment.
DO $$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['threadmill_app', 'threadmill_dispatcher'] LOOP
    IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = r) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', r);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
      END;
    END IF;
    -- Since 16 who creates a role is its member and still may not become it.
    IF NOT pg_catalog.pg_has_role(
      current_user, r,
      CASE WHEN current_setting('server_version_num')::integer >= 160000
           THEN 'SET' ELSE 'MEMBER' END
    ) THEN
      BEGIN
        EXECUTE format('GRANT %I TO CURRENT_USER', r);
      EXCEPTION WHEN insufficient_privilege THEN
        RAISE EXCEPTION USING
          ERRCODE = 'insufficient_privilege',
          MESSAGE = format('another login has made the role %s of this cluster', r),
          HINT = format('as that login or a superuser, run GRANT threadmill_app, '
                        'threadmill_dispatcher TO %I WITH ADMIN OPTION', current_user);
      END;
    END IF;
  END LOOP;
END $$;

CREATE SCHEMA IF NOT EXISTS threadmill;
GRANT USAGE ON SCHEMA threadmill TO threadmill_app, threadmill_dispatcher;

-- Aborts the transaction with one of threadmill's error codes: the driver turns
-- SQLSTATE TM001 back into the class of that code.
CREATE FUNCTION threadmill.require(ok boolean, code text, detail text DEFAULT NULL)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF ok IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'TM001', MESSAGE = code,
                          DETAIL = coalesce(detail, '');
  END IF;
  RETURN true;
END $$;

-- After a transaction-local set_config the setting reads '', not NULL.
CREATE FUNCTION threadmill.tenant() RETURNS text LANGUAGE sql STABLE
RETURN nullif(current_setting('threadmill.tenant', true), '');

-- Fencing tokens come from one sequence, so they rise along every thread.
CREATE SEQUENCE threadmill.token_seq;
CREATE SEQUENCE threadmill.presence_seq AS integer CYCLE;

------------------------------------------------------------------ system tables

CREATE TABLE threadmill.migration (
  id         integer PRIMARY KEY,
  name       text NOT NULL,
  checksum   text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
);

-- Processes that claim. `lock_key` is the advisory lock that says "my session
-- lives"; NULL when the process cannot hold one (a transaction pooler).
CREATE TABLE threadmill.worker (
  worker_id  uuid PRIMARY KEY,
  name       text NOT NULL,
  role       text NOT NULL CHECK (role IN ('worker', 'server', 'dev')),
  version    text NOT NULL,
  graphs     text[] NOT NULL DEFAULT '{}',
  labels     text[] NOT NULL DEFAULT '{}',
  slots      integer NOT NULL DEFAULT 0,
  lock_key   integer UNIQUE,
  started_at timestamptz NOT NULL DEFAULT now(),
  seen_at    timestamptz NOT NULL DEFAULT now()
);

------------------------------------------------------------- the accepting side

CREATE TABLE threadmill.assistant (
  tenant_id    text NOT NULL,
  assistant_id uuid NOT NULL,
  graph_id     text NOT NULL,
  name         text NOT NULL,
  description  text,
  version      integer NOT NULL DEFAULT 1,
  config       jsonb NOT NULL DEFAULT '{}',
  context      jsonb NOT NULL DEFAULT '{}',
  metadata     jsonb NOT NULL DEFAULT '{}',
  created_at   timestamptz NOT NULL DEFAULT now(),
  updated_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, assistant_id)
);

-- `holder` is the run or the update activation that may act on the thread now;
-- whoever ends it hands the thread to the next queued run in the same transaction.
CREATE TABLE threadmill.thread (
  tenant_id        text NOT NULL,
  thread_id        uuid NOT NULL,
  status           text NOT NULL DEFAULT 'idle'
                   CHECK (status IN ('idle', 'busy', 'interrupted', 'error')),
  holder           uuid,
  next_seq         bigint NOT NULL DEFAULT 1,
  metadata         jsonb NOT NULL DEFAULT '{}',
  config           jsonb NOT NULL DEFAULT '{}',
  error            jsonb,
  temporary        boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL DEFAULT now(),
  updated_at       timestamptz NOT NULL DEFAULT now(),
  state_updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, thread_id),
  CHECK (status <> 'busy' OR holder IS NOT NULL)
) WITH (fillfactor = 80);
CREATE INDEX thread_by_creation
  ON threadmill.thread (tenant_id, created_at DESC, thread_id);
CREATE INDEX thread_by_update
  ON threadmill.thread (tenant_id, updated_at DESC, thread_id);

-- pending -> running -> success | error | timeout | interrupted; the table of
-- transitions is threadmill.domain.run. `payload` is what the client gives to the
-- graph, as JSON text: jsonb would reorder its objects and make integers of floats.
CREATE TABLE threadmill.run (
  tenant_id          text NOT NULL,
  run_id             uuid NOT NULL,
  thread_id          uuid NOT NULL,
  seq                bigint NOT NULL,
  assistant_id       uuid NOT NULL,
  graph_id           text NOT NULL,
  status             text NOT NULL DEFAULT 'pending'
                     CHECK (status IN ('pending', 'running', 'success', 'error',
                                       'timeout', 'interrupted')),
  multitask_strategy text NOT NULL,
  metadata           jsonb NOT NULL DEFAULT '{}',
  kwargs             jsonb NOT NULL,
  payload            text NOT NULL,
  attempt            integer NOT NULL DEFAULT 0,
  start_checkpoint   text,
  end_checkpoint     text,
  start_step         integer NOT NULL DEFAULT -2,
  error              jsonb,
  not_before         timestamptz NOT NULL DEFAULT now(),
  created_at         timestamptz NOT NULL DEFAULT now(),
  updated_at         timestamptz NOT NULL DEFAULT now(),
  started_at         timestamptz,
  finished_at        timestamptz,
  PRIMARY KEY (tenant_id, run_id),
  UNIQUE (tenant_id, thread_id, seq),
  FOREIGN KEY (tenant_id, thread_id)
    REFERENCES threadmill.thread (tenant_id, thread_id) ON DELETE CASCADE,
  CHECK ((finished_at IS NULL) = (status IN ('pending', 'running')))
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX run_one_running
  ON threadmill.run (tenant_id, thread_id) WHERE status = 'running';
CREATE INDEX run_queued
  ON threadmill.run (tenant_id, thread_id, seq) WHERE status = 'pending';

CREATE TABLE threadmill.idempotency (
  tenant_id  text NOT NULL,
  key        text NOT NULL,
  body_hash  bytea NOT NULL,
  run_id     uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, key)
);

-- What is due later: promoting a delayed run, dropping what has expired.
CREATE TABLE threadmill.timer (
  tenant_id text NOT NULL,
  kind      text NOT NULL
            CHECK (kind IN ('promote', 'drop_events', 'drop_key', 'drop_thread')),
  ref       text NOT NULL,
  due_at    timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, kind, ref)
);
CREATE INDEX timer_due ON threadmill.timer (due_at);

--------------------------------------------------------------- the working side

-- One entry of a worker into a thread. `token` is the fence: every transaction
-- that advances the thread first locks this row by (activation_id, token).
-- Deleted when done.
CREATE TABLE threadmill.activation (
  tenant_id     text NOT NULL,
  activation_id uuid NOT NULL,
  thread_id     uuid NOT NULL,
  run_id        uuid,
  kind          text NOT NULL CHECK (kind IN ('step', 'update')),
  graph_id      text NOT NULL,
  state         text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'leased')),
  token         bigint NOT NULL DEFAULT 0,
  worker_id     uuid,
  lease_until   timestamptz,
  attempt       integer NOT NULL DEFAULT 0,
  not_before    timestamptz NOT NULL DEFAULT now(),
  created_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, activation_id),
  CHECK ((state = 'leased') = (worker_id IS NOT NULL AND lease_until IS NOT NULL)),
  CHECK ((kind = 'step') = (run_id IS NOT NULL))
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX activation_one_step
  ON threadmill.activation (tenant_id, run_id) WHERE kind = 'step';
CREATE INDEX activation_by_thread ON threadmill.activation (tenant_id, thread_id);
-- The dispatcher's own indexes look across tenants.
CREATE INDEX activation_ready
  ON threadmill.activation (not_before) WHERE state = 'ready';
CREATE INDEX activation_leased
  ON threadmill.activation (worker_id) WHERE state = 'leased';

-- The head of each namespace: the pointer that says which checkpoint is current.
-- Checkpoint ids come from worker clocks and order nothing. Thread ids are text
-- here: the saver also serves plain LangGraph scripts with ids of their own.
CREATE TABLE threadmill.head (
  tenant_id     text NOT NULL,
  thread_id     text NOT NULL,
  ns            text NOT NULL,
  checkpoint_id text NOT NULL,
  ordinal       bigint NOT NULL,
  PRIMARY KEY (tenant_id, thread_id, ns)
) WITH (fillfactor = 50);

-- `ordinal` is the order in which checkpoints were committed in their namespace.
CREATE TABLE threadmill.checkpoint (
  tenant_id     text NOT NULL,
  thread_id     text NOT NULL,
  ns            text NOT NULL,
  checkpoint_id text NOT NULL,
  parent_id     text,
  ordinal       bigint NOT NULL,
  run_id        uuid,
  activation_id uuid,
  token         bigint,
  format        smallint NOT NULL,
  body_type     text NOT NULL,
  body          bytea NOT NULL,
  metadata      jsonb NOT NULL,
  created_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, thread_id, ns, checkpoint_id),
  UNIQUE (tenant_id, thread_id, ns, ordinal)
);
CREATE INDEX checkpoint_by_run
  ON threadmill.checkpoint (tenant_id, run_id) WHERE run_id IS NOT NULL;

CREATE TABLE threadmill.checkpoint_write (
  tenant_id     text NOT NULL,
  thread_id     text NOT NULL,
  ns            text NOT NULL,
  checkpoint_id text NOT NULL,
  task_id       text NOT NULL,
  idx           integer NOT NULL,
  task_path     text NOT NULL DEFAULT '',
  channel       text NOT NULL,
  run_id        uuid,
  token         bigint,
  value_type    text NOT NULL,
  value         bytea,
  PRIMARY KEY (tenant_id, thread_id, ns, checkpoint_id, task_id, idx)
);

-- Event numbers are drawn from this row under its lock, so they have no gaps and
-- become visible in order.
CREATE TABLE threadmill.stream (
  tenant_id text NOT NULL,
  thread_id uuid NOT NULL,
  next_seq  bigint NOT NULL DEFAULT 1,
  last_ms   bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant_id, thread_id)
) WITH (fillfactor = 50);

CREATE TABLE threadmill.event (
  tenant_id text NOT NULL,
  thread_id uuid NOT NULL,
  seq       bigint NOT NULL,
  ms        bigint NOT NULL,
  run_id    uuid NOT NULL,
  attempt   integer NOT NULL,
  token     bigint,
  event     text NOT NULL,
  data      text NOT NULL,
  PRIMARY KEY (tenant_id, thread_id, seq)
);

------------------------------------------------------------ planner's statistics

-- Prepared statements keep the plan of their first use, made when tables are empty.
-- Without statistics every index that begins with the tenant looks as good as the
-- right one, and a statement would read all of a tenant's rows for each that it wants
-- until the first ANALYZE. So the planner is shown what the tables will look like: one
-- tenant, ten rows to a thread. The statistics stay when the rows go.
INSERT INTO threadmill.thread (tenant_id, thread_id)
SELECT 'example', md5(t::text)::uuid FROM generate_series(1, 100) t;
INSERT INTO threadmill.run (tenant_id, run_id, thread_id, seq, assistant_id, graph_id,
                            status, multitask_strategy, kwargs, payload,
                            finished_at)
SELECT 'example', md5('run' || n)::uuid, md5((n % 100 + 1)::text)::uuid, n,
       md5('assistant')::uuid, 'graph', 'success', 'enqueue', '{}', '{}', now()
  FROM generate_series(1, 1000) n;
INSERT INTO threadmill.activation (tenant_id, activation_id, thread_id, run_id, kind,
                                   graph_id, state, worker_id, lease_until)
SELECT tenant_id, run_id, thread_id, run_id, 'step', 'graph',
       CASE WHEN seq % 2 = 0 THEN 'leased' ELSE 'ready' END,
       CASE WHEN seq % 2 = 0 THEN md5((seq % 20)::text)::uuid END,
       CASE WHEN seq % 2 = 0 THEN now() END
  FROM threadmill.run;
INSERT INTO threadmill.head (tenant_id, thread_id, ns, checkpoint_id, ordinal)
SELECT tenant_id, thread_id::text, '', md5(thread_id::text), 10 FROM threadmill.thread;
INSERT INTO threadmill.checkpoint (tenant_id, thread_id, ns, checkpoint_id, ordinal,
                                   run_id, format, body_type, body, metadata)
SELECT tenant_id, thread_id::text, '', md5(run_id::text), seq, run_id, 1, 'msgpack',
       decode(repeat('00', 500), 'hex'), '{}'
  FROM threadmill.run;
INSERT INTO threadmill.checkpoint_write (tenant_id, thread_id, ns, checkpoint_id,
                                         task_id, idx, channel, value_type, value)
SELECT tenant_id, thread_id, ns, checkpoint_id, md5(checkpoint_id), n, 'channel',
       'msgpack', decode(repeat('00', 50), 'hex')
  FROM threadmill.checkpoint, generate_series(0, 1) n;
INSERT INTO threadmill.stream (tenant_id, thread_id)
SELECT tenant_id, thread_id FROM threadmill.thread;
INSERT INTO threadmill.event (tenant_id, thread_id, seq, ms, run_id, attempt, event,
                              data)
SELECT tenant_id, thread_id, seq, 0, run_id, 1, 'values', '{}' FROM threadmill.run;
INSERT INTO threadmill.idempotency (tenant_id, key, body_hash, run_id)
SELECT tenant_id, run_id::text, '', run_id FROM threadmill.run;
INSERT INTO threadmill.timer (tenant_id, kind, ref, due_at)
SELECT tenant_id, 'drop_key', run_id::text, now() + seq * interval '1 min'
  FROM threadmill.run;
ANALYZE threadmill.thread, threadmill.run, threadmill.activation, threadmill.head,
        threadmill.checkpoint, threadmill.checkpoint_write, threadmill.stream,
        threadmill.event, threadmill.idempotency, threadmill.timer;
-- In a transaction of its own, as it were: tables that are emptied where they were made
-- would count as known to be empty, instead of as not looked at yet.
SAVEPOINT filled;
TRUNCATE threadmill.thread, threadmill.run, threadmill.activation, threadmill.head,
         threadmill.checkpoint, threadmill.checkpoint_write, threadmill.stream,
         threadmill.event, threadmill.idempotency, threadmill.timer;
RELEASE SAVEPOINT filled;

------------------------------------------------------------- row-level security

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['assistant', 'thread', 'run', 'idempotency', 'timer',
                           'activation', 'head', 'checkpoint', 'checkpoint_write',
                           'stream', 'event'] LOOP
    EXECUTE format('ALTER TABLE threadmill.%I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE threadmill.%I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON threadmill.%I TO threadmill_app '
                   'USING (tenant_id = threadmill.tenant()) '
                   'WITH CHECK (tenant_id = threadmill.tenant())', t);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON threadmill.%I '
                   'TO threadmill_app', t);
  END LOOP;
END $$;
GRANT SELECT ON threadmill.migration TO threadmill_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON threadmill.worker TO threadmill_app;
GRANT USAGE ON SEQUENCE threadmill.token_seq, threadmill.presence_seq
  TO threadmill_app;

CREATE POLICY dispatcher ON threadmill.activation TO threadmill_dispatcher
  USING (true) WITH CHECK (true);
CREATE POLICY dispatcher ON threadmill.timer TO threadmill_dispatcher
  USING (true) WITH CHECK (true);
GRANT SELECT, UPDATE ON threadmill.activation TO threadmill_dispatcher;
GRANT SELECT, UPDATE ON threadmill.timer TO threadmill_dispatcher;
GRANT SELECT, DELETE ON threadmill.worker TO threadmill_dispatcher;
GRANT USAGE ON SEQUENCE threadmill.token_seq TO threadmill_dispatcher;

---------------------------------------------------------- dispatcher's functions
-- In PL/pgSQL, because it keeps the plans of its statements. Rows are chosen in a
-- materialized CTE: as a subquery a plan may choose anew for each row that it joins
-- with, and so take more than `n`.

-- Claims up to `n` ready activations of graphs that the worker has loaded. Each
-- draws its own token and counts an attempt.
CREATE FUNCTION threadmill.claim(
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
       AND r.graph_id = ANY (claim.loaded)
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

-- Extends every lease that the worker still holds; what is not returned is lost. An
-- update is short and is not extended: its lease bounds how long a dead one blocks.
CREATE FUNCTION threadmill.renew(worker uuid, lease interval)
RETURNS TABLE (
  tenant_id text, activation_id uuid, thread_id uuid, run_id uuid, token bigint,
  attempt integer
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  UPDATE activation a SET lease_until = clock_timestamp() + renew.lease
   WHERE a.worker_id = renew.worker AND a.state = 'leased' AND a.kind = 'step'
  RETURNING a.tenant_id, a.activation_id, a.thread_id, a.run_id, a.token, a.attempt;
END $$;

-- Re-opens activations whose lease has run out, or that belong to `dead`. The
-- token stays until the next claim: until then nobody else acts. The first death
-- is retried at once, later ones after a jittered, doubling pause. An update cannot
-- be resumed: its caller is gone, so it is held for whoever asked, to end it.
CREATE FUNCTION threadmill.reopen(dead uuid[], backoff interval, n integer)
RETURNS TABLE (
  tenant_id text, activation_id uuid, thread_id uuid, run_id uuid, token bigint,
  attempt integer, kind text
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH lost AS MATERIALIZED (
    SELECT r.tenant_id, r.activation_id
      FROM activation r
     WHERE r.state = 'leased'
       AND (r.lease_until < clock_timestamp()
            OR r.worker_id = ANY (reopen.dead))
     LIMIT reopen.n
       FOR UPDATE SKIP LOCKED)
  UPDATE activation a
     SET state = CASE a.kind WHEN 'step' THEN 'ready' ELSE a.state END,
         worker_id = CASE a.kind WHEN 'update' THEN '00000000-0000-0000-0000-000000000000'::uuid END,
         lease_until = CASE a.kind WHEN 'update'
                       THEN clock_timestamp() + interval '30 s' END,
         not_before = clock_timestamp() + reopen.backoff * (0.5 + random())
                      * (power(2, least(greatest(a.attempt, 1) - 1, 8)) - 1)
    FROM lost
   WHERE a.tenant_id = lost.tenant_id AND a.activation_id = lost.activation_id
  RETURNING a.tenant_id, a.activation_id, a.thread_id, a.run_id, a.token,
            a.attempt, a.kind;
END $$;

-- Takes due timers for a while, so that two processes do not work on one; who
-- has carried a timer out deletes it in the same transaction.
CREATE FUNCTION threadmill.due(hold interval, n integer)
RETURNS TABLE (tenant_id text, kind text, ref text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = threadmill, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH d AS MATERIALIZED (
    SELECT d.tenant_id, d.kind, d.ref FROM timer d
     WHERE d.due_at <= now()
     ORDER BY d.due_at LIMIT due.n
       FOR UPDATE SKIP LOCKED)
  UPDATE timer t SET due_at = clock_timestamp() + due.hold
    FROM d
   WHERE t.tenant_id = d.tenant_id AND t.kind = d.kind AND t.ref = d.ref
  RETURNING t.tenant_id, t.kind, t.ref;
END $$;

-- Ownership moves to the dispatcher: it needs CREATE on the schema for that moment.
GRANT CREATE ON SCHEMA threadmill TO threadmill_dispatcher;
DO $$
DECLARE f regprocedure;
BEGIN
  FOR f IN SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
            WHERE p.pronamespace = 'threadmill'::regnamespace AND p.prosecdef LOOP
    EXECUTE format('ALTER FUNCTION %s OWNER TO threadmill_dispatcher', f);
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO threadmill_app', f);
  END LOOP;
END $$;
REVOKE CREATE ON SCHEMA threadmill FROM threadmill_dispatcher;
