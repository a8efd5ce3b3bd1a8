-- A thread may have a result of a task in a chunk store, while its checkpoints are in
-- PostgreSQL: they were written before there was one. Those chunks go with the thread too.
CREATE OR REPLACE FUNCTION threadmill.drop_chunks_later(tenant text, thread text)
RETURNS void LANGUAGE sql AS $$
  INSERT INTO threadmill.chunk_chore (tenant_id, thread_id, kind, due_at)
  SELECT tenant, thread, 'drop', now() + interval '60 seconds'
   WHERE EXISTS (SELECT FROM threadmill.checkpoint c
                  WHERE c.tenant_id = tenant AND c.thread_id = thread
                    AND c.body_type = 'away')
      OR EXISTS (SELECT FROM threadmill.checkpoint_write w
                  WHERE w.tenant_id = tenant AND w.thread_id = thread
                    AND w.value_type = 'away')
  ON CONFLICT (tenant_id, thread_id, kind) DO UPDATE SET due_at = excluded.due_at
$$;
