-- A whole thread as of one moment, but not its fence: rights are not copied.
-- flags: no-writes
-- with: thread

return {
  redis.call('HGETALL', HEAD),
  redis.call('HGETALL', CHECKPOINT),
  redis.call('HGETALL', CHUNK),
  redis.call('HGETALL', WRITE),
}
