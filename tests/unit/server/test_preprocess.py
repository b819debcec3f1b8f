"""Pictures, texts and sound as requests have them, made into a model's tensors."""

import asyncio
import io
import json
import math
import threading
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_grpc
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from moorage_server import preprocess
from moorage_server.engine import Engine, QueueFull, TimedOut
from moorage_server.failures import StartupError
from moorage_server.metrics import Metrics
from moorage_server.preparing import Preparing, Room
from moorage_server.protocol import BadRequest, InferRequest
from moorage_server.repository import Entry
from moorage_server.settings import Settings
from moorage_server.signature import Array, Dim, Signature, TensorSpec

from .conftest import Start, export

ROWS = Dim(-1, "batch")
OUT = (TensorSpec("y", "FP32", (ROWS,)),)


def spec(name: str, datatype: str, *sizes: int, high: float = float("inf")) -> TensorSpec:
    return TensorSpec(name, datatype, (ROWS, *(Dim(size, high=high) for size in sizes)))


def made(described: dict[str, Any], *inputs: TensorSpec, folder: Path = Path()) -> preprocess.Preprocess:
    found = preprocess.of(described, Signature(inputs, OUT), folder)
    assert found is not None
    return found


def values(*given: bytes) -> Array:
    array = np.empty(len(given), object)
    array[:] = given
    return array


def picture(width: int, height: int, form: str = "PNG", colour: Any = (255, 0, 51), mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (width, height), colour).save(content, form)
    return content.getvalue()


def sound(samples: list[int], rate: int = 16_000, width: int = 2, channels: int = 1) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as written:
        written.setnchannels(channels)
        written.setsampwidth(width)
        written.setframerate(rate)
        written.writeframes(b"".join(one.to_bytes(width, "little", signed=width > 1) for one in samples))
    return content.getvalue()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "good", "film", "bad"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return folder


# Pictures.


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_picture(form: str) -> None:
    found = made({"x": {"type": "Image", "from": "photo"}}, spec("x", "FP32", 3, 4, 6))
    assert [str(one) for one in found.signature.inputs] == ["'photo' BYTES [-1]"]
    (x,) = found([values(picture(60, 40, form), picture(12, 8, form))])
    assert (x.shape, x.dtype) == ((2, 3, 4, 6), np.float32)
    np.testing.assert_allclose(x[:, :, 0, 0], [[1.0, 0.0, 0.2]] * 2, atol=0.03)


def test_as_it_is_described() -> None:
    entry = {"type": "Image", "layout": "HWC", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.25, 1]}
    (x,) = made({"x": entry}, spec("x", "FP16", 2, 2, 3))([values(picture(2, 2))])
    assert x.dtype == np.float16
    np.testing.assert_allclose(x[0, 1, 1], [1, -2, -0.3], atol=0.01)


def test_bytes_stay_bytes_and_grey_is_grey() -> None:
    (x,) = made({"x": {"type": "Image"}}, spec("x", "UINT8", 1, 2, 2))([values(picture(2, 2, colour=(200, 200, 200)))])
    assert x.dtype == np.uint8
    assert x.ravel().tolist() == [200] * 4
    (x,) = made({"x": {"type": "Image"}}, spec("x", "UINT8", 3, 1, 1))([values(picture(1, 1, colour=7, mode="L"))])
    assert x.ravel().tolist() == [7, 7, 7]


@pytest.mark.parametrize(("resize", "edge"), [("Stretch", 255), ("Crop", 0)])
def test_the_middle_or_all_of_it(resize: str, edge: int) -> None:
    wide = Image.new("L", (40, 10), 0)
    wide.paste(255, (0, 0, 8, 10))
    content = io.BytesIO()
    wide.save(content, "PNG")
    found = made({"x": {"type": "Image", "resize": resize}}, spec("x", "UINT8", 1, 10, 10))
    assert found([values(content.getvalue())])[0][0, 0, 5, 0] == edge


