-- A whole thread, as `export` gave it, under another name. It belongs to no run.
-- with: thread, records

local ttl, thread = count(), take()
if redis.call('EXISTS', ORDER) == 1 then
  return refused('ALREADYEXISTS', 'thread ' .. thread .. ' has checkpoints already')
end
for _ = 1, count() / 2 do
  local ns = take()
  redis.call('HSET', HEAD, ns, take())
end
for _ = 1, count() / 2 do
  local field, record = take(), parsed(take())
  local cut = field:find('\0', 1, true)
  record.run = ''
  redis.call('HSET', CHECKPOINT, field, packed(record))
  redis.call('ZADD', ORDER, record.ordinal, field)
  redis.call('ZADD', LANE, 0,
    lane_of(field:sub(1, cut - 1), record.ordinal) .. field:sub(cut + 1))
end
for _ = 1, count() / 2 do
  local name = take()
  redis.call('HSET', CHUNK, name, take())
end
for _ = 1, count() / 2 do
  local field, value = take(), take()
  local _, cuts = field:gsub('%z', '')
  if cuts == 2 then
    local result = cmsgpack.unpack(value)
    for _, slot in ipairs(result[2]) do slot[5] = '' end
    value = cmsgpack.pack(result)
  end
  redis.call('HSET', WRITE, field, value)
end
keep_for(ttl)
return 'OK'
