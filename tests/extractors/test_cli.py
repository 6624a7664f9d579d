"""``icrkit extract``: real files in, the cube that `extract` would give out, and one line where something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from icrkit import Moments, open_cube
from icrkit.cli import main
from icrkit.datasets import data_path, load_fashion_images
from icrkit.readings._evidence import Evidence
from icrkit_extractors import extract, models, noise, views
from icrkit_extractors.run import least_images

MODEL = "icrkit_extractors.models.denoiser:SmallUNet"
WEIGHTS = data_path("fashion_denoiser.npz")
NET = ("--family", "module", "--model", MODEL, "--checkpoint", WEIGHTS, "--noise", "edm", "--views", "paper")


def icrkit(*args: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, ["extract", *(str(arg) for arg in args)])


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return load_fashion_images("test").images[:24]


@pytest.fixture
def images(tmp_path: Path, pictures: np.ndarray) -> Path:
    path = tmp_path / "images.npz"
    np.savez(path, images=pictures, labels=load_fashion_images("test").labels[:24])
    return path


def by_hand(pictures: np.ndarray, layers: Any = "mid", **given: Any) -> Any:
    src = models.load("module", MODEL, checkpoint=WEIGHTS).source(layers)
    return extract(src, pictures, [0.05, 0.4], noise=noise.EDM(), views=views.Paper(), progress=False, **given)


def test_a_cube_from_a_shell_is_the_one_from_python(images, pictures, tmp_path):
    out = tmp_path / "a.cube"
    given = ("--images", images, "--layers", "mid", "--sigmas", "0.05,0.4", "--out", out, "--quiet")
    result = icrkit(*NET, *given)
    assert result.exit_code == 0, result.output
    assert (
        "24 images x 2 views x 2 levels, mid (64 features)" in result.stdout and "next: icrkit score" in result.stdout
    )
    cube, wanted = open_cube(out), by_hand(pictures)
    np.testing.assert_array_equal(cube["mid"].values, wanted["mid"].values)
    np.testing.assert_array_equal(cube.labels, load_fashion_images("test").labels[:24])
    assert cube.attrs["noise"] == noise.EDM().config() and len(cube.attrs["model_sha256"]) == 64
    again = icrkit(*NET, *given, "--json")
    assert json.loads(again.stdout)["layers"] == {"mid": 64}


def test_layers_are_listed_with_shapes(images):
    result = icrkit(*NET, "--images", images, "--list-layers")
    assert result.exit_code == 0, result.output
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if len(line.split()) > 1)
    assert rows["mid"] == "(2, 64, 8, 8)" and rows["dec.16x16_block0"] == "(2, 32, 16, 16)"
    assert json.loads(icrkit(*NET, "--images", images, "--list-layers", "--json").stdout)["mid"] == [2, 64, 8, 8]


def test_an_onnx_file_needs_no_images_to_be_listed():
    result = icrkit("--family", "onnx", "--model", data_path("fashion_denoiser.onnx"), "--list-layers")
    assert "(n, 64, 8, 8)" in result.stdout and "(?, 64, 8, 8)" in result.stdout  # not every exporter names its axes
    assert result.exit_code == 0, result.output
    assert any(line.split()[0] == "mid" for line in result.stdout.splitlines())


def test_a_dry_run_writes_nothing(images, tmp_path):
    given = ("--images", images, "--layers", "mid", "--sigmas", "0.02:2:5", "--out", tmp_path / "a.cube", "--dry-run")
    result = icrkit(*NET, *given)
    assert result.exit_code == 0, result.output
    assert "forward passes: 240 (24 images x 2 views x 5 levels)" in result.stdout
    assert "features: 61.4 kB" in result.stdout and "time: about" in result.stdout
    assert json.loads(icrkit(*NET, *given, "--json").stdout)["bytes"] == 61440
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.npz"]


def test_a_dry_run_says_what_a_wide_layer_takes(images):
    given = ("--images", images, "--layers", "mid", "--sigmas", "0.02:2:5", "--dry-run", "--pool", "none")
    result = icrkit(*NET, *given, "--moments-only")
    assert "moments, in memory: 13.4 GB" in result.stdout and "hint: ICR needs more images than 24" in result.stdout
    assert json.loads(icrkit(*NET, *given, "--json").stdout)["layer_bytes"] == {"mid": 3932160}


def test_shards_resume_and_views(images, pictures, tmp_path):
    what = ("--images", images, "--layers", "mid", "--sigmas", "0.05,0.4", "--out", tmp_path / "a.cube", "--quiet")
    how = ("--views", "paper:level=5", "--n-views", 3, "--seed", 4, "--batch-size", 8, "--fresh-noise")
    given = (*NET, *what, *how)
    for i in (1, 0):
        result = icrkit(*given, "--shard", f"{i}/2")
        assert result.exit_code == 0, result.output
        assert ("other shards are still missing" in result.stdout) == (i == 1)
    src = models.load("module", MODEL, checkpoint=WEIGHTS).source("mid")
    wanted = extract(
        src, pictures, [0.05, 0.4], noise=noise.EDM(), views=views.Paper(5), n_views=3, seed=4, fresh_noise=True,
        progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(open_cube(tmp_path / "a.cube")["mid"].values, wanted["mid"].values, rtol=1e-4, atol=1e-5)
    refused = icrkit(*given, "--shard", "0/2", "--no-resume")
    assert refused.exit_code == 1 and "exists" in refused.stderr and refused.stderr.count("\n") == 1


def test_a_course_is_a_cube_a_checkpoint(images, pictures, tmp_path):
    for step in (100, 2000):
        (tmp_path / f"net-{step}.npz").write_bytes(Path(WEIGHTS).read_bytes())
    checkpoints = ("--checkpoint", tmp_path / "net-100.npz", "--checkpoint", tmp_path / "net-2000.npz")
    net = ("--family", "module", "--model", MODEL, *checkpoints, "--noise", "edm", "--views", "paper")
    out = tmp_path / "course"
    result = icrkit(
        *net, "--images", images, "--layers", "mid", "--sigmas", "0.05,0.4", "--quiet", "--out", out, "--json"
    )
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert [fact["step"] for fact in facts] == [100, 2000]
    for fact in facts:
        cube = open_cube(fact["path"])
        assert cube.step == fact["step"]
        np.testing.assert_array_equal(cube["mid"].values, by_hand(pictures)["mid"].values)


def test_moments_only(images, pictures, tmp_path):
    given = ("--images", images, "--layers", "mid", "--sigmas", "0.05,0.4", "--quiet", "--moments-only")
    result = icrkit(*NET, *given, "--out", tmp_path / "m")
    assert result.exit_code == 0, result.output
    about = json.loads((tmp_path / "m" / "moments.json").read_text())
    moments = Moments.load(tmp_path / "m" / about["layers"]["mid"])
    wanted = Moments.from_cube(by_hand(pictures).select(layer="mid"), dtype="float64")
    np.testing.assert_allclose(moments.within, wanted.within, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (("--layers", "midd"), 1, ("midd", "mid")),
        (("--sigmas", "abc"), 2, ("abc",)),
        (("--noise", "edn"), 2, ("edn", "edm")),
        (("--noise", "edm:sigma=1"), 2, ("sigma",)),
        (("--views", "papers"), 2, ("papers", "paper")),
        (("--shard", "2/2"), 2, ("2/2",)),
        (("--set", "nothing"), 2, ("name=value",)),
        (("--set", "nothing=3"), 1, ("nothing",)),
        (("--checkpoint", "missing.npz"), 1, ("missing.npz",)),
        (("--images", "missing.npz"), 1, ("missing.npz",)),
        (("--images-key", "photos"), 1, ("photos", "images")),
        (("--pool", "median"), 1, ("median",)),
    ],
)
def test_what_is_wrong_is_said_in_one_line(images, tmp_path, change, status, words):
    base = {
        "--family": "module", "--model": MODEL, "--checkpoint": WEIGHTS, "--noise": "edm", "--images": images,
        "--layers": "mid", "--sigmas": "0.05", "--views": "paper", "--out": tmp_path / "a.cube",
    }  # fmt: skip
    given = {**base, **dict([change])}
    result = icrkit(*(part for pair in given.items() for part in pair), "--quiet")
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "a.cube").exists()


@pytest.mark.parametrize("missing", ["--images", "--layers", "--noise", "--sigmas", "--views", "--out"])
def test_what_is_missing_is_named(images, tmp_path, missing):
    base = {
        "--family": "module", "--model": MODEL, "--checkpoint": WEIGHTS, "--noise": "edm", "--images": images,
        "--layers": "mid", "--sigmas": "0.05", "--views": "paper", "--out": tmp_path / "a.cube",
    }  # fmt: skip
    del base[missing]
    result = icrkit(*(part for pair in base.items() for part in pair), "--quiet")
    assert result.exit_code == 2 and missing in result.stderr


def test_a_course_is_checked_before_its_first_cube(images, tmp_path):
    twice = ("--checkpoint", WEIGHTS, "--checkpoint", WEIGHTS, "--step", 5, "--step", 5)
    given = ("--family", "module", "--model", MODEL, "--noise", "edm", "--images", images, "--layers", "mid",
             "--views", "paper", "--sigmas", "0.05", "--quiet", "--out", tmp_path / "course")  # fmt: skip
    result = icrkit(*given, *twice)
    assert result.exit_code == 2 and "step 5 appears twice" in result.stderr and not (tmp_path / "course").exists()
    both = icrkit(*given, *twice[:4], "--step", 5, "--step", 6, "--dry-run", "--json")
    assert json.loads(both.stdout)["forwards"] == 2 * 24 * 2


@pytest.mark.filterwarnings("always::UserWarning")
def test_images_of_another_size_are_noticed(tmp_path, pictures):
    np.savez(tmp_path / "large.npz", images=np.repeat(np.repeat(pictures, 2, axis=2), 2, axis=3))
    given = ("--images", tmp_path / "large.npz", "--layers", "mid", "--sigmas", "0.05", "--dry-run")
    result = icrkit(*NET, *given, "--set", "input_shape=(1, 16, 16)")
    assert result.exit_code == 0 and "made for inputs (1, 16, 16)" in result.stderr


def test_options_of_images(pictures, tmp_path):
    path = tmp_path / "last.npy"
    np.save(path, np.moveaxis(pictures, 1, -1))
    given = ("--images", path, "--layers", "mid", "--sigmas", "0.05,0.4", "--out", tmp_path / "a.cube", "--quiet")
    assert icrkit(*NET, *given, "--images-set", "layout=nhwc").exit_code == 0
    wrong = icrkit(*NET, *given, "--images-set", "order=nhwc")
    assert wrong.exit_code == 2 and "order" in wrong.stderr
    assert "there are labels, layout, value_range, background" in " ".join(wrong.stderr.split())  # no other options


def test_poolings_and_halves(images, tmp_path):
    given = ("--images", images, "--layers", "mid", "--sigmas", "0.05", "--quiet")
    assert (
        icrkit(*NET, *given, "--pool", "grid:2", "--autocast", "bfloat16", "--out", tmp_path / "a.cube").exit_code == 0
    )
    cube = open_cube(tmp_path / "a.cube")
    assert cube.n_features == {"mid": 256} and cube.attrs["autocast"] == "bfloat16"


@pytest.mark.parametrize(
    ("extra", "status", "words"),
    [
        (("--device", "cuda:7"), 1, ("did not run", "--device")),
        (("--views", "icrkit_extractors.views:Nope"), 2, ("Nope",)),
        (("--channels", "3"), 1, ("failed at denoiser.py", "RuntimeError", "--family module")),
    ],
)
def test_what_the_framework_says_is_one_line(images, tmp_path, extra, status, words):
    given = ("--images", images, "--layers", "mid", "--sigmas", "0.05", "--out", tmp_path / "a.cube", "--quiet")
    result = icrkit(*NET, *given, *extra)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr


def test_torch_options_are_refused_for_onnx():
    given = ("--family", "onnx", "--model", data_path("fashion_denoiser.onnx"), "--list-layers")
    result = icrkit(*given, "--autocast", "bfloat16")
    assert result.exit_code == 2 and "--autocast" in result.stderr


def test_a_network_without_a_trained_range_is_listed():
    given = ("--family", "module", "--model", MODEL, "--noise", "flow:name=c_noise", "--set", "input_shape=(1, 16, 16)")
    result = icrkit(*given, "--list-layers", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["mid"] == [2, 64, 8, 8]


def test_a_glob_leaves_out_what_is_never_called(images):
    result = icrkit(*NET, "--images", images, "--layers", "dec*", "--sigmas", "0.05", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert "dec" not in json.loads(result.stdout)["layers"]
    assert "dec.16x16_block0" in json.loads(result.stdout)["layers"]


def test_a_glob_leaves_out_what_runs_several_times(tmp_path, images):
    folder = data_path("fashion_ddpm")
    given = ("--family", "diffusers", "--model", folder, "--images", images, "--sigmas", "0.1", "--views", "paper")
    result = icrkit(*given, "--layers", "up_blocks.0.*", "--out", tmp_path / "a.cube")
    assert result.exit_code == 0, result.output
    cube = open_cube(tmp_path / "a.cube")
    assert "up_blocks.0.resnets.0.conv1" in cube.layers
    assert "up_blocks.0.resnets.0.nonlinearity" not in cube.layers
    assert list(cube.attrs["layers"]) == list(cube.layers)
    named = icrkit(*given, "--layers", "up_blocks.0.resnets.0.nonlinearity", "--out", tmp_path / "b.cube")
    assert named.exit_code == 1 and "times in one forward pass" in named.stderr


# ---- what foreign code prints and raises ----------------------------------------------------------------------------

LOUD = """
import atexit, os, sys, warnings
import torch
print("imported")
atexit.register(print, "at exit")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        print("made")
        self.a = torch.nn.Conv2d(1, 4, 3)
        self.a.weight.data.normal_(generator=torch.Generator().manual_seed(0))

    def forward(self, x, c_noise):
        print("run")
        os.write(1, b"run below Python\\n")
        sys.__stdout__.write("run dunder\\n")
        warnings.warn("run warning")
        return self.a(x)


