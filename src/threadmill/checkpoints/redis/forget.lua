-- Threads that are gone, unless somebody has announced them since.

local index, time = KEYS[1], redis.call('TIME')
local latest = (time[1] - ARGV[1]) * 1000000
for place = 2, #ARGV do
  local at = redis.call('ZSCORE', index, ARGV[place])
  if at and tonumber(at) < latest then redis.call('ZREM', index, ARGV[place]) end
end
return 'OK'
