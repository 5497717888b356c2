-- Decides about limits by this server's own time. KEYS are those of the rates, then those of the sessions.
-- ARGV[1] is the operation, ARGV[2] JSON with
--   uses      for each key of a rate: {microseconds for one, microseconds for the burst, amount}
--   most      for each key of sessions: how many may be; -1: any number
--   members   for each key of sessions: those that the operation is about. A member is the id of a stream and that of its session.
--   lease_us, kept_us  how long a place lasts
-- A rate is a text: the microseconds at which it would be as if it had never been used. Sessions are a sorted set: members by the
-- ends of their places; a session that lost its stream has a member without one.
-- Returns false, or, for a refusal, the number of the key in KEYS and the microseconds to wait (-1: nobody knows).

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local request = cjson.decode(ARGV[2])
local uses, members = request.uses, request.members
local ID, NO_STREAM = 32, string.rep('-', 32)

local function whole(number) return string.format('%.0f', number) end

local function due(number)
  local found = tonumber(redis.call('GET', KEYS[number]) or now)
  return math.max(found, now)
end

local function beyond()
  for number, use in ipairs(uses) do
    local ahead = math.max(0, use[2] - use[1] * use[3])
    local wait = due(number) - ahead - now
    if wait >= 1 then return {number, math.ceil(wait)} end
  end
  return false
end

local function charge()
  for number, use in ipairs(uses) do
    local later = due(number) + use[1] * use[3]
    if later > now then
      redis.call('SET', KEYS[number], whole(later), 'PX', whole(math.ceil((later - now) / 1000) + 1))
    end
  end
end

local function keep(key, member, us)
  redis.call('ZADD', key, whole(now + us), member)
  redis.call('PEXPIRE', key, whole(math.max(request.lease_us, request.kept_us) / 1000))
end

-- The number of streams of each session under a key.
local function sessions(key)
  local streams = {}
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    local session = member:sub(ID + 1)
    streams[session] = (streams[session] or 0) + (member:sub(1, ID) == NO_STREAM and 0 or 1)
  end
  return streams
end

local function places(streams) return math.max(1, streams - 1) end

local function is_full(key, member, most)
  if most < 0 or redis.call('ZCARD', key) < most then return false end
  local session, taken, own = member:sub(ID + 1), 0, 0
  for name, streams in pairs(sessions(key)) do
    if name == session then own = streams else taken = taken + places(streams) end
  end
  return taken + math.max(1, own) > most
end

local function holds(key, member) return sessions(key)[member:sub(ID + 1)] ~= nil end

local operations = {}

function operations.take()
  local refusal = beyond()
  if not refusal then charge() end
  return refusal
end

function operations.charge()
  charge()
  return false
end

function operations.begin()
  for number = #uses + 1, #KEYS do
    redis.call('ZREMRANGEBYSCORE', KEYS[number], '-inf', whole(now))
  end
  local refusal = beyond()
  if refusal and not holds(KEYS[#KEYS], members[#members][1]) then return refusal end
  for number = #uses + 1, #KEYS do
    local place = number - #uses
    if is_full(KEYS[number], members[place][1], request.most[place]) then return {number, -1} end
  end
  for number = #uses + 1, #KEYS do
    local member = members[number - #uses][1]
    redis.call('ZREM', KEYS[number], NO_STREAM .. member:sub(ID + 1))
    keep(KEYS[number], member, request.lease_us)
  end
  return false
end

function operations.renew()
  for number, key in ipairs(KEYS) do
    for _, member in ipairs(members[number]) do keep(key, member, request.lease_us) end
  end
  return false
end

-- "end" is a word of Lua's. most: 0 where the session is over.
function operations.leave()
  for number, key in ipairs(KEYS) do
    local member = members[number][1]
    local without = NO_STREAM .. member:sub(ID + 1)
    redis.call('ZREM', key, member, without)
    if request.most[number] ~= 0 then keep(key, without, request.kept_us) end
  end
  return false
end

return operations[ARGV[1]]()
