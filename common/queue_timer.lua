
-- queue_timer.lua -- expire: everything that time does.
------------------------------------------------------------------------------------------------------- the timer

local DEATHS_MAX = 3
local GAP_MS = 3000   -- expire comes every second: silence for so long means that nobody reached Redis
local GRACE_MS = 5000 -- and then a living worker has so long to renew
local TRIM_N = 1000   -- virtual times of idle tenants are kept until there are so many

-- A job one of whose workers was not heard of for a whole lease.
local function orphan(b, t, member)
    local id, rank = member:match('^(.*)#(%d+)$')
    id, rank = id or member, rank or '0'
    local job = job_of(b, id)
    if not job or job.state ~= 'running' then
        redis.call('ZREM', b .. ':lease', member)
        return
    end
    count(b, 'n_expired')
    local silent = job.ranks and job.ranks[tonumber(rank) + 1] or job.worker
    local deaths = redis.call('HINCRBY', b .. ':job:' .. id, 'deaths', '1')
    local text = 'worker ' .. (silent or '?') .. ' was not heard of any more'
    charge(b, t, job, 0)
    if stopping(job) then
        finish_stopped(b, t, id, job, 'expire')
    elseif deaths >= DEATHS_MAX then
        text = text .. '; ' .. deaths .. ' workers died with this job, so it is not tried again'
        set_error(b, id, 'INTERNAL', text)
        finish(b, t, id, job, 'failed', 'expire', {code = 'INTERNAL', why = text, worker = silent})
    else
        local attempt = job.attempt
        requeue(b, t, id, job, true)
        event(b, t, id, 'expire', 'queued', attempt, {why = text, worker = silent})
    end
end

-- A deadline has come: to obey a stop, to run, or to start. What is not due (or not true any more) is put right.
local function clock_due(b, t, id)
    local job = job_of(b, id)
    redis.call('ZREM', b .. ':clock', id)
    if not job or STATES_ENDED[job.state] then
        return
    end
    if job.state ~= 'running' then
        if job.ds > 0 and not job.start then
            local text = 'the job did not start within its deadline_start_s'
            set_error(b, id, 'TIMEOUT', text)
            finish(b, t, id, job, 'timed_out', 'expire', {code = 'TIMEOUT', why = text})
        end
    elseif stopping(job) then
        account(b, t, job)
        finish_stopped(b, t, id, job, 'expire')
    else
        set_job(b, id, 'stop', 2, 'stop_at', t)
        redis.call('ZADD', b .. ':clock', t + OBEY_MS, id)
        event(b, t, id, 'expire', 'running', job.attempt, {why = 'deadline_run_s is over: the worker is asked to stop'})
    end
end

local function delayed_due(b, t, id)
    local job = job_of(b, id)
    if not job then
        redis.call('ZREM', b .. ':delayed', id)
        return
    end
    local scheduled = job.due ~= nil
    requeue(b, t, id, job, not scheduled)
    event(b, t, id, 'expire', 'queued', job.attempt,
        {why = scheduled and 'its time has come' or 'the next attempt is due'})
end

local function due(b, set, t, max)
    return redis.call('ZRANGEBYSCORE', b .. set, '-inf', t, 'LIMIT', 0, max)
end

-- While Redis was away nobody could renew: that is no worker's death.
local function in_grace(b, t)
    local ticked, grace = unpack(redis.call('HMGET', b .. ':meta', 'ticked', 'grace'))
    redis.call('HSET', b .. ':meta', 'ticked', t)
    if t - tonumber(ticked or t) > GAP_MS then
        grace = t + GRACE_MS
        redis.call('HSET', b .. ':meta', 'grace', grace)
    end
    return t < tonumber(grace or 0)
end

-- Workers that fell silent, tenants whose day began, virtual times that say nothing any more.
local function sweep(b, t, max)
    for _, name in ipairs(due(b, ':workers', t, max)) do
        forget_worker(b, name)
    end
    for _, name in ipairs(due(b, ':budget', t, max)) do
        redis.call('ZREM', b .. ':budget', name)
        refresh_tenant(b, t, name)
    end
    for prio = 0, 9 do
        local key = b .. ':vt:' .. prio
        if redis.call('ZCARD', key) > TRIM_N then
            redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. (redis.call('HGET', b .. ':meta', 'v:' .. prio) or 0))
        end
    end
end

local function expire(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local grace = in_grace(b, t)
    local leases = grace and {} or due(b, ':lease', t, a.max)
    local retries, deadlines = due(b, ':delayed', t, a.max), due(b, ':clock', t, a.max)
    for _, member in ipairs(leases) do
        orphan(b, t, member)
    end
    for _, id in ipairs(retries) do
        delayed_due(b, t, id)
    end
    for _, id in ipairs(deadlines) do
        clock_due(b, t, id)
    end
    if not grace then
        sweep(b, t, a.max)
    end
    for _, id in ipairs(due(b, ':ended', t, a.max)) do
        local job = job_of(b, id)
        if job then
            delete_job(b, t, id, job)
            redis.call('ZADD', b .. ':trash', t, id)
        else
            redis.call('ZREM', b .. ':ended', id)
        end
    end
    local trash = due(b, ':trash', t, a.max)
    for _, id in ipairs(trash) do
        redis.call('ZADD', b .. ':trash', t + TRASH_MS, id)
    end
    for _, id in ipairs(due(b, ':again', t, a.max)) do
        redis.call('ZREM', b .. ':again', id)
        trash[#trash + 1] = id
    end
    local waiting = redis.call('ZCARD', b .. ':wait')
    if waiting > 0 and redis.call('LLEN', b .. ':wake') == 0 then
        wake(b) -- a token that was lost with the worker that took it
    end
    return answer('OK', {leases = #leases, retries = #retries, deadlines = #deadlines, waiting = waiting,
        forget = trash})
end
