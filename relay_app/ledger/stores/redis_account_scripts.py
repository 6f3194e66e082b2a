"""The scripts about accounts and stored keys that run inside Redis or Valkey, and what they keep.

The rule: ``accounts.answer()`` says what a lease is; here it is said once more, in Lua, because
only what runs inside the server is one moment for all hosts. A test compares the two.

========================  ================================================================
``{PREFIX}:leases:KEY``   hash, session → ``HELD RECORDED OPEN SINCE``, in micro-dollars
``{PREFIX}:lapses:KEY``   sorted set of those sessions by the server's time when they lapse
``{PREFIX}:sums:KEY``     hash: ``open`` leases and what they have ``held`` and not recorded, of
                          the period ``since``, ``as_of`` a time of the server's
``{PREFIX}:tokens:KEY``   hash, second → tokens
``{PREFIX}:keys``         hash, name → ``SHA256 JSON``
``{PREFIX}:digests``      hash, SHA-256 → name
========================  ================================================================

WRITE in ``redis_scripts`` keeps ``RECORDED`` and its sum up to date. A call takes up the sums where
the last one left them, so it costs the same however many sessions a key has; when a period begins,
all are added up anew. A lease that lapsed is remembered for an
hour and its tokens for a minute; whatever nobody asks for again, the server lets expire.
"""

from relay_app.ledger.stores.accounts import KEEP_SECONDS, MINUTE_SECONDS
from relay_app.ledger.stores.redis_scripts import HEAD, HEAD_OF_WRITER

__all__ = ["KEYS", "LEASE", "PUT_KEY"]

