-- The right to write: from now on whoever had it before has it no more.
-- with: thread
--
-- Tokens rise along a thread. One that is not above all that were given for its
-- activation, or above the floor (`raise_floor`), comes too late.

local ttl, rights = count(), {}
for _ = 1, count() do
  local activation = take()
  rights[#rights + 1] = {activation, take()}
end
local floor = tonumber(redis.call('HGET', FENCE, '') or '0')
for _, right in ipairs(rights) do
  local token = tonumber(right[2])
  local had = tonumber(redis.call('HGET', FENCE, right[1]) or '0')
  if token <= floor or token < had then
    return refused('LEASELOST',
      'activation ' .. right[1] .. ' is no longer held by token ' .. right[2])
  end
end
for _, right in ipairs(rights) do
  redis.call('HSET', FENCE, right[1], right[2])
end
keep_for(ttl)
return 'OK'
