"""Bad requests: each with its status, its field, and the exact sentence a person reads. The dispatcher stays up."""
import base64
import json
import os
import struct

import pytest

from api_tools import png, wav

IMAGE, AUDIO = png(8, 8), wav(0.5)
KEY = "sha256:" + "0" * 64


def b64(data):
    return base64.b64encode(data).decode()


def jpeg_claiming(w, h):
    return b"\xff\xd8\xff\xe0\x00\x04\x00\x00\xff\xc0" + struct.pack(">HBHHB", 17, 8, h, w, 3) + b"\0" * 40


def webp_claiming(w, h):
    return (b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (w - 1).to_bytes(3, "little") +
            (h - 1).to_bytes(3, "little") + b"\0" * 10)


NOT_AN_IMAGE = "image: not a PNG, JPEG, WebP or GIF file; convert the picture to one of them"
NOT_SOUND = "audio: not a sound file that is known here; WAV, MP3, FLAC, Ogg, Opus, M4A, AAC, WebM are"
CUT = "image: the file is cut off or damaged: no picture size is in it"

MEDIA = [ # name, image, audio, sentence
    ("empty image", b"", AUDIO, "image: the file is empty"),
    ("empty audio", IMAGE, b"", "audio: the file is empty"),
    ("text as image", b"hello, this is text and not a picture at all", AUDIO, NOT_AN_IMAGE),
    ("one byte", b"\x89", AUDIO, NOT_AN_IMAGE),
    ("sound as image", AUDIO, AUDIO, NOT_AN_IMAGE),
    ("picture as audio", IMAGE, IMAGE, NOT_SOUND),
    ("text as audio", IMAGE, b"once upon a time there was a king", NOT_SOUND),
    ("zeros as audio", IMAGE, b"\0" * 10000, NOT_SOUND),
    ("bmp", b"BM" + b"\0" * 100, AUDIO, NOT_AN_IMAGE),
    ("heic", b"\0\0\0\x18ftypheic" + b"\0" * 100, AUDIO, NOT_AN_IMAGE),
    ("png of 60,000 squared", png(4, 4, (60000, 60000)), AUDIO,
     "image: 60000 x 60000 is 3600 megapixels, at most 40 are allowed; scale it down"),
    ("png of 2^31", png(4, 4, (2 ** 31 - 1, 2 ** 31 - 1)), AUDIO,
     "image: 2147483647 x 2147483647 is 4611686014132 megapixels, at most 40 are allowed; scale it down"),
    ("png of 0", png(4, 4, (0, 5)), AUDIO, "image: 0 x 5 pixels is not a picture"),
    ("png cut", IMAGE[:20], AUDIO, CUT),
    ("jpeg too large", jpeg_claiming(9000, 9000), AUDIO,
     "image: 9000 x 9000 is 81 megapixels, at most 40 are allowed; scale it down"),
    ("jpeg cut", b"\xff\xd8\xff\xe0\x00\x10JFIF\0" + b"\0" * 9, AUDIO, CUT),
    ("jpeg without a frame", b"\xff\xd8\xff\xda\x00\x08" + b"\0" * 90, AUDIO, CUT),
    ("gif cut", b"GIF89a\x01", AUDIO, CUT),
    ("webp too large", webp_claiming(16000, 16000), AUDIO,
     "image: 16000 x 16000 is 256 megapixels, at most 40 are allowed; scale it down"),
    ("webp cut", b"RIFF\x20\0\0\0WEBPVP8 ", AUDIO, CUT),
]