@pytest.mark.parametrize("size", [(225, 300), (300, 225), (450, 470), (224, 224), (1801, 2047), (1, 1), (3, 1000)])
def test_the_middle_of_any_picture(size: tuple[int, int]) -> None:
    found = made({"x": {"type": "Image", "resize": "Crop"}}, spec("x", "UINT8", 3, 224, 224))
    assert found([values(picture(*size))])[0].shape == (1, 3, 224, 224)


# Texts.


def test_a_text_of_a_fixed_length(tokenizer: Path) -> None:
    entry = {"type": "Text", "from": "text", "mask": "mask"}
    found = made({"ids": entry}, spec("ids", "INT64", 3), spec("mask", "BOOL", 3), folder=tokenizer)
    assert [str(one) for one in found.signature.inputs] == ["'text' BYTES [-1]"]
    ids, mask = found([values(b"a good", b"a bad film film", "größe".encode())])
    assert ids.tolist() == [[2, 3, 0], [2, 5, 4], [1, 0, 0]]
    assert mask.tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert (ids.dtype, mask.dtype) == (np.int64, np.bool_)


def test_a_text_of_any_length(tokenizer: Path) -> None:
    entry = {"type": "Text", "maxLength": 4, "padding": 5}
    found = made({"ids": entry}, spec("ids", "INT32", -1), folder=tokenizer)
    assert found([values(b"a", b"a good")])[0].tolist() == [[2, 5], [2, 3]]
    assert found([values(b"a a a a a a")])[0].tolist() == [[2, 2, 2, 2]]
    assert found([values(b"")])[0].tolist() == [[5]]


def test_a_tokenizer_with_padding_of_its_own(tokenizer: Path, tmp_path: Path) -> None:
    own = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    own.enable_padding(direction="left", pad_id=1)
    own.enable_truncation(9, direction="left")
    own.save(str(tmp_path / "tokenizer.json"))
    entry: dict[str, Any] = {"type": "Text", "mask": "mask"}
    both = (spec("ids", "INT64", 3), spec("mask", "INT64", 3))
    ids, mask = made({"ids": entry}, *both, folder=tmp_path)([values(b"a good", b"a a good film")])
    assert ids.tolist() == [[1, 2, 3], [2, 3, 4]]
    assert mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    ids, _ = made({"ids": {**entry, "padding": 0}}, *both, folder=tmp_path)([values(b"a")])
    assert ids.tolist() == [[0, 0, 2]]


# Sound.


@pytest.mark.parametrize(("width", "most"), [(1, 128), (2, 1 << 15), (4, 1 << 31)])
def test_sound(width: int, most: int) -> None:
    half, shift = most // 2, 128 if width == 1 else 0
    samples = [one + shift for one in (0, half, -half, -most)]
    (x,) = made({"x": {"type": "Audio"}}, spec("x", "FP32", 6))([values(sound(samples, width=width))])
    assert x.tolist() == [[0, 0.5, -0.5, -1, 0, 0]]


def test_sound_of_any_length_and_of_two_channels() -> None:
    found = made({"x": {"type": "Audio", "sampleRate": 8000}}, spec("x", "FP32", -1, high=4))
    two = sound([0, 1 << 14, 1 << 14, 1 << 14], 8000, channels=2)
    assert found([values(two, sound([-(1 << 14)], 8000))])[0].tolist() == [[0.25, 0.5], [-0.5, 0]]
    with pytest.raises(BadRequest, match="a value has 5 samples; the model takes 4 at most"):
        found([values(sound([0] * 5, 8000))])


# What is too much, and what does not go together.


def test_what_would_become_too_large_is_refused_before_it_is_made(tokenizer: Path) -> None:
    pictures = made({"x": {"type": "Image"}}, spec("x", "FP32", 3, 1000, 1000))
    assert pictures([values(*[picture(1, 1)] * 11)])[0].nbytes > 100_000_000
    with pytest.raises(BadRequest, match=r"input 'x': its values make 144000000 bytes, \[12, 3, 1000, 1000\] of FP32"):
        pictures([values(*[picture(1, 1)] * 12)])
    texts = made({"ids": {"type": "Text"}}, spec("ids", "INT64", 512), folder=tokenizer)
    with pytest.raises(BadRequest, match="are the most"):
        texts([values(*[b""] * 40_000)])
    sounds = made({"x": {"type": "Audio"}}, spec("x", "FP32", -1))
    with pytest.raises(BadRequest, match="are the most"):
        sounds([values(sound([0] * 100_000), *[sound([])] * 1000)])
    large = picture(7000, 4000, colour=1, mode="L")
    with pytest.raises(BadRequest, match="value 1 has 7000 x 4000 pixels; the pictures of a request may have 50000000"):
        made({"x": {"type": "Image"}}, spec("x", "UINT8", 1, 2, 2))([values(large, large)])


