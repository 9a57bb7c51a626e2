
-- queue_people.lua -- what the queue says to people: stats, workers, tenants, why; and the library's table of contents.
------------------------------------------------------------------------------------------------------- numbers

local COUNTERS = {'n_submitted', 'n_done', 'n_failed', 'n_cancelled', 'n_timed_out', 'n_retried', 'n_released',
    'n_expired', 'n_lost', 'n_late', 'n_cached', 'n_refused', 'n_unfit', 'n_hooks_sent', 'n_hooks_failed',
    'n_hooks_dropped', 'run_ms'}

-- name: {le, n, sum, count} from the fields "name:<bound>" and "name:sum".
local function histograms(b)
    local found = {}
    local flat = redis.call('HGETALL', b .. ':hist')
    for i = 1, #flat, 2 do
        local name, what = flat[i]:match('^(.*):(%w+)$')
        local h = found[name]
        if not h then
            h = {le = BOUNDS, n = {}, sum = 0, count = 0}
            for k = 1, #BOUNDS + 1 do
                h.n[k] = 0
            end
            found[name] = h
        end
        if what == 'sum' then
            h.sum = tonumber(flat[i + 1]) / 1000
        else
            h.n[tonumber(what)] = tonumber(flat[i + 1])
            h.count = h.count + tonumber(flat[i + 1])
        end
    end
    return found
end