@pytest.mark.parametrize("name, image, audio, sentence", MEDIA, ids=[m[0] for m in MEDIA])
@pytest.mark.parametrize("way", ["form", "json", "blob"])
def test_media(shared, way, name, image, audio, sentence):
    if way == "form":
        a = shared.client.form("/v1/jobs", [("image", ("i", image)), ("audio", ("a", audio))])
    elif way == "json":
        a = shared.client("POST", "/v1/jobs", {"image": "data:;base64," + b64(image),
                                               "audio": "data:;base64," + b64(audio)})
    else:
        if not image or not audio: # such a blob cannot even be stored
            assert shared.client("POST", "/v1/blobs", b"").status == 422
            return
        keys = [shared.client("POST", "/v1/blobs", data).json["key"] for data in (image, audio)]
        a = shared.client("POST", "/v1/jobs", {"image": keys[0], "audio": keys[1]})
    assert (a.status, a.json["detail"]) == (422, sentence)
    assert a.json["field"] == sentence.split(":")[0] and a.json["code"] == "MEDIA" and a.json["status"] == 422
    assert a.headers["Content-Type"] == "application/problem+json"


FIELDS = [ # field, value, sentence
    ("num_inference_steps", 0, "num_inference_steps: 0 is not allowed; a whole number from 1 to 100 is"),
    ("num_inference_steps", 101, "num_inference_steps: 101 is not allowed; a whole number from 1 to 100 is"),
    ("num_inference_steps", -1, "num_inference_steps: -1 is not allowed; a whole number from 1 to 100 is"),
    ("num_inference_steps", 1.5, "num_inference_steps: 1.5 is not allowed; a whole number from 1 to 100 is"),
    ("num_inference_steps", "ten", "num_inference_steps: \"ten\" is not allowed; a whole number from 1 to 100 is"),
    ("num_inference_steps", True, "num_inference_steps: true is not allowed; a whole number from 1 to 100 is"),
    ("num_inference_steps", [], "num_inference_steps: a list is not allowed; a whole number from 1 to 100 is"),
    ("num_inference_steps", {}, "num_inference_steps: an object is not allowed; a whole number from 1 to 100 is"),
    ("num_inference_steps", 4611686018427387904,
     "num_inference_steps: 4611686018427387904 is not allowed; a whole number from 1 to 100 is"),
    ("guidance_scale", -0.1, "guidance_scale: -0.1 is not allowed; a number from 0 to 20 is"),
    ("guidance_scale", 20.01, "guidance_scale: 20.01 is not allowed; a number from 0 to 20 is"),
    ("guidance_scale", "high", "guidance_scale: \"high\" is not allowed; a number from 0 to 20 is"),
    ("guidance_scale", 1e+308, "guidance_scale: 1e+308 is not allowed; a number from 0 to 20 is"),
    ("guidance_scale", True, "guidance_scale: true is not allowed; a number from 0 to 20 is"),
    ("flow_shift", 0, "flow_shift: 0 is not allowed; a number from 0.1 to 20 is"),
    ("flow_shift", 20.5, "flow_shift: 20.5 is not allowed; a number from 0.1 to 20 is"),
    ("flow_shift", "x", "flow_shift: \"x\" is not allowed; a number from 0.1 to 20 is"),
    ("seed", -2, "seed: -2 is not allowed; a whole number from -1 to 9223372036854775807 is"),
    ("seed", 0.5, "seed: 0.5 is not allowed; a whole number from -1 to 9223372036854775807 is"),
    ("seed", "abc", "seed: \"abc\" is not allowed; a whole number from -1 to 9223372036854775807 is"),
    ("seed", False, "seed: false is not allowed; a whole number from -1 to 9223372036854775807 is"),
    ("fps", 24, "fps: 24 is not allowed; one of 12.5|25 is"),
    ("fps", 0, "fps: 0 is not allowed; one of 12.5|25 is"),
    ("fps", -25, "fps: -25 is not allowed; one of 12.5|25 is"),
    ("fps", 30, "fps: 30 is not allowed; one of 12.5|25 is"),
    ("fps", "25 fps", "fps: \"25 fps\" is not allowed; one of 12.5|25 is"),
    ("num_frames", 0, "num_frames: 0 is not allowed; a whole number from 1 to 100000 is"),
    ("num_frames", -5, "num_frames: -5 is not allowed; a whole number from 1 to 100000 is"),
    ("num_frames", 100001, "num_frames: 100001 is not allowed; a whole number from 1 to 100000 is"),
    ("num_frames", 2.5, "num_frames: 2.5 is not allowed; a whole number from 1 to 100000 is"),
    ("size", 0,
     "size: 0 is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16 in that range is"),
    ("size", 32,
     "size: 32 is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16 in that range is"),
    ("size", 1025,
     "size: 1025 is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16 in"
     " that range is"),
    ("size", "9x9",
     "size: \"9x9\" is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16"
     " in that range is"),
    ("size", "704x",
     "size: \"704x\" is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16"
     " in that range is"),
    ("size", "x704",
     "size: \"x704\" is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16"
     " in that range is"),
    ("size", "512x2000",
     "size: \"512x2000\" is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of"
     " 16 in that range is"),
    ("size", "100x100",
     "size: \"100x100\" is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of"
     " 16 in that range is"),
    ("size", "big",
     "size: \"big\" is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16"
     " in that range is"),
    ("size", 704.5,
     "size: 704.5 is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16 in"
     " that range is"),
    ("face", "left",
     "face: \"left\" is not allowed; auto, none, required, an index from 0, or x,y,w,h in pixels of"
     " the image is"),
    ("face", "1,2,3",
     "face: \"1,2,3\" is not allowed; auto, none, required, an index from 0, or x,y,w,h in pixels"
     " of the image is"),
    ("face", "0,0,0,5",
     "face: \"0,0,0,5\" is not allowed; auto, none, required, an index from 0, or x,y,w,h in pixels"
     " of the image is"),
    ("face", "-1",
     "face: \"-1\" is not allowed; auto, none, required, an index from 0, or x,y,w,h in pixels of"
     " the image is"),
    ("face", "1,2,3,4,5",
     "face: \"1,2,3,4,5\" is not allowed; auto, none, required, an index from 0, or x,y,w,h in"
     " pixels of the image is"),
    ("face", "a,b,c,d",
     "face: \"a,b,c,d\" is not allowed; auto, none, required, an index from 0, or x,y,w,h in pixels"
     " of the image is"),
    ("face", 99999,
     "face: 99999 is not allowed; auto, none, required, an index from 0, or x,y,w,h in pixels of the image is"),
    ("face", "1,2,nan,4",
     "face: \"1,2,nan,4\" is not allowed; auto, none, required, an index from 0, or x,y,w,h in"
     " pixels of the image is"),
    ("preset", "huge", "preset: \"huge\" is not allowed;"
     " one of auto|emergency|ultra_minimal|ultra_low|low|balanced|high|max|cpu is"),
    ("preset", 3, "preset: 3 is not allowed;"
     " one of auto|emergency|ultra_minimal|ultra_low|low|balanced|high|max|cpu is"),
    ("prompt", 5, "prompt: 5 is not allowed; text of at most 4096 bytes is"),
    ("prompt", "x" * 4097, "prompt: 4097 bytes are not allowed; at most 4096 are"),
    ("prompt", ['a'], "prompt: a list is not allowed; text of at most 4096 bytes is"),
    ("negative_prompt", {}, "negative_prompt: an object is not allowed; text of at most 4096 bytes is"),
    ("negative_prompt", "y" * 4097, "negative_prompt: 4097 bytes are not allowed; at most 4096 are"),
    ("priority", -1, "priority: -1 is not allowed; a whole number from 0 to 9 is"),
    ("priority", 10, "priority: 10 is not allowed; a whole number from 0 to 9 is"),
    ("priority", "x", "priority: \"x\" is not allowed; a whole number from 0 to 9 is"),
    ("tags", 5, "tags: 5 is not allowed; at most 16 words of at most 64 bytes is"),
    ("tags", ["x"] * 17, "tags: 17 are not allowed; at most 16 are"),
    ("tags", ["x" * 65],
     "tags: \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...\" is not allowed; at"
     " most 16 words of at most 64 bytes is"),
    ("tags", [1], "tags: 1 is not allowed; at most 16 words of at most 64 bytes is"),
    ("deadline_start_s", 0, "deadline_start_s: 0 is not allowed; a number from 0.1 to 2592000 is"),
    ("deadline_start_s", -1, "deadline_start_s: -1 is not allowed; a number from 0.1 to 2592000 is"),
    ("deadline_run_s", 0, "deadline_run_s: 0 is not allowed; a number from 0.1 to 2592000 is"),
    ("deadline_run_s", 1000000000000.0, "deadline_run_s: 1e+12 is not allowed; a number from 0.1 to 2592000 is"),
    ("ttl_s", 0, "ttl_s: 0 is not allowed; a number from 1 to 315360000 is"),
    ("ttl_s", "soon", "ttl_s: \"soon\" is not allowed; a number from 1 to 315360000 is"),
    ("promt", "typo", "promt: there is no such field; did you mean prompt?"),
    ("nonsense", 1, "nonsense: there is no such field; /openapi.json lists those of avatar"),
    ("image", "not base64!",
     "image: \"not base64!\" is not allowed; base64 text, a data: URL or a blob key (sha256:...) is"),
    ("image", "sha256:xyz", "image: a blob key is sha256: and 64 digits of 0-9 a-f"),
    ("image", KEY, "image: no blob " + KEY + " is here; upload it first (POST /v1/blobs)"),
    ("image", "http://example.org/a.png",
     "image: this server fetches no URLs; upload the file (a multipart part, base64, or POST"
     " /v1/blobs and its key)"),
    ("image", "data:image/png,abc", "image: the data: URL is not of the form data:TYPE;base64,DATA"),
    ("image", 5, "image: text is expected: base64, a data: URL or a blob key"),
    ("image", "", "image: \"\" is not allowed; base64 text, a data: URL or a blob key (sha256:...) is"),
    ("image", "QUJ", "image: \"QUJ\" is not allowed; base64 text, a data: URL or a blob key (sha256:...) is"),
    ("audio", [], "audio: text is expected: base64, a data: URL or a blob key"),
    ("audio", "data:audio/wav;base64,*",
     "audio: not base64: character 1 is not of its alphabet or stands behind the end"),
    ("audio", "https://example.org/a.wav",
     "audio: this server fetches no URLs; upload the file (a multipart part, base64, or POST"
     " /v1/blobs and its key)"),
    ("audio", "ftp://x/y",
     "audio: \"ftp://x/y\" is not allowed; base64 text, a data: URL or a blob key (sha256:...) is"),
]