def test_inputs_whose_sizes_must_be_equal(tokenizer: Path) -> None:
    length = Dim(-1, "length")
    inputs = tuple(TensorSpec(name, "INT64", (ROWS, length)) for name in ("a", "b"))
    found = made({"a": {"type": "Text", "from": "text"}}, *inputs, folder=tokenizer)
    assert [one.name for one in found.signature.inputs] == ["b", "text"]
    assert len(found([np.zeros((1, 2), np.int64), values(b"a good")])) == 2
    with pytest.raises(BadRequest, match="they must be equal"):
        found([np.zeros((1, 3), np.int64), values(b"a good")])


def test_who_is_not_waited_for_is_left_off() -> None:
    found = made({"x": {"type": "Image"}}, spec("x", "FP32", 3, 2, 2))
    asked = iter([True, True, False])
    with pytest.raises(preprocess.NotWanted):
        found([values(*[picture(2, 2)] * 9)], lambda: next(asked))


# What is wrong with a value.


def huge() -> bytes:
    content = bytearray(picture(1, 1))
    at = content.index(b"IHDR") + 4
    content[at : at + 8] = (60_000).to_bytes(4, "big") * 2
    import zlib

    content[at + 13 : at + 17] = zlib.crc32(content[at - 4 : at + 13]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("Image", b"", "value 1 is no picture that can be read"),
        ("Image", b"GIF89a" + b"\xff" * 40, "value 1 is no picture that can be read"),
        ("Image", picture(50, 50)[:90], "value 1 is no picture that can be read"),
        ("Image", huge(), "value 1 "),
        ("Image", picture(2, 2, "ICO"), "value 1 is no picture that can be read"),
        ("Image", picture(2, 2, colour=40_000, mode="I;16"), "value 1 has more than 8 bits a channel"),
        ("Audio", b"RIFF", "value 1 is no WAV"),
        ("Audio", sound([1], rate=8000), "value 1 has 8000 samples a second; the model takes 16000"),
        ("Audio", sound([1], width=3), "value 1 has samples of 3 bytes"),
        ("Text", b"\xff", "value 1 is no UTF-8"),
    ],
)
def test_a_value_that_is_none(kind: str, value: bytes, words: str, tokenizer: Path) -> None:
    inputs = {"Image": spec("x", "FP32", 3, 2, 2), "Audio": spec("x", "FP32", 2), "Text": spec("x", "INT64", 2)}
    good = {"Image": picture(2, 2), "Audio": sound([1]), "Text": b"a"}
    found = made({"x": {"type": kind}}, inputs[kind], folder=tokenizer)
    with pytest.raises(BadRequest, match=rf"input 'x': {words}"):
        found([values(good[kind], value)])


# What is wrong with a description.

