"""The scripts about accounts and stored keys that run inside Redis or Valkey, and what they keep.

The rule: ``accounts.answer()`` says what a lease is; here it is said once more, in Lua, because
only what runs inside the server is one moment for all hosts. A test compares the two.

========================  ================================================================
``{PREFIX}:leases:KEY``   hash, session → ``HELD RECORDED OPEN SINCE``, in micro-dollars
``{PREFIX}:lapses:KEY``   sorted set of those sessions by the server's time when they lapse
``{PREFIX}:tokens:KEY``   hash, second → tokens
``{PREFIX}:keys``         hash, name → ``SHA256 JSON``
``{PREFIX}:digests``      hash, SHA-256 → name
========================  ================================================================

WRITE in ``redis_scripts`` keeps ``RECORDED`` up to date. A lease that lapsed is remembered for an
hour and its tokens for a minute; whatever nobody asks for again, the server lets expire.
"""

from relay_app.ledger.stores.accounts import KEEP_SECONDS, MINUTE_SECONDS
from relay_app.ledger.stores.redis_scripts import HEAD, HEAD_OF_WRITER

__all__ = ["KEYS", "LEASE", "PUT_KEY"]

# Keys, after the state: spending, leases, lapses and tokens of each key that is asked for.
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
local now = time[1] + time[2] / 1000000
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
  if not lease or lease.since ~= since then return 0 end
  return math.max(0, lease.held - lease.recorded)
end

-- Each account is loaded once, and kept up to date for the asks that follow.
local accounts = {}
local function load(at)
  local account = {
    spending = KEYS[at], leases = KEYS[at + 1], lapses = KEYS[at + 2], seconds = KEYS[at + 3],
    live = {}, sessions = 0, outstanding = {}, spent = {}, tokens = 0,
  }
  local old = redis.call(
    'ZRANGEBYSCORE', account.lapses, '-inf', string.format('%.6f', now - KEEP), 'LIMIT', 0, STEP)
  if #old > 0 then
    redis.call('HDEL', account.leases, unpack(old))
    redis.call('ZREM', account.lapses, unpack(old))
  end
  local live = redis.call(
    'ZRANGEBYSCORE', account.lapses, '(' .. string.format('%.6f', now), '+inf')
  for first = 1, #live, STEP do
    local last = math.min(first + STEP - 1, #live)
    local values = redis.call('HMGET', account.leases, unpack(live, first, last))
    for i, value in ipairs(values) do
      local lease = parse(value)
      if lease then
        account.live[live[first + i - 1]] = lease
        account.sessions = account.sessions + lease.open
      end
    end
  end
  local seconds = redis.call('HGETALL', account.seconds)
  for i = 1, #seconds, 2 do
    if tonumber(seconds[i]) <= now - MINUTE then
      redis.call('HDEL', account.seconds, seconds[i])
    else
      account.tokens = account.tokens + seconds[i + 1]
    end
  end
  return account
end

-- What the ledger shows, and what all live sessions hold beyond that.
local function since_day(account, since)
  if account.spent[since] then return end
  local spent, held = 0, 0
  local days = redis.call('HGETALL', account.spending)
  for i = 1, #days, 2 do
    if days[i] >= since then spent = spent + days[i + 1] end
  end
  for _, lease in pairs(account.live) do held = held + outstanding(lease, since) end
  account.spent[since], account.outstanding[since] = spent, held
end

local function keep(account, session, lease)
  redis.call('HSET', account.leases, session, string.format(
    '%.0f %.0f %d %s', lease.held, lease.recorded, lease.open, lease.since))
  redis.call('ZADD', account.lapses, lapses_at, session)
  account.changed = true
  local was, is = account.live[session], lease
  if tonumber(lapses_at) <= now then is = nil end
  account.live[session] = is
  account.sessions = account.sessions - (was and was.open or 0) + (is and is.open or 0)
  for since, sum in pairs(account.outstanding) do
    account.outstanding[since] = sum - outstanding(was, since) + outstanding(is, since)
  end
end

local function answer(ask)
  local at, session, budget, since, max_sessions, max_tokens = unpack(ask)
  local spent, want, tokens, ends = unpack(ask, 7)
  at, ends = tonumber(at), ends == '1'
  budget, max_sessions, max_tokens = tonumber(budget), tonumber(max_sessions), tonumber(max_tokens)
  spent, want = tonumber(spent), tonumber(want)
  local account = accounts[at] or load(at)
  accounts[at] = account
  if tokens ~= '0' then
    redis.call('HINCRBY', account.seconds, time[1], tokens)
    redis.call('EXPIRE', account.seconds, MINUTE + 1)
    account.tokens = account.tokens + tokens
  end

  local live = account.live[session]
  local mine = live
  if not mine then
    local lapsed_at = redis.call('ZSCORE', account.lapses, session)
    if lapsed_at and lapsed_at + KEEP > now then
      mine = parse(redis.call('HGET', account.leases, session))
    end
  end
  local sessions = account.sessions - (live and live.open or 0)
  local recorded = mine and mine.since == since and mine.recorded or 0

  local left = nil
  local granted = math.max(0, want)
  if budget then
    since_day(account, since)
    left = budget - account.spent[since]
    left = left - (account.outstanding[since] - outstanding(live, since))
    left = left - math.max(0, spent - recorded)
    granted = math.max(0, math.min(granted, left))
  end

  if not mine and not ends then
    local refusal = nil
    if max_sessions and sessions >= max_sessions then
      refusal = 'sessions'
    elseif max_tokens and account.tokens >= max_tokens then
      refusal = 'tokens'
    elseif left and left <= 0 then
      refusal = 'budget'
    end
    if refusal then
      return 0, left and math.max(0, left) or false, sessions, account.tokens, refusal
    end
  end

  if ends then granted = 0 end
  local open = ends and 0 or 1
  keep(account, session, {held = spent + granted, recorded = recorded, open = open, since = since})
  return spent + granted, left and math.max(0, left - granted) or false,
    sessions + open, account.tokens, ''
end

local answers = {}
for i = 3, #ARGV, 10 do
  for _, figure in ipairs({answer({unpack(ARGV, i, i + 9)})}) do answers[#answers + 1] = figure end
end
for _, account in pairs(accounts) do
  if account.changed then
    local last = redis.call('ZRANGE', account.lapses, -1, -1, 'WITHSCORES')[2]
    local at = string.format('%.0f', (last + KEEP) * 1000)
    redis.call('PEXPIREAT', account.leases, at)
    redis.call('PEXPIREAT', account.lapses, at)
  end
end
return answers
"""
)

# Keys: state, keys, digests. Arguments: name, SHA-256, JSON. Returns the name of the other key
# that has this SHA-256, or "" when it is done.
PUT_KEY = (
    HEAD_OF_WRITER
    + """
local keys, digests = KEYS[2], KEYS[3]
local name, digest, json = ARGV[2], ARGV[3], ARGV[4]
local owner = redis.call('HGET', digests, digest)
if owner and owner ~= name then return owner end
local stands = redis.call('HGET', keys, name)
if stands then redis.call('HDEL', digests, string.match(stands, '^(%S+) ')) end
redis.call('HSET', keys, name, digest .. ' ' .. json)
redis.call('HSET', digests, digest, name)
return ''
"""
)

# Keys: state, keys. Returns all values.
KEYS = (
    HEAD
    + """
return redis.call('HVALS', KEYS[2])
"""
)
