-- Where a checkpoint stands; in the namespace that is asked for, if it is there too.
-- flags: no-writes
-- with: thread, records

local id, preferred = take(), take()

local function found(ns)
  local text = redis.call('HGET', CHECKPOINT, field_of(ns, id))
  if text then
    local record = parsed(text)
    return {ns, tostring(record.ordinal), string.format('%.0f', record.at)}
  end
end

local here = found(preferred)
if here then return here end
for _, ns in ipairs(redis.call('HKEYS', HEAD)) do
  local there = ns ~= LAST and found(ns)
  if there then return there end
end
return {}
