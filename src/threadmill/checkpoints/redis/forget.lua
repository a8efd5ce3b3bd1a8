-- Threads that are gone, unless somebody has announced them since; answers with those.

local index, time, kept = KEYS[1], redis.call('TIME'), {}
local latest = (time[1] - ARGV[1]) * 1000000
for place = 2, #ARGV do
  local at = redis.call('ZSCORE', index, ARGV[place])
  if at and tonumber(at) < latest then
    redis.call('ZREM', index, ARGV[place])
  elseif at then
    kept[#kept + 1] = ARGV[place]
  end
end
return kept
