-- A node: one life of a process, with a lease. Who comes back after the end of it is fenced: others may have
-- taken over what it had.
--
--   begin <run> <fresh> <remembered> <settle> <cold>
--                                  says in which life Redis is; `run` is what Redis calls itself, and `remembered`
--                                  the life that the caller knows. A new life settles for `settle`; for `cold` if there
--                                  is no sign of an earlier one
--   enter <node> <lease>           a new node
--   renew <node> <lease>           1, or 0 if it is fenced
--   finish <node>                  its lease ends now
--   sweep <node> <grace> <claim> <portion> <epoch>
--                                  take over from the dead, and let go who is due; returns whether there is more
--                                  to do, the changes, and whether the caller's lease is still known

local commands = {}

local function is_anybody_here()
  return tonumber(redis.call('PUBSUB', 'NUMSUB', name('here'))[2]) > 0
end

-- Milliseconds that a new life needs to settle; nil if there is no reason for a new life.
local function settling(run, life, remembered, settle, cold)
  if not life or string.sub(life, 1, #run + 1) ~= run .. ':' then
    local lost = life or remembered ~= '' or is_anybody_here()
    return tonumber(lost and settle or cold)
  end
  -- It was begun by a process that knew of no earlier one.
  if remembered ~= '' and remembered ~= life and string.match(life, ':0$') then return tonumber(settle) end
end

function commands.begin(run, fresh, remembered, settle, cold)
  local life = call('GET', name('life'))
  local time = settling(run, life, remembered, settle, cold)
  if not time then return life end
  life = run .. ':' .. fresh .. ':' .. (time > 0 and whole(now + time) or '0')
  redis.call('SET', name('life'), life)
  return life
end

function commands.enter(node, lease)
  call('ZADD', name('nodes'), whole(now + lease), node)
  return 1
end

function commands.renew(node, lease)
  if not alive(node) then return 0 end
  return commands.enter(node, lease)
end

function commands.finish(node)
  if redis.call('EXISTS', name('node', node)) == 1 then
    call('ZADD', name('nodes'), 'XX', whole(now), node)
  else
    call('ZREM', name('nodes'), node)
  end
  return 1
end

-- Exactly one has the claim on a dead node; if it dies too, the claim expires and another one goes on.
local function claims(node, dead, claim)
  return redis.call('SET', name('claim', dead), node, 'NX', 'PX', claim)
    or call('GET', name('claim', dead)) == node
end

local function take_over(dead, lapsed, grace, portion)
  local items = call('SPOP', name('node', dead), portion)
  for _, item in ipairs(items) do
    local connection, channel = split(item)
    local it = connection and read(channel, connection)
    if not connection then spoil(name('node', dead)) end
    if it and it.node == dead and it.due == 0 then depart(channel, connection, it, lapsed + grace) end
  end
  if redis.call('EXISTS', name('node', dead)) == 1 then return true end
  call('ZREM', name('nodes'), dead)
  redis.call('DEL', name('claim', dead))
  return #items > 0
end

function commands.sweep(node, grace, claim, portion, fresh)
  local known = call('GET', name('life')) and alive(node) and 1 or 0
  if unsettled() > 0 then return {0, changes, known} end
  local more = false
  local dead = call('ZRANGEBYSCORE', name('nodes'), '-inf', whole(now), 'WITHSCORES',
    'LIMIT', 0, 4)
  for i = 1, #dead, 2 do
    if claims(node, dead[i], claim) then
      more = take_over(dead[i], tonumber(dead[i + 1]), grace, portion) or more
    end
  end
  local due = call('ZRANGEBYSCORE', name('leaving'), '-inf', whole(now), 'LIMIT', 0, portion)
  for _, item in ipairs(due) do
    local connection, channel = split(item)
    local it = connection and read(channel, connection)
    if not connection then spoil(name('leaving')) end
    if it and it.due > 0 then
      remove(channel, connection, it, fresh)
    else
      call('ZREM', name('leaving'), item)
    end
  end
  more = more or #due == tonumber(portion)
  return {more and 1 or 0, changes, known}
end

return answer(commands[ARGV[1]](unpack(ARGV, 2)))
