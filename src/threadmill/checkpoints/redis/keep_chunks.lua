-- Keeps chunks of a thread, after a look whether what is relied on is there.
-- (KEYS has the hash of the thread's chunks alone. Its field without a name says when
-- something was last kept; a count would begin anew with the hash.)

local key, relied = KEYS[1], tonumber(ARGV[1])
for at = 2, relied + 1 do
  if redis.call('HEXISTS', key, ARGV[at]) == 0 then
    return redis.error_reply('CHUNKSDROPPED a chunk that was there is gone')
  end
end
if #ARGV == relied + 1 then return 'OK' end
for at = relied + 2, #ARGV, 2 do
  redis.call('HSETNX', key, ARGV[at], ARGV[at + 1])
end
local now = redis.call('TIME')
redis.call('HSET', key, '', now[1] .. string.format('%06d', now[2]))
return 'OK'
