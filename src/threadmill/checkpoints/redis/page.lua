-- Checkpoints below an ordinal, newest first: of one namespace, or of all.
-- flags: no-writes
-- with: thread, records, reads
--
-- Complete, or (`scan`) only what tells whether somebody wants them.

local what, whole, ns = take(), take(), take()
local below, limit = count(), count()

local places = {}
if whole == 'all' then
  local members = redis.call('ZREVRANGEBYSCORE', ORDER,
    string.format('(%.0f', below), '-inf', 'LIMIT', 0, limit)
  for _, member in ipairs(members) do
    local cut = member:find('\0', 1, true)
    places[#places + 1] = {member:sub(1, cut - 1), member:sub(cut + 1)}
  end
else
  local members = redis.call('ZREVRANGEBYLEX', LANE,
    '(' .. lane_of(ns, below), '[' .. ns .. '\0', 'LIMIT', 0, limit)
  for _, member in ipairs(members) do
    places[#places + 1] = {ns, member:sub(#ns + 10)}
  end
end
if what == 'rows' then return read(places) end

local found = {}
for _, place in ipairs(places) do
  local text = redis.call('HGET', CHECKPOINT, field_of(place[1], place[2]))
  local after = select(7, struct.unpack(LAYOUT, text))
  found[#found + 1] = {place[1], place[2], text:sub(1, after - 1)}
end
return found
