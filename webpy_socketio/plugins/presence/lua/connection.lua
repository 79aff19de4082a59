-- Commands on connections: join and leave. Both are idempotent.
--
--   join <node> <channel> <connection> <key> <meta> <epoch>    returns 'fenced' if the node's lease has expired
--   leave <channel> <connection> <grace> <epoch> <node> <at_once>
--       with a node: only if the connection belongs to it; with '1' as at_once: also if it is leaving already
--
-- `epoch` is the name of a new epoch, if one starts. Returns the changes: channel, diff, channel, diff ...

local commands = {}

local function index_of(connections, connection)
  for i, other in ipairs(connections) do
    if other == connection then return i end
  end
end

-- A leaving connection of the same key is replaced: its client has reconnected.
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

function commands.join(node, channel, connection, key, meta, new_epoch)
  if not has_lease(node) then return 'fenced' end
  local it = read(channel, connection)
  if it and it.key ~= key then
    remove(channel, connection, it, new_epoch)
    it = nil
  end
  local connections = list(channel, key)
  local before = metas(channel, connections)
  if it then unregister(channel, connection, it) end
  if not index_of(connections, connection) then
    if not it then drop_leaving(channel, connections) end
    connections[#connections + 1] = connection
    set_list(channel, key, connections)
  end
  write(channel, connection, {node = node, due = 0, meta = meta, key = key})
  call('SADD', name('node', node), connection .. '\n' .. channel)
  publish_change(channel, key, before, metas(channel, connections), new_epoch)
  return changes
end

function commands.leave(channel, connection, grace, new_epoch, node, at_once)
  local it = read(channel, connection)
  if not it or (node ~= '' and it.node ~= node) then return changes end
  if it.due > 0 and at_once ~= '1' then return changes end
  if tonumber(grace) > 0 then
    start_leaving(channel, connection, it, now + grace)
  else
    remove(channel, connection, it, new_epoch)
  end
  return changes
end

return answer(commands[ARGV[1]](unpack(ARGV, 2)))
