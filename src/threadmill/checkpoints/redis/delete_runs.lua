-- Removes what some runs have stored, also at checkpoints of others, so that the thread
-- is again as it was before them.
-- with: thread, records, sweep

local runs, names = {}, {}
for _ = 1, count() do
  local run = take()
  runs[run] = true
  names[#names + 1] = run
end

for _, field in ipairs(redis.call('ZRANGE', ORDER, 0, -1)) do
  if runs[run_of(redis.call('HGET', CHECKPOINT, field))] then
    local cut = field:find('\0', 1, true)
    remove(field:sub(1, cut - 1), field:sub(cut + 1))
  end
end

for _, field in ipairs(redis.call('HKEYS', WRITE)) do
  local _, cuts = field:gsub('%z', '')
  if cuts == 2 then
    local result, slots = cmsgpack.unpack(redis.call('HGET', WRITE, field)), {}
    for _, slot in ipairs(result[2]) do
      if not runs[slot[5]] then slots[#slots + 1] = slot end
    end
    if #slots == 0 then
      redis.call('HDEL', WRITE, field)
    elseif #slots < #result[2] then
      redis.call('HSET', WRITE, field, cmsgpack.pack({result[1], slots}))
    end
  end
end

-- A head whose checkpoint is gone goes back to the newest that is left.
for _, ns in ipairs(redis.call('HKEYS', HEAD)) do
  if ns ~= LAST then
    local head = redis.call('HGET', HEAD, ns)
    if redis.call('HEXISTS', CHECKPOINT, field_of(ns, head)) == 0 then
      local newest = redis.call('ZREVRANGEBYLEX', LANE,
        '(' .. ns .. '\1', '[' .. ns .. '\0', 'LIMIT', 0, 1)[1]
      if newest then
        redis.call('HSET', HEAD, ns, newest:sub(#ns + 10))
      else
        redis.call('HDEL', HEAD, ns)
      end
    end
  end
end
tidy()
return names
