"""Folders as ``save_pretrained`` writes them: which files are the weights, and their digest."""

from __future__ import annotations

import hashlib
import json

import pytest

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors.models._pretrained import digest, read_config, weight_files


def test_weights_are_the_whole_file_before_shards_before_a_pickle(tmp_path):
    assert weight_files(tmp_path, "model") == []
    (tmp_path / "pytorch_model.bin").touch()
    assert weight_files(tmp_path, "model") == [tmp_path / "pytorch_model.bin"]
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    index = {"weight_map": {"b": names[1], "a": names[0], "c": names[0]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shards = weight_files(tmp_path, "model")
    assert [path.name for path in shards] == names
    assert digest(shards) == hashlib.sha256("".join(names).encode()).hexdigest()
    (tmp_path / "model.safetensors").write_bytes(b"x")
    whole = weight_files(tmp_path, "model")
    assert [path.name for path in whole] == ["model.safetensors"]
    assert digest(whole) == hashlib.sha256(b"x").hexdigest()


def test_a_variant_has_files_of_its_own(tmp_path):
    for name in ("net.safetensors", "net.fp16.safetensors"):
        (tmp_path / name).touch()
    assert [path.name for path in weight_files(tmp_path, "net", "fp16")] == ["net.fp16.safetensors"]
    assert weight_files(tmp_path, "net", "ema") == []
    (tmp_path / "net.safetensors.index.ema.json").write_text(json.dumps({"weight_map": {"a": "net.safetensors"}}))
    assert [path.name for path in weight_files(tmp_path, "net", "ema")] == ["net.safetensors"]


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/secret", "inner/one.safetensors"])
def test_an_index_that_points_out_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UnsafeModelError, match="points out of its folder"):
        weight_files(tmp_path, "model")


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_an_index_without_files_is_named(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json has no weight_map"):
        weight_files(tmp_path, "model")


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"lacks one\.safetensors, which model\.safetensors\.index\.json lists"):
        weight_files(tmp_path, "model")


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"{", "is not JSON"), (b"[1]", "holds list, not one JSON object"), (b"\xff", "is not a text")],
)
def test_a_configuration_that_is_none_is_named(tmp_path, content, match):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json {match}"):
        read_config(tmp_path / "config.json")
