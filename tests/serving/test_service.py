"""The service over HTTP: what it answers, what it refuses and in which words, and that it is there afterwards."""

import base64
import io
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from pipelines.data import rle
from tests.packages import encode, lamp, lights, network, picture
from tests.serving.service import LIMITS, Service, serving

BOX = (10, 20, 30, 44)  # of the lamp
SCENE = lamp(48, 64, BOX)
TRUTH = SCENE[..., 0] > 128


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(lights(tmp_path_factory.mktemp("package"))) as running:
        yield running
        assert running.post(encode(SCENE)).status_code == 200, "it answers still, after all of these tests"
        assert running.app.counters.waiting == 0


def mask(segment: dict[str, Any]) -> np.ndarray:
    height, width = segment["rle"]["size"]
    return rle.decode(rle.from_string(segment["rle"]["counts"], height, width), height, width)


def refused(answer: Any, status: int) -> dict[str, str]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    return dict(answer.json()["error"])


def test_an_image_is_answered_to_the_pixel(service: Service) -> None:
    answer = service.post(encode(SCENE)).json()
    assert (answer["task"], answer["image"]) == ("semantic", {"height": 48, "width": 64})
    night, light = answer["segments"]
    assert (night["name"], light["name"], light["isthing"]) == ("night", "lamp", False)
    assert np.array_equal(mask(light), TRUTH)
    assert np.array_equal(mask(night), ~TRUTH)
    assert (light["bbox"], light["area"]) == ([20, 10, 24, 20], 480)
    assert 0 < light["score"] <= 1


def test_a_form_says_the_same_as_a_body(service: Service) -> None:
    data = encode(SCENE, "BMP")  # which has every byte in it, line ends too
    form = service.post(b"", files={"note": (None, "hello"), "image": ("a.bmp", data, "image/bmp")})
    assert form.json() == service.post(data).json()


def test_exif_turns_it(service: Service) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    answer = service.post(encode(SCENE, exif=exif)).json()
    assert answer["image"] == {"height": 64, "width": 48}
    assert np.array_equal(mask(answer["segments"][1]), np.rot90(TRUTH, -1))


def test_masks_and_pictures_as_png(service: Service) -> None:
    data = encode(SCENE)
    listed = service.post(data, "?masks=png").json()["segments"]
    drawn = [np.asarray(Image.open(io.BytesIO(base64.b64decode(s["png"])))) for s in listed]
    assert np.array_equal(drawn[1], TRUTH * np.uint8(255))
    assert not {"rle", "png"} & set(service.post(data, "?masks=none").json()["segments"][0])
    ids = service.post(data, "?format=png")
    assert ids.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(ids.content))), TRUTH + 1)
    picture = np.asarray(Image.open(io.BytesIO(service.post(data, "?format=overlay").content)))
    assert picture[20, 30].tolist() == [235, 195, 125], "half the lamp's light, half its class's colour"


def test_what_is_served(service: Service) -> None:
    model = service.get("/model").json()
    assert (model["model"], model["task"], model["metrics"]["semantic"]["miou"]) == ("tiny 1", "semantic", 0.5)
    assert [c["name"] for c in model["classes"]] == ["night", "lamp"]
    assert service.get("/healthz").json() == {"status": "alive"}
    assert service.get("/readyz").json() == {"status": "ready"}


