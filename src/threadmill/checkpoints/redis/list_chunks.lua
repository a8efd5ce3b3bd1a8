-- When something was last kept for a thread, and the bytes of each of its chunks.
-- flags: no-writes

local found = {redis.call('HGET', KEYS[1], '') or '0'}
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if name ~= '' then
    found[#found + 1] = name
    found[#found + 1] = redis.call('HSTRLEN', KEYS[1], name)
  end
end
return found
