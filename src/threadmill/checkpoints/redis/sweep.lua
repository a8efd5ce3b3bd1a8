-- What removing checkpoints needs: they go whole, and what they alone used with them.

-- The runs of what was removed so far.
local removed = {}

-- The runs that have a checkpoint or a write in this thread.
local function runs_here()
  local here = {}
  for _, text in ipairs(redis.call('HVALS', CHECKPOINT)) do here[run_of(text)] = true end
  for _, field in ipairs(redis.call('HKEYS', WRITE)) do
    local _, cuts = field:gsub('%z', '')
    if cuts == 2 then
      for _, slot in ipairs(cmsgpack.unpack(redis.call('HGET', WRITE, field))[2]) do
        here[slot[5]] = true
      end
    end
  end
  return here
end

-- Those of the removed that have nothing in this thread any more.
local function runs_gone()
  local here, gone = runs_here(), {}
  for run in pairs(removed) do
    if run ~= '' and not here[run] then gone[#gone + 1] = run end
  end
  return gone
end

local function remove_writes(at)
  local tasks = redis.call('HGET', WRITE, at) or ''
  for task in tasks:gmatch('[^%z]+') do
    redis.call('HDEL', WRITE, at .. '\0' .. task)
  end
  redis.call('HDEL', WRITE, at)
end

local function remove(ns, id)
  local field = field_of(ns, id)
  local text = redis.call('HGET', CHECKPOINT, field)
  if not text then return end
  local ordinal = struct.unpack('>I8', text)
  removed[run_of(text)] = true
  redis.call('HDEL', CHECKPOINT, field)
  redis.call('ZREM', ORDER, field)
  redis.call('ZREM', LANE, lane_of(ns, ordinal) .. id)
  remove_writes(field)
end

-- Comes last: no checkpoint names a parent that is not there, and no chunk stays that
-- none names. A thread of which nothing is left has no key left but the fence.
local function tidy()
  local used = {}
  for _, field in ipairs(redis.call('ZRANGE', ORDER, 0, -1)) do
    local record = parsed(redis.call('HGET', CHECKPOINT, field))
    local ns = field:sub(1, field:find('\0', 1, true) - 1)
    if record.parent ~= ''
       and redis.call('HEXISTS', CHECKPOINT, field_of(ns, record.parent)) == 0 then
      record.parent = ''
      redis.call('HSET', CHECKPOINT, field, packed(record))
    end
    for name in each_name(record.names) do used[name] = true end
  end
  for _, name in ipairs(redis.call('HKEYS', CHUNK)) do
    if not used[name] then redis.call('HDEL', CHUNK, name) end
  end
  if redis.call('EXISTS', ORDER, WRITE) == 0 then redis.call('UNLINK', HEAD) end
end
