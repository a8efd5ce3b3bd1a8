-- Checkpoints with their pending writes, and the chunks of all of them, each once.

-- Lua passes some thousands of values to a function, no more.
local AT_ONCE = 512

local function each_part(list)
  local at = 1 - AT_ONCE
  return function()
    at = at + AT_ONCE
    if at <= #list then
      return {unpack(list, at, math.min(at + AT_ONCE - 1, #list))}
    end
  end
end

-- Writes of one checkpoint as task, path, slot, channel, run, type, value; unsorted.
local function writes_of(ns, id, channels)
  local at, found = field_of(ns, id), {}
  local tasks = redis.call('HGET', WRITE, at)
  for task in (tasks or ''):gmatch('[^%z]+') do
    local stored = redis.call('HGET', WRITE, at .. '\0' .. task)
    if stored then
      local result = cmsgpack.unpack(stored)
      for _, slot in ipairs(result[2]) do
        if not channels or channels[slot[2]] then
          for _, part in ipairs({task, result[1], tostring(slot[1]), slot[2],
                                 slot[5], slot[3], slot[4]}) do
            found[#found + 1] = part
          end
        end
      end
    end
  end
  return found
end

-- The chunks that these records name; one that is missing is left out.
local function chunks_of(records)
  local names, seen, chunks = {}, {}, {}
  for _, text in ipairs(records) do
    local all = select(3, struct.unpack('>I8I8I4c0', text))
    for name in each_name(all) do
      if not seen[name] then
        seen[name] = true
        names[#names + 1] = name
      end
    end
  end
  for part in each_part(names) do
    local values = redis.call('HMGET', CHUNK, unpack(part))
    for place, name in ipairs(part) do
      if values[place] then
        chunks[#chunks + 1] = name
        chunks[#chunks + 1] = values[place]
      end
    end
  end
  return chunks
end

-- Pairs of namespace and id; one that is not there is left out.
local function read(places)
  local rows, records = {}, {}
  for _, place in ipairs(places) do
    local ns, id = place[1], place[2]
    local text = redis.call('HGET', CHECKPOINT, field_of(ns, id))
    if text then
      rows[#rows + 1] = {ns, id, text, writes_of(ns, id)}
      records[#records + 1] = text
    end
  end
  return {rows, chunks_of(records)}
end
