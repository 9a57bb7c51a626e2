-- queue_people.lua -- what the queue says to people: stats, workers, why; and the library's table of contents.
-- The second half of queue.lua: the build puts both into one library.

------------------------------------------------------------------------------------------------------- for people

local COUNTERS = {'n_submitted', 'n_done', 'n_failed', 'n_cancelled', 'n_timed_out', 'n_retried', 'n_released',
    'n_expired', 'n_lost', 'n_late', 'run_ms'}

local function stats(keys, args)
    local b, t = keys[1], now()
    local meta = redis.call('HMGET', b .. ':meta', unpack(COUNTERS))
    local f = {waiting = redis.call('ZCARD', b .. ':wait'), running = redis.call('ZCARD', b .. ':lease'),
        delayed = redis.call('ZCARD', b .. ':delayed'), ended = redis.call('ZCARD', b .. ':ended'),
        paused = redis.call('HGET', b .. ':meta', 'paused') == '1', workers = worker_count(b, t), oldest_ms = 0}
    for i, name in ipairs(COUNTERS) do
        f[name] = tonumber(meta[i] or 0)
    end
    local head = redis.call('ZRANGE', b .. ':wait', 0, 0)[1]
    if head then
        f.oldest_ms = t - tonumber(redis.call('HGET', b .. ':job:' .. head, 'sub') or t)
    end
    f.mean_run_ms = mean_run_ms(b)
    f.backlog_s = f.waiting * f.mean_run_ms / 1000 / math.max(1, f.workers)
    return answer('OK', f)
end

local function workers(keys, args)
    local b, found = keys[1], {}
    local flat = redis.call('ZRANGE', b .. ':workers', 0, -1, 'WITHSCORES')
    for i = 1, #flat, 2 do
        local got = redis.call('HGETALL', b .. ':worker:' .. flat[i])
        if #got == 0 then
            redis.call('ZREM', b .. ':workers', flat[i])
        else
            local w = {}
            for k = 1, #got, 2 do
                w[got[k]] = got[k + 1]
            end
            w.name, w.seen_ms, w.quiet = flat[i], tonumber(flat[i + 1]), w.quiet == '1'
            found[#found + 1] = w
        end
    end
    return answer('OK', {list = found})
end

local function fitting_workers(b, job)
    local all, fit = 0, 0
    for _, name in ipairs(redis.call('ZRANGE', b .. ':workers', 0, -1)) do
        local w = redis.call('HMGET', b .. ':worker:' .. name, 'generators', 'memory_bytes', 'quiet')
        if w[1] then
            all = all + 1
            local bytes = tonumber(w[2] or 0) or 0
            if has_word(w[1], job.gen) and (bytes == 0 or tonumber(job.bytes) <= bytes) and w[3] ~= '1' then
                fit = fit + 1
            end
        end
    end
    return all, fit
end

local function why_queued(b, f, t)
    if redis.call('HGET', b .. ':meta', 'paused') == '1' then
        return 'the queue is paused: no job is handed out until it is resumed'
    elseif f.workers == 0 then
        return 'no worker is running: start a troupe-worker on this queue'
    elseif f.fitting == 0 then
        return 'none of the ' .. f.workers .. ' workers can run it (generator, memory, or told to be quiet)'
    elseif f.position == 0 then
        return 'it is next: the ' .. f.fitting .. ' fitting workers are busy'
    end
    return string.format('%d jobs are before it, about %d s of work', f.position,
        f.position * mean_run_ms(b) / 1000 / f.fitting)
end

local function why(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = job_of(b, a.id, 'gen', 'bytes', 'worker', 'retry', 'error', 'stage', 'stop')
    if not job then
        return answer('NOTFOUND')
    end
    local f = {state = job.state, position = position(b, a.id), ahead = math.max(0, position(b, a.id))}
    f.workers, f.fitting = fitting_workers(b, job)
    if job.state == 'queued' then
        f.why = why_queued(b, f, t)
    elseif job.state == 'delayed' then
        f.why = string.format('it failed (%s) and is tried again in %.1f s', job.error or '?',
            math.max(0, tonumber(job.retry) - t) / 1000)
    elseif job.state == 'running' then
        f.why = 'worker ' .. (job.worker or '?') .. ' runs it' .. (job.stage and ', stage ' .. job.stage or '') ..
            (job.stop and job.stop ~= '0' and '; it was asked to stop' or '')
    elseif job.state == 'done' then
        f.why = 'it is done'
    else
        f.why = job.error or ('it ended: ' .. job.state)
    end
    return answer('OK', f)
end

------------------------------------------------------------------------------------------------------- contents

local function version()
    return VERSION
end

-- {name, function}; workers writes because it forgets who is gone. (While loading there is no pairs, only #.)
local READ = {{'version', version}, {'get', get}, {'list', list}, {'why', why}, {'stats', stats}}
local WRITE = {{'submit', submit}, {'claim', claim}, {'renew', renew}, {'progress', progress}, {'settle', settle},
    {'release', release}, {'cancel', cancel}, {'expire', expire}, {'retry', retry}, {'delete', delete},
    {'purge', purge}, {'pause', pause}, {'hello', hello}, {'bye', bye}, {'quiet', quiet}, {'workers', workers}}

for i = 1, #READ do
    redis.register_function{function_name = 'troupe_' .. READ[i][1], callback = READ[i][2], flags = {'no-writes'}}
end
for i = 1, #WRITE do
    redis.register_function('troupe_' .. WRITE[i][1], WRITE[i][2])
end
