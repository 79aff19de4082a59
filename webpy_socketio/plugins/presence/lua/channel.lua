-- Functions on channels: members and numbered changes. Prepended to each of the other scripts.
--
-- KEYS[1] is the prefix of all keys; ARGV[1] is the command. Keys of each channel ("<namespace>,<name>"):
--
--   connections:<channel>   hash: connection -> node, due, meta, key; due is the time of its removal, or 0
--   keys:<channel>          hash: key -> its connections in the order of joining
--   position:<channel>      hash: epoch, rev, and the run of Redis in which the epoch started
--   diffs:<channel>         stream of the last changes, by revision; also the topic on which they are published
--
-- Keys shared by all channels:
--
--   life                    run of Redis, "<run id>:<random>:<until>"; replaced after a restart. Before the time
--                           `until`, processes may not have registered again; 0 without such a period
--   here                    topic to which each process subscribes, so that processes can be counted; a
--                           message requests a comparison
--   nodes                   sorted set: node -> end of its lease
--   node:<node>             set of its entries
--   claim:<node>            node that takes over the connections of a dead node; expires
--   leaving                 sorted set: connections in their grace period -> due
--
-- PUBLISH and NUMSUB are the commands of Pub/Sub: those of sharded Pub/Sub in a Redis Cluster. The prefix
-- contains a hash tag there, so that each part of the channels has all these keys in one slot, with nodes
-- and leases of its own. KEYS[2] does not exist: with it, a Redis that moves the slot to another one rejects
-- the call, instead of executing it with a part of the keys.
--
-- Times are in milliseconds of the clock of Redis. Lists are separated by line feeds, which no name of a
-- connection or channel contains. Redis 5 and 6 may be configured to replicate scripts instead of their
-- effects, and then reject writes after TIME.

if redis.replicate_commands then redis.replicate_commands() end

local STREAM_LENGTH = 256
local EMPTY_SECONDS = 3600  -- expiry of the keys of an empty channel

-- Milliseconds before the next attempt if Redis was emptied and no process has registered yet.
local EMPTIED = 1000

-- Upper limit of the settling period; larger values are invalid.
local MAX_SETTLING = 60000

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local changes = {}
local damaged = {}

