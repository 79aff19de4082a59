-- A state: who is in a channel, or what changed since a revision, if that is known still.
--
--   read <channel> <epoch> <rev> <fresh>    what the caller has: returns {epoch, rev, diffs}
--                                           or {epoch, rev, keys, connections, unsettled}, as the hashes are;
--                                           incomplete for so many milliseconds more
--   count <channel> ...                     how many keys in each; or {'unsettled', milliseconds}
--   repair <channel> <item> ...             remove keys and connections that cannot be read; let those go
--                                           that have left

local commands = {}

function commands.read(channel, known, since, fresh)
  local wait = unsettled()
  if wait == 0 and redis.call('EXISTS', name('position', channel), name('keys', channel)) == 0 then
    return {'', 0, {}, {}, 0}  -- it was never used: nothing is made by reading
  end
  local epoch, rev = '', 0
  if wait == 0 then epoch, rev = position(channel, fresh) end
  if wait == 0 and epoch == known and tonumber(since) <= rev then
    local diffs = {}
    for _, entry in ipairs(call('XRANGE', name('diffs', channel), whole(since + 1) .. '-0', '+')) do
      diffs[#diffs + 1] = entry[2][2]
    end
    if #diffs == rev - since then return {epoch, rev, diffs} end
  end
  return {epoch, rev, call('HGETALL', name('keys', channel)),
    call('HGETALL', name('connections', channel)), wait}
end

function commands.count(...)
  local wait = unsettled()
  if wait > 0 then return {'unsettled', wait} end
  local counts = {}
  for i, channel in ipairs({...}) do counts[i] = call('HLEN', name('keys', channel)) end
  return counts
end

function commands.repair(channel, ...)
  for _, item in ipairs({...}) do
    local it = read(channel, item)
    if it and it.due > 0 then
      call('ZADD', name('leaving'), whole(it.due), item .. '\n' .. channel)
    else
      call('HDEL', name('keys', channel), item)
      call('HDEL', name('connections', channel), item)
    end
  end
  call('HDEL', name('position', channel), 'epoch')
  redis.call('PUBLISH', name('here'), 'compare')
  return #{...}
end

return answer(commands[ARGV[1]](unpack(ARGV, 2)))