@pytest.mark.parametrize("field, value, sentence", FIELDS, ids=["%s=%s" % (f[0], str(f[1])[:20]) for f in FIELDS])
def test_fields_json(shared, field, value, sentence):
    a = shared.client("POST", "/v1/jobs", {"image": b64(IMAGE), "audio": b64(AUDIO), field: value})
    assert (a.status, a.json["detail"]) == (501 if "fetches no URLs" in sentence else 422, sentence)
    assert a.json["field"] == field


TEXTS = [ # field, text of a form's part, sentence
    ("seed", "1.5", "seed: \"1.5\" is not allowed; a whole number from -1 to 9223372036854775807 is"),
    ("seed", "", "seed: \"\" is not allowed; a whole number from -1 to 9223372036854775807 is"),
    ("seed", "0x10", "seed: \"0x10\" is not allowed; a whole number from -1 to 9223372036854775807 is"),
    ("seed", "99999999999999999999",
     "seed: \"99999999999999999999\" is not allowed; a whole number from -1 to 9223372036854775807 is"),
    ("num_inference_steps", "nan", "num_inference_steps: \"nan\" is not allowed; a whole number from 1 to 100 is"),
    ("guidance_scale", "nan", "guidance_scale: \"nan\" is not allowed; a number from 0 to 20 is"),
    ("guidance_scale", "inf", "guidance_scale: \"inf\" is not allowed; a number from 0 to 20 is"),
    ("guidance_scale", "7,5", "guidance_scale: \"7,5\" is not allowed; a number from 0 to 20 is"),
    ("guidance_scale", " 7", "guidance_scale: \" 7\" is not allowed; a number from 0 to 20 is"),
    ("flow_shift", "1e999", "flow_shift: \"1e999\" is not allowed; a number from 0.1 to 20 is"),
    ("size", "704px",
     "size: \"704px\" is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16"
     " in that range is"),
    ("prompt", b'\xff\xfe', "prompt: the text is not valid UTF-8"),
    ("prompt", b'a\x00b', "prompt: the text is not valid UTF-8"),
    ("prompt", b'\xed\xa0\x80', "prompt: the text is not valid UTF-8"),
    ("face", b'\xc0\x80', "face: the text is not valid UTF-8"),
    ("nonsense", "1", "nonsense: there is no such field; /openapi.json lists those of avatar"),
    ("steps", "4", "steps: there is no such field; /openapi.json lists those of avatar"),
]