-- Record a damaged key. A new epoch makes all processes read the channel again.
local function mark_damaged(key)
  damaged[#damaged + 1] = key
  local noun, channel = string.match(string.sub(key, #KEYS[1] + 2), '^(%w+):(.*)$')
  if noun == 'connections' or noun == 'keys' then
    redis.pcall('HDEL', KEYS[1] .. ':position:' .. channel, 'epoch')
  end
end

-- Execute a command. A key of the wrong type is removed; comparisons restore its entries.
local function call(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if not string.find(answer.err, 'WRONGTYPE', 1, true) then return error(answer.err) end
  mark_damaged(key)
  redis.call('DEL', key)
  return redis.call(command, key, ...)
end

local function name(noun, of) return KEYS[1] .. ':' .. noun .. (of and ':' .. of or '') end

local function format_integer(number) return string.format('%.0f', number) end

local function split(item) return string.match(item, '^([^\n]*)\n(.*)$') end

-- Milliseconds until all processes had time to register again after a loss of data; 0 if they had.
local function unsettled()
  local life = call('GET', name('life'))
  if not life then return EMPTIED end
  local left = (string.match(life, ':(%d+)$') or 0) - now
  return left > 0 and left <= MAX_SETTLING and left or 0
end

local function has_lease(node)
  local lease = call('ZSCORE', name('nodes'), node)
  return lease and tonumber(lease) > now
end

local function read(channel, connection)
  local value = call('HGET', name('connections', channel), connection)
  if not value then return nil end
  local node, due, meta, key = string.match(value, '^([^\n]*)\n(%d+)\n({[^\n]*})\n(.*)$')
  if not node or #due > 15 then
    mark_damaged(name('connections', channel))
    call('HDEL', name('connections', channel), connection)
    return nil
  end
  return {node = node, due = tonumber(due), meta = meta, key = key}
end

local function write(channel, connection, it)
  local value = table.concat({it.node, format_integer(it.due), it.meta, it.key}, '\n')
  call('HSET', name('connections', channel), connection, value)
end

local function list(channel, key)
  local found = {}
  local text = call('HGET', name('keys', channel), key) or ''
  for connection in string.gmatch(text, '[^\n]+') do found[#found + 1] = connection end
  return found
end

local function set_list(channel, key, connections)
  if #connections == 0 then
    call('HDEL', name('keys', channel), key)
  else
    call('HSET', name('keys', channel), key, table.concat(connections, '\n'))
  end
end

local function metas(channel, connections)
  local found = {}
  for _, connection in ipairs(connections) do
    local it = read(channel, connection)
    if it then found[#found + 1] = it.meta end
  end
  return '[' .. table.concat(found, ',') .. ']'
end

-- Epoch and revision. After a restart, Redis may have lost the last changes. A new epoch prevents that
-- revisions are used twice.
local function position(channel, new_epoch)
  local found = call('HMGET', name('position', channel), 'epoch', 'rev', 'life')
  local life = call('GET', name('life')) or ''
  local rev = found[2] and string.match(found[2], '^%d+$') and #found[2] <= 15 and tonumber(found[2])
  local is_valid = found[1] and rev and string.match(found[1], '^%w+$') and #found[1] <= 64
  if is_valid and found[3] == life then return found[1], rev end
  if found[1] and not is_valid then mark_damaged(name('position', channel)) end
  redis.call('DEL', name('diffs', channel))
  call('HMSET', name('position', channel), 'epoch', new_epoch, 'rev', format_integer(rev or 0), 'life', life)
  return new_epoch, rev or 0
end

-- Number and publish a change. The list of the key must be updated before.
local function publish_change(channel, key, before, after, new_epoch)
  if before == after then return end
  local keys = call('HLEN', name('keys', channel))
  local epoch = position(channel, new_epoch)
  local rev = call('HINCRBY', name('position', channel), 'rev', 1)
  local diff = '{"epoch":"' .. epoch .. '","rev":' .. format_integer(rev) .. ',"key":' .. cjson.encode(key)
    .. ',"before":' .. before .. ',"after":' .. after .. '}'
  local id = format_integer(rev) .. '-0'
  local stream = {'XADD', name('diffs', channel), 'MAXLEN', '~', STREAM_LENGTH, id, 'diff', diff}
  local added = redis.pcall(unpack(stream))
  if type(added) == 'table' and added.err then  -- wrong type, or a later entry exists
    mark_damaged(name('diffs', channel))
    redis.call('DEL', name('diffs', channel))
    redis.call(unpack(stream))
  end
  redis.call(PUBLISH, name('diffs', channel), diff)
  for _, noun in ipairs({'position', 'diffs'}) do
    if keys == 0 then
      redis.call('EXPIRE', name(noun, channel), EMPTY_SECONDS)
    elseif keys == 1 and before == '[]' then
      redis.call('PERSIST', name(noun, channel))
    end
  end
  changes[#changes + 1] = channel
  changes[#changes + 1] = diff
end

-- Remove a connection from its node and from the leaving set.
local function unregister(channel, connection, it)
  call('SREM', name('node', it.node), connection .. '\n' .. channel)
  if it.due > 0 then call('ZREM', name('leaving'), connection .. '\n' .. channel) end
end

local function drop(channel, connection, it)
  unregister(channel, connection, it)
  call('HDEL', name('connections', channel), connection)
end

local function remove(channel, connection, it, new_epoch)
  local before = list(channel, it.key)
  local before_metas = metas(channel, before)
  local after = {}
  for _, other in ipairs(before) do
    if other ~= connection then after[#after + 1] = other end
  end
  drop(channel, connection, it)
  set_list(channel, it.key, after)
  publish_change(channel, it.key, before_metas, metas(channel, after), new_epoch)
end

-- Keep a connection until `due`.
local function start_leaving(channel, connection, it, due)
  unregister(channel, connection, it)
  it.due = due
  write(channel, connection, it)
  call('ZADD', name('leaving'), format_integer(due), connection .. '\n' .. channel)
end

-- Result of the command, with the damaged keys if there are any.
local function answer(result)
  if #damaged == 0 then return result end
  redis.call(PUBLISH, name('here'), 'compare')
  return {'damaged', result, damaged}
end