# Keys, after the state: spending, leases, lapses, sums and tokens of each key that is asked for.
# Arguments: seconds; then of each ask the place of its key's first among KEYS, its session,
# budget, since, max_sessions, max_tokens ("" for none), spent, want, tokens, and 1 if it ends.
# Returns held, left or nil, sessions, tokens and refusal of each.
LEASE = (
    HEAD_OF_WRITER
    + f"""
local KEEP, MINUTE, STEP = {KEEP_SECONDS:.0f}, {MINUTE_SECONDS}, 1000
"""
    + """
local time = redis.call('TIME')
-- As it will be read again, so that what lapses now compares as equal to now.
local now = tonumber(string.format('%.6f', time[1] + time[2] / 1000000))
local lapses_at = string.format('%.6f', now + ARGV[2])

local function parse(value)
  if not value then return nil end
  local held, recorded, open, since = string.match(value, '^(-?%d+) (-?%d+) (%d) (.*)$')
  return {
    held = tonumber(held), recorded = tonumber(recorded), open = tonumber(open), since = since,
  }
end

-- What others may not use because of it.
local function outstanding(lease, since)
  if lease.since ~= since then return 0 end
  return math.max(0, lease.held - lease.recorded)
end

-- Adds what ``sessions`` hold to the sums, or takes it away; false if one of them is unknown.
local function add(account, sessions, sign)
  for first = 1, #sessions, STEP do
    local last = math.min(first + STEP - 1, #sessions)
    for _, value in ipairs(redis.call('HMGET', account.leases, unpack(sessions, first, last))) do
      local lease = parse(value)
      if not lease then return false end
      account.open = account.open + sign * lease.open
      account.held = account.held + sign * outstanding(lease, account.since)
    end
  end
  return true
end

-- The sums as they were left, without what has lapsed since; not if the clock was set back.
local function take_up(account, since)
  local sums = redis.call('HMGET', account.sums, 'since', 'as_of', 'open', 'held')
  if sums[1] ~= since or tonumber(sums[2]) > now then return false end
  account.since, account.open, account.held = since, tonumber(sums[3]), tonumber(sums[4])
  local text = string.format('%.6f', now)
  return add(account, redis.call('ZRANGEBYSCORE', account.lapses, '(' .. sums[2], text), -1)
end

local function count(account, since)
  account.since, account.open, account.held = since, 0, 0
  -- Who still holds what was given before the clock was set back renews it in seconds.
  local ahead = redis.call(
    'ZRANGEBYSCORE', account.lapses, '(' .. string.format('%.6f', now + KEEP), '+inf')
  for _, session in ipairs(ahead) do
    redis.call('ZADD', account.lapses, string.format('%.6f', now), session)
  end
  local live = redis.call(
    'ZRANGEBYSCORE', account.lapses, '(' .. string.format('%.6f', now), '+inf')
  for i = #live, 1, -1 do
    if redis.call('HEXISTS', account.leases, live[i]) == 0 then table.remove(live, i) end
  end
  add(account, live, 1)
end

-- Each account is loaded once, and kept up to date for the asks that follow.
local accounts = {}
local function load(at, since)
  local account = {
    spending = KEYS[at], leases = KEYS[at + 1], lapses = KEYS[at + 2], sums = KEYS[at + 3],
    seconds = KEYS[at + 4], spent = {}, tokens = 0,
  }
  if not take_up(account, since) then count(account, since) end
  local old = redis.call(
    'ZRANGEBYSCORE', account.lapses, '-inf', string.format('%.6f', now - KEEP), 'LIMIT', 0, STEP)
  if #old > 0 then
    redis.call('HDEL', account.leases, unpack(old))
    redis.call('ZREM', account.lapses, unpack(old))
  end
  local seconds = redis.call('HGETALL', account.seconds)
  for i = 1, #seconds, 2 do
    if math.abs(now - seconds[i]) >= MINUTE then
      redis.call('HDEL', account.seconds, seconds[i])
    else
      account.tokens = account.tokens + seconds[i + 1]
    end
  end
  return account
end

-- What the ledger shows.
local function spent_since(account, since)
  if not account.spent[since] then
    local sum = 0
    local days = redis.call('HGETALL', account.spending)
    for i = 1, #days, 2 do
      if days[i] >= since then sum = sum + days[i + 1] end
    end
    account.spent[since] = sum
  end
  return account.spent[since]
end

local function answer(ask)
  local at, session, budget, since, max_sessions, max_tokens = unpack(ask)
  local spent, want, tokens, ends = unpack(ask, 7)
  at, ends = tonumber(at), ends == '1'
  budget, max_sessions, max_tokens = tonumber(budget), tonumber(max_sessions), tonumber(max_tokens)
  spent, want = tonumber(spent), tonumber(want)
  local account = accounts[at] or load(at, since)
  accounts[at] = account
  if account.since ~= since then count(account, since) end  -- a new period begins
  if tokens ~= '0' then
    redis.call('HINCRBY', account.seconds, time[1], tokens)
    redis.call('EXPIRE', account.seconds, MINUTE + 1)
    account.tokens = account.tokens + tokens
  end

  local mine, open, held = nil, account.open, account.held
  local lapses = tonumber(redis.call('ZSCORE', account.lapses, session) or 0)
  if lapses + KEEP > now then mine = parse(redis.call('HGET', account.leases, session)) end
  if mine and lapses > now then
    open, held = open - mine.open, held - outstanding(mine, since)
  end
  local recorded = mine and mine.since == since and mine.recorded or 0

  local left = nil
  local granted = math.max(0, want)
  if budget then
    left = budget - spent_since(account, since) - held - math.max(0, spent - recorded)
    granted = math.max(0, math.min(granted, left))
  end

  if not mine and not ends then
    local refusal = nil
    if max_sessions and open >= max_sessions then
      refusal = 'sessions'
    elseif max_tokens and account.tokens >= max_tokens then
      refusal = 'tokens'
    elseif left and left <= 0 then
      refusal = 'budget'
    end
    if refusal then
      return 0, left and math.max(0, left) or false, open, account.tokens, refusal
    end
  end

  if ends then granted = 0 end
  local lease = {
    held = spent + granted, recorded = recorded, open = ends and 0 or 1, since = since,
  }
  redis.call('HSET', account.leases, session, string.format(
    '%.0f %.0f %d %s', lease.held, lease.recorded, lease.open, lease.since))
  redis.call('ZADD', account.lapses, lapses_at, session)
  account.open, account.held = open, held
  if tonumber(lapses_at) > now then
    account.open, account.held = open + lease.open, held + outstanding(lease, since)
  end
  return lease.held, left and math.max(0, left - granted) or false,
    open + lease.open, account.tokens, ''
end

local answers = {}
for i = 3, #ARGV, 10 do
  for _, figure in ipairs({answer({unpack(ARGV, i, i + 9)})}) do answers[#answers + 1] = figure end
end
for _, account in pairs(accounts) do
  local last = redis.call('ZRANGE', account.lapses, -1, -1, 'WITHSCORES')[2]
  if last then
    redis.call(
      'HSET', account.sums, 'since', account.since, 'as_of', string.format('%.6f', now),
      'open', string.format('%.0f', account.open), 'held', string.format('%.0f', account.held))
    local at = string.format('%.0f', (last + KEEP) * 1000)
    for _, name in ipairs({account.leases, account.lapses, account.sums}) do
      redis.call('PEXPIREAT', name, at)
    end
  else
    redis.call('DEL', account.sums)  -- nothing is left that they could be the sums of
  end
end
return answers
"""
)

# Keys: state, keys, digests. Arguments: name, its value, and the value that it replaces or "" for
# none. Returns nil when it is done, or else the name of the other key that has this SHA-256 or "",
# and the value that stands or "". The value that stands is written once more, for its sync.
PUT_KEY = (
    HEAD_OF_WRITER
    + """
local keys, digests = KEYS[2], KEYS[3]
local name, value, expected = ARGV[2], ARGV[3], ARGV[4]
local stands = redis.call('HGET', keys, name) or ''
if stands ~= expected and stands ~= value then return {'', stands} end
local digest = string.match(value, '^(%S+) ')
local owner = redis.call('HGET', digests, digest)
if owner and owner ~= name then return {owner, ''} end
if stands ~= '' then redis.call('HDEL', digests, string.match(stands, '^(%S+) ')) end
redis.call('HSET', keys, name, value)
redis.call('HSET', digests, digest, name)
return nil
"""
)

# Keys: state, keys. Returns all values.
KEYS = (
    HEAD
    + """
return redis.call('HVALS', KEYS[2])
"""
)
