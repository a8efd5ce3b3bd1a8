-- One checkpoint; without an id, the head's.
-- flags: no-writes
-- with: thread, records, reads

local ns, id = take(), take()
local named = id ~= ''
if not named then
  id = redis.call('HGET', HEAD, ns)
  if not id then return {{}, {}} end
end
local found = read({{ns, id}})
if not named and #found[1] == 0 then
  return refused('BROKEN', 'the head ' .. id .. ' of a thread is not there')
end
return found
