-- What every transaction begins with.

-- name: enter
-- The role and the tenant end with the transaction.
SELECT set_config('role', 'threadmill_app', true),
       set_config('threadmill.tenant', %(tenant)s, true)

-- name: enter_pooled
SELECT set_config('role', 'threadmill_app', true),
       set_config('threadmill.tenant', %(tenant)s, true),
       set_config('statement_timeout', %(statement_timeout)s, true),
       set_config('lock_timeout', %(lock_timeout)s, true),
       set_config('idle_in_transaction_session_timeout',
                  %(idle_in_transaction_session_timeout)s, true)

-- name: begin_snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY

-- name: commit
COMMIT
