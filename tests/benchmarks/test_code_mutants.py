"""The counting of mutants of the code, without mutmut: what is sampled, and what counts as words."""

from __future__ import annotations

import json

import pytest

ORIGINAL = """
def x_f__mutmut_orig(a):
    if a < 1:
        raise ValueError(f"a is {a}")
    return a, "none", "one or more"
"""
MUTANTS = [
    ("a < 1", "a <= 1", "code"),
    ("a < 1", "a < 2", "code"),
    ('"none"', '"XXnoneXX"', "code"),
    ("ValueError(", "TypeError(", "code"),
    ('f"a is {a}"', "None", "words"),
    ('"one or more"', '"ONE OR MORE"', "words"),
]


def test_words_are_sentences_and_what_is_raised(benchmark, tmp_path):
    codes, source = {}, ORIGINAL
    for i, (old, new, _) in enumerate(MUTANTS, 1):
        source += ORIGINAL.replace("orig", str(i)).replace(old, new)
        codes[f"icrkit.f.x_f__mutmut_{i}"] = [0, 1, 33, -24, None, -6][i - 1]
    folder = tmp_path / "mutants" / "icrkit"
    folder.mkdir(parents=True)
    (folder / "f.py").write_text(source)
    (folder / "f.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    found = benchmark.read_mutants(tmp_path, codes)
    assert [m.kind for m in found] == [kind for *_, kind in MUTANTS]
    assert [m.outcome for m in found] == ["survived", "killed", "no test", "timeout", "not run", "exit code -6"]
    assert found[0].change == "-     if a < 1: / +     if a <= 1:"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_has_of_each_file_its_share(benchmark, seed):
    names = {"a": [f"a{i}" for i in range(900)], "b": [f"b{i}" for i in range(100)], "c": ["c0"]}
    found = benchmark.sample(names, 100, seed)
    assert len(set(found)) == len(found) == 101
    assert [sum(name[0] == file for name in found) for file in "abc"] == [90, 10, 1]
    assert found == benchmark.sample(names, 100, seed) != benchmark.sample(names, 100, seed + 1)
