-- Activations and supersteps, as commits of workers change them.
--
-- Lock order: run, superstep, activations by id, then everything of `postgres.sql`.

------------------------------------------------------------------------ the fence
-- First statement of every fenced commit. It locks the claimed row: a take-over waits
-- for this transaction, and this transaction waits for a take-over and then fails. A
-- row that was re-opened keeps its token until somebody claims it, hence no look at
-- `state`.

-- name: fence
WITH held AS (
  SELECT FROM threadmill.activation
   WHERE tenant_id = %(tenant)s AND activation_id = %(activation_id)s
     AND thread_id = %(thread_id)s AND token = %(token)s
     FOR UPDATE
)
SELECT threadmill.require(EXISTS (SELECT FROM held), 'lease_lost',
         format('activation %%s is no longer held by token %%s',
                %(activation_id)s::uuid, %(token)s::bigint))

-- name: fence_all
-- For an attempt that runs several tasks: it holds all of them or none.
WITH held AS MATERIALIZED (
  SELECT a.activation_id, a.token FROM threadmill.activation a
   WHERE a.tenant_id = %(tenant)s AND a.activation_id = ANY (%(ids)s::uuid[])
     AND a.thread_id = %(thread_id)s
   ORDER BY a.activation_id
     FOR UPDATE
)
SELECT threadmill.require(
         NOT EXISTS (SELECT FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[]) AS n (id, token)
                      WHERE NOT EXISTS (SELECT FROM held
                                         WHERE activation_id = n.id AND held.token = n.token)),
         'lease_lost', 'not every task is held any more')

-- name: fence_and_progress
-- The attempt has got somewhere: it counts as a first one again, and what the node
-- behind it needed, what follows does not.
WITH held AS (
  SELECT FROM threadmill.activation
   WHERE tenant_id = %(tenant)s AND activation_id = %(activation_id)s
     AND thread_id = %(thread_id)s AND token = %(token)s
     FOR UPDATE
), counted AS (
  UPDATE threadmill.activation
     SET attempt = 1, labels = %(labels)s::text[],
         cause = CASE WHEN state <> 'leased' THEN cause END
   WHERE tenant_id = %(tenant)s AND activation_id = %(activation_id)s
     AND thread_id = %(thread_id)s AND token = %(token)s
     AND (attempt <> 1 OR labels <> %(labels)s::text[])
)
SELECT threadmill.require(EXISTS (SELECT FROM held), 'lease_lost',
         format('activation %%s is no longer held by token %%s',
                %(activation_id)s::uuid, %(token)s::bigint))

-- name: fence_and_release
-- Ready for anybody; the token stays, so the releaser may still act while unclaimed.
-- Who releases what is held has not lost it, and only progress makes up for earlier
-- losses. What was re-opened meanwhile is lost.
WITH held AS (
  UPDATE threadmill.activation
     SET kind = 'step', state = 'ready', worker_id = NULL, lease_until = NULL,
         attempt = CASE WHEN %(progress)s::boolean THEN 1 ELSE attempt END
                   - (state = 'leased')::integer,
         not_before = now(), labels = %(labels)s::text[],
         cause = CASE WHEN state <> 'leased' OR (attempt > 1 AND NOT %(progress)s::boolean)
                      THEN cause END
   WHERE tenant_id = %(tenant)s AND activation_id = %(activation_id)s
     AND thread_id = %(thread_id)s AND token = %(token)s
  RETURNING 1
)
SELECT threadmill.require(EXISTS (SELECT FROM held), 'lease_lost',
         format('activation %%s is no longer held by token %%s',
                %(activation_id)s::uuid, %(token)s::bigint))

------------------------------------------------------------------------- tasks

-- name: lock_superstep
-- Comes before the fence: of several that end tasks at once, one is the last.
SELECT 1 FROM threadmill.superstep
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
   FOR UPDATE

-- name: lock_run
-- Comes before the fence of a plan: whoever ends the run meanwhile would not see the
-- tasks that the plan adds.
SELECT 1 FROM threadmill.run
 WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
   FOR UPDATE