WRONG: dict[str, tuple[Any, str]] = {
    "no such input": ({"z": {"type": "Image"}}, "'z' is no input of the model; it has x, ids, mask, few"),
    "no type": ({"x": {}}, "preprocess.x must have a type: Image, Text, Audio"),
    "no mapping": ({"x": "Image"}, "preprocess.x must have a type"),
    "unknown": ({"x": {"type": "Image", "size": [1, 2]}}, "preprocess.x has size; Image knows from, layout, resize"),
    "from": ({"x": {"type": "Image", "from": 5}}, "preprocess.x.from must be the name"),
    "layout": ({"x": {"type": "Image", "layout": "WHC"}}, "layout is 'WHC'; it may be CHW, HWC"),
    "channels": ({"x": {"type": "Image", "layout": "HWC"}}, "has 5 channels in layout HWC; a picture has 1 or 3"),
    "mean": ({"x": {"type": "Image", "mean": [1]}}, "must be a list of 3 numbers, one a channel"),
    "std": ({"x": {"type": "Image", "std": [1, 0, 1]}}, "std must not be 0"),
    "not a number": ({"x": {"type": "Image", "std": [1, float("nan"), 1]}}, "must be of finite numbers"),
    "a picture of tokens": ({"ids": {"type": "Image"}}, "must have a row of three fixed sizes"),
    "tokens of a picture": ({"x": {"type": "Text"}}, "must be of integers, in rows of tokens"),
    "sound of tokens": ({"ids": {"type": "Audio"}}, "must be of floating numbers, in rows of samples"),
    "no file": ({"ids": {"type": "Text", "tokenizer": "no.json"}}, "must be a file of the model's folder"),
    "another folder": ({"ids": {"type": "Text", "tokenizer": "../x.json"}}, "must be a file of the model's folder"),
    "no tokenizer": ({"ids": {"type": "Text", "tokenizer": "bad.json"}}, "bad.json cannot be read"),
    "padding beyond the datatype": ({"ids": {"type": "Text", "padding": 1 << 63}}, "must be an integer from 0 to 9"),
    "numbers beyond the datatype": ({"few": {"type": "Text", "tokenizer": "many.json"}}, "has 300 numbers"),
    "another shape": ({"ids": {"type": "Text", "mask": "few"}}, "of the same shape"),
    "no mask": ({"ids": {"type": "Text", "mask": "x"}}, "it must be another input of the model, of the same shape"),
    "made twice": (
        {"ids": {"type": "Text", "mask": "mask"}, "mask": {"type": "Text"}},
        "makes 'mask', which preprocess.ids makes too",
    ),
    "a name that is taken": ({"x": {"type": "Image", "from": "ids"}}, "'ids' is an input of the model that nothing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_description_that_is_wrong(case: str, tokenizer: Path) -> None:
    described, words = WRONG[case]
    (tokenizer / "bad.json").write_text("{")
    many = Tokenizer(models.WordLevel({f"word{i}": i for i in range(300)}, unk_token="word0"))
    many.save(str(tokenizer / "many.json"))
    inputs = (spec("x", "FP32", 3, 4, 5), spec("ids", "INT64", 4), spec("mask", "INT64", 4), spec("few", "UINT8", 5))
    with pytest.raises(StartupError, match=words) as refused:
        preprocess.of(described, Signature(inputs, OUT), tokenizer)
    assert refused.value.reason == "FormatMismatch"


# In the server.


class Brightness(nn.Module):
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) * weight


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brightness")
    export(Brightness(), (torch.rand(2, 3, 8, 8), torch.rand(2)), folder)
    described = {"preprocess": {"x": {"type": "Image", "from": "photo"}}}
    (folder / "moorage.yaml").write_text(json.dumps(described))
    return folder


def test_asked_over_http_and_grpc(start_server: Start, brightness: Path) -> None:
    server = start_server(brightness)
    with httpx.Client(base_url=server.url) as client:
        names = [(one["name"], one["datatype"]) for one in client.get("/v2/models/digits").json()["inputs"]]
        assert names == [("weight", "FP32"), ("photo", "BYTES")]
    white = picture(30, 20, "JPEG", (255, 255, 255))
    weight = triton_grpc.InferInput("weight", [2], "FP32")
    weight.set_data_from_numpy(np.float32([1, 3]))
    photo = triton_grpc.InferInput("photo", [2], "BYTES")
    photo.set_data_from_numpy(values(white, white))
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports['http']}") as client:
        np.testing.assert_allclose(client.infer("digits", [photo, weight]).as_numpy("output"), [1, 3], atol=0.01)
        photo.set_data_from_numpy(values(white, b"no picture"))
        with pytest.raises(Exception, match="input 'photo': value 1 is no picture that can be read"):
            client.infer("digits", [photo, weight])
    header = {
        "inputs": [
            {"name": "photo", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 4 + len(white)}},
            {"name": "weight", "datatype": "FP32", "shape": [1], "data": [2]},
        ]
    }
    content = json.dumps(header).encode()
    body = content + len(white).to_bytes(4, "little") + white
    headers = {"Inference-Header-Content-Length": str(len(content))}

    def ask() -> None:
        answer = httpx.post(server.url + server.infer_path, content=body, headers=headers).raise_for_status()
        np.testing.assert_allclose(answer.json()["outputs"][0]["data"], [2], atol=0.01)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.metrics()["moorage_server_requests_in_flight"] == 0
    assert server.terminate() == 0


