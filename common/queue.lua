#!lua name=troupe
-- queue.lua -- the queue's transitions, one function each, atomic. PROTOCOL.md has the picture, keys and tables.
--
-- KEYS[1] is the queue's hash tag "{name}"; every key begins with it. ARGV[1] is a msgpack map of arguments
-- (submit: ARGV[2] is the record). The answer is msgpack: a map with r = 'OK' | 'NOTFOUND' | 'CONFLICT' | 'LIMIT' |
-- 'LOST' (get and claim append the job's record).
-- Times are Redis' own, in milliseconds. The build joins, in this order: queue.lua (what all need), queue_line.lua (who
-- is next), queue_hooks.lua (webhooks), queue_client.lua, queue_worker.lua, queue_timer.lua, queue_people.lua (contents).

-- major * 1000 + minor; raise the minor with every change, the major when old programs must not use it
local VERSION = 2007

local EVENTS_MAX = 10000
local LOG_MAX = 64
local WAKE_MAX = 64
local PASS_MS = 20 -- a wake token is passed on so often at most
local IDEM_MS = 86400000
local DAY_MS = 86400000

local STATES_ENDED = {done = true, failed = true, cancelled = true, timed_out = true}

local function now()
    local t = redis.call('TIME')
    return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function answer(r, fields, record)
    fields = fields or {}
    fields.r = r
    return cmsgpack.pack(fields) .. (record or '')
end

local function count(b, field, n)
    redis.call('HINCRBY', b .. ':meta', field, n or 1)
end

local function has_word(list, word)
    return list == word or (',' .. list .. ','):find(',' .. word .. ',', 1, true) ~= nil
end

local function wake(b)
    if redis.call('LLEN', b .. ':wake') < WAKE_MAX then
        redis.call('LPUSH', b .. ':wake', '1')
    end
end

-- The token went to a worker that had no use for it: another one gets it, but not in a hot loop.
local function pass_on(b, t)
    local last = tonumber(redis.call('HGET', b .. ':meta', 'passed') or 0)
    if t - last >= PASS_MS then
        redis.call('HSET', b .. ':meta', 'passed', t)
        wake(b)
    end
end

-- What the transitions look at. The first ones are texts, the others numbers.
local JOB = {'state', 'cls', 'tenant', 'gen', 'worker', 'ranks', 'hook', 'verdict', 'device', 'cache', 'attempt', 'prio',
    'cost', 'stop', 'start', 'gflop', 'fails', 'deaths', 'dr', 'ds', 'due', 'sub', 'ttl'}
local JOB_TEXTS = 10

local JOB_N = #JOB

-- A job's fields as a table; nil when there is no such job.
local function job_of(b, id)
    local got = redis.call('HMGET', b .. ':job:' .. id, unpack(JOB))
    if not got[1] then
        return nil
    end
    local job = {}
    for i = 1, JOB_N do
        if got[i] then
            job[JOB[i]] = i <= JOB_TEXTS and got[i] or tonumber(got[i])
        end
    end
    job.ranks = job.ranks and cmsgpack.unpack(job.ranks)
    return job
end

local function set_job(b, id, ...)
    redis.call('HSET', b .. ':job:' .. id, ...)
end

-- Tells the world. Progress goes to the stream only, everything else to the job's own log too.
local function event(b, t, id, what, state, attempt, more)
    local e = more or {}
    e.id, e.what, e.state, e.attempt, e.t = id, what, state, attempt, t
    local bytes = cmsgpack.pack(e)
    redis.call('XADD', b .. ':events', 'MAXLEN', '~', EVENTS_MAX, '*', 'e', bytes)
    if what ~= 'progress' and what ~= 'delete' then
        local log = b .. ':log:' .. id
        if redis.call('RPUSH', log, bytes) > LOG_MAX then
            redis.call('LTRIM', log, -LOG_MAX, -1)
        end
    end
end

-- Histograms for the metrics: upper bounds in seconds.
local BOUNDS = {0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200}

local function observe(b, name, ms)
    local i = 1
    while BOUNDS[i] and ms > BOUNDS[i] * 1000 do
        i = i + 1
    end
    redis.call('HINCRBY', b .. ':hist', name .. ':' .. i, '1')
    redis.call('HINCRBY', b .. ':hist', name .. ':sum', math.floor(ms))
end

local function mean_run_ms(b)
    local done, ms = unpack(redis.call('HMGET', b .. ':meta', 'n_done', 'run_ms'))
    return done and tonumber(done) > 0 and tonumber(ms or 0) / tonumber(done) or 10000
end

-- Predicted milliseconds of a job: its work over the learnt rate, or the mean run of its generator.
local function predict_ms(b, gen, gflop)
    local rate, mean = unpack(redis.call('HMGET', b .. ':rate', gen, gen .. ':mean'))
    if gflop and gflop > 0 and rate then
        return math.max(1, math.floor(gflop / tonumber(rate) * 1000))
    end
    return math.max(1, math.floor(tonumber(mean or 10000)))
end
