-- Removes everything but what is kept, in the namespaces whose heads were read.
-- with: thread, records, sweep
--
-- Writes go by the checkpoints removed: those of one that is not stored yet stay.

local thread, namespaces = take(), {}
for _ = 1, count() do
  local ns = take()
  if redis.call('HGET', HEAD, ns) ~= take() then
    return refused('HEADMOVED', 'thread ' .. thread .. ' has gone on meanwhile')
  end
  namespaces[#namespaces + 1] = ns
end
local kept = {}
for _ = 1, count() do
  local ns = take()
  kept[field_of(ns, take())] = true
end
for _, ns in ipairs(namespaces) do
  local members = redis.call('ZRANGEBYLEX', LANE, '[' .. ns .. '\0', '(' .. ns .. '\1')
  for _, member in ipairs(members) do
    local id = member:sub(#ns + 10)
    if not kept[field_of(ns, id)] then remove(ns, id) end
  end
end
tidy()
return runs_gone()
