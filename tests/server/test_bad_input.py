"""What only a worker can see in a request: media that look right from outside, checkpoints that are not what they say.

Each row has its job error's code and the exact sentence a person reads. (What the gateway refuses at once, the numeric fields
and bodies among it, is in test_api_bad_input.py.) All media rows run on one cluster, and at its end the same processes serve
a good job. The pictures that are unusual and right are here too: those jobs get done.
"""
import io
import json
import os
import pickle
import shutil
import signal
import struct
import zipfile

import pytest

import media
from api_tools import temporary_folder
from cluster_tools import FACE, ROOT, TINY, Cluster, probe, read

IMAGES = os.path.join(ROOT, "tests", "data", "golden", "image", "files")
KEPT = os.path.join(ROOT, "tests", "data", "media")


def golden(name):
    return read(os.path.join(IMAGES, name))


def kept(name):
    return read(os.path.join(KEPT, name))


def cut(data, part):
    return data[:int(len(data) * part)]


def damaged(data, at=0.5, n=200):
    """Zeros in the middle."""
    i = int(len(data) * at)
    return data[:i] + b"\0" * n + data[i + n:]


def jpeg(width=128, height=128):
    return media.ffmpeg("-f", "png_pipe", "-i", "pipe:0", data=media.png(width, height), form="mjpeg")


def turned(width, height):
    """A JPEG whose EXIF says: turn it by 90 degrees."""
    data = jpeg(width, height)
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x112, 3, 1, 6, 0) + b"\0\0\0\0"
    body = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def video_without_sound():
    return media.ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=64x64:r=10", "-movflags", "frag_keyframe+empty_moov", form="mp4")


def video_with_sound():
    return media.ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=64x64:r=10", "-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac",
                        "-movflags", "frag_keyframe+empty_moov", form="mp4")


def wav_odd(bits=16, channels=1, rate=16000, claim=0, seconds=1):
    """A WAV whose header lies: rate, channels or bits are what is asked for."""
    data = b"\1\2" * int(16000 * seconds) # of 16 bits at 16 kHz
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * bits // 8, max(1, channels * bits // 8), bits)
    return (b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" +
            struct.pack("<I", claim or len(data)) + data)


NAN = float("nan")
DAMAGED = "image: it cannot be decoded (Invalid data found when processing input): the file is damaged or of a kind that is " \
          "not supported; send a PNG or JPEG"
ENDS = DAMAGED.replace("it cannot be decoded", "it ends before the picture does")
NOT_SOUND = "audio: not a sound file that can be read (%s): send WAV, MP3, FLAC, OGG, Opus, M4A or a video with sound"
INVALID_DATA = "Invalid data found when processing input"
NO_STREAM = "audio: the file has no audio stream: send a sound file or a video with sound"
OUTSIDE = "face: the box %s lies outside the picture of 256 x 256 pixels: x,y is its upper left corner, w,h its size"