@pytest.mark.parametrize("field, value, sentence", TEXTS, ids=["%s=%s" % (f[0], str(f[1])[:20]) for f in TEXTS])
def test_fields_form(shared, field, value, sentence):
    a = shared.client.form("/v1/jobs", [("image", ("i", IMAGE)), ("audio", ("a", AUDIO)), (field, value)])
    assert (a.status, a.json["detail"]) == (422, sentence)


BODIES = [ # name, JSON text, status, sentence
    ("empty", "", 400, "JSON: line 1, column 0: unexpected token near end of file"),
    ("cut", "{", 400, "JSON: line 1, column 1: string or '}' expected near end of file"),
    ("array", "[]", 400, "the body must be a JSON object"),
    ("text", "\"x\"", 400, "the body must be a JSON object"),
    ("null", "null", 400, "the body must be a JSON object"),
    ("number", "5", 400, "the body must be a JSON object"),
    ("two", "{} {}", 400, "JSON: line 1, column 4: end of file expected near '{'"),
    ("duplicate", "{\"seed\": 1, \"seed\": 2}", 400, "JSON: line 1, column 18: duplicate object key near '\"seed\"'"),
    ("deep", "{\"a\":[[[[[[[[[]]]]]]]]]}", 400, "JSON: nested 10 deep, at most 8 is allowed"),
    ("very deep", "[" * 100000 + "]" * 100000, 400, "JSON: nested 100000 deep, at most 8 is allowed"),
    ("bad utf-8", b'{"prompt": "\xff"}', 400, "JSON: line 1, column 12: unable to decode byte 0xff near '\"'"),
    ("nul", "{\"prompt\": \"a\\u0000b\"}", 400,
     "JSON: line 1, column 21: \\u0000 is not allowed without JSON_ALLOW_NUL near '\"a\\u0000b\"'"),
    ("nan", "{\"seed\": NaN}", 400, "JSON: line 1, column 12: invalid token near 'NaN'"),
    ("surrogate", "{\"prompt\": \"\\ud800\"}", 400,
     "JSON: line 1, column 19: invalid Unicode '\\uD800' near '\"\\ud800\"'"),
    ("huge number", "{\"seed\": 1e400}", 400, "JSON: line 1, column 14: real number overflow near '1e400'"),
    ("no quotes", "{seed: 1}", 400, "JSON: line 1, column 5: string or '}' expected near 'seed'"),
    ("trailing comma", "{\"seed\": 1,}", 400, "JSON: line 1, column 12: string or '}' expected near '}'"),
    ("missing all", "{}", 422, "image: missing; send a file part, base64 text, a data: URL or a blob key"),
    ("null image", "{\"image\": null}", 422,
     "image: missing; send a file part, base64 text, a data: URL or a blob key"),
    ("comment", "{/* */}", 400, "JSON: line 1, column 2: string or '}' expected near '/'"),
]