def test_what_happened_is_counted(service: Service) -> None:
    def count(status: int) -> int:
        line = f'maskline_requests_total{{path="/predict",status="{status}"}} '
        return next((int(x.split()[-1]) for x in service.get("/metrics").text.splitlines() if x.startswith(line)), 0)

    before = count(200), count(400)
    service.post(encode(SCENE))
    service.post(b"no image")
    assert (count(200), count(400)) == (before[0] + 1, before[1] + 1)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG of some bytes that says it has side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "500 megapixels": (bomb(22_400), 413, r"over limit 1000000"),
    "2 megapixels": (encode(np.zeros((1000, 2000, 3), np.uint8)), 413, r"2000x1000 = 2000000 over limit 1000000"),
    "text": (b"this is a text file named .jpg\n" * 20, 400, r"unknown format"),
    "truncated PNG": (encode(picture(0))[:-60], 400, r"truncated|corrupt"),
    "truncated JPEG": (encode(picture(0, 256, 256), "JPEG")[:2000], 400, r"truncated JPEG"),
    "GIF": (encode(picture(0), "GIF"), 400, r"unknown format"),
    "nothing": (b"", 400, r"an empty body"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_images_are_refused_with_what_is_allowed(service: Service, name: str) -> None:
    data, status, said = HOSTILE[name]
    error = refused(service.post(data), status)
    assert re.search(said, error["found"]), error
    assert error["allowed"]
    assert error["do"]


def test_wrong_ways_to_ask(service: Service) -> None:
    assert "did you mean '/predict'?" in refused(service.get("/predct"), 404)["found"]
    error = refused(service.get("/predict"), 405)
    assert (error["found"], error["allowed"]) == ("GET /predict", "POST")
    assert refused(service.post(b"x", "?format=overly"), 400)["allowed"] == "json, overlay, png"
    assert refused(service.post(b"x", "?size=3"), 400)["allowed"] == "format, masks"
    assert "a form with 0 files" in refused(service.post(b"", files={"a": (None, "b")}), 400)["found"]
    assert refused(service.get("/", headers={"Host": "evil.example"}), 421)["allowed"] == "127.0.0.1"
    assert "http://evil.example" in refused(service.post(b"x", headers={"Origin": "http://evil.example"}), 403)["found"]
    assert service.get("/../../etc/passwd").status_code == 404


def spoken(service: Service, request: bytes, *, half_close: bool = False) -> bytes:
    """All that is answered to these bytes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(request)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


def head(length: str, more: str = "") -> bytes:
    return f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n{more}\r\n".encode()


def test_a_large_upload_is_refused_by_its_header(service: Service) -> None:
    """Nothing of it was sent, or asked for."""
    answer = spoken(service, head("Content-Length: 5000000000"), half_close=True)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"5,000,000,000 bytes" in answer


def test_a_large_upload_without_a_length_is_refused_as_it_comes(service: Service) -> None:
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = spoken(service, head("Transfer-Encoding: chunked") + piece * 8 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"a body of more than" in answer


def test_an_upload_that_breaks_off(service: Service) -> None:
    data = encode(SCENE)
    announced = head(f"Content-Length: {len(data) * 2}") + data
    answer = spoken(service, announced, half_close=True)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"ends before the length" in answer
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(announced)  # and nobody listens for an answer
    wait_for(lambda: service.app.counters.waiting == 0)


def test_what_is_no_http(service: Service) -> None:
    assert spoken(service, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert spoken(service, head("Content-Length: many")).startswith(b"HTTP/1.1 400")


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_more_than_it_can_answer_is_told_to_come_again(service: Service) -> None:
    answers: list[int] = []
    data = encode(SCENE)

    def ask() -> None:
        answers.append(service.post(data).status_code)

    threads = [threading.Thread(target=ask) for _ in range(LIMITS.max_waiting)]
    with service.backend.lock:  # the model is busy
        for thread in threads:
            thread.start()
        wait_for(lambda: service.app.counters.waiting == LIMITS.max_waiting)
        turned_away = service.post(data)
        assert service.get("/healthz").status_code == 200
    for thread in threads:
        thread.join()
    error = refused(turned_away, 503)
    assert (turned_away.headers["retry-after"], error["allowed"]) == ("1", "4 (serve.max_waiting)")
    assert answers == [200] * LIMITS.max_waiting, "whoever was let in is answered"


def test_a_thousand_idle_connections_lock_nobody_out(service: Service) -> None:
    """More than the 64 that it takes: the longest silent ones go first."""
    idle = [socket.create_connection(("127.0.0.1", service.port), timeout=60) for _ in range(1000)]
    try:
        assert service.post(encode(SCENE)).status_code == 200
        closed = idle[0].recv(1)
        assert closed == b""
        assert len(service.door.server_state.connections) <= LIMITS.max_connections
    finally:
        for connection in idle:
            connection.close()


def test_silence_is_ended(tmp_path: Any) -> None:
    """A connection without a request, one with half a head, and one with half a body."""
    with serving(lights(tmp_path), replace(LIMITS, idle_seconds=0.4)) as service:
        assert spoken(service, b"") == b""
        assert spoken(service, b"POST /predict HTTP/1.1\r\nHost: 127.0").startswith(b"HTTP/1.1 408")
        answer = spoken(service, head("Content-Length: 1000") + b"x" * 10)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"10 bytes of the body, and then nothing more" in answer


def test_it_finishes_what_it_has_begun(tmp_path: Any) -> None:
    answers: list[int] = []
    with serving(lights(tmp_path)) as service:
        thread = threading.Thread(target=lambda: answers.append(service.post(encode(SCENE)).status_code))
        with service.backend.lock:
            thread.start()
            wait_for(lambda: service.app.counters.waiting == 1)
            service.door._told()
            assert service.app.draining
        thread.join()
    assert answers == [200]


def test_neighbours_change_nothing(tmp_path: Any) -> None:
    """Of other sizes too: a batch is never padded to its largest image."""
    with serving(network(tmp_path, "panoptic")) as service:
        images = [picture(0), picture(1, 40, 72), picture(2), picture(3, 72, 40), picture(4)]
        together = service.backend.segmenter.predict(images)
        for image, found in zip(images, together, strict=True):
            [alone] = service.backend.segmenter.predict([image])
            assert alone.panoptic is not None
            assert found.panoptic is not None
            assert np.array_equal(alone.panoptic.ids, found.panoptic.ids)
        listed = json.loads(service.post(encode(images[0])).content)["segments"]
        assert listed[0]["isthing"] is True


def test_the_page_loads_nothing_from_elsewhere(service: Service) -> None:
    for path in ("/", "/page.js", "/page.css", "/icon.svg"):
        answer = service.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text
    assert service.get("/").headers["x-content-type-options"] == "nosniff"