MEDIA = [ # name, image, audio, fields, code, sentence; functions are called when their row is run
    ("1 x 1 picture", lambda: media.png(1, 1), None, {}, "INVALID",
     "image: 1x1 pixels is too small: at least 8x8 are needed"),
    ("7 x 64 picture", lambda: media.png(7, 64), None, {}, "INVALID",
     "image: 7x64 pixels is too small: at least 8x8 are needed"),
    ("png, header alone", lambda: media.png(64, 64)[:33], None, {}, "MEDIA", DAMAGED),
    ("png cut in the middle", lambda: cut(read(FACE), 0.5), None, {}, "MEDIA", DAMAGED),
    ("png damaged in the middle", lambda: damaged(read(FACE)), None, {}, "MEDIA",
     DAMAGED.replace(INVALID_DATA, "Generic error in an external library")),
    ("jpeg cut in the middle", lambda: cut(jpeg(), 0.5), None, {}, "MEDIA", ENDS),
    ("gif cut in the middle", lambda: cut(kept("anim.gif"), 0.1), None, {}, "MEDIA", DAMAGED),
    ("webp cut in the middle", lambda: cut(media.convert(media.png(99, 99), "webp"), 0.5), None, {}, "MEDIA", DAMAGED),
    ("jpeg head, then noise", lambda: jpeg()[:700] + bytes(range(256)) * 40, None, {}, "MEDIA", ENDS),
    ("png head, then a jpeg", lambda: media.png(64, 64)[:33] + jpeg(), None, {}, "MEDIA", DAMAGED),
    ("sound of no samples", None, lambda: media.wav(0), {}, "MEDIA",
     "audio: the file holds no samples (0 s): at least 0.30 s are needed"),
    ("sound of 0.1 s", None, lambda: media.wav(0.1), {}, "INVALID",
     "audio: 0.10 s is too short: at least 0.30 s are needed"),
    ("sound of one sample", None, lambda: media.wav(1 / 16000), {}, "INVALID",
     "audio: 0.00 s is too short: at least 0.30 s are needed"),
    ("sound of 3 h", None, lambda: wav_odd(bits=8, rate=16, seconds=5.4), {}, "INVALID",
     "audio: 10800.0 s is longer than the limit of 600.0 s: cut it into parts"),
    ("sound of 601 s", None, lambda: media.wav(601, rate=8000), {}, "INVALID",
     "audio: 601.0 s is longer than the limit of 600.0 s: cut it into parts"),
    ("sound of 3 h whose length no header tells", None, lambda: media.ffmpeg(
        "-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono:d=10800", form="flac"), {}, "INVALID",
     "audio: it is longer than the limit of 600.0 s: cut it into parts"),
    ("video without sound", None, video_without_sound, {}, "MEDIA", NO_STREAM),
    ("NaN samples", None, lambda: media.wav_float([0.1] * 9000 + [NAN] + [0.1] * 9000), {}, "MEDIA",
     "audio: sample 9000 is not a finite number: export the sound again"),
    ("infinite samples", None, lambda: media.wav_float([float("inf")] * 16000), {}, "MEDIA",
     "audio: sample 0 is not a finite number: export the sound again"),
    ("wav cut in its header", None, lambda: media.wav(1)[:30], {}, "MEDIA", NOT_SOUND % INVALID_DATA),
    ("wav of no channels", None, lambda: wav_odd(channels=0), {}, "MEDIA", NO_STREAM),
    ("wav at 0 Hz", None, lambda: wav_odd(rate=0), {}, "MEDIA", NOT_SOUND % INVALID_DATA),
    ("mp3 head, then noise", None, lambda: b"ID3\4\0\0\0\0\0\0" + bytes(range(256)) * 40, {}, "MEDIA",
     NOT_SOUND % INVALID_DATA),
    ("flac cut in its header", None, lambda: media.convert(media.wav(1), "flac")[:30], {}, "MEDIA",
     NOT_SOUND % "Input/output error"),
    ("ogg head alone", None, lambda: media.convert(media.wav(1), "ogg")[:60], {}, "MEDIA", NOT_SOUND % "End of file"),
    ("mp4 cut at its table", None, lambda: cut(video_with_sound(), 0.02), {}, "MEDIA", NO_STREAM),
    ("face box outside", None, None, {"face": "5000,5000,10,10"}, "INVALID", OUTSIDE % "5000,5000,10,10"),
    ("face box left of it", None, None, {"face": "-50,0,20,20"}, "INVALID", OUTSIDE % "-50,0,20,20"),
    ("thousandth face", None, None, {"face": "1000"}, "INVALID",
     "face: 55 faces were found in the image, face 1000 is asked for (0 is the largest): give a box x,y,w,h, or auto"),
    ("a blob that went away", None, None, None, "MEDIA", "image: KEY is not on the volume: upload it first"),
]


