-- Removes chunks of a thread, unless something was kept since they were judged.
-- flags: allow-oom

local key = KEYS[1]
if (redis.call('HGET', key, '') or '0') ~= ARGV[1] then return 0 end
for at = 2, #ARGV do redis.call('HDEL', key, ARGV[at]) end
if redis.call('HLEN', key) <= 1 then redis.call('UNLINK', key) end
return 1
