"""Seeded mutants of files that icrkit reads, each read in a process with a clock.

``python -m tests.mutants.mutate --count 10000 --out benchmarks/results/mutants.csv`` counts what came of them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 120.0
# What a mutant may come to. Anything else is a fault.
FINE = ("refused", "right", "unprotected")


def _values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(24, 2, 1, 4)).astype("f4")


def _store(folder: Path) -> Path:
    import icrkit as ik

    path = folder / "a.cube"
    with ik.CubeWriter(path, {"mid": 4}, [0.1], n_views=2, n_images=24, block_size=12) as writer:
        writer.append([f"image {i}" for i in range(24)], {"mid": _values()}, labels=[i % 3 for i in range(24)])
    return path


def _make(kind: str, folder: Path) -> tuple[Path, Path]:
    """What is opened, and the file of it that is mutated."""
    import h5py

    import icrkit as ik

    cube = ik.from_arrays({"mid": _values()}, [0.1], labels=[i % 3 for i in range(24)])
    if kind in ("part", "part, new digest", "manifest", "cube.json", "cube.json, new digest"):
        path = _store(folder)
        return path, path / {"p": "part-00000.h5", "m": "manifest.jsonl", "c": "cube.json"}[kind[0]]
    if kind.startswith("pack"):
        ik.io.pack(_store(folder), folder / "a.h5")
    elif kind.startswith("moments"):
        ik.Moments.from_cube(cube, dtype="float64").save(folder / "a.h5")
    elif kind == "netcdf":
        cube.to_xarray().to_netcdf(folder / "a.nc", engine="h5netcdf")
        return folder / "a.nc", folder / "a.nc"
    elif kind == "netcdf3":
        cube.to_xarray().to_netcdf(folder / "a.nc", engine="scipy")
        return folder / "a.nc", folder / "a.nc"
    elif kind == "npy":
        np.save(folder / "a.npy", _values())
    elif kind == "npz":
        np.savez_compressed(folder / "a.npz", mid=_values(), labels=np.arange(24) % 3)
    elif kind == "safetensors":
        header = json.dumps({"mid": {"dtype": "F32", "shape": [24, 2, 1, 4], "data_offsets": [0, 768]}}).encode()
        data = len(header).to_bytes(8, "little") + header + _values().tobytes()
        (folder / "a.safetensors").write_bytes(data)
    elif kind == "torch":
        import torch

        torch.save({"mid": torch.from_numpy(_values())}, folder / "a.pt")
    elif kind == "images npz":
        np.savez(folder / "a.npz", images=np.arange(24 * 64, dtype=np.uint8).reshape(24, 8, 8), labels=np.arange(24))
    elif kind == "images hdf5":
        with h5py.File(folder / "a.h5", "w") as file:
            file["images"] = np.arange(24 * 64, dtype=np.uint8).reshape(24, 8, 8)
            file["labels"] = np.arange(24)
    elif kind == "images idx":
        data = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (24, 8, 8)) + bytes(24 * 64)
        (folder / "images-idx3-ubyte").write_bytes(data)
    elif kind == "images png":
        from PIL import Image

        (folder / "a").mkdir()
        for i in range(3):
            Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / "a" / f"{i}.png")
        return folder / "a", folder / "a" / "1.png"
    elif kind == "checkpoint torch":
        import torch

        torch.save({"model": {"weight": torch.ones(4, 4), "bias": torch.ones(4)}, "step": 3}, folder / "a.pt")
    elif kind == "checkpoint safetensors":
        from safetensors.numpy import save_file

        save_file({"weight": np.ones((4, 4), "f4"), "bias": np.ones(4, "f4")}, folder / "a.safetensors")
    elif kind == "checkpoint edm":
        (folder / "a.pkl").write_bytes(_persistent_network())
    elif kind == "onnx":
        (folder / "a.onnx").write_bytes(_onnx_model())
    elif kind.startswith("monitor"):
        monitor = ik.ICRMonitor(n_folds=12)
        rng = np.random.default_rng(0)
        image = rng.normal(size=(96, 1, 4))
        for step in range(3):
            monitor.update(step, image + rng.normal(size=(96, 2, 4)))
        monitor.save(folder / "a.json")
    elif kind == "join csv":
        (folder / "a.csv").write_text("cube,layer,sigma,fid,accuracy\na,mid,0.1,3,0.5\na,mid,0.2,4,\n")
    elif kind in ("zarr", "zarr metadata"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr says that consolidated metadata are not in its specification yet
            cube.to_xarray().to_zarr(folder / "a.zarr", zarr_format=3)
        if kind == "zarr metadata":
            return folder / "a.zarr", folder / "a.zarr" / "zarr.json"
        return folder / "a.zarr", next(p for p in (folder / "a.zarr" / "mid" / "c").rglob("0") if p.is_file())
    [path] = folder.iterdir() if kind not in ("pack", "pack, new digest") else [folder / "a.h5"]
    return path, path


def _persistent_network() -> bytes:
    """A network as the EDM code pickles it: its class is only there while it is written."""
    import pickle
    import types

    import torch

    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def reconstruct(meta: Any) -> Any:
        raise AssertionError("a pickle was run")

    class Persistent:
        def __init__(self, name: str, state: dict[str, Any]) -> None:
            self.about = {
                "type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": name, "state": state,
            }  # fmt: skip

        def __reduce__(self) -> Any:
            return reconstruct, (self.about,)

    reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    setattr(module, "_reconstruct_persistent_obj", reconstruct)  # noqa: B010
    inner, outer = torch.nn.Module(), torch.nn.Module()
    inner.weight = torch.nn.Parameter(torch.ones(4, 3))
    inner.register_buffer("scale", torch.arange(5.0))
    outer._modules["model"] = Persistent("UNet", {**vars(inner), "eps": 1e-5})  # type: ignore[assignment]
    there = {name: sys.modules.get(name) for name in ("torch_utils", "torch_utils.persistence")}
    sys.modules.update({"torch_utils": package, "torch_utils.persistence": module})
    try:
        network = Persistent("EDMPrecond", {**vars(outer), "_init_args": (8,), "_init_kwargs": {"channels": 3}})
        return pickle.dumps({"ema": network})
    finally:
        for name, old in there.items():
            sys.modules.pop(name) if old is None else sys.modules.update({name: old})


def _onnx_model() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype("f4")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["map"], name="a", pads=[1] * 4),
         helper.make_node("Relu", ["map"], ["out"], name="b")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


KINDS = (
    "part", "part, new digest", "manifest", "cube.json", "cube.json, new digest", "pack", "pack, new digest",
    "moments", "moments, new digest", "netcdf", "netcdf3", "npy", "npz", "safetensors", "torch", "images npz",
    "images hdf5", "images idx", "images png", "checkpoint torch", "checkpoint safetensors",
    "checkpoint edm", "onnx", "monitor", "monitor, new digest", "join csv", "zarr", "zarr metadata",
)  # fmt: skip
# A change of these is noticed, so that no other number may come out.
PROTECTED = ("part", "pack", "moments", "cube.json", "monitor")


def read(kind: str, path: Path) -> str:
    """Everything that is read of a file, as text that is the same when the values are."""
    import icrkit as ik

    if kind.startswith("images"):
        from icrkit_extractors.images import open_images

        images = open_images(path)
        labels = None if images.labels is None else np.asarray(images.labels).tolist()
        return _digest(np.asarray(images[0 : len(images)]), labels)
    if kind == "checkpoint edm":
        from icrkit_extractors._pickled_network import read_pickled_network

        network = read_pickled_network(path)
        return _digest(
            network.class_name, network.init_args, network.init_kwargs, network.attributes,
            *(value for pair in network.tensors.items() for value in (pair[0], pair[1].numpy())),
        )  # fmt: skip
    if kind == "onnx":
        from icrkit_extractors import OnnxSource

        images = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype("f4")
        found = OnnxSource(path, threads=1)(images)
        return _digest(*(value for name in sorted(found) for value in (name, np.asarray(found[name]))))
    if kind.startswith("monitor"):
        monitor = ik.ICRMonitor.load(path)
        return _digest(monitor.state_, monitor.history_, monitor.steps_)
    if kind == "join csv":
        from icrkit.readings._outside import read_outside

        cube = ik.from_arrays({"mid": np.repeat(_values(), 2, axis=2)}, [0.1, 0.2])
        return _digest(read_outside(str(path), {"a": cube}, (), ()))
    if kind.startswith("checkpoint"):
        from icrkit_extractors._checkpoint import read_tensors

        return _digest(*(tensor.numpy() for tensor in read_tensors(path).values()))
    if kind.startswith("moments"):
        return _digest(ik.ICREstimator("gaussian").from_moments(ik.Moments.load(path)).icr_)
    cube = ik.open_cube(path)
    features = cube[cube.layers[0]].values
    labels = None if cube.labels is None else np.asarray(cube.labels).tolist()
    return _digest(features, np.asarray(cube.image_ids).tolist(), labels)


def _digest(*values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """One damage: bits, a cut, an insertion, swapped blocks, or a number in the file made zero, huge or off by one."""
    data = bytearray(raw)
    at = rng.randrange(len(data))
    way = rng.randrange(8)
    if way == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif way == 1:
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif way == 2:
        del data[at:]
    elif way == 3:
        data[at:at] = rng.randbytes(rng.randrange(1, 17))
    elif way == 4:
        n = rng.randrange(1, 65)
        other = rng.randrange(len(data))
        data[at : at + n], data[other : other + n] = data[other : other + n], data[at : at + n]
    elif way == 5:
        n = rng.choice((1, 2, 4, 8))
        data[at : at + n] = rng.choice((b"\0" * n, b"\xff" * n, b"\x7f" + b"\xff" * (n - 1)))
    elif way == 6:  # a digit, as headers of text have them
        digits = [i for i, byte in enumerate(data[:4096]) if 48 <= byte < 58]
        if digits:
            place = rng.choice(digits)
            data[place : place + 1] = rng.choice((b"0", b"-1", b"99999999999999999999", b"x", b"null"))
    else:
        del data[at : at + rng.randrange(1, 33)]
    return bytes(data)


def _reseal(kind: str, whole: Path, target: Path, old: bytes, new: bytes) -> bytes:
    """Make the digest right, as anyone can."""
    if kind == "cube.json, new digest":
        from icrkit.io import _layout

        content = json.loads(new)
        content.pop("digest", None)
        content["digest"] = _layout._digest(content)
        return json.dumps(content).encode()
    if kind.startswith("part"):
        manifest = whole / "manifest.jsonl"
        text = manifest.read_text().replace(hashlib.sha256(old).hexdigest(), hashlib.sha256(new).hexdigest())
        manifest.write_text(text.replace(f'"bytes":{len(old)}', f'"bytes":{len(new)}', 1))
        return new
    if kind.startswith("monitor"):
        from icrkit.readings import _monitor

        content = json.loads(new)
        content.pop("sha256", None)
        return json.dumps({**content, "sha256": _monitor._sha256(content)}).encode()
    from icrkit.io._sealed import SEAL_BYTES, Seal, read_seal

    seal = read_seal(target)
    assert seal is not None
    body = new[:-SEAL_BYTES]
    return body + Seal(seal.kind, len(body), hashlib.sha256(body).hexdigest()).encode()


def one(kind: str, seed: int, made: Path, folder: Path) -> tuple[str, str]:
    """What comes of one mutant, and the words of it."""
    shutil.copytree(made, folder)
    try:
        whole = folder / (made / "opened").read_text()
        target = folder / (made / "mutated").read_text()
        old = target.read_bytes()
        new = mutate(old, random.Random(f"{kind} {seed}"))
        if kind.endswith("new digest"):
            try:
                new = _reseal(kind, whole, target, old, new)
            except (ValueError, AttributeError, TypeError, RecursionError):
                return "refused", "no digest fits it"
        target.write_bytes(new)
        before = sorted(os.listdir(folder.parent))
        try:
            found = read(kind, whole)
        except (ValueError, OSError, ImportError) as error:
            return "refused", f"{type(error).__name__}: {error}"
        except MemoryError as error:
            return "escaped", f"MemoryError: {error}"
        except Exception as error:
            return "escaped", f"{type(error).__name__}: {error}"
        if sorted(os.listdir(folder.parent)) != before:
            return "touched", "files outside"
        if found == (made / "right").read_text():
            return "right", ""
        if kind in PROTECTED:
            return "wrong", "another number in spite of a digest"
        return "unprotected", ""
    finally:
        shutil.rmtree(folder)


def make(kind: str, folder: Path) -> Path:
    """The sound file of a kind, what is read of it, and which of its files is mutated."""
    made = folder / "made"
    made.mkdir(parents=True)
    whole, target = _make(kind, made)
    right = read(kind, whole)
    (made / "right").write_text(right)
    (made / "opened").write_text(str(whole.relative_to(made)))
    (made / "mutated").write_text(str(target.relative_to(made)))
    return made


def _work(kind: str, seeds: range, made: Path, folder: Path, pipe: Any) -> None:
    warnings.simplefilter("ignore")
    for seed in seeds:
        pipe.send((seed, None, None))
        pipe.send((seed, *one(kind, seed, made, folder / f"mutant-{seed}")))
    pipe.close()


@contextmanager
def _importable() -> Iterator[None]:
    """Let another process import this module by its name: pytest gives it one that is not on the path."""
    root = str(Path(__file__).resolve().parents[__name__.count(".")])
    sys.path.append(root)
    try:
        yield
    finally:
        sys.path.remove(root)


def run(kind: str, count: int, first: int = 0, report: Callable[..., None] | None = None) -> Counter[str]:
    """Counts of what came of `count` mutants of a kind, in another process that is replaced when it hangs or dies."""
    counts: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="icrkit-mutants-") as name:
        made = make(kind, Path(name) / "sound")
        done = first
        while done < first + count:
            ours, theirs = context.Pipe(duplex=False)
            seeds = range(done, first + count)
            worker = context.Process(target=_work, args=(kind, seeds, made, Path(name), theirs))
            with _importable():
                worker.start()
            theirs.close()
            try:
                while done < first + count:
                    if not ours.poll(SECONDS):
                        raise TimeoutError
                    seed, outcome, words = ours.recv()
                    if outcome is None:
                        continue
                    counts[outcome] += 1
                    done = seed + 1
                    if report is not None and outcome not in FINE:
                        report(kind, seed, outcome, words)
            except (TimeoutError, EOFError) as error:
                outcome = "hung" if isinstance(error, TimeoutError) else "died"
                counts[outcome] += 1
                if report is not None:
                    report(kind, done, outcome, "")
                done += 1
                worker.kill()
            worker.join()
            ours.close()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    each = -(-options.count // len(options.kinds))
    rows = []
    for kind in options.kinds:
        counts = run(kind, each, report=lambda *words: print(*words, flush=True))
        rows.append({"kind": kind, "mutants": each, **{name: counts[name] for name in (*FINE, *FAULTS)}})
        print(rows[-1], flush=True)
    if options.out:
        with open(options.out, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


FAULTS = ("wrong", "escaped", "touched", "hung", "died")

if __name__ == "__main__":
    main()
