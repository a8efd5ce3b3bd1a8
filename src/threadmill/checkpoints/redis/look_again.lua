-- What is to be looked at again, from now on.

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
for _, name in ipairs(ARGV) do redis.call('ZADD', KEYS[1], now, name) end
return 'OK'
