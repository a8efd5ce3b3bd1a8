-- No token up to this one may write any more: a run was cancelled, or has ended.
-- with: thread

local ttl, floor = count(), take()
if tonumber(redis.call('HGET', FENCE, '') or '0') < tonumber(floor) then
  redis.call('HSET', FENCE, '', floor)
end
local rights = redis.call('HGETALL', FENCE)
for at = 1, #rights, 2 do
  if rights[at] ~= '' and tonumber(rights[at + 1]) <= tonumber(floor) then
    redis.call('HDEL', FENCE, rights[at])
  end
end
keep_for(ttl)
return 'OK'