def broken(x): ...
def nothing(): return None
def leaves(): sys.exit("usage: net.py --config FILE")


class Attribute(Net):
    def forward(self, x, c_noise):
        return self.emb(x)


class Key(Net):
    def forward(self, x, c_noise):
        return {}["y"]


class Unsupported(Net):
    def forward(self, x, c_noise):
        raise NotImplementedError("not on this device")


class Stop(Net):
    def forward(self, x, c_noise):
        raise StopIteration
"""


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(LOUD)
    return path


@pytest.mark.parametrize("what", [("--list-layers",), ("--dry-run",), ()])
def test_standard_output_holds_the_result_alone(images, tmp_path, loud, what):
    """In a process of its own: what C and children print, and what is printed as the process ends."""
    done = subprocess.run(
        [sys.executable, "-m", "icrkit", "extract", "--family", "module", "--model", f"{loud}:Net", "--noise", "edm",
         "--images", str(images), "--layers", "a", "--sigmas", "0.1", "--views", "fashion", "--json",
         "--out", str(tmp_path / "a.cube"), *what],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert ("a" in facts) if what == ("--list-layers",) else facts["layers"] == {"a": 4}
    for word in ("imported", "made", "run\n", "run below Python", "run dunder", "at exit", "run warning"):
        assert word in done.stderr, word
    assert "it/s" not in done.stderr and "extract:" not in done.stderr  # no bar in a pipe


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Attribute", ("AttributeError", "emb")),
        ("Key", ("y",)),
        ("Unsupported", ("not on this device",)),
        ("Stop", ()),
        ("broken", ("x",)),
        ("nothing", ("None",)),
        ("leaves", ("usage: net.py",)),
        ("absent", ("absent",)),
    ],
)
def test_whatever_a_network_raises_is_one_line(images, tmp_path, loud, name, words):
    result = icrkit("--family", "module", "--model", f"{loud}:{name}", "--noise", "edm", "--images", images, "--layers",
                    "a", "--sigmas", "0.1", "--views", "fashion", "--out", tmp_path / "a.cube")  # fmt: skip
    assert result.exit_code == 1 and result.stdout == ""
    said = [line for line in result.stderr.splitlines() if line.startswith("icrkit: ") and "warning" not in line]
    assert len(said) == 1 and "Traceback" not in result.stderr, result.stderr
    for word in words:
        assert word in said[0]
    assert not (tmp_path / "a.cube").exists()


def test_the_line_of_the_users_code_is_named(images, tmp_path, loud):
    result = icrkit("--family", "module", "--model", f"{loud}:Attribute", "--noise", "edm", "--images", images,
                    "--layers", "a", "--sigmas", "0.1", "--views", "fashion", "--dry-run")  # fmt: skip
    line = 1 + LOUD.splitlines().index("        return self.emb(x)")
    assert f"{loud.name}:{line}" in result.stderr and "lambda" not in result.stderr


# ---- in the words of a shell ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--layers": "absent"}, "--list-layers"),
        ({"--n-prefix": "90", "--pool": "patches"}, "--pool patches"),
        ({"--feature-axis": "9"}, "--feature-axis 9"),
        ({"--images-set": "layout=hwc"}, "--images-set layout= must be"),
        ({"--images-set": "labels=absent"}, "absent"),
        ({"--views": "paper:9"}, "--views"),
        ({"--noise": "flow"}, "--noise"),
        ({"--out": None, "--no-resume": ""}, "--resume continues it"),
        ({"--moments-only": "", "--n-views": "1"}, "--n-views 1"),
    ],
)
def test_errors_name_options(images, tmp_path, change, words):
    (tmp_path / "exists.cube").mkdir()
    base = {
        "--family": "module", "--model": MODEL, "--checkpoint": WEIGHTS, "--noise": "edm", "--images": images,
        "--layers": "mid", "--sigmas": "0.05", "--views": "paper", "--out": tmp_path / "a.cube",
    } | {"--out": tmp_path / "exists.cube"} if "--no-resume" in change else {
        "--family": "module", "--model": MODEL, "--checkpoint": WEIGHTS, "--noise": "edm", "--images": images,
        "--layers": "mid", "--sigmas": "0.05", "--views": "paper", "--out": tmp_path / "a.cube",
    }  # fmt: skip
    given = base | {key: value for key, value in change.items() if value is not None}
    result = icrkit(*(part for pair in given.items() for part in pair if part != ""), "--quiet")
    assert result.exit_code in (1, 2) and words in result.stderr, result.stderr
    said = result.stderr.splitlines()[-1]
    assert not re.search(r"(?<![\w.\-/\"'])[a-z_]+=(?!=)", re.sub(r"--\S+( \"[^\"]*\"| \S+)?", "", said)), said


BAD = [
    (("--n-views", "1000000000"), "--n-views"),
    (("--n-views", "0"), "--n-views"),
    (("--n-views", "two"), "--n-views"),
    (("--batch-size", "0"), "--batch-size"),
    (("--batch-size", "-3"), "--batch-size"),
    (("--batch-size", "1" + "0" * 30), "--batch-size"),
    (("--size", "0"), "--size"),
    (("--size", "1000000000"), "--size"),
    (("--limit", "0"), "--limit"),
    (("--seed", "-1"), "--seed"),
    (("--step", "-1"), "--step"),
    (("--n-prefix", "-1"), "--n-prefix"),
    (("--channels", "2"), "--channels"),
    (("--device", ""), "--device"),
    (("--device", "cuda:-1"), "--device"),
    (("--sigmas", "0.1:1:1000000000"), "--sigmas"),
    (("--sigmas", "0.1:1:1"), "--sigmas"),
    (("--sigmas", "1:0.1:5"), "--sigmas"),
    (("--sigmas", "0.1:inf:5"), "--sigmas"),
    (("--sigmas", "nan"), "--sigmas"),
    (("--sigmas", "0.1,-0.2"), "--sigmas"),
    (("--sigmas", "1e400"), "--sigmas"),
    (("--sigmas", ""), "--sigmas"),
    (("--shard", "3/2"), "--shard"),
    (("--shard", "0/0"), "--shard"),
    (("--shard", "a/b"), "--shard"),
    (("--noise", "edm:sigma_data=-1"), "--noise"),
    (("--noise", "ddpm:quadratic"), "--noise"),
    (("--noise", "scheduler:net.json"), "--noise"),
    (("--views", "paper:level=9"), "--views"),
    (("--views", "augment:scale=2"), "--views"),
    (("--views", "paper:" + "(" * 3000), "--views"),
    (("--set", "a.=3"), "--set"),
    (("--images-set", "order=nchw"), "--images-set"),
]


@pytest.mark.parametrize(("given", "option"), BAD, ids=lambda part: "".join(part)[:30])
def test_bad_arguments_end_with_status_2(images, tmp_path, monkeypatch, given, option):
    monkeypatch.chdir(tmp_path)
    Path("net.json").write_text("[" * 3000)
    what = ("--images", images, "--layers", "mid", "--sigmas", "0.05", "--out", tmp_path / "a.cube")
    result = icrkit(*NET, *what, *given)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr and option in result.stderr and result.stdout == ""
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
    assert not (tmp_path / "a.cube").exists()


def test_what_to_do_next_is_what_can_be_done(images, tmp_path):
    more = tmp_path / "more.npz"
    np.savez(more, images=load_fashion_images("test").images[:40])
    what = (*NET, "--images", images, "--layers", "mid", "--sigmas", "0.05")
    one = icrkit(*what, "--out", tmp_path / "one view.cube", "--n-views", 1, "--quiet")
    assert one.exit_code == 0 and "next:" not in one.stdout  # sweep needs two
    two = icrkit(*what, "--out", tmp_path / "two views.cube", "--quiet")
    assert f"next: icrkit score '{tmp_path / 'two views.cube'}'" in two.stdout  # one level: sweep needs three
    for step in (1, 2, 3):
        (tmp_path / f"net-{step}.npz").write_bytes(Path(WEIGHTS).read_bytes())
    several = [part for step in (1, 2, 3) for part in ("--checkpoint", tmp_path / f"net-{step}.npz")]
    course = icrkit("--family", "module", "--model", MODEL, *several, "--noise", "edm", "--views", "paper",
                    "--images", more, "--layers", "mid", "--sigmas", "0.05", "--out", tmp_path / "c",
                    "--n-views", 4)  # fmt: skip
    assert course.exit_code == 0, course.output
    assert [line for line in course.stdout.splitlines() if line.startswith("next")] == [
        f"next: icrkit course {tmp_path / 'c'}"
    ]
    again = CliRunner().invoke(main, ["course", str(tmp_path / "c")])
    assert again.exit_code == 0, again.output
    # 24 images of 2 views are too few for 64 features.
    small = icrkit(*what, "--sigmas", "0.05,0.1,0.2", "--out", tmp_path / "small.cube", "--quiet")
    assert "next:" not in small.stdout
    assert "hint: too few images for icrkit sweep: 64 features need 108 images of 2 views" in small.stdout
    refused = CliRunner().invoke(main, ["sweep", str(tmp_path / "small.cube")])
    assert refused.exit_code == 1 and "m = 23" in refused.stderr


@pytest.mark.parametrize("n_views", [2, 3, 8])
@pytest.mark.parametrize("d", [1, 16, 64, 768])
def test_images_that_a_hint_asks_for_are_enough_for_a_headline(d, n_views):
    assert least_images(d, n_views) == Evidence(10, n_views, d).least_images()


def test_names_with_control_characters_stay_one_line(images, tmp_path):
    net = tmp_path / "net.py"
    net.write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.add_module('a\\x1b[31m\\n\\u202eb', torch.nn.Conv2d(1, 2, 3))\n\n"
        "    def forward(self, x, c_noise):\n        return [*self.children()][0](x)\n"
    )
    given = ("--family", "module", "--model", f"{net}:Net", "--noise", "edm", "--views", "fashion", "--images", images)
    listed = icrkit(*given, "--list-layers")
    assert listed.exit_code == 0 and "\x1b" not in listed.stdout and r"a\x1b[31m\n\u202eb" in listed.stdout
    made = icrkit(*given, "--layers", "a*", "--sigmas", "0.1", "--out", tmp_path / "a.cube")
    assert "\x1b" not in made.output and "\u202e" not in made.output
