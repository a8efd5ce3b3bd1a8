-- A thread is about to be put to; answers with some that may be gone meanwhile: where
-- threads end by themselves from the index, else from what is to be looked at again.
-- (No thread's own keys: KEYS has the index, and for a tenant's what to look at again.)

local index, thread, ttl, most = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local again, stale = KEYS[2], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local fresh = redis.call('EXISTS', index) == 0

redis.call('ZADD', index, string.format('%.0f', now), thread)
if ttl == 0 then
  redis.call('PERSIST', index)
  if not again then return {} end
  local latest = string.format('(%.0f', now - stale * 1000000)
  return redis.call('ZRANGEBYSCORE', again, '-inf', latest, 'WITHSCORES', 'LIMIT', 0, most)
end
-- It outlives its threads. Somebody who keeps threads longer keeps the index longer.
local keep = string.format('%.0f', ttl + 600000)
redis.call('PEXPIRE', index, keep, fresh and 'NX' or 'GT')
local latest = string.format('(%.0f', now - ttl * 1000)
local old = redis.call('ZCOUNT', index, '-inf', latest)
if old == 0 then return {} end
-- Not always the same ones: those that others keep for longer stand among them.
local from = old > most and now % (old - most + 1) or 0
return redis.call('ZRANGEBYSCORE', index, '-inf', latest, 'LIMIT', from, most)
