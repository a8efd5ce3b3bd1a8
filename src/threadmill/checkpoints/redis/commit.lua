-- Task results, then checkpoints with the head's compare-and-set; all or nothing.
-- with: thread, records
--
-- A script is not undone when it stops in the middle. So everything that may refuse
-- stands before the first write, and what follows cannot fail.

local ttl = count()
local thread = take()
local run = take()

-- The fence first: a stale writer learns nothing else and changes nothing.
local rights = count()
for _ = 1, rights do
  local activation, token = take(), take()
  if redis.call('HGET', FENCE, activation) ~= token then
    return refused('LEASELOST',
      'activation ' .. activation .. ' is no longer held by token ' .. token)
  end
end

local chunks, sent = {}, {}
for _ = 1, count() do
  local name, value = take(), take()
  chunks[#chunks + 1] = {name, value}
  sent[name] = true
end

local results = {}
for _ = 1, count() do
  local ns, id = take(), take()
  local result = {at = field_of(ns, id), task = take(), path = take(), slots = {}}
  for _ = 1, count() do
    local idx, channel = count(), take()
    local kind, value = take(), take()
    result.slots[#result.slots + 1] = {idx, channel, kind, value}
  end
  results[#results + 1] = result
end

local puts = {}
for _ = 1, count() do
  local put = {ns = take(), id = take(), expects = take(), expected = take()}
  put.parent, put.run, put.names = take(), take(), take()
  put.metadata, put.rest = take(), take()
  put.field = field_of(put.ns, put.id)
  puts[#puts + 1] = put
end

------------------------------------------------------------------ what may refuse

local heads, known = {}, {}
for _, put in ipairs(puts) do
  if heads[put.ns] == nil then
    heads[put.ns] = redis.call('HGET', HEAD, put.ns)
  end
  if put.expects == 'none' and heads[put.ns] then
    return refused('HEADMOVED', 'thread ' .. thread .. ' has a head already')
  end
  if put.expects == 'this' and heads[put.ns] ~= put.expected then
    return refused('HEADMOVED',
      'the head of thread ' .. thread .. ' is no longer ' .. put.expected)
  end
  put.known = known[put.field] or redis.call('HEXISTS', CHECKPOINT, put.field) == 1
  -- Putting a stored checkpoint again does not turn the head back.
  put.moves = put.expects ~= 'any' or not put.known
  if put.moves then heads[put.ns] = put.id end
  known[put.field] = true
  for name in each_name(put.names) do
    if not sent[name] and redis.call('HEXISTS', CHUNK, name) == 0 then
      return refused('CHUNKSDROPPED', 'thread ' .. thread .. ' was pruned meanwhile')
    end
  end
end

--------------------------------------------------------------------- task results

local NULL_TASK = '00000000-0000-0000-0000-000000000000'

local function same(a, b)
  return a[2] == b[2] and a[3] == b[3] and a[4] == b[4]
end

-- Under the fence a task's writes are its complete result so far: what an earlier
-- attempt left must go. Marks (slots below zero) of an earlier run stay: it still
-- shows the question that this run has answered. The null task has no history, so its
-- marks go as well; and its writes are sent again as a whole each time, so those that
-- are the same keep the run that made them.
local function replaced(result, before)
  local slots, stays = {}, {}
  for _, slot in ipairs(result.slots) do
    local old = before[slot[1]]
    local mine = result.task ~= NULL_TASK or not old or not same(old, slot)
    slot[5] = mine and run or old[5]
    slots[#slots + 1] = slot
    stays[slot[1]] = true
  end
  for idx, old in pairs(before) do
    local mark = idx < 0 and result.task ~= NULL_TASK and old[5] ~= run
    if mark and not stays[idx] then slots[#slots + 1] = old end
  end
  return slots
end

-- Without a fence, as LangGraph's own savers do: a slot's first value stays, marks are
-- overwritten.
local function merged(result, before)
  local slots = {}
  for _, slot in ipairs(result.slots) do
    local old = before[slot[1]]
    if old and slot[1] < 0 then
      old[2], old[3], old[4] = slot[2], slot[3], slot[4]
    elseif not old then
      slot[5] = ''
      before[slot[1]] = slot
    end
  end
  for _, slot in pairs(before) do slots[#slots + 1] = slot end
  return slots
end

for _, result in ipairs(results) do
  local field = result.at .. '\0' .. result.task
  local stored, before = redis.call('HGET', WRITE, field), {}
  if stored then
    for _, slot in ipairs(cmsgpack.unpack(stored)[2]) do before[slot[1]] = slot end
  end
  local slots = (rights > 0 and replaced or merged)(result, before)
  if #slots == 0 then
    redis.call('HDEL', WRITE, field)
  else
    redis.call('HSET', WRITE, field, cmsgpack.pack({result.path, slots}))
    local tasks = redis.call('HGET', WRITE, result.at) or '\0'
    if not tasks:find('\0' .. result.task .. '\0', 1, true) then
      redis.call('HSET', WRITE, result.at, tasks .. result.task .. '\0')
    end
  end
end

---------------------------------------------------------------------- checkpoints

for _, chunk in ipairs(chunks) do
  redis.call('HSETNX', CHUNK, chunk[1], chunk[2])
end

local now = redis.call('TIME')
for _, put in ipairs(puts) do
  local ordinal
  if put.moves then
    ordinal = redis.call('HINCRBY', HEAD, LAST, 1)
    redis.call('HSET', HEAD, put.ns, put.id)
  end
  if put.known then
    -- It keeps its parent, its run and its place.
    local old = parsed(redis.call('HGET', CHECKPOINT, put.field))
    old.names, old.metadata, old.rest = put.names, put.metadata, put.rest
    redis.call('HSET', CHECKPOINT, put.field, packed(old))
  else
    put.ordinal, put.at = ordinal, now[1] * 1000000 + now[2]
    redis.call('HSET', CHECKPOINT, put.field, packed(put))
    redis.call('ZADD', ORDER, ordinal, put.field)
    redis.call('ZADD', LANE, 0, lane_of(put.ns, ordinal) .. put.id)
  end
end

keep_for(ttl)
return 'OK'
