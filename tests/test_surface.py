"""Messages in the words of a shell, and standard output that holds results alone."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest

from icrkit._surface import option_names, results_alone, shell_words, worded

NAMES = {
    "n_views": "--n-views",
    "size": "--size",
    "channels": "--channels",
    "pool": "--pool",
    "shard": "--shard",
    "layers": "--layers",
    "output_index": "--output-index",
    "value_range": "--images-set value_range=",
    "class_label": "--set class_label=",
    "key": "--images-key",
    "code": "--code",
    "resume": "--resume/--no-resume",
    "fresh_noise": "--fresh-noise/",
    "call": "a function of yours around the network",
    "encode": "--set autoencoder=",
    "available_layers()": "--list-layers",
    "attrs['step']": "--step",
    "noise.Flow(": "--noise flow",
    "noise.Flow": "--noise flow",
}


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("n_views=4 views", "--n-views 4 views"),
        ("size=N makes all of them N x N", "--size N makes all of them N x N"),
        ("channels=1 or 3 makes them the same", "--channels 1 or 3 makes them the same"),
        ("or flatten with pool='none'.", "or flatten with --pool none."),
        ('take pool="grid:2"', "take --pool grid:2"),
        ("value_range=(0, 1) after ToTensor", '--images-set "value_range=(0, 1)" after ToTensor'),
        ("such as output_index={'up.0': 1}.", "such as --output-index \"{'up.0': 1}\"."),
        ("class_label=12 is not one of 0 to 9", "--set class_label=12 is not one of 0 to 9"),
        ("resume=True continues it, resume=False", "--resume continues it, --no-resume"),
        ("fresh_noise=True or fresh_noise=False", "--fresh-noise or no --fresh-noise"),
        ("pass call=lambda module, x, c: module(x)", "pass a function of yours around the network"),
        ("open_images(..., channels=3) converts", "--channels 3 converts"),
        ("open_images(..., size=256, channels=1) gives", "--size 256, --channels 1 gives"),
        ("extract(encode=...) takes", "--set autoencoder=... takes"),
        ("name one with key=; it holds", "name one with --images-key; it holds"),
        ("code=FOLDER says where it is", "--code FOLDER says where it is"),
        ("n_views must be 1 or more, not 0", "--n-views must be 1 or more, not 0"),
        ("shard must be (i, n)", "--shard must be (i, n)"),
        ("a.npz, array 'x': size must be 1", "a.npz, array 'x': --size must be 1"),
        ("available_layers() lists what else", "--list-layers lists what else"),
        ("does not record attrs['step']", "does not record --step"),
        ("or noise.Flow(name='t', scale=...) give it", "or --noise flow:name=t,scale=... give it"),
        ("noise.Flow() or noise.Flow", "--noise flow or --noise flow"),
        # Nothing of a person's own is rewritten.
        ("/data/size=3/a.npz: no such file", "/data/size=3/a.npz: no such file"),
        ("layer 'n_views' is not there", "layer 'n_views' is not there"),
        ("layer 'a.pool' has the shard of shape (2, 3)", "layer 'a.pool' has the shard of shape (2, 3)"),
        ("my_size=3 and n_views==4", "my_size=3 and n_views==4"),
        ("f(x, size=3)", "f(x, --size 3)"),
        ("a/n_views.py and n_views()", "a/n_views.py and n_views()"),
    ],
)
def test_messages_name_the_options_of_a_shell(python, shell):
    assert shell_words(python, NAMES) == shell
    assert shell_words(shell, NAMES) == shell, "what was rewritten is left alone"


def test_without_names_nothing_changes():
    assert shell_words("n_views=4", {}) == "n_views=4"
    assert shell_words("n_views=4: f()", {"f()": "g"}) == "n_views=4: g"


def test_names_come_from_the_command_itself():
    @click.command()
    @click.argument("path")
    @click.option("--n-views", type=int)
    @click.option("--set", "settings", multiple=True)
    @click.option("-q", "--quiet", is_flag=True)
    @click.option("--resume/--no-resume")
    def command(**_: object) -> None: ...

    assert option_names(command) == {
        "n_views": "--n-views", "settings": "--set", "quiet": "--quiet/", "resume": "--resume/--no-resume",
    }  # fmt: skip


def test_an_error_keeps_its_class_and_place():
    with pytest.raises(IndexError, match=r"^--n-views must be") as caught, worded(NAMES):
        raise IndexError("n_views must be 1 or more")
    assert caught.value.__cause__ is None
    with pytest.raises(OSError, match="No such") as caught, worded(NAMES):
        raise OSError(2, "No such file", "size=3")
    assert caught.value.filename == "size=3"


# ---- standard output ------------------------------------------------------------------------------------------------


NOISY = """
    import atexit, ctypes, os, subprocess, sys
    from icrkit._surface import results_alone

    def noise(word):
        print(word, "print")
        sys.__stdout__.write(word + " dunder\\n")
        ctypes.CDLL(None).printf((word + " printf\\n").encode())
        os.write(1, (word + " write\\n").encode())

    with results_alone():
        atexit.register(noise, "exit")
        noise("inside")
        subprocess.run(["echo", "inside child"])
        print("inside at last", end="")
        {end}
    print("RESULT")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="ctypes.CDLL(None) is of POSIX")
@pytest.mark.parametrize("end", ["pass", "raise SystemExit('an error')"])
def test_nothing_but_results_reaches_standard_output(end):
    code = textwrap.dedent(NOISY).format(end=end)
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=root)
    assert done.stdout == ("RESULT\n" if end == "pass" else "")
    for word in ("inside", "exit"):
        for way in ("print", "dunder", "printf", "write"):
            assert done.stderr.count(f"{word} {way}\n") == 1, (word, way, done.stderr)
    assert "inside child" in done.stderr and "inside at last" in done.stderr


def test_streams_of_a_test_are_given_back(capsys):
    before = sys.stdout
    with results_alone():
        print("noise")
    print("result")
    assert sys.stdout is before
    assert capsys.readouterr() == ("result\n", "noise\n")