@pytest.mark.parametrize("name, image, audio, fields, code, sentence", MEDIA, ids=[m[0] for m in MEDIA])
def test_media(shared_cluster, name, image, audio, fields, code, sentence):
    c = shared_cluster
    if fields is None: # an input is deleted while its job waits
        c.workers[0].process.send_signal(signal.SIGSTOP)
        job = c.submit(image=media.png(33, 33))
        key = c.job(job)["params"]["image"]
        os.unlink(os.path.join(c.volume, "blobs", key[7:9], key[7:]))
        sentence = sentence.replace("KEY", key)
        c.workers[0].process.send_signal(signal.SIGCONT)
    else:
        job = c.submit(image=image and image(), audio=audio and audio(), **fields)
    v = c.end_of(job)
    assert (v["state"], v["error"]) == ("failed", {"code": code, "detail": sentence})
    assert v["attempt"] == 1 # the next attempt would fail as well


WORK = [ # name, image, audio, fields, size of the video where it matters
    ("animated gif", lambda: kept("anim.gif"), None, {}, None),
    ("animated png", lambda: kept("anim.png"), None, {}, None),
    ("animated webp", lambda: kept("anim_lossy.webp"), None, {}, None),
    ("16-bit grey", lambda: golden("gray16.png"), None, {}, None),
    ("16-bit colours", lambda: media.png(64, 64, depth=16), None, {}, None),
    ("cmyk", lambda: golden("cmyk.jpg"), None, {}, None),
    ("alpha", lambda: golden("rgba.png"), None, {}, None),
    ("palette with transparency", lambda: golden("palette_transparent.png"), None, {}, None),
    ("two colours", lambda: golden("bilevel.png"), None, {}, None),
    ("as the file lies", lambda: media.png(160, 80), None, {}, (128, 64)),
    ("turned by exif", lambda: turned(160, 80), None, {}, (64, 128)),
    ("the smallest picture", lambda: media.png(8, 8), None, {}, None),
    ("a strip", lambda: media.png(600, 9), None, {}, (64, 64)),
    ("sound of a video", None, video_with_sound, {}, None),
    ("the shortest sound", None, lambda: media.wav(0.31), {}, None),
    ("48 kHz, 6 channels", None, lambda: media.wav(0.5, rate=48000, channels=6), {}, None),
    ("a length the header lies about", None, lambda: wav_odd(claim=0xffffffff), {}, None),
    ("face box over the border", None, None, {"face": "-10,-10,50,5000"}, None),
    ("exact size", None, None, {"size": "80x64"}, (80, 64)),
    ("typed <image>, emoji, 4096 bytes", None, None, {"prompt": "<image> \U0001F600 " + "word " * 800}, None),
]


@pytest.mark.parametrize("name, image, audio, fields, size", WORK, ids=[w[0] for w in WORK])
def test_unusual_and_right(shared_cluster, name, image, audio, fields, size):
    c = shared_cluster
    v = c.done(c.submit(image=image and image(), audio=audio and audio(), num_inference_steps=1, **fields))
    r = v["result"]
    assert r["frames"] == 9
    if size:
        assert (r["width"], r["height"]) == size


def test_the_same_processes_serve_a_good_job(shared_cluster, tmp_path):
    """The last of this cluster's tests."""
    c = shared_cluster
    assert c.workers[0].process.poll() is None and c.dispatcher.process.poll() is None
    job = c.submit()
    v = c.done(job)
    assert v["worker"] == c.workers[0].name and v["attempt"] == 1
    path = tmp_path / "v.mp4"
    path.write_bytes(c.video(job))
    assert int(probe(str(path))["video"]["nb_read_frames"]) == 9
    assert os.listdir(os.path.join(c.volume, "tmp")) == []
    log = c.workers[0].log()
    assert log.count("event=ready") == 1


# ---- checkpoints: each is the tiny one with one file changed ----

DIT = "hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states.pt"
CLIP = "text_encoder_2/model.safetensors"


def header_changed(change):
    """The CLIP file with change(its header) instead of the header."""
    raw = read(os.path.join(TINY, CLIP))
    n = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + n])
    change(head)
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + n:]


