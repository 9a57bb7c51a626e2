"""Workers that share a job (--gang): one video, equal to that of one worker; cancelled together; a rank that dies or stops.

The workers of these tests share guidance rows and tiles (what the traffic model takes for two of them on Unix sockets), which
changes no bit of a result.
"""
import os
import re
import signal
import time

import pytest

from cluster_tools import until

FLAGS = ("--gang", "--threads", "1", "--lease-s", "4", "--renew-s", "0.5") # a lease that a loaded machine can keep
LONG = dict(num_inference_steps=100, num_frames=9, devices=2)


def pair(cluster, **names):
    return [cluster.worker(*FLAGS, name=name) for name in names.get("names", ("a", "b"))]


def ranks_of(workers):
    """{rank: worker} of the last gang that both were in."""
    found = {}
    for w in workers:
        lines = re.findall(r"event=gang .*rank=(\d)", w.log())
        if lines:
            found[int(lines[-1])] = w
    return found


def formed(workers):
    return until(lambda: len(ranks_of(workers)) == 2 and ranks_of(workers), 30)


def test_two_make_the_video_of_one(cluster):
    workers = pair(cluster)
    alone = cluster.done(cluster.submit(num_frames=20, num_inference_steps=3))
    job = cluster.submit(num_frames=20, num_inference_steps=3, devices=2)
    v = cluster.done(job)
    assert (v["attempt"], v["fails"], v["deaths"]) == (1, 0, 0), cluster.logs()
    assert cluster.video(job) == cluster.video(alone["id"])
    assert sorted(ranks_of(workers)) == [0, 1]
    assert len([n for n in os.listdir(os.path.join(cluster.volume, "results", job)) if n.endswith(".mp4")]) == 1
    assert not [n for n in os.listdir(os.path.join(cluster.volume, "tmp")) if n.startswith("g-")]
    # A seed of nobody's choice is one seed for both, and both are free again.
    v = cluster.done(cluster.submit(devices=2, seed=-1))
    assert v["attempt"] == 1
    for _ in range(2):
        cluster.done(cluster.submit(num_inference_steps=1))


def test_nobody_else_takes_it(cluster):
    """A worker without --gang leaves it; why says what is missing."""
    cluster.worker("--threads", "1", name="single")
    job = cluster.submit(devices=2)
    cluster.done(cluster.submit(num_inference_steps=1))
    assert cluster.job(job)["state"] == "queued"
    pair(cluster)
    cluster.done(job)


def test_cancel_stops_both(cluster):
    workers = pair(cluster)
    job = cluster.submit(**LONG)
    formed(workers)  # a rank that was not told yet has nothing to end
    cluster.running(job)
    began = time.time()
    assert cluster.cancel(job).status in (200, 202)
    # rank 0 gives it back when the other one heard of the cancel first: the queue makes it cancelled all the same
    ends = ("part of a job ended", "job ended", "job given back")
    until(lambda: all(any(end in w.log() for end in ends) for w in workers), 20)
    gone = time.time() - began
    assert cluster.job(job)["state"] == "cancelled"
    assert gone < 5, gone
    cluster.done(cluster.submit(devices=2))


def test_cancel_while_it_gathers(cluster):
    """The moment it runs, perhaps before each rank was told: nobody stays in it."""
    pair(cluster)
    for _ in range(3):
        job = cluster.submit(**LONG)
        cluster.running(job)
        assert cluster.cancel(job).status in (200, 202)
        assert cluster.end_of(job, 20)["state"] == "cancelled"
    v = cluster.done(cluster.submit(devices=2))
    assert v["deaths"] == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_frees_the_other_within_a_second(cluster, rank):
    workers = pair(cluster)
    job = cluster.submit(**{**LONG, "num_inference_steps": 20})
    ranks = formed(workers)
    cluster.running(job)
    other = ranks[1 - rank]
    before = other.log().count("ended")
    ranks[rank].kill()
    died = time.time()
    until(lambda: other.log().count("ended") > before, 10, 0.005)
    gone = time.time() - died
    assert gone < 1, "the other rank worked on for %.2f s" % gone
    assert "rank %d is gone" % rank in other.log()
    new = cluster.worker(*FLAGS, name="c")
    v = cluster.done(job)
    assert v["attempt"] == 2 and v["fails"] + v["deaths"] == 1, v
    assert sorted(ranks_of([other, new])) == [0, 1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_gives_the_job_back(cluster, rank):
    workers = pair(cluster)
    job = cluster.submit(**{**LONG, "num_inference_steps": 20})
    ranks = formed(workers)
    cluster.running(job)
    ranks[rank].process.send_signal(signal.SIGTERM)
    assert ranks[rank].process.wait(20) == 0
    until(lambda: cluster.job(job)["state"] == "queued", 10)
    cluster.worker(*FLAGS, name="c")
    v = cluster.done(job)
    assert (v["fails"], v["deaths"]) == (0, 0), v