@pytest.mark.parametrize("name, text, status, sentence", BODIES, ids=[b[0] for b in BODIES])
def test_bodies(shared, name, text, status, sentence):
    a = shared.client("POST", "/v1/jobs", text, Content_Type="application/json")
    assert (a.status, a.json["detail"]) == (status, sentence)


def test_missing_parts(shared):
    for parts, field in [([("audio", ("a", AUDIO))], "image"), ([("image", ("i", IMAGE))], "audio"),
                         ([("prompt", "x")], "image")]:
        a = shared.client.form("/v1/jobs", parts)
        assert (a.status, a.json["field"]) == (422, field)
        assert a.json["detail"] == field + ": missing; send a file part, base64 text, a data: URL or a blob key"


def test_twice(shared):
    a = shared.client.form("/v1/jobs", [("image", ("i", IMAGE)), ("image", ("i", IMAGE)), ("audio", ("a", AUDIO))])
    assert (a.status, a.json["detail"]) == (422, "image: given twice; send one file")
    a = shared.client.form("/v1/jobs", [("image", ("i", IMAGE)), ("image", KEY), ("audio", ("a", AUDIO))])
    assert (a.status, a.json["field"]) == (422, "image")
    a = shared.client.form("/v1/jobs", [("image", ("i", IMAGE)), ("audio", ("a", AUDIO)), ("seed", "1"), ("seed", "2")])
    assert (a.status, a.json["detail"]) == (422, "seed: given twice; give it once")


