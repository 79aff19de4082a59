-- Commands on states: the members of a channel, or the changes since a revision if the stream has them.
--
--   read <channel> <epoch> <rev> <new>      epoch and revision of the caller, and the name of a
--                                           new epoch; returns {epoch, rev, diffs}
--                                           or {epoch, rev, keys, connections, unsettled}: contents of the
--                                           hashes, possibly incomplete for `unsettled` milliseconds
--   count <channel> ...                     number of keys in each; or {'unsettled', milliseconds}
--   repair <channel> <item> ...             removes malformed keys and connections, and schedules the
--                                           removal of connections that are overdue

local commands = {}

function commands.read(channel, known, since, new_epoch)
  local settle_time = unsettled()
  if settle_time == 0 and redis.call('EXISTS', name('position', channel), name('keys', channel)) == 0 then
    return {'', 0, {}, {}, 0}  -- never used: reading creates no keys
  end
  local epoch, rev = '', 0
  if settle_time == 0 then epoch, rev = position(channel, new_epoch) end
  if settle_time == 0 and epoch == known and tonumber(since) <= rev then
    local diffs = {}
    for _, entry in ipairs(call('XRANGE', name('diffs', channel), format_integer(since + 1) .. '-0', '+')) do
      diffs[#diffs + 1] = entry[2][2]
    end
    if #diffs == rev - since then return {epoch, rev, diffs} end
  end
  return {epoch, rev, call('HGETALL', name('keys', channel)),
    call('HGETALL', name('connections', channel)), settle_time}
end

function commands.count(...)
  local settle_time = unsettled()
  if settle_time > 0 then return {'unsettled', settle_time} end
  local counts = {}
  for i, channel in ipairs({...}) do counts[i] = call('HLEN', name('keys', channel)) end
  return counts
end

function commands.repair(channel, ...)
  for _, item in ipairs({...}) do
    local it = read(channel, item)
    if it and it.due > 0 then
      call('ZADD', name('leaving'), format_integer(it.due), item .. '\n' .. channel)
    else
      call('HDEL', name('keys', channel), item)
      call('HDEL', name('connections', channel), item)
    end
  end
  call('HDEL', name('position', channel), 'epoch')
  redis.call(PUBLISH, name('here'), 'compare')
  return #{...}
end

return answer(commands[ARGV[1]](unpack(ARGV, 2)))