def test_a_description_that_is_wrong_ends_the_server(start_server: Start, brightness: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").symlink_to(brightness / "model.pt2")
    (tmp_path / "moorage.yaml").write_text("preprocess: {y: {type: Image}}")
    server = start_server(tmp_path, ready=False)
    assert server.process.wait(60) != 0
    assert server.termination["reason"] == "FormatMismatch"
    assert "'y' is no input of the model" in server.termination["message"]


# On its way to the queue.


class Waiting:
    """Preprocessing that ends when it may."""

    def __init__(self) -> None:
        self.may, self.begun = threading.Event(), 0

    def __call__(self, inputs: list[Array], wanted: Any) -> list[Array]:
        self.begun += 1
        assert self.may.wait(20)
        return [np.zeros((1, 2), np.float32)]


class Sum:
    signature = Signature((spec("x", "FP32", 2),), (TensorSpec("y", "FP32", (ROWS,)),))
    inline = True

    def run(self, inputs: Any) -> list[Array]:
        return [inputs[0].sum(1)]


class Line:
    def __init__(self, threads: ThreadPoolExecutor, most_waiting: int = 3, room: int = 1000) -> None:
        settings = Settings.from_env({"MOORAGE_MODEL_PATH": "/m", "MOORAGE_MODEL_NAME": "m"})
        self.entry = Entry(settings.models[0], Metrics().of("m", "1", several=False))
        self.engine = Engine(Sum(), threads, max_queue_size=most_waiting)
        self.preprocess, self.threads, self.room = Waiting(), threads, Room(room)
        self.results: list[Any] = []

    def ask(self, timeout: float = math.inf) -> Preparing:
        asked = InferRequest("", [values(b"a")], [0], frozenset(), 1)
        how = (self.entry, self.engine, self.preprocess, self.threads, self.room, asked)
        return Preparing(*how, self.results.append, timeout)  # type: ignore[arg-type]

    async def until(self, true: Any) -> None:
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_it_is_made_and_then_waits_for_its_batch() -> None:
    with ThreadPoolExecutor(1) as threads:
        line = Line(threads)
        for _ in range(3):
            line.ask()
        with pytest.raises(QueueFull):
            line.ask()
        assert (line.entry.preparing, line.entry.idle) == (3, False)
        line.preprocess.may.set()
        await line.until(lambda: len(line.results) == 3)
        assert [result[0].tolist() for result in line.results] == [[0]] * 3
        assert (line.entry.preparing, line.entry.idle) == (0, True)
        assert line.room.take(1000)


async def test_who_leaves_or_cannot_wait_is_not_made() -> None:
    with ThreadPoolExecutor(1) as threads:
        line = Line(threads)
        line.ask()
        late, gone = line.ask(0.05), line.ask()
        gone.cancel()
        await line.until(lambda: line.results)
        assert isinstance(line.results[0], TimedOut), "in time, though its thread is busy with another"
        assert late._inputs is None and gone._inputs is None
        line.preprocess.may.set()
        await line.until(lambda: not line.entry.preparing)
        await line.until(lambda: len(line.results) == 2)
        assert line.preprocess.begun == 1


async def test_what_was_made_has_no_room() -> None:
    with ThreadPoolExecutor(1) as threads:
        line = Line(threads, room=7)
        line.preprocess.may.set()
        line.ask()
        await line.until(lambda: line.results)
        assert isinstance(line.results[0], QueueFull)
        assert line.room.take(7)
