
-- queue_hooks.lua -- webhooks: deliveries that wait, who sends them, and what came of it.
------------------------------------------------------------------------------------------------------- webhooks

local HOOKS_MAX = 100000    -- deliveries that wait; more are dropped and counted
local HOOKLOG_MAX = 50
local HOOK_FIRST_MS = 5000  -- the first wait; doubles
local HOOK_LONGEST_MS = 6 * 3600000
local HOOK_LIFE_MS = 36 * 3600000
local HOOK_PROGRESS_MS = 500

-- A delivery for one event of a job (queued, start, progress, end), if its record asks for it.
local function hook(b, t, id, job, name)
    if not job.hook or job.hook == '' or not has_word(job.hook, name) then
        return
    end
    local due = t
    if name == 'progress' then
        local waiting, last = unpack(redis.call('HMGET', b .. ':job:' .. id, 'hook_p', 'hook_t'))
        if waiting and redis.call('EXISTS', b .. ':hook:' .. waiting) == 1 then
            return -- it will tell the newest
        end
        due = math.max(t, tonumber(last or 0) + HOOK_PROGRESS_MS)
    end
    if redis.call('ZCARD', b .. ':hooks') >= HOOKS_MAX then
        count(b, 'n_hooks_dropped')
        return
    end
    local me = id .. '_' .. redis.call('HINCRBY', b .. ':meta', 'hook_seq', '1') -- no '.': it is signed between dots
    if name == 'progress' then
        set_job(b, id, 'hook_p', me, 'hook_t', due)
    end
    redis.call('HSET', b .. ':hook:' .. me, 'job', id, 'event', name, 't', t, 'tries', 0, 'hold', 0)
    redis.call('SADD', b .. ':hookjob:' .. id, me)
    redis.call('ZADD', b .. ':hooks', due, me)
end

local function hook_forget(b, id, job)
    redis.call('ZREM', b .. ':hooks', id)
    redis.call('DEL', b .. ':hook:' .. id)
    redis.call('SREM', b .. ':hookjob:' .. job, id)
end

-- All of a job's: it is deleted, or its receiver wants no more.
local function hooks_forget(b, job)
    for _, id in ipairs(redis.call('SMEMBERS', b .. ':hookjob:' .. job)) do
        hook_forget(b, id, job)
    end
end

local function hook_take(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local list = {}
    for i, id in ipairs(redis.call('ZRANGEBYSCORE', b .. ':hooks', '-inf', t, 'LIMIT', 0, a.n)) do
        local key = b .. ':hook:' .. id
        local hold = redis.call('HINCRBY', key, 'hold', '1')
        local f = redis.call('HMGET', key, 'job', 'event', 'tries', 't')
        redis.call('ZADD', b .. ':hooks', t + a.hold, id)
        list[i] = {id = id, job = f[1], event = f[2], tries = tonumber(f[3]), t = tonumber(f[4]), hold = hold}
    end
    local first = redis.call('ZRANGE', b .. ':hooks', 0, 0, 'WITHSCORES')
    return answer('OK', {list = list, next = first[2] and math.max(0, tonumber(first[2]) - t) or -1})
end

local function hook_log(b, t, a, f, tries)
    local key = b .. ':hooklog:' .. f[1]
    redis.call('RPUSH', key, cmsgpack.pack({id = a.id, event = f[2], time_ms = t, try = tries, status = a.status,
        seconds = a.seconds, why = a.why, verdict = a.verdict}))
    redis.call('LTRIM', key, -HOOKLOG_MAX, -1)
end

local function hook_again(b, t, a, f, tries)
    local wait = math.min(HOOK_FIRST_MS * 2 ^ (tries - 1), HOOK_LONGEST_MS)
    wait = math.floor(wait * (0.8 + 0.4 * (t % 997) / 997))
    if t + wait > tonumber(f[4]) + HOOK_LIFE_MS then
        count(b, 'n_hooks_failed')
        hook_forget(b, a.id, f[1])
        return
    end
    redis.call('HSET', b .. ':hook:' .. a.id, 'tries', tries)
    redis.call('HINCRBY', b .. ':hook:' .. a.id, 'hold', '1') -- said again, it is not mine any more
    redis.call('ZADD', b .. ':hooks', t + wait, a.id)
end

local function hook_done(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local f = redis.call('HMGET', b .. ':hook:' .. a.id, 'job', 'event', 'tries', 't', 'hold', 'said')
    if not f[1] or f[6] == tostring(a.hold) then
        return answer('OK') -- told before
    elseif tonumber(f[5]) ~= a.hold then
        return answer('LOST')
    end
    local tries = tonumber(f[3]) + 1
    redis.call('HSET', b .. ':hook:' .. a.id, 'said', a.hold)
    hook_log(b, t, a, f, tries)
    if a.verdict == 'ok' then
        count(b, 'n_hooks_sent')
        observe(b, 'hook', t - tonumber(f[4]))
        hook_forget(b, a.id, f[1])
    elseif a.verdict == 'again' then
        hook_again(b, t, a, f, tries)
    else
        count(b, 'n_hooks_failed')
        set_job(b, f[1], 'hook', '')
        hooks_forget(b, f[1])
    end
    return answer('OK')
end

local function hooks(keys, args)
    local b, a = keys[1], cmsgpack.unpack(args[1])
    if redis.call('EXISTS', b .. ':job:' .. a.id) == 0 then
        return answer('NOTFOUND')
    end
    local log, waiting = {}, {}
    for i, bytes in ipairs(redis.call('LRANGE', b .. ':hooklog:' .. a.id, 0, -1)) do
        log[i] = cmsgpack.unpack(bytes)
    end
    for _, id in ipairs(redis.call('SMEMBERS', b .. ':hookjob:' .. a.id)) do
        local due = redis.call('ZSCORE', b .. ':hooks', id)
        local f = redis.call('HMGET', b .. ':hook:' .. id, 'event', 'tries')
        if due and f[1] and #waiting < HOOKLOG_MAX then
            waiting[#waiting + 1] = {id = id, event = f[1], due_ms = tonumber(due), tries = tonumber(f[2])}
        end
    end
    return answer('OK', {log = log, waiting = waiting})
end