def transpose(head):
    t = head["text_model.embeddings.position_embedding.weight"]
    t["shape"] = t["shape"][::-1]


def rename(head):
    head["text_model.final_layer_norm.wight"] = head.pop("text_model.final_layer_norm.weight")


def reach_beyond(head):
    last = max((t for k, t in head.items() if k != "__metadata__"), key=lambda t: t["data_offsets"][1])
    last["shape"] = [last["shape"][0] * 1000] + last["shape"][1:]
    last["data_offsets"][1] = last["data_offsets"][0] + (last["data_offsets"][1] - last["data_offsets"][0]) * 1000


def with_pickle(data):
    """The transformer's file with another pickle in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(os.path.join(TINY, DIT)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            new.writestr(item.filename, data if item.filename.endswith("/data.pkl") else old.read(item))
    return out.getvalue()


class Calls:
    """Pickled, it is the order to call a function with words."""

    def __init__(self, function, *words):
        self.what = (function, words)

    def __reduce__(self):
        return self.what


def calling(marker, function):
    words = {os.system: "touch " + marker, eval: "open(%r, 'w')" % marker, exec: "open(%r, 'w')" % marker}
    return with_pickle(pickle.dumps({"module": Calls(function, words[function])}, 2))


def hidden_call(marker):
    """The call stands as the arguments of an allowed one."""
    return with_pickle(b"\x80\x02}X\x06\0\0\0moduleccollections\nOrderedDict\ncposix\nsystem\n(X" +
                       struct.pack("<I", len("touch " + marker)) + b"touch " + marker.encode() + b"tR\x85Rs.")


IN_DIT, IN_CLIP = "dit: CKPTS/" + DIT + ": ", "clip: CKPTS/" + CLIP + ": "
REFUSED = IN_DIT + "refuses to call %s: this file is not a plain checkpoint"

CKPTS = [ # name, file, its new content from (old content, marker's path), code, sentence
    ("transformer empty", DIT, lambda old, m: b"", "FORMAT",
     IN_DIT + "neither a safetensors file nor a PyTorch zip (0 bytes)"),
    ("transformer cut off", DIT, lambda old, m: cut(old, 0.9), "FORMAT",
     IN_DIT + "no zip directory at the end: the file is cut off"),
    ("transformer of zeros", DIT, lambda old, m: b"\0" * 10000, "FORMAT",
     IN_DIT + "neither a safetensors file nor a PyTorch zip (10000 bytes)"),
    ("pickle calls os.system", DIT, lambda old, m: calling(m, os.system), "FORMAT", REFUSED % "posix.system"),
    ("pickle calls eval", DIT, lambda old, m: calling(m, eval), "FORMAT", REFUSED % "__builtin__.eval"),
    ("pickle calls exec", DIT, lambda old, m: calling(m, exec), "FORMAT", REFUSED % "__builtin__.exec"),
    ("pickle hides a call", DIT, lambda old, m: hidden_call(m), "FORMAT", REFUSED % "posix.system"),
    ("pickle without an end", DIT, lambda old, m: with_pickle(b"\x80\x02}q\0"), "FORMAT",
     IN_DIT + "pickle, byte 5: it ends without its STOP"),
    ("safetensors cut off", CLIP, lambda old, m: cut(old, 0.9), "FORMAT",
     IN_CLIP + "vision_model.embeddings.patch_embedding.weight: data ends at byte 174738 of 161741: the file is cut off"),
    ("safetensors, head alone", CLIP, lambda old, m: old[:5], "FORMAT",
     IN_CLIP + "5 bytes are too few for a safetensors file"),
    ("safetensors with a huge header", CLIP, lambda old, m: b"\xff" * 8 + old[8:], "FORMAT",
     IN_CLIP + "the header's length 18446744073709551615 is beyond the file (187410 bytes) or the limit"),
    ("tensor of another shape", CLIP, lambda old, m: header_changed(transpose), "WEIGHTS",
     "clip: text model: text_model.embeddings.position_embedding.weight is f16 [48, 77], wanted f32 [48, 48]"),
    ("tensor of another name", CLIP, lambda old, m: header_changed(rename), "WEIGHTS",
     "clip: text model: text_model.final_layer_norm.weight is missing; text_model.final_layer_norm.wight is not a part of it"),
    ("tensor beyond the file", CLIP, lambda old, m: header_changed(reach_beyond), "FORMAT",
     IN_CLIP + "visual_projection.weight: data ends at byte 1714946 of 180482: the file is cut off"),
    ("config that is no JSON", "whisper-tiny/config.json", lambda old, m: b"{d_model: 3", "FORMAT",
     "audio_encoder: CKPTS/whisper-tiny/config.json: JSON: line 1, column 2: string or '}' expected near 'd'"),
    ("tokenizer that is no JSON", "llava_llama_image/tokenizer.json", lambda old, m: old[:1000], "FORMAT",
     "text_encoder: CKPTS/llava_llama_image/tokenizer.json: JSON: line 47, column 5: string or '}' expected near end of "
     "file"),
]


@pytest.fixture(scope="module")
def bad_cluster(need_worker):
    path, remove = temporary_folder()
    c = Cluster(path)
    yield c
    c.stop()
    remove()


def copy_of_tiny(folder, file, content):
    path = os.path.join(folder, "ckpts")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(TINY, path, copy_function=os.symlink)
    os.unlink(os.path.join(path, file))
    if content is not None:
        with open(os.path.join(path, file), "wb") as f:
            f.write(content)
    return path


@pytest.mark.parametrize("name, file, change, code, sentence", CKPTS, ids=[k[0] for k in CKPTS])
def test_checkpoint(bad_cluster, name, file, change, code, sentence):
    c = bad_cluster
    marker = os.path.join(c.folder, "marker")
    ckpts = copy_of_tiny(c.folder, file, change(read(os.path.join(TINY, file)), marker))
    w = c.worker(ckpts=ckpts)
    v = c.end_of(c.submit(num_inference_steps=1))
    assert w.stop() == 0 # it was still there
    assert not os.path.exists(marker)
    assert (v["state"], v["error"]) == ("failed", {"code": code, "detail": sentence.replace("CKPTS", ckpts)})


@pytest.mark.parametrize("make", [lambda m: calling(m, os.system), lambda m: calling(m, eval), lambda m: calling(m, exec),
                                  hidden_call], ids=["os.system", "eval", "exec", "hidden"])
def test_the_pickles_are_armed(tmp_path, make):
    """Python would run what they hold."""
    marker = str(tmp_path / "marker")
    with zipfile.ZipFile(io.BytesIO(make(marker))) as z:
        data = z.read([n for n in z.namelist() if n.endswith("/data.pkl")][0])
    try:
        pickle.loads(data)
    except TypeError:
        pass # behind the call
    assert os.path.exists(marker)


@pytest.mark.parametrize("file, sentence", [
    (None, "ckpts: CKPTS is not there or not readable; expected is the published folder with hunyuan-video-t2v-720p, "
     "llava_llama_image, text_encoder_2, whisper-tiny and det_align in it"),
    (DIT, "ckpts: 1 file is missing in CKPTS: " + DIT),
    ("text_encoder_2/vocab.json", "ckpts: 1 file is missing in CKPTS: text_encoder_2/vocab.json"),
], ids=["no folder", "no transformer", "no vocabulary"])
def test_checkpoint_that_is_not_there(bad_cluster, file, sentence):
    c = bad_cluster
    ckpts = copy_of_tiny(c.folder, file, None) if file else "/nowhere/ckpts"
    w = c.worker(ckpts=ckpts, wait=False)
    assert w.process.wait(20) == 1
    assert 'code=WEIGHTS why="%s"' % sentence.replace("CKPTS", ckpts) in w.log()


def test_a_good_checkpoint_after_all_these(bad_cluster):
    bad_cluster.worker()
    bad_cluster.done(bad_cluster.submit(num_inference_steps=1))
