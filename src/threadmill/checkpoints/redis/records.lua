-- How a checkpoint is stored: what scripts need of it, then the client's own part.
-- `threadmill.checkpoints.redis.records` reads the same.

local LAYOUT = '>I8I8I4c0I2c0I2c0I4c0'
local NAME_BYTES = 16

local function packed(record)
  return struct.pack(LAYOUT, record.ordinal, record.at,
    #record.names, record.names, #record.parent, record.parent,
    #record.run, record.run, #record.metadata, record.metadata) .. record.rest
end

local function parsed(text)
  local record, after = {}, nil
  record.ordinal, record.at, record.names, record.parent, record.run,
    record.metadata, after = struct.unpack(LAYOUT, text)
  record.rest = text:sub(after)
  return record
end

local function run_of(text)
  return (select(5, struct.unpack('>I8I8I4c0I2c0I2c0', text)))
end

local function each_name(names)
  local at = 1 - NAME_BYTES
  return function()
    at = at + NAME_BYTES
    if at <= #names then return names:sub(at, at + NAME_BYTES - 1) end
  end
end

-- A place in the list of one namespace, whose members sort by it.
local function lane_of(ns, ordinal)
  return ns .. '\0' .. struct.pack('>I8', ordinal)
end
