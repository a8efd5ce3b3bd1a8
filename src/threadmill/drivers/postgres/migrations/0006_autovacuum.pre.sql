-- When PostgreSQL cleans up. Its defaults wait until a fifth of a table is dead, which
-- for the few rows that change all the time means too late for scans along them, and for
-- ten million rows means a long cleaning, rarely.

-- Few rows, changed by every claim, hand-over and end.
ALTER TABLE threadmill.activation SET (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
  autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE threadmill.timer SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
ALTER TABLE threadmill.superstep SET (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- A row per thread or run, changed by every run.
ALTER TABLE threadmill.thread SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE threadmill.run SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE threadmill.head SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE threadmill.stream SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- Events and keys come and go; the rest mostly comes.
ALTER TABLE threadmill.event SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE threadmill.idempotency SET (
  autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE threadmill.checkpoint SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE threadmill.checkpoint_write SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE threadmill.chunk SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05);
