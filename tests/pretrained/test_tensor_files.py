"""Tensor files: the same values as the libraries read, and bad files told in a line."""

import json
import os
import pathlib
import pickle

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxtl.core.errors import UserError
from jaxtl.pretrained import tensor_files, torch_files

rng = np.random.default_rng(0)
TENSORS = {
    "a.weight": rng.normal(size=(3, 4)).astype(np.float32),
    "a.half": rng.normal(size=(5,)).astype(np.float16),
    "b.brain": rng.normal(size=(2, 2)).astype(ml_dtypes.bfloat16),
    "count": np.array(7),
    "flags": np.array([True, False]),
}


@pytest.fixture
def saved(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"kind": "test"})
    return tmp_path / "model.safetensors"


def same(file, tensors):
    assert set(file.tensors) == set(tensors)
    for name, expected in tensors.items():
        got = file.tensors[name]
        assert tuple(got.shape) == expected.shape
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(got), expected)


def test_safetensors_equal_the_library_s(saved):
    file = tensor_files.read(saved)
    same(file, load_file(saved))
    assert file.meta == {"kind": "test"}


def test_a_directory_means_its_model(saved):
    (saved.parent / "config.json").write_text("{}")
    assert tensor_files.read(saved.parent).path == saved


def test_shards_are_put_together(tmp_path):
    names = list(TENSORS)
    for i, part in enumerate((names[:2], names[2:])):
        save_file({n: TENSORS[n] for n in part}, tmp_path / f"part{i}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    where = {n: f"part{int(i >= 2)}.safetensors" for i, n in enumerate(names)}
    index.write_text(json.dumps({"weight_map": where}))
    same(tensor_files.read(tmp_path), TENSORS)
    (tmp_path / "part1.safetensors").unlink()
    with pytest.raises(UserError, match=r"shard 'part1.safetensors', which is missing"):
        tensor_files.read(tmp_path)


def test_npz(tmp_path):
    arrays = {n: x for n, x in TENSORS.items() if n != "b.brain"}
    np.savez(tmp_path / "x.npz", **arrays)
    same(tensor_files.read(tmp_path / "x.npz"), arrays)


def test_written_files_are_read_by_the_library(tmp_path):
    tensor_files.write(tmp_path / "out.safetensors", TENSORS, {"steps": 3})
    back = load_file(tmp_path / "out.safetensors")
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(back[name], expected)
    assert tensor_files.read(tmp_path / "out.safetensors").meta == {"steps": "3"}


@pytest.mark.parametrize("keep", [0, 4, 7, 40, 200, -1])
def test_a_truncated_file_is_told(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(UserError, match="is damaged") as error:
        tensor_files.read(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["a.weight"].update(shape=[3, 5]),
        lambda h: h["a.weight"].update(data_offsets=[0, 10**9]),
        lambda h: h["a.weight"].update(data_offsets=[-4, 44]),
        lambda h: h["a.weight"].update(dtype="F99"),
        lambda h: h["a.weight"].update(data_offsets=h["flags"]["data_offsets"]),
    ],
)
def test_a_tampered_header_is_told(saved, change):
    raw = saved.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    saved.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + length :])
    with pytest.raises(UserError, match="is damaged"):
        tensor_files.read(saved)


def test_a_missing_file_names_its_neighbour(saved):
    with pytest.raises(UserError, match=r"did you mean 'model.safetensors'"):
        tensor_files.read(saved.with_name("modle.safetensors"))


def test_an_unknown_kind_and_an_empty_directory(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"")
    with pytest.raises(UserError, match="no tensor file: expected one of"):
        tensor_files.read(tmp_path / "x.h5")
    with pytest.raises(UserError, match=r"should hold model\.safetensors"):
        tensor_files.read(tmp_path)


def test_a_torn_npz(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(1000))
    raw = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match="no complete npz"):
        tensor_files.read(tmp_path / "x.npz")


def test_torchs_advice_to_run_a_files_code_is_not_passed_on(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(pathlib.PurePosixPath("x"), tmp_path / "object.pt")
    for damage in (
        b"",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04",
        b"\x80\x04\x95",
        b"cos\nsystem\n.",
    ):
        (tmp_path / f"{len(damage)}.pt").write_bytes(damage)
    for path in tmp_path.iterdir():
        with pytest.raises(UserError) as caught:
            torch_files.read(path)
        message = str(caught.value).lower()
        assert "weights" not in message, message
        assert "trust" not in message, message
    with pytest.raises(UserError, match=r"other objects than tensors.*PurePosixPath"):
        torch_files.read(tmp_path / "object.pt")


def test_torch_files(tmp_path):
    torch = pytest.importorskip("torch")
    state = {
        n: torch.tensor(x) for n, x in TENSORS.items() if n not in ("b.brain", "count")
    }
    state["b.brain"] = torch.tensor(TENSORS["b.brain"].astype(np.float32)).bfloat16()
    state["count"] = torch.tensor(7)
    torch.save(state, tmp_path / "plain.pt")
    same(tensor_files.read(tmp_path / "plain.pt"), TENSORS)
    old = {"state_dict": state, "best": 91.5}
    torch.save(old, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    file = tensor_files.read(tmp_path / "old.th")
    same(file, TENSORS)
    assert file.meta == {"best": 91.5}
    raw = (tmp_path / "plain.pt").read_bytes()
    (tmp_path / "torn.pt").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match=r"no complete torch file|is damaged"):
        tensor_files.read(tmp_path / "torn.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="no state_dict"):
        tensor_files.read(tmp_path / "list.pt")


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_malicious_pickle_is_refused_and_never_executed(tmp_path, wrapped):
    torch = pytest.importorskip("torch")
    proof = pathlib.Path(tmp_path / "executed")
    path = tmp_path / "evil.bin"
    if wrapped:
        torch.save({"w": torch.zeros(2), "x": Malicious(proof)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(proof), protocol=2))
    with pytest.raises(UserError, match="not executed"):
        tensor_files.read(path)
    assert not proof.exists()