local function levels(b)
    local list, total = {}, 0
    for prio = 9, 0, -1 do
        local n, ms = unpack(redis.call('HMGET', b .. ':meta', 'n:' .. prio, 'w:' .. prio))
        n, ms = tonumber(n or 0), tonumber(ms or 0)
        total = total + ms
        if n > 0 then
            list[#list + 1] = {priority = prio, waiting = n, waiting_s = ms / 1000}
        end
    end
    return list, total / 1000
end

local function numbers_of(key)
    local found = {}
    local flat = redis.call('HGETALL', key)
    for i = 1, #flat, 2 do
        found[flat[i]] = tonumber(flat[i + 1])
    end
    return found
end

-- Workers that take jobs: not quiet, and fit for something.
local function offering(b)
    local n = 0
    for _, count in ipairs(redis.call('HVALS', b .. ':offers')) do
        n = n + tonumber(count)
    end
    return n
end

local function stats(keys, args)
    local b, t = keys[1], now()
    local meta = redis.call('HMGET', b .. ':meta', unpack(COUNTERS))
    local running = redis.call('ZCARD', b .. ':lease') - tonumber(redis.call('HGET', b .. ':meta', 'more_ranks') or 0)
    local f = {waiting = redis.call('ZCARD', b .. ':wait'), running = running,
        delayed = redis.call('ZCARD', b .. ':delayed'), ended = redis.call('ZCARD', b .. ':ended'),
        dead = redis.call('ZCARD', b .. ':dead'), workers = redis.call('ZCARD', b .. ':workers'), oldest_ms = 0,
        paused = redis.call('SISMEMBER', b .. ':paused', 'queue') == 1,
        paused_list = redis.call('SMEMBERS', b .. ':paused'), hooks = redis.call('ZCARD', b .. ':hooks')}
    for i, name in ipairs(COUNTERS) do
        f[name] = tonumber(meta[i] or 0)
    end
    local head = redis.call('ZRANGE', b .. ':wait', 0, 0, 'WITHSCORES')
    if head[2] then
        f.oldest_ms = t - tonumber(head[2])
    end
    local seconds
    f.levels, seconds = levels(b)
    f.offering = offering(b)
    f.mean_run_ms = mean_run_ms(b)
    f.backlog_s = seconds / math.max(1, f.workers)
    f.hist, f.gpu_ms = histograms(b), numbers_of(b .. ':gpu')
    return answer('OK', f)
end

local function workers(keys, args)
    local b, found = keys[1], {}
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', b .. ':workers', now(), '+inf')) do
        local got = redis.call('HGETALL', b .. ':worker:' .. name)
        local w = {}
        for k = 1, #got, 2 do
            w[got[k]] = got[k + 1]
        end
        w.offer, w.claim, w.claimed, w.untold, w.gens = nil, nil, nil, nil, nil
        w.name, w.seen_ms, w.quiet = name, tonumber(w.seen_ms), w.quiet == '1'
        found[#found + 1] = w
    end
    return answer('OK', {list = found})
end

local TENANTS_MAX = 1000

local function tenants(keys, args)
    local b, t, list = keys[1], now(), {}
    for i, name in ipairs(redis.call('ZREVRANGE', b .. ':tenants', 0, TENANTS_MAX - 1)) do
        local f = numbers_of(b .. ':tenant:' .. name)
        local today = f.day == math.floor(t / DAY_MS)
        list[i] = {name = name, weight = f.weight or 1, max_running = f.max_running or 0, max_queued = f.max_queued or 0,
            gpu_s_day = (f.gpu_day_ms or 0) / 1000, rate = f.rate or 0, burst = f.burst or 0, waiting = f.n_wait or 0,
            running = f.n_run or 0, used_s_day = today and (f.day_ms or 0) / 1000 or 0,
            paused = redis.call('SISMEMBER', b .. ':paused', 'tenant:' .. name) == 1,
            held = tenant_closed(b, t, name) or ''}
    end
    return answer('OK', {list = list})
end

local function models(keys, args)
    local b, f = keys[1], {models = {}, weights = {}, memory = {}}
    local flat = redis.call('HGETALL', b .. ':model')
    for i = 1, #flat, 2 do
        local what, gen = flat[i]:match('^(%l+):(.+)$')
        f[what == 'cost' and 'models' or 'weights'][gen] = flat[i + 1]
    end
    flat = redis.call('HGETALL', b .. ':offers')
    for i = 1, #flat, 2 do
        local o = parse_offer(flat[i])
        for gen in o.gens:gmatch('[^,]+') do
            local most = f.memory[gen]
            f.memory[gen] = (o.bytes == 0 or most == 0) and 0 or math.max(most or 1, o.bytes)
        end
    end
    return answer('OK', f)
end

------------------------------------------------------------------------------------------------------- why

local CLOSED = {
    paused = {'paused', 'the tenant is paused: none of its jobs is handed out until it is resumed'},
    running = {'tenant_running', 'the tenant has as many jobs running as it may'},
    budget = {'tenant_budget', 'the tenant has used its device seconds of today (UTC); it goes on tomorrow'},
}

local function why_queued(b, t, job, f)
    local paused = b .. ':paused'
    local closed = tenant_closed(b, t, job.tenant)
    if redis.call('SISMEMBER', paused, 'queue') == 1 then
        return 'paused', 'the queue is paused: no job is handed out until it is resumed'
    elseif redis.call('SISMEMBER', paused, 'generator:' .. job.gen) == 1 then
        return 'paused', 'generator ' .. job.gen .. ' is paused: none of its jobs is handed out until it is resumed'
    elseif closed then
        return unpack(CLOSED[closed])
    elseif f.workers == 0 then
        return 'no_worker', 'no worker is running: start a troupe-worker on this queue'
    elseif f.fitting == 0 then
        return 'no_fit', 'none of the ' .. f.workers ..
            ' workers can run it (generator, memory, devices, labels, or told to be quiet)'
    end
    local class = parse_class(job.cls)
    local host = redis.call('HGET', b .. ':job:' .. f.id, 'ghost')
    if class.gmin > 1 and host then
        return 'gang', string.format('it needs %d devices of one host; host %s gathers them: %d are held', class.gmin, host,
            math.max(0, redis.call('HLEN', b .. ':forming:' .. host) - 1))
    elseif f.position == 0 then
        return 'next', 'it is next: the ' .. f.fitting .. ' fitting workers are busy'
    end
    return 'behind', string.format('%d %s before it, %d s of work for %d fitting workers', f.position,
        f.position == 1 and 'job is' or 'jobs are', f.ahead_s, f.fitting)
end

local function why_other(b, t, id, job)
    local error, stage, again = unpack(redis.call('HMGET', b .. ':job:' .. id, 'error', 'stage', 'retry'))
    if job.state == 'delayed' and job.due then
        return 'delayed', string.format('it is to start in %.1f s, not earlier', math.max(0, tonumber(again) - t) / 1000)
    elseif job.state == 'delayed' then
        return 'delayed', string.format('it failed (%s) and is tried again in %.1f s', error or '?',
            math.max(0, tonumber(again) - t) / 1000)
    elseif job.state == 'running' then
        local who = job.ranks and #job.ranks .. ' workers of ' .. job.worker or 'worker ' .. (job.worker or '?')
        return stopping(job) and 'stopping' or 'running', who .. ' runs it' .. (stage and ', stage ' .. stage or '') ..
            (stopping(job) and '; it was asked to stop' or '')
    elseif job.state == 'done' then
        return 'ended', 'it is done'
    end
    return 'ended', error or ('it ended: ' .. job.state)
end

local function why(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = job_of(b, a.id)
    if not job then
        return answer('NOTFOUND')
    end
    local n, ms = position(b, a.id, job)
    local f = {id = a.id, state = job.state, tenant = job.tenant, position = n, ahead = math.max(0, n), ahead_s = ms / 1000}
    f.workers, f.fitting = redis.call('ZCARD', b .. ':workers'), workers_for(b, parse_class(job.cls))
    f.start_s = start_s(b, job, ms, f.fitting)
    if job.state == 'queued' then
        f.reason, f.why = why_queued(b, t, job, f)
    else
        f.reason, f.why = why_other(b, t, a.id, job)
    end
    return answer('OK', f)
end

------------------------------------------------------------------------------------------------------- contents

-- As text: a number's reply would have none to read.
local function version()
    return tostring(VERSION)
end

-- {name, function}. (While loading there is no pairs, only #.)
local READ = {{'version', version}, {'get', get}, {'list', list}, {'why', why}, {'stats', stats}, {'workers', workers},
    {'tenants', tenants}, {'models', models}, {'hooks', hooks}}
local WRITE = {{'submit', submit}, {'claim', claim}, {'renew', renew}, {'progress', progress}, {'settle', settle},
    {'release', release}, {'cancel', cancel}, {'expire', expire}, {'retry', retry}, {'redrive', redrive},
    {'delete', delete}, {'forgot', forgot}, {'purge', purge}, {'pause', pause}, {'tenant', tenant}, {'hello', hello},
    {'bye', bye}, {'quiet', quiet}, {'hook_take', hook_take}, {'hook_done', hook_done}}

for i = 1, #READ do
    redis.register_function{function_name = 'troupe_' .. READ[i][1], callback = READ[i][2], flags = {'no-writes'}}
end
for i = 1, #WRITE do
    redis.register_function('troupe_' .. WRITE[i][1], WRITE[i][2])
end
