"""model.name → a folder. Oracles: transformers' own load of a GGUF file; a hub on this machine."""

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, GgufConfig

from bigpeft.errors import FileError
from bigpeft.plan import resolve_model_folder
from bigpeft.recipe import Model
from tests.backbone.families import saved_model
from tests.backbone.gguf_files import llama_gguf


def model(**keys: object) -> Model:
    return Model.model_validate(keys)


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_gguf_file_is_dequantised_once(named, tmp_path):
    (tmp_path / "gguf").mkdir()
    path = tmp_path / "gguf/model.gguf"
    llama_gguf(path)
    name = path if named == "file" else path.parent
    wanted = model(name=str(name), cache=str(tmp_path / "cache"))

    folder = resolve_model_folder(wanted)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    again = resolve_model_folder(wanted)

    assert again == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    stock = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    ids = torch.randint(3, 96, (2, 9))
    assert torch.equal(ours(ids).logits, stock(ids).logits)


def test_a_changed_gguf_file_is_dequantised_anew(tmp_path):
    path = tmp_path / "model.gguf"
    llama_gguf(path)
    wanted = model(name=str(path), cache=str(tmp_path / "cache"))

    first = resolve_model_folder(wanted)
    path.touch()

    assert resolve_model_folder(wanted) != first


def test_several_gguf_files_need_a_choice(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")

    with pytest.raises(FileError, match=r"several GGUF files \(a\.gguf, b\.gguf\)"):
        resolve_model_folder(model(name=str(tmp_path)))


def test_a_damaged_gguf_file_is_named_and_nothing_is_left(tmp_path):
    path = tmp_path / "model.gguf"
    llama_gguf(path)
    path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(FileError, match=r"model\.gguf"):
        resolve_model_folder(model(name=str(path), cache=str(tmp_path / "cache")))

    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of a hub, for the files of one folder as org/name."""

    folder: Path
    commit = "a" * 40
    served: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/name"):
            files = sorted(self.folder.iterdir())
            if path.rpartition("/")[2] not in ("name", "main", "v1", self.commit):
                self._send(404, b"{}", body, "application/json")
                return
            if "/tree/" in path:
                content = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"}
                    for f in files
                ]
            else:
                listed = [{"rfilename": f.name} for f in files]
                content = {"id": "org/name", "sha": self.commit, "siblings": listed}
            self._send(200, json.dumps(content).encode(), body, "application/json")
            return
        file = self.folder / path.rpartition("/")[2]
        if not (path.startswith("/org/name/resolve/") and file.is_file()):
            self._send(404, b"{}", body, "application/json")
            return
        if body:
            self.served.append(file.name)
        self._send(200, file.read_bytes(), body, "application/octet-stream")

    def _send(self, status: int, content: bytes, body: bool, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    (tmp_path / "served").mkdir()
    served = type("Served", (Hub,), {"folder": tmp_path / "served", "served": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), served)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield served
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_fetched_once_with_one_kind_of_weights(hub, tmp_path):
    saved_model("llama", hub.folder)
    (hub.folder / "pytorch_model.bin").write_bytes(b"not asked for")
    (hub.folder / "README.md").write_text("nor this")

    folder = resolve_model_folder(model(name="org/name", revision="v1"))
    fetched = sorted(hub.served)
    again = resolve_model_folder(model(name="org/name", revision="v1"))

    assert fetched == ["config.json", "generation_config.json", "model.safetensors"]
    assert again == folder
    assert sorted(hub.served) == fetched
    found = (folder / "model.safetensors").read_bytes()
    assert found == (hub.folder / "model.safetensors").read_bytes()


def test_a_fetched_model_is_there_without_the_hub(hub, tmp_path, monkeypatch):
    saved_model("llama", hub.folder)
    folder = resolve_model_folder(model(name="org/name"))

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert resolve_model_folder(model(name="org/name")) == folder
    with pytest.raises(FileError, match="org/other: is neither a folder here nor a hub model"):
        resolve_model_folder(model(name="org/other"))


def test_an_unknown_revision_is_one_message(hub):
    saved_model("llama", hub.folder)

    with pytest.raises(FileError, match="org/name: is neither a folder here nor a hub model"):
        resolve_model_folder(model(name="org/name", revision="nosuch"))
