-- A channel: who is in it, and its numbered changes. Stands in front of each of the other scripts.
--
-- All names begin with KEYS[1]; ARGV[1] is what to do. Of each channel ("<namespace>,<name>") there are
--
--   connections:<channel>   hash: connection -> node, due, meta, key; due is when it leaves, 0: it stays
--   keys:<channel>          hash: key -> its connections, in the order of joining
--   position:<channel>      hash: epoch, rev, and the life of Redis in which the epoch began
--   diffs:<channel>         stream: the last changes, by revision; and the topic they are published on
--
-- and of all of them
--
--   life                    which life of Redis this is, another one after a restart: "<run>:<random>:<until>".
--                           Until then other processes may not have registered again; 0: it has no such time
--   here                    a topic that each process subscribes to, so that they can be counted; a message
--                           asks them to compare
--   nodes                   sorted set: node -> when its lease ends
--   node:<node>             set: what it registered
--   claim:<node>            who takes a dead node's connections over, until it expires
--   leaving                 sorted set: who has gone, but not yet for good -> due
--
-- Times are milliseconds of Redis's own clock. Lists are separated by line feeds, which are in no
-- connection's and no channel's name. Redis 5 and 6 can be told to replicate scripts, not their effects; then
-- nothing may be written after asking for the time.

if redis.replicate_commands then redis.replicate_commands() end

local STREAM_LENGTH = 256
local EMPTY_SECONDS = 3600  -- a channel that nobody is in any more is forgotten after this

-- Milliseconds after which to look again if Redis was emptied and no process has noticed it yet.
local EMPTIED = 1000

-- More than any process asks for.
local MAX_SETTLING = 60000

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local changes = {}
local damaged = {}

-- Note a damaged key. What is known of its channel is wrong then: a new epoch has everybody read it again.
local function spoil(key)
  damaged[#damaged + 1] = key
  local noun, channel = string.match(string.sub(key, #KEYS[1] + 2), '^(%w+):(.*)$')
  if noun == 'connections' or noun == 'keys' then
    redis.pcall('HDEL', KEYS[1] .. ':position:' .. channel, 'epoch')
  end
end

-- Run a command. A key of the wrong type is removed: its owners register again when they compare.
local function call(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if not string.find(answer.err, 'WRONGTYPE', 1, true) then return error(answer.err) end
  spoil(key)
  redis.call('DEL', key)
  return redis.call(command, key, ...)
end

local function name(noun, of) return KEYS[1] .. ':' .. noun .. (of and ':' .. of or '') end

local function whole(number) return string.format('%.0f', number) end

local function split(item) return string.match(item, '^([^\n]*)\n(.*)$') end

-- Milliseconds until all processes had time to register again what Redis lost; 0 if they had.
local function unsettled()
  local life = call('GET', name('life'))
  if not life then return EMPTIED end
  local left = (string.match(life, ':(%d+)$') or 0) - now
  return left > 0 and left <= MAX_SETTLING and left or 0
end

local function alive(node)
  local lease = call('ZSCORE', name('nodes'), node)
  return lease and tonumber(lease) > now
end

local function read(channel, connection)
  local value = call('HGET', name('connections', channel), connection)
  if not value then return nil end
  local node, due, meta, key = string.match(value, '^([^\n]*)\n(%d+)\n({[^\n]*})\n(.*)$')
  if not node or #due > 15 then
    spoil(name('connections', channel))
    call('HDEL', name('connections', channel), connection)
    return nil
  end
  return {node = node, due = tonumber(due), meta = meta, key = key}
end

local function write(channel, connection, it)
  local value = table.concat({it.node, whole(it.due), it.meta, it.key}, '\n')
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

-- Epoch and revision. What Redis remembers after a restart may be older than what was told before it: so
-- that no revision is given twice, a new epoch begins then.
local function position(channel, fresh)
  local found = call('HMGET', name('position', channel), 'epoch', 'rev', 'life')
  local life = call('GET', name('life')) or ''
  local rev = found[2] and string.match(found[2], '^%d+$') and #found[2] <= 15 and tonumber(found[2])
  local sound = found[1] and rev and string.match(found[1], '^%w+$') and #found[1] <= 64
  if sound and found[3] == life then return found[1], rev end
  if found[1] and not sound then spoil(name('position', channel)) end
  redis.call('DEL', name('diffs', channel))
  call('HMSET', name('position', channel), 'epoch', fresh, 'rev', whole(rev or 0), 'life', life)
  return fresh, rev or 0
end

-- Number a change and publish it. The key's list is the new one already.
local function tell(channel, key, before, after, fresh)
  if before == after then return end
  local keys = call('HLEN', name('keys', channel))
  local epoch = position(channel, fresh)
  local rev = call('HINCRBY', name('position', channel), 'rev', 1)
  local diff = '{"epoch":"' .. epoch .. '","rev":' .. whole(rev) .. ',"key":' .. cjson.encode(key)
    .. ',"before":' .. before .. ',"after":' .. after .. '}'
  local stream = {'XADD', name('diffs', channel), 'MAXLEN', '~', STREAM_LENGTH, whole(rev) .. '-0', 'diff', diff}
  local added = redis.pcall(unpack(stream))
  if type(added) == 'table' and added.err then  -- of the wrong type, or with a later entry
    spoil(name('diffs', channel))
    redis.call('DEL', name('diffs', channel))
    redis.call(unpack(stream))
  end
  redis.call('PUBLISH', name('diffs', channel), diff)
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

-- Forget that a connection is registered, and that it is leaving.
local function strike(channel, connection, it)
  call('SREM', name('node', it.node), connection .. '\n' .. channel)
  if it.due > 0 then call('ZREM', name('leaving'), connection .. '\n' .. channel) end
end

local function drop(channel, connection, it)
  strike(channel, connection, it)
  call('HDEL', name('connections', channel), connection)
end

local function remove(channel, connection, it, fresh)
  local before = list(channel, it.key)
  local told = metas(channel, before)
  local after = {}
  for _, other in ipairs(before) do
    if other ~= connection then after[#after + 1] = other end
  end
  drop(channel, connection, it)
  set_list(channel, it.key, after)
  tell(channel, it.key, told, metas(channel, after), fresh)
end

-- It counts as there until `due`.
local function depart(channel, connection, it, due)
  strike(channel, connection, it)
  it.due = due
  write(channel, connection, it)
  call('ZADD', name('leaving'), whole(due), connection .. '\n' .. channel)
end

-- What the command returned; and which keys were damaged, if any were.
local function answer(result)
  if #damaged == 0 then return result end
  redis.call('PUBLISH', name('here'), 'compare')
  return {'damaged', result, damaged}
end