-- name: plan
-- Comes after the fence. The planner's own tasks draw new tokens, and so does whatever
-- follows, so tokens still rise along the thread. They are leased anew: a renewal that
-- is under way sees neither them nor the step. A step that was re-opened meanwhile has
-- nobody to give its tasks to. Losses of a step that has not got on since are losses of
-- each of its tasks, as any of them may be what its workers died of; a cause have they
-- once they are lost themselves.
WITH step AS (
  DELETE FROM threadmill.activation
   WHERE tenant_id = %(tenant)s AND activation_id = %(activation_id)s
     AND kind IN ('step', 'join')
     AND threadmill.require(state = 'leased', 'lease_lost')
  RETURNING *
), superstep AS (
  INSERT INTO threadmill.superstep
    (tenant_id, run_id, thread_id, checkpoint_id, width, remaining)
  SELECT tenant_id, run_id, thread_id, %(checkpoint_id)s, %(width)s, %(width)s FROM step
  ON CONFLICT (tenant_id, run_id) DO UPDATE
     SET checkpoint_id = excluded.checkpoint_id, width = excluded.width,
         remaining = excluded.remaining, created_at = now()
), tasks AS (
  INSERT INTO threadmill.activation
    (tenant_id, activation_id, thread_id, run_id, kind, graph_id, checkpoint_id,
     task_id, task_path, node, labels, state, token, worker_id, lease_until, attempt, not_before)
  SELECT step.tenant_id, gen_random_uuid(), step.thread_id, step.run_id, 'task',
         step.graph_id, %(checkpoint_id)s, n.task_id, n.task_path, n.node, string_to_array(n.labels, ','),
         CASE WHEN n.mine THEN 'leased' ELSE 'ready' END,
         CASE WHEN n.mine THEN nextval('threadmill.token_seq') ELSE 0 END,
         CASE WHEN n.mine THEN step.worker_id END,
         CASE WHEN n.mine
         THEN clock_timestamp() + make_interval(secs => %(lease_seconds)s) END,
         step.attempt - 1 + n.mine::integer,
         CASE WHEN n.waits THEN 'infinity'::timestamptz ELSE now() END
    FROM step,
         unnest(%(task_ids)s::text[], %(task_paths)s::text[], %(nodes)s::text[],
                %(labels)s::text[], %(mine)s::boolean[], %(waits)s::boolean[])
           AS n (task_id, task_path, node, labels, mine, waits)
  RETURNING activation_id, task_path, token, state
)
SELECT activation_id, task_path, token FROM tasks WHERE state = 'leased'

-- name: end_tasks
-- Comes after the superstep's lock and the fence. Each task that ends lets one that
-- waits for it go. The join is leased, anew, to who ended the last task, or ready for
-- all.
WITH gone AS (
  DELETE FROM threadmill.activation
   WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
     AND activation_id = ANY (%(ended)s::uuid[])
  RETURNING *
), over AS (
  DELETE FROM threadmill.superstep
   WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
     AND remaining = (SELECT count(*) FROM gone)
  RETURNING 0 AS remaining
), superstep AS (
  UPDATE threadmill.superstep
     SET remaining = remaining - (SELECT count(*) FROM gone)
   WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
     AND remaining > (SELECT count(*) FROM gone)
  RETURNING remaining
), let_go AS (
  UPDATE threadmill.activation SET not_before = now()
   WHERE %(bounded)s AND tenant_id = %(tenant)s AND activation_id IN (
     SELECT activation_id FROM threadmill.activation
      WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s AND not_before = 'infinity'
      LIMIT (SELECT count(*) FROM gone))
), joined AS (
  INSERT INTO threadmill.activation
    (tenant_id, activation_id, thread_id, run_id, kind, graph_id, labels, state, token,
     worker_id, lease_until, attempt)
  SELECT g.tenant_id, gen_random_uuid(), g.thread_id, g.run_id, 'join', g.graph_id,
         %(labels)s::text[],
         CASE WHEN g.taken THEN 'leased' ELSE 'ready' END,
         CASE WHEN g.taken THEN nextval('threadmill.token_seq') ELSE 0 END,
         CASE WHEN g.taken THEN g.worker_id END,
         CASE WHEN g.taken
         THEN clock_timestamp() + make_interval(secs => %(lease_seconds)s) END,
         g.taken::integer
    FROM over,
         (SELECT gone.*, %(lease_seconds)s::float8 IS NOT NULL
                         AND gone.state = 'leased' AS taken
            FROM gone LIMIT 1) g
  RETURNING activation_id, token, state = 'leased' AS taken
)
SELECT remaining, NULL::uuid AS activation_id, NULL::bigint AS token, false AS taken
  FROM superstep
 UNION ALL
SELECT over.remaining, joined.activation_id, joined.token, joined.taken
  FROM over, joined
