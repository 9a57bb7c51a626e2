"""queue_others.py NAME through|pickup SOCKET JOBS: other queues under the same load as queue_load.c, for queue.py.

NAME: bullmq, rq, arq (Python packages, on the redis-server at SOCKET) or beanstalkd (SOCKET is its own). "through": empty
jobs submitted, taken and acknowledged, as fast as the library's own client and one worker process do it. "pickup": a worker
waits, jobs are submitted one by one; microseconds until the worker has it. A line of JSON.
"""
import asyncio
import json
import multiprocessing
import socket
import sys
import time

PICKED = "bench:picked"
GAP_S = 0.003


def report(jobs, seconds=None, picked=None):
    if picked is None:
        print(json.dumps({"jobs": jobs, "seconds": round(seconds, 3), "per_s": round(jobs / seconds)}))
    else:
        picked = sorted(round(float(p) * 1e6) for p in picked)
        print(json.dumps({"jobs": len(picked), "p50_us": picked[len(picked) // 2], "p99_us": picked[len(picked) * 99 // 100],
                          "max_us": picked[-1]}))


def empty(sent=0):
    return None


# ---- rq ----

def rq_note(sent):
    from rq import get_current_job
    took = time.monotonic() - sent
    get_current_job().connection.rpush(PICKED, took)


def rq_work(path, burst):
    import redis
    from rq import Queue, SimpleWorker
    connection = redis.Redis(unix_socket_path=path)
    SimpleWorker([Queue(connection=connection)], connection=connection).work(burst=burst, logging_level="ERROR")


def run_rq(what, path, jobs):
    import queue_others  # rq takes no functions of __main__
    import redis
    from rq import Queue
    connection = redis.Redis(unix_socket_path=path)
    queue = Queue(connection=connection)
    if what == "through":
        began = time.monotonic()
        for at in range(0, jobs, 500):
            queue.enqueue_many([Queue.prepare_data(queue_others.empty) for _ in range(min(500, jobs - at))])
        rq_work(path, True)
        return report(jobs, time.monotonic() - began)
    worker = multiprocessing.Process(target=rq_work, args=(path, False), daemon=True)
    worker.start()
    time.sleep(1)
    for _ in range(jobs):
        queue.enqueue(queue_others.rq_note, time.monotonic())
        time.sleep(GAP_S)
    return finish(connection, jobs, worker)


def finish(connection, jobs, worker):
    deadline = time.monotonic() + 30
    while connection.llen(PICKED) < jobs and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.kill()
    return report(jobs, picked=connection.lrange(PICKED, 0, -1))


# ---- arq ----

async def arq_empty(context):
    return None


async def arq_note(context, sent):
    await context["redis"].rpush(PICKED, time.monotonic() - sent)


def arq_settings(path):
    from arq.connections import RedisSettings
    return RedisSettings(unix_socket_path=path)


async def arq_run(path, burst):
    from arq.worker import Worker
    worker = Worker(functions=[arq_empty, arq_note], redis_settings=arq_settings(path), burst=burst, max_jobs=100,
                    handle_signals=False, keep_result=0)
    await worker.async_run()


def arq_work(path):
    asyncio.run(arq_run(path, False))


async def arq_through(path, jobs):
    from arq import create_pool
    pool = await create_pool(arq_settings(path))
    began = time.monotonic()
    for at in range(0, jobs, 100):
        await asyncio.gather(*[pool.enqueue_job("arq_empty") for _ in range(min(100, jobs - at))])
    await arq_run(path, True)
    report(jobs, time.monotonic() - began)


async def arq_pickup(path, jobs):
    from arq import create_pool
    pool = await create_pool(arq_settings(path))
    for _ in range(jobs):
        await pool.enqueue_job("arq_note", time.monotonic())
        await asyncio.sleep(GAP_S)


def run_arq(what, path, jobs):
    import redis
    if what == "through":
        return asyncio.run(arq_through(path, jobs))
    worker = multiprocessing.Process(target=arq_work, args=(path,), daemon=True)
    worker.start()
    time.sleep(1)
    asyncio.run(arq_pickup(path, jobs))
    return finish(redis.Redis(unix_socket_path=path), jobs, worker)


# ---- bullmq ----

async def bullmq_both(what, path, jobs):
    from bullmq import Queue, Worker
    url, picked, over = "unix://" + path, [], asyncio.Event()
    queue = Queue("bench", {"connection": url})

    async def process(job, token):
        picked.append(time.monotonic() - job.data["sent"])
        if len(picked) == jobs:
            over.set()

    began = time.monotonic()
    options = {"connection": url, "concurrency": 64}
    if what == "through":
        for at in range(0, jobs, 500):
            await queue.addBulk([{"name": "x", "data": {"sent": 0.0}, "opts": {"removeOnComplete": True}}
                                 for _ in range(min(500, jobs - at))])
        worker = Worker("bench", process, options)
    else:
        worker = Worker("bench", process, options)
        await asyncio.sleep(1)
        for _ in range(jobs):
            await queue.add("x", {"sent": time.monotonic()}, {"removeOnComplete": True})
            await asyncio.sleep(GAP_S)
    await asyncio.wait_for(over.wait(), 200)
    took = time.monotonic() - began
    await worker.close(True)
    await queue.close()
    report(jobs, took, picked if what == "pickup" else None)


def run_bullmq(what, path, jobs):
    asyncio.run(bullmq_both(what, path, jobs))


# ---- beanstalkd ----

class Beanstalk:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def line(self):
        return self.file.readline().split()

    def reserved(self):
        word, id, size = self.line()
        assert word == b"RESERVED", word
        return id, self.file.read(int(size) + 2)[:-2]


def beanstalk_work(path, jobs, answers):
    b, picked = Beanstalk(path), []
    for _ in range(jobs):
        b.socket.sendall(b"reserve\r\n")
        id, body = b.reserved()
        picked.append(time.monotonic() - float(body))
        b.socket.sendall(b"delete %b\r\n" % id)
        b.line()
    answers.put(picked)


def run_beanstalkd(what, path, jobs):
    b = Beanstalk(path)
    if what == "pickup":
        answers = multiprocessing.Queue()
        multiprocessing.Process(target=beanstalk_work, args=(path, jobs, answers), daemon=True).start()
        time.sleep(0.5)
        for _ in range(jobs):
            body = b"%.9f" % time.monotonic()
            b.socket.sendall(b"put 0 0 60 %d\r\n%b\r\n" % (len(body), body))
            b.line()
            time.sleep(GAP_S)
        return report(jobs, picked=answers.get())
    began, depth = time.monotonic(), 64
    for at in range(0, jobs, depth):
        n = min(depth, jobs - at)
        b.socket.sendall(b"put 0 0 60 2\r\n{}\r\n" * n + b"reserve\r\n" * n)
        for _ in range(n):
            b.line()
        ids = [b.reserved()[0] for _ in range(n)]
        b.socket.sendall(b"".join(b"delete %b\r\n" % id for id in ids))
        for _ in range(n):
            b.line()
    return report(jobs, time.monotonic() - began)


if __name__ == "__main__":
    {"rq": run_rq, "arq": run_arq, "bullmq": run_bullmq, "beanstalkd": run_beanstalkd}[sys.argv[1]](
        sys.argv[2], sys.argv[3], int(sys.argv[4]))