def test_broken_forms(shared):
    good = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nhi\r\n'
    form = "multipart/form-data; boundary=b"
    for body, kind, status in [(good, form, 400), (b"", form, None), (good + b"--b--", "multipart/form-data", 400),
                               (b"no form at all", form, None),
                               (b"--b\r\nX: y\r\n\r\nhi\r\n--b--\r\n", form, 400)]:
        a = shared.client("POST", "/v1/jobs", body, Content_Type=kind)
        assert a.status == status or (status is None and a.status in (400, 422)), (body, a.status, a.body)
        assert a.json["detail"]
    a = shared.client("POST", "/v1/jobs", b"a=b", Content_Type="application/x-www-form-urlencoded")
    assert (a.status, a.json["field"]) == (415, "content-type")
    assert shared.client("POST", "/v1/jobs", b"").status == 415


def test_too_large(shared):
    data = IMAGE + b"\0" * (33 << 20)
    a = shared.client.form("/v1/jobs", [("image", ("i", data)), ("audio", ("a", AUDIO))])
    assert (a.status, a.json["detail"]) == (413, "image: larger than the limit of 32.0 MiB")
    a = shared.client("POST", "/v1/jobs", {"image": b64(data), "audio": b64(AUDIO)})
    assert (a.status, a.json["detail"]) == (413, "image: larger than the limit of 32.0 MiB")
    connection = shared.client.connect()
    connection.putrequest("POST", "/v1/jobs")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    r = connection.getresponse()
    body = json.loads(r.read())
    connection.close()
    assert r.status == 413 and body["detail"] == (
        "the body of 1.0 TiB is larger than the limit of 336.0 MiB; "
        "large media go as files (multipart or POST /v1/blobs)")


def test_nothing_was_queued_and_all_is_well(shared):
    assert shared.client("GET", "/v1/queue").json["n_submitted"] == 0
    assert shared.client("GET", "/healthz").status == 200
    assert os.listdir(os.path.join(shared.volume, "tmp")) == []
    shared.client.submit()
    assert shared.client("GET", "/v1/queue").json["n_submitted"] == 1
