-- What tasks have done outside. Every transaction begins with the dispatcher's fence:
-- the activation stays locked, so one task's statements never meet another attempt's.

-- name: anchor
-- The ids of tasks are made of checkpoints. Were one of these not stored, the next
-- attempt would make other ids, find no record, and call again.
SELECT threadmill.require(NOT EXISTS (
         SELECT FROM unnest(%(ns)s::text[], %(checkpoint_id)s::text[])
                     AS under (ns, checkpoint_id)
          WHERE NOT EXISTS (
            SELECT FROM threadmill.checkpoint c
             WHERE c.tenant_id = %(tenant)s AND c.thread_id = %(thread_id)s::uuid::text
               AND c.ns = under.ns AND c.checkpoint_id = under.checkpoint_id)),
         'not_found', 'a checkpoint that the task is made of is not stored')

-- name: begin
-- The second part reads what was there before this statement.
WITH mine AS (
  INSERT INTO threadmill.effect AS e
    (tenant_id, thread_id, task_id, key, state, call_id, run_id, token)
  VALUES (%(tenant)s, %(thread_id)s, %(task)s, %(key)s, 'intent', %(call_id)s,
          %(run_id)s, %(token)s)
  ON CONFLICT (tenant_id, thread_id, task_id, key) DO UPDATE
     SET state = 'intent', call_id = excluded.call_id, run_id = excluded.run_id,
         token = excluded.token, updated_at = now()
   WHERE e.state = 'void' OR e.state = 'intent' AND e.call_id = excluded.call_id
  RETURNING e.answers, e.updated_at
)
SELECT true AS is_mine, 'intent' AS state, answers, updated_at,
       NULL::text AS outcome_type, NULL::bytea AS outcome
  FROM mine
 UNION ALL
SELECT false, state, answers, updated_at, outcome_type, outcome
  FROM threadmill.effect
 WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s AND task_id = %(task)s
   AND key = %(key)s AND NOT EXISTS (SELECT FROM mine)

-- name: again
WITH changed AS (
  UPDATE threadmill.effect
     SET call_id = %(call_id)s, run_id = %(run_id)s, token = %(token)s,
         answers = %(answers)s, updated_at = now()
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s AND task_id = %(task)s
     AND key = %(key)s AND state = 'intent'
  RETURNING 1
)
SELECT threadmill.require(EXISTS (SELECT FROM changed), 'invariant_violated',
                          'an intent is gone')

-- name: done
-- Of a call whose intent another call has taken over since, the outcome is not taken.
WITH changed AS (
  UPDATE threadmill.effect
     SET state = 'done', outcome_type = %(outcome_type)s, outcome = %(outcome)b,
         updated_at = now()
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s AND task_id = %(task)s
     AND key = %(key)s AND call_id = %(call_id)s AND state <> 'void'
  RETURNING 1
)
SELECT threadmill.require(EXISTS (SELECT FROM changed), 'invariant_violated',
                          'an intent is gone')

-- name: void
WITH changed AS (
  UPDATE threadmill.effect
     SET state = 'void', updated_at = now()
   WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s AND task_id = %(task)s
     AND key = %(key)s AND call_id = %(call_id)s AND state <> 'done'
  RETURNING 1
)
SELECT threadmill.require(EXISTS (SELECT FROM changed), 'invariant_violated',
                          'an intent is gone')
