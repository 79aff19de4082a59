-- A connection: it joins a channel and leaves it. What is so already changes nothing.
--
--   join <node> <channel> <connection> <key> <meta> <epoch>    'fenced' if the node's lease is over
--   leave <channel> <connection> <grace> <epoch>
--
-- `epoch` is what a new one is to be called. Returns the changes: channel, diff, channel, diff ...

local commands = {}

local function index(connections, connection)
  for i, other in ipairs(connections) do
    if other == connection then return i end
  end
end

-- One that is leaving is a new one of the same key, come back.
local function drop_leaving(channel, connections)
  for i, other in ipairs(connections) do
    local it = read(channel, other)
    if it and it.due > 0 then
      drop(channel, other, it)
      table.remove(connections, i)
      return
    end
  end
end

function commands.join(node, channel, connection, key, meta, fresh)
  if not alive(node) then return 'fenced' end
  local it = read(channel, connection)
  if it and it.key ~= key then
    remove(channel, connection, it, fresh)
    it = nil
  end
  local connections = list(channel, key)
  local before = metas(channel, connections)
  if it then strike(channel, connection, it) end
  if not index(connections, connection) then
    if not it then drop_leaving(channel, connections) end
    connections[#connections + 1] = connection
    set_list(channel, key, connections)
  end
  write(channel, connection, {node = node, due = 0, meta = meta, key = key})
  call('SADD', name('node', node), connection .. '\n' .. channel)
  tell(channel, key, before, metas(channel, connections), fresh)
  return changes
end

function commands.leave(channel, connection, grace, fresh)
  local it = read(channel, connection)
  if not it or it.due > 0 then return changes end
  if tonumber(grace) > 0 then
    depart(channel, connection, it, now + grace)
  else
    remove(channel, connection, it, fresh)
  end
  return changes
end

return answer(commands[ARGV[1]](unpack(ARGV, 2)))
