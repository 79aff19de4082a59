-- The history of channels. Each call is one atomic step.
--
-- PUBLISH is the command that publishes: SPUBLISH in a Redis Cluster. All keys of a channel have one hash
-- tag there, which is part of the prefix: each part of the channels has a store of its own. A second
-- key, which does not exist, makes a node reject the call while it moves the slot to another one.
--
-- KEYS[1] is the prefix of all keys, ARGV[1] the command, ARGV[2] the run of Redis, ARGV[3] a new random
-- id. Channels are "<namespace>,<name>". Keys:
--
--   store             hash: id (of this store; a lost store gets another one), removed (number of removed
--                     channels), bytes (of all entries)
--   used              sorted set: channel -> time of its last message
--   channel:<channel> hash: epoch, tail (offset of the last message), bytes, ttl
--   log:<channel>     stream: entry "<offset>-0" with its record (d) and time (t); expires with its last entry.
--                     Its name is also the topic on which new offsets are published
--
--   append <channel> <size> <ttl> <max bytes> <max total> <max channels> <keep> <record>
--                                 stores a record, or only consumes an offset if the record is empty
--   read <channel> <after> <limit> <ttl>   returns {epoch, tail, entries}
--   last <channel> <limit> <ttl>           the same for the last entries
--   clear <channel>                        removes the channel
--
-- Times are in milliseconds of the clock of Redis.

if redis.replicate_commands then redis.replicate_commands() end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function name(noun, of) return KEYS[1] .. ':' .. noun .. (of and ':' .. of or '') end

local function integer(number) return string.format('%d', number) end

-- The epoch of a channel without messages. Removing a channel changes it, so that a position is never
-- valid in a channel that was removed and created again.
local function new_epoch()
  local id = redis.call('HGET', name('store'), 'id')
  if not id then
    id = ARGV[3]
    redis.call('DEL', name('used'))
    redis.call('HSET', name('store'), 'id', id, 'removed', 0, 'bytes', 0)
  end
  return id .. '-' .. (redis.call('HGET', name('store'), 'removed') or '0')
end

-- A channel of an earlier store counts as removed: its entries may be incomplete.
local function position(channel)
  local fresh = new_epoch()
  local found = redis.call('HMGET', name('channel', channel), 'epoch', 'tail', 'bytes')
  local id = string.match(fresh, '^(.*)-')
  if found[1] and string.sub(found[1], 1, #id + 1) == id .. '-' then
    return found[1], tonumber(found[2]), tonumber(found[3])
  end
  redis.call('DEL', name('log', channel), name('channel', channel))
  return fresh, 0, 0
end

local function remove(channel)
  local bytes = tonumber(redis.call('HGET', name('channel', channel), 'bytes') or '0')
  redis.call('DEL', name('log', channel), name('channel', channel))
  redis.call('ZREM', name('used'), channel)
  redis.call('HINCRBY', name('store'), 'removed', 1)
  redis.call('HINCRBY', name('store'), 'bytes', integer(-bytes))
  redis.call(PUBLISH, name('log', channel), 'removed')
end

local function fields_of(entry)
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  return fields
end

local function entries_of(found, ttl)
  local entries = {}
  for _, entry in ipairs(found) do
    local fields = fields_of(entry)
    if tonumber(fields.t) + ttl > now then
      entries[#entries + 1] = {tonumber(string.match(entry[1], '^%d+')), tonumber(fields.t), fields.d}
    end
  end
  return entries
end

local commands = {}

function commands.append(channel, size, ttl, max_bytes, max_total, max_channels, keep, record)
  size, ttl, max_bytes = tonumber(size), tonumber(ttl), tonumber(max_bytes)
  max_total, max_channels, keep = tonumber(max_total), tonumber(max_channels), tonumber(keep)
  local epoch, tail, bytes = position(channel)
  local log, before = name('log', channel), bytes
  if bytes > 0 and redis.call('EXISTS', log) == 0 then bytes = 0 end
  tail = tail + 1
  if record ~= '' then
    redis.call('XADD', log, integer(tail) .. '-0', 'd', record, 't', integer(now))
    bytes = bytes + #record
  end
  local length = redis.call('XLEN', log)
  while length > 0 do
    local entry = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    local fields = fields_of(entry)
    if length <= size and bytes <= max_bytes and tonumber(fields.t) + ttl > now then break end
    redis.call('XDEL', log, entry[1])
    length, bytes = length - 1, bytes - #fields.d
  end
  if record ~= '' then redis.call('PEXPIRE', log, integer(ttl)) end
  redis.call('HSET', name('channel', channel), 'epoch', epoch, 'tail', integer(tail),
    'bytes', integer(bytes), 'ttl', integer(ttl))
  redis.call('ZADD', name('used'), integer(now), channel)
  local total = redis.call('HINCRBY', name('store'), 'bytes', integer(bytes - before))
  local count = redis.call('ZCARD', name('used'))
  while count > 1 do
    local oldest = redis.call('ZRANGE', name('used'), 0, 0, 'WITHSCORES')
    local other = tonumber(redis.call('HGET', name('channel', oldest[1]), 'ttl') or '0')
    local is_outdated = tonumber(oldest[2]) + other + keep < now
    if not (is_outdated or total > max_total or count > max_channels) then break end
    remove(oldest[1])
    count = count - 1
    total = tonumber(redis.call('HGET', name('store'), 'bytes'))
  end
  redis.call(PUBLISH, log, integer(tail))
  return {epoch .. '.' .. ARGV[2], tail}
end

function commands.read(channel, after, limit, ttl)
  local epoch, tail = position(channel)
  local found = redis.call('XRANGE', name('log', channel), integer(tonumber(after) + 1) .. '-0', '+',
    'COUNT', limit)
  return {epoch .. '.' .. ARGV[2], tail, entries_of(found, tonumber(ttl))}
end

function commands.last(channel, limit, ttl)
  local epoch, tail = position(channel)
  local found, ordered = {}, {}
  if tonumber(limit) > 0 then
    found = redis.call('XREVRANGE', name('log', channel), '+', '-', 'COUNT', limit)
  end
  for i = #found, 1, -1 do ordered[#ordered + 1] = found[i] end
  return {epoch .. '.' .. ARGV[2], tail, entries_of(ordered, tonumber(ttl))}
end

function commands.clear(channel)
  if redis.call('EXISTS', name('channel', channel)) == 1 then remove(channel) end
  return {new_epoch() .. '.' .. ARGV[2], 0, {}}
end

return commands[ARGV[1]](unpack(ARGV, 4))
