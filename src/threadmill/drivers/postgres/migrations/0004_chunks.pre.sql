-- Checkpoints that share what they have in common (format 2).
--
-- A chunk is a part of a checkpoint's values under the hash of its content. Its scope is
-- the thread: tenants share nothing, and a thread's chunks go with it. A checkpoint
-- names its chunks in the order in which its body counts them.
--
-- `gc_epoch` is drawn anew for all heads of a thread whenever chunks of it are dropped,
-- and for each new head. No number is drawn twice. So who has read or written a
-- checkpoint under a number knows, while its namespace still has that number, that
-- what it named is there.

CREATE SEQUENCE threadmill.epoch_seq;
GRANT USAGE ON SEQUENCE threadmill.epoch_seq TO threadmill_app;

-- A constant first: existing rows are not rewritten, and none of them has chunks.
ALTER TABLE threadmill.head ADD COLUMN gc_epoch bigint NOT NULL DEFAULT 0;
ALTER TABLE threadmill.head
  ALTER COLUMN gc_epoch SET DEFAULT nextval('threadmill.epoch_seq');
ALTER TABLE threadmill.checkpoint ADD COLUMN chunks bytea[] NOT NULL DEFAULT '{}';

CREATE TABLE threadmill.chunk (
  tenant_id text NOT NULL,
  thread_id text NOT NULL,
  name      bytea NOT NULL,
  type      text NOT NULL,
  data      bytea NOT NULL,
  PRIMARY KEY (tenant_id, thread_id, name)
);
-- What could be compressed is compressed already.
ALTER TABLE threadmill.chunk ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE threadmill.checkpoint ALTER COLUMN chunks SET STORAGE EXTERNAL;

-- See the first migration: the planner is shown what the table will look like.
INSERT INTO threadmill.chunk (tenant_id, thread_id, name, type, data)
SELECT 'example', md5((n % 100 + 1)::text), decode(md5(n::text), 'hex'), 'msgpack',
       decode(repeat('00', 500), 'hex')
  FROM generate_series(1, 1000) n;
ANALYZE threadmill.chunk;
SAVEPOINT filled;
TRUNCATE threadmill.chunk;
RELEASE SAVEPOINT filled;

ALTER TABLE threadmill.chunk ENABLE ROW LEVEL SECURITY;
ALTER TABLE threadmill.chunk FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON threadmill.chunk TO threadmill_app
  USING (tenant_id = threadmill.tenant()) WITH CHECK (tenant_id = threadmill.tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON threadmill.chunk TO threadmill_app;

-- Keeps the chunks of a thread as they are until the transaction ends: whoever refers to
-- chunks holds them together with others, whoever drops some holds them alone. It is a
-- statement of its own, before what it protects, because a statement sees what was
-- committed when it began.
CREATE FUNCTION threadmill.hold_chunks(tenant text, thread text, alone boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE key bigint := hashtextextended(thread, hashtextextended(tenant, 0));
BEGIN
  IF alone THEN
    PERFORM pg_advisory_xact_lock(key);
  ELSE
    PERFORM pg_advisory_xact_lock_shared(key);
  END IF;
END $$;
