-- Every head, with the metadata of its checkpoint.
-- flags: no-writes
-- with: thread, records

local found, heads = {}, redis.call('HGETALL', HEAD)
for at = 1, #heads, 2 do
  local ns, id = heads[at], heads[at + 1]
  local text = ns ~= LAST and redis.call('HGET', CHECKPOINT, field_of(ns, id))
  if text then
    found[#found + 1] = {ns, id, parsed(text).metadata}
  end
end
return found
