"""Folders as ``save_pretrained`` writes them: which files are the weights, and their digest."""

from __future__ import annotations

import hashlib
import json

import pytest

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors.models._pretrained import digest, read_config, weight_files

STEMS = {
    "diffusers": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "transformers": ("model", "pytorch_model"),
}


def write_shards(folder, stem, suffix="safetensors", index=None):
    names = [f"{stem}-0000{n}-of-00002.{suffix}" for n in (1, 2)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    places = {"weight_map": {"b": names[1], "a": names[0], "c": names[0]}}
    (folder / (index or f"{stem}.{suffix}.index.json")).write_text(json.dumps(places))
    return names


@pytest.mark.parametrize("package", STEMS)
def test_weights_are_those_that_the_package_takes(tmp_path, package):
    """Safetensors before pickles; of shards and a whole file what its own from_pretrained takes."""
    stem, pickled = STEMS[package]
    assert weight_files(tmp_path, package) == []
    for name, suffix in ((pickled, "bin"), (stem, "safetensors")):
        shards = write_shards(tmp_path, name, suffix)
        assert [path.name for path in weight_files(tmp_path, package)] == shards
        assert digest(weight_files(tmp_path, package)) == hashlib.sha256("".join(shards).encode()).hexdigest()
        (tmp_path / f"{name}.{suffix}").write_bytes(b"x")
        both = [path.name for path in weight_files(tmp_path, package)]
        assert both == (shards if package == "diffusers" else [f"{name}.{suffix}"])
        for shard in (*shards, f"{name}.{suffix}.index.json"):
            (tmp_path / shard).unlink()
        assert [path.name for path in weight_files(tmp_path, package)] == [f"{name}.{suffix}"]
        assert digest(weight_files(tmp_path, package)) == hashlib.sha256(b"x").hexdigest()


def test_a_configuration_may_name_the_weights(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"does not contain other\.safetensors, which config\.json names"):
        weight_files(tmp_path, "transformers", name="other.safetensors")
    (tmp_path / "other.safetensors").touch()
    assert weight_files(tmp_path, "transformers", name="other.safetensors") == [tmp_path / "other.safetensors"]
    names = write_shards(tmp_path, "parts", index="parts.safetensors.index.json")
    found = weight_files(tmp_path, "transformers", name="parts.safetensors.index.json")
    assert [path.name for path in found] == names
    for name in ("../other.safetensors", 5):
        with pytest.raises(UnsafeModelError, match=r"config\.json points out of its folder"):
            weight_files(tmp_path, "transformers", name=name)


def test_a_variant_has_files_of_its_own(tmp_path):
    stem = "diffusion_pytorch_model"
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        (tmp_path / name).touch()
    assert [path.name for path in weight_files(tmp_path, "diffusers", "fp16")] == [f"{stem}.fp16.safetensors"]
    assert weight_files(tmp_path, "diffusers", "ema") == []
    names = write_shards(tmp_path, f"{stem}.fp16", index=f"{stem}.safetensors.index.fp16.json")
    assert [path.name for path in weight_files(tmp_path, "diffusers", "fp16")] == names
    assert [path.name for path in weight_files(tmp_path, "diffusers")] == [f"{stem}.safetensors"]


@pytest.mark.parametrize("middle", ["safetensors.fp16", "fp16.safetensors"])
def test_an_index_of_the_older_form_is_refused(tmp_path, middle):
    stem = "diffusion_pytorch_model"
    (tmp_path / f"{stem}.fp16.safetensors").touch()
    (tmp_path / f"{stem}.{middle}.index.json").write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    with pytest.raises(ValueError, match=rf"rename it to {stem}\.safetensors\.index\.fp16\.json"):
        weight_files(tmp_path, "diffusers", "fp16")
    assert weight_files(tmp_path, "diffusers") == []


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/secret", "inner/one.safetensors"])
def test_an_index_that_points_out_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UnsafeModelError, match="points out of its folder"):
        weight_files(tmp_path, "transformers")


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_an_index_without_files_is_named(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json has no weight_map"):
        weight_files(tmp_path, "transformers")


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    message = r"does not contain one\.safetensors, which model\.safetensors\.index\.json lists"
    with pytest.raises(FileNotFoundError, match=message):
        weight_files(tmp_path, "transformers")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "holds list, not one JSON object"),
        (b"\xff", "is not a text"),
        (b'{"a":' * 100_000, "is not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is not JSON"),
    ],
)
def test_a_configuration_that_is_none_is_named(tmp_path, content, match):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json {match}"):
        read_config(tmp_path / "config.json")
