"""Training with a callback is the training without it, bit by bit; what the monitor says is logged, obeyed and kept."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError, MissingDependencyError, NonFiniteError
from icrkit.readings._monitor import ICRMonitor
from icrkit_extractors import TorchSource, extract, noise, views
from icrkit_extractors.images import open_images
from icrkit_extractors.models.denoiser import SmallUNet, edm_loss
from icrkit_extractors.training import (
    ProbeSet,
    _lightning_package,
    _Watch,
    huggingface_callback,
    lightning_callback,
)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pixels(n: int, seed: int = 0) -> np.ndarray:
    """Smooth images (n, 1, 8, 8), float32 in [-1, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8] / 7
    a, b = rng.uniform(1, 5, (2, n, 1, 1))
    return (np.sin(a * y + b) * np.cos(b * x - a))[:, None].astype(np.float32)


def small_unet() -> SmallUNet:
    """Always the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallUNet(resolution=8, width=8)
        for block in net.modules():  # at zero, where they start, a layer has not the rank of its width
            if hasattr(block, "conv1"):
                nn.init.normal_(block.conv1.weight, std=0.1)
        return net


def make_probe(n: int = 24, **settings: Any) -> ProbeSet:
    return ProbeSet(
        pixels(n, 1), [0.1, 0.3], "mid", **{"noise": noise.EDM(), "views": views.Digits(), "n_views": 2, **settings}
    )


class Scripted:
    """A monitor that says what it was told to: at which look to stop."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.steps: list[int] = []
        self.sums: list[float] = []

    def update(self, step: int, cube: ik.Cube) -> Any:
        self.steps.append(step)
        self.sums.append(float(cube["mid"].sum()))
        looks = len(self.steps)
        return types.SimpleNamespace(
            icr=1 / looks, information=float(looks), interval=(looks - 0.5, looks + 0.5), best_step=self.steps[0],
            fall=0.25, fall_interval=(0.1, 0.4), turned=False, by_level={},
            should_stop=self.stop_at is not None and looks >= self.stop_at,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self.steps), "sums": list(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.sums = list(state["steps"]), list(state["sums"])


class Denoiser(nn.Module):
    """A small U-Net with its loss; dropout and noise draw from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_unet()
        self.net.mid.conv1 = nn.Sequential(nn.Dropout(0.2), self.net.mid.conv1)
        self.ema = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        level = -1.2 + 1.2 * torch.randn(len(pixel_values))
        return {"loss": edm_loss(self.net, pixel_values, level, torch.randn(pixel_values.shape)).mean()}

    @torch.no_grad()
    def average(self) -> None:
        for averaged, current in zip(self.ema.parameters(), self.net.parameters(), strict=True):
            averaged.lerp_(current, 0.5)


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    other = b.state_dict()
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, other[name]), name


# ---- the probe set --------------------------------------------------------------------------------------------------


def test_a_probe_gives_what_an_extraction_of_the_same_gives(unet):
    images, sigmas = np.random.default_rng(0).uniform(-1, 1, (7, 1, 16, 16)).astype(np.float32), [0.1, 0.4]
    given = {"noise": noise.EDM(), "views": views.Fashion(), "n_views": 3, "seed": 5, "image_ids": list("abcdefg")}
    cube = ProbeSet(images, sigmas, ["mid", "dec.*_block0"], batch_size=4, pool={"mid": "none"}, **given)(unet)
    source = TorchSource(unet, ["mid", "dec.*_block0"], pool={"mid": "none"})
    want = extract(source, images, sigmas, batch_size=4, progress=False, **given)
    assert cube.layers == want.layers == ("mid", "dec.8x8_block0", "dec.16x16_block0")
    for layer in cube.layers:
        assert np.array_equal(cube[layer].values, want[layer].values)
    assert cube.image_ids.tolist() == list("abcdefg")
    assert "weights_sha256" not in cube.attrs and cube.attrs["seed"] == 5


@pytest.mark.parametrize("law", noise.LAWS)
def test_a_probe_goes_to_another_process(law, tmp_path):
    np.save(tmp_path / "a.npy", pixels(6))
    view = views.FromTorch(nn.Identity()) if law == "edm" else views.Paper()
    probe = ProbeSet(open_images(tmp_path / "a.npy"), [0.2], "mid", noise=noise.LAWS[law](), views=view)
    there = pickle.loads(pickle.dumps(probe))
    assert there._drawn["noise"].config() == probe._drawn["noise"].config()
    if law == "edm":
        net = small_unet()
        np.testing.assert_array_equal(there(net)["mid"].values, probe(net)["mid"].values)


def test_moments_only_keeps_sums_that_read_the_same(unet):
    images = np.random.default_rng(0).uniform(-1, 1, (60, 1, 16, 16)).astype(np.float32)
    given = {"noise": noise.EDM(), "views": views.Fashion(), "n_views": 2}
    cube = ProbeSet(images, [0.2], "mid", **given)(unet)
    moments = ProbeSet(images, [0.2], "mid", moments_only=True, n_folds=10, **given)(unet)
    assert set(moments) == {"mid"} and moments["mid"].dims == ("sigma", "fold")
    est = ik.ICREstimator(correction="crossfit", dtype="float64").fit(cube)
    assert ik.icr(moments["mid"], correction="crossfit") == pytest.approx([est.icr_], rel=1e-9)


def test_a_probe_leaves_the_training_as_it_was():
    model, twin = Denoiser(), Denoiser()
    probe, x = make_probe(), torch.from_numpy(pixels(6))
    torch.manual_seed(1)
    model(x)["loss"].backward()
    state = torch.get_rng_state()
    probe(model.net)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in model.modules())
    assert not any(part._forward_hooks for part in model.modules())
    torch.manual_seed(1)
    twin(x)["loss"].backward()
    for p, q in zip(model.net.parameters(), twin.net.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_a_probe_sees_the_network_as_it_is_now():
    probe, net = make_probe(), small_unet()
    first = probe(net)["mid"].values
    assert np.array_equal(probe(net)["mid"].values, first)
    with torch.no_grad():
        net.conv_in.weight.mul_(1.5)
    assert not np.array_equal(probe(net)["mid"].values, first)
    assert np.array_equal(pickle.loads(pickle.dumps(probe))(net)["mid"].values, probe(net)["mid"].values)


def test_a_network_in_parts_is_refused(tmp_path):
    probe = make_probe()
    net = small_unet()
    net.conv_in.weight.ds_id = 0  # as DeepSpeed marks it
    with pytest.raises(ValueError, match="parameters of SmallUNet are split over processes"):
        probe(net)
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        sharded = fully_shard(small_unet(), mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match="split over processes"):
            probe(sharded)
        parallel = nn.parallel.DistributedDataParallel(small_unet())
        assert np.array_equal(probe(parallel)["mid"].values, probe(parallel.module)["mid"].values)
    finally:
        dist.destroy_process_group()


def test_what_is_wrong_with_a_probe_is_said():
    with pytest.raises(ValueError, match=r"no module 'middle' \(nearest: 'mid'"):
        ProbeSet(pixels(4), [0.1], "middle", noise=noise.EDM(), views=views.Digits())(small_unet())
    net = small_unet()
    with torch.no_grad():
        net.mid.conv0.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="layer 'mid'"):
        make_probe()(net)


def steps_of(model: Denoiser, steps: range) -> Iterator[int]:
    """Train, and say after which step."""
    adam = torch.optim.Adam(model.net.parameters(), lr=1e-3)
    data = torch.from_numpy(pixels(16))
    for step in steps:
        loss = model(data)["loss"]
        adam.zero_grad()
        loss.backward()
        adam.step()
        yield step


def test_a_plain_loop_is_watched_by_one_line():
    model, probe, monitor = Denoiser(), make_probe(100, n_views=4), ICRMonitor()
    sums = ICRMonitor()
    by_moments = make_probe(100, n_views=4, moments_only=True)
    for step in steps_of(model, range(1, 4)):
        state = monitor.update(step, probe(model.net))
        again = sums.update(step, by_moments(model.net)["mid"])
    assert state.step == 3 and 0 < state.icr < 1 and state.interval[0] < state.information < state.interval[1]
    assert set(state.by_level) == {0.1, 0.3}
    for sigma, level in again.by_level.items():
        assert level.information == pytest.approx(state.by_level[sigma].information, rel=1e-5)


# ---- when to look ---------------------------------------------------------------------------------------------------


def make_watch(every: Any = 2, module: Any = None, stop: bool = False, name: str = "icrkit") -> _Watch:
    return _Watch(make_probe(), Scripted(), every, module, stop, name)


def looks(every: Any, steps: list[int], begin: int = 0) -> list[int]:
    watch = make_watch(every)
    watch.begin(begin)
    return [step for step in steps if watch.due(step)]


def test_a_look_is_due_once_when_its_step_is_reached_or_passed():
    assert looks(3, [1, 2, 3, 3, 4, 6, 6]) == [3, 6]
    assert looks(3, [2, 4, 6, 8, 10, 12]) == [4, 6, 10, 12]  # two optimisers: two steps a batch
    assert looks([2, 5, 5], [1, 2, 3, 4, 5, 6]) == [2, 5]
    assert looks(3, [7, 8, 9], begin=6) == [9] and looks(3, [4, 5], begin=3) == []


def test_what_cannot_be_is_refused():
    for every, words in ((0, "1 or more steps"), ([], "every holds steps"), ([-1, 3], "every holds steps")):
        with pytest.raises(ValueError, match=words):
            make_watch(every)
    with pytest.raises(TypeError):
        make_watch(1.5)
    with pytest.raises(ValueError, match="name is what"):
        make_watch(name="")
    with pytest.raises(ValueError, match="module='emma'"):
        make_watch(module="emma").look(1, Denoiser())


def test_the_module_may_be_found_by_name_or_by_function():
    model = Denoiser()
    for module in ("net.mid", lambda root: root.net.mid):
        assert make_watch(module=module).chosen(model) is model.net.mid
    assert make_watch().chosen(model) is model


def test_a_network_that_cannot_be_read_for_the_moment_does_not_end_the_training():
    watch = make_watch(module="net")
    model = Denoiser()
    with torch.no_grad():
        model.net.mid.conv0.weight.fill_(torch.nan)
    with pytest.warns(UserWarning, match="icrkit: no reading at step 4: layer 'mid' holds NaN"):
        assert watch.look(4, model) == ({}, False)

    def dead(step: int, cube: ik.Cube) -> Any:
        raise DegenerateFeaturesError("constant features")

    watch.monitor.update = dead
    with pytest.warns(UserWarning, match="no reading at step 6: constant features"):
        assert watch.look(6, Denoiser()) == ({}, False)


def test_a_level_that_cannot_be_measured_is_named_and_the_others_are_logged():
    cube = make_probe(100, n_views=4)(Denoiser().net)
    features = cube["mid"].to_numpy().copy()
    features[:, :, 0, 0] = 1.0
    spoilt = ik.from_arrays({"mid": features}, sigmas=cube.sigmas)
    watch = _Watch(lambda _: spoilt, ICRMonitor(sigma=cube.sigmas[1]), 2, None, False, "icrkit")
    with pytest.warns(UserWarning, match=f"step 2, layer mid, sigma {cube.sigmas[0]:g}: .* constant"):
        values, stops = watch.look(2, None)
    read = {name.split("/")[1] for name in values if name.endswith("/icr") and name.count("/") == 2}
    assert read == {f"{sigma:g}" for sigma in cube.sigmas[1:]} and np.isfinite(values["icrkit/icr"]) and not stops


def test_the_turn_is_told_once():
    model, words = Denoiser(), "best at step 2, significantly worse at step 4, by 0.25 "
    for stop, end in ((False, "stop=True would end the training here"), (True, "the training ends here")):
        watch = make_watch(module="net", stop=stop)
        watch.monitor.stop_at = 2
        assert watch.look(2, model)[1] is False
        with pytest.warns(UserWarning, match=rf"{words}\(interval 0.1 to 0.4\); {end}"):
            assert watch.look(4, model)[1] is stop
        assert watch.look(6, model)[1] is stop


def test_a_stop_without_a_warm_up_is_questioned_at_the_start():
    watch = make_watch(module="net", stop=True)
    watch.monitor = ik.ICRMonitor()
    with pytest.warns(UserWarning, match="no warm_up: features of a random start"):
        watch.begin(0)
    watch.begin(100)  # goes on from a checkpoint
    watch.monitor = ik.ICRMonitor(warm_up=1)
    watch.begin(0)
    watch.monitor, watch.stop = ik.ICRMonitor(), False
    watch.begin(0)


def test_a_second_training_starts_the_monitor_anew():
    watch = make_watch(module="net")
    watch.monitor.stop_at = 2
    watch.begin(0)
    with pytest.warns(UserWarning, match="best at step 2"):
        watch.look(2, Denoiser()), watch.look(4, Denoiser())
    watch.begin(4)  # the same training goes on
    assert watch.monitor.steps == [2, 4]
    with pytest.warns(UserWarning, match=r"begins at step 0, .* has seen another one up to step 4: it starts"):
        watch.begin(0)
    assert watch.monitor.steps == [] and watch.monitor.stop_at == 2
    with pytest.warns(UserWarning, match="best at step 1"):  # told again
        watch.look(1, Denoiser()), watch.look(3, Denoiser())
    watch.resume(1, {"steps": [1], "sums": [0.0]})  # from the second one's checkpoint
    assert watch.monitor.steps == [1]


def test_one_monitor_in_two_callbacks_starts_anew():
    probe, monitor = make_probe(100, n_views=4), ICRMonitor(sigma=0.3, warm_up=1)
    first = _Watch(probe, monitor, 2, "net", False, "a")
    first.begin(0)
    values, _ = first.look(2, Denoiser())
    second = _Watch(probe, monitor, 2, "net", False, "b")
    with pytest.warns(UserWarning, match="starts anew"):
        second.begin(0)
    assert monitor.steps_ == [] and monitor.warm_up == 1
    again, _ = second.look(2, Denoiser())
    assert again["b/icr"] == values["a/icr"] and monitor.steps_ == [2]


def test_a_monitor_that_cannot_start_anew_says_so_when_the_training_begins():
    class Sealed(Scripted):
        def __init__(self, secret: int) -> None:
            super().__init__()

    watch = make_watch(module="net")
    watch.monitor = Sealed(1)
    watch.begin(0)
    watch.look(2, Denoiser())
    with (
        pytest.warns(UserWarning, match="starts anew"),
        pytest.raises(ValueError, match=r"Sealed .* cannot start"),
    ):
        watch.begin(0)


def test_frameworks_are_not_imported_before_they_are_asked_for():
    code = "import sys, icrkit_extractors.training\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "icrkit_extractors" in loaded
    assert not loaded & {"lightning", "pytorch_lightning", "transformers", "accelerate", "torch"}


def test_what_is_missing_is_named(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    monkeypatch.delitem(sys.modules, "pytorch_lightning")
    real = importlib.import_module

    def none(name: str) -> Any:
        if name.split(".")[0] in ("lightning", "pytorch_lightning"):
            raise ModuleNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", none)
    with pytest.raises(MissingDependencyError, match="pip install lightning"):
        lightning_callback(make_probe(), Scripted(), 2)
    with pytest.raises(MissingDependencyError, match="pip install transformers"):
        huggingface_callback(make_probe(), Scripted(), 2)


def test_the_lightning_that_was_imported_is_the_one(monkeypatch):
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    assert _lightning_package() == "pytorch_lightning"


# ---- Lightning ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pl() -> Any:
    pytest.importorskip("lightning")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("lightning.pytorch")


class Fit:
    """Trainings of a few steps with Lightning."""

    def __init__(self, pl: Any, folder: Path) -> None:
        class Module(Denoiser, pl.LightningModule):
            def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
                return self(batch)["loss"]

            def configure_optimizers(self) -> Any:
                return torch.optim.Adam(self.net.parameters(), lr=1e-3)

            def on_train_batch_end(self, *args: object) -> None:
                self.average()

        class Loggings(pl.loggers.Logger):
            name, version = "loggings", 0

            def __init__(self) -> None:
                super().__init__()
                self.rows: list[tuple[int, dict[str, float]]] = []

            def log_hyperparams(self, *args: object, **kwargs: object) -> None: ...

            def log_metrics(self, metrics: dict[str, float], step: int) -> None:
                self.rows.append((step, dict(metrics)))

        self.pl, self.folder, self.module, self.logger = pl, folder, Module, Loggings()

    def __call__(
        self, *callbacks: Any, steps: int = 6, resume: Path | None = None, logger: Any = False, **more: Any
    ) -> Any:
        torch.manual_seed(0)
        model = self.module()
        data = torch.from_numpy(pixels(16))
        loader = torch.utils.data.DataLoader(
            data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of workers, of intervals and of devices
            trainer = self.pl.Trainer(
                max_steps=steps, callbacks=list(callbacks), accelerator="cpu", logger=logger, **more,
                enable_checkpointing=any(isinstance(c, self.pl.callbacks.ModelCheckpoint) for c in callbacks),
                enable_progress_bar=False, enable_model_summary=False, default_root_dir=self.folder,
            )  # fmt: skip
            trainer.fit(model, loader, ckpt_path=resume)
        return trainer, model


@pytest.fixture
def fit(pl: Any, tmp_path: Path) -> Fit:
    return Fit(pl, tmp_path)


def test_lightning_trains_as_without_the_callback(fit):
    _, plain = fit()
    random_state = torch.get_rng_state()
    watch = lightning_callback(make_probe(), Scripted(), 2, module="net")
    trainer, watched = fit(watch, logger=fit.logger)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same_weights(plain, watched)
    assert watch.watch.monitor.steps == [2, 4, 6] and trainer.global_step == 6
    rows = [(step, row) for step, row in fit.logger.rows if "icrkit/icr" in row]
    assert [step for step, _ in rows] == [2, 4, 6]
    assert rows[1][1] == {
        "icrkit/icr": 0.5, "icrkit/information": 2.0, "icrkit/low": 1.5, "icrkit/high": 2.5, "icrkit/best_step": 2.0,
        "icrkit/fall": 0.25, "icrkit/turned": 0.0,
    }  # fmt: skip


def test_lightning_probes_the_moving_average(fit):
    seen = []

    class Keep(fit.pl.Callback):
        def on_train_batch_end(self, trainer, module, *rest):
            if trainer.global_step in (2, 4):
                seen.append(float(make_probe()(module.ema)["mid"].sum()))

    watch = lightning_callback(make_probe(), Scripted(), 2, module="ema")
    fit(Keep(), watch, steps=4)
    # A callback comes before the module's own hook: both see the average of the step before.
    assert watch.watch.monitor.sums == seen and len(seen) == 2


def test_lightning_stops_when_it_is_asked_to(fit):
    going_on = lightning_callback(make_probe(), Scripted(stop_at=2), 2, module="net")
    assert fit(going_on)[0].global_step == 6
    watch = lightning_callback(make_probe(), Scripted(stop_at=2), 2, module="net", stop=True)
    trainer, _ = fit(watch, steps=12)
    assert trainer.global_step == 4 and watch.watch.monitor.steps == [2, 4]


def test_lightning_resumes_the_monitor_with_the_training(fit):
    whole = lightning_callback(make_probe(), Scripted(), 2, module="net")
    fit(whole, steps=8)
    keep = fit.pl.callbacks.ModelCheckpoint(fit.folder / "kept", every_n_train_steps=4, save_top_k=-1)
    fit(lightning_callback(make_probe(), Scripted(), 2, module="net"), keep, steps=4)
    [path] = (fit.folder / "kept").glob("*.ckpt")
    torch.load(path, weights_only=True)  # nothing that would have to be unpickled
    resumed = lightning_callback(make_probe(), Scripted(), 2, module="net")
    fit(resumed, steps=8, resume=path)
    assert resumed.watch.monitor.steps == [2, 4, 6, 8]
    assert resumed.watch.monitor.sums[:2] == whole.watch.monitor.sums[:2]
    other = lightning_callback(make_probe(), Scripted(), 2, module="net", name="other")
    fit(other, steps=8, resume=path)
    assert other.watch.monitor.steps == [6, 8]


@pytest.mark.filterwarnings("ignore:icrkit. a training begins at step 0")
def test_lightning_serves_two_trainings_with_one_callback(fit):
    watch = lightning_callback(make_probe(), Scripted(), 2, module="net")
    fit(watch, steps=4)
    sums = watch.watch.monitor.sums
    fit(watch, steps=4)
    assert watch.watch.monitor.steps == [2, 4] and watch.watch.monitor.sums == sums


def test_lightning_logs_and_keeps_the_real_monitor(fit):
    probe = make_probe(100, n_views=4)
    whole = ICRMonitor()
    fit(lightning_callback(probe, whole, 2, module="net"), logger=fit.logger)
    [row] = [row for step, row in fit.logger.rows if step == 6 and "icrkit/icr" in row]
    for sigma, level in whole.state_.by_level.items():
        assert row[f"icrkit/{sigma:g}/information"] == level.information
    assert row["icrkit/icr"] == whole.state_.icr and row["icrkit/best_step"] == whole.state_.best_step
    keep = fit.pl.callbacks.ModelCheckpoint(fit.folder / "kept", every_n_train_steps=4)
    fit(lightning_callback(probe, ICRMonitor(), 2, module="net"), keep, steps=4)
    [path] = (fit.folder / "kept").glob("*.ckpt")
    torch.load(path, weights_only=True)
    resumed = ICRMonitor()
    fit(lightning_callback(probe, resumed, 2, module="net"), steps=6, resume=path)
    assert resumed.steps_ == [2, 4, 6] and resumed.history_[:4] == whole.history_[:4]


def test_lightning_keeps_the_checkpoint_of_the_best_step(fit):
    best = fit.pl.callbacks.ModelCheckpoint(
        fit.folder, monitor="icrkit/icr", mode="min", every_n_train_steps=2, filename="{step}"
    )
    monitor = Scripted()
    monitor.update = lambda step, cube, update=monitor.update: types.SimpleNamespace(
        **{**vars(update(step, cube)), "icr": abs(step - 4) / 10}
    )
    fit(best, lightning_callback(make_probe(), monitor, 2, module="net"), steps=8)
    assert Path(best.best_model_path).name == "step=4.ckpt"


def test_the_callback_travels_to_other_processes(pl):
    watch = lightning_callback(make_probe(), Scripted(stop_at=1), 5, module="net", stop=True, name="one")
    twin = pickle.loads(pickle.dumps(watch))
    assert isinstance(twin, pl.Callback) and type(twin) is type(watch)
    assert (twin.watch.every, twin.watch.module, twin.watch.stop, twin.state_key) == (5, "net", True, "ICRCallback:one")


# ---- Hugging Face ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hf() -> Any:
    pytest.importorskip("accelerate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        transformers.Trainer  # noqa: B018 - its modules are loaded when it is named
    return transformers


class Run:
    """Trainings of a few steps with transformers."""

    def __init__(self, hf: Any, folder: Path) -> None:
        self.hf, self.folder = hf, folder

    def __call__(
        self, *callbacks: Any, steps: int = 6, resume: Path | None = None, ready: Any = None, **more: Any
    ) -> Any:
        torch.manual_seed(0)
        model = Denoiser()
        data = [{"pixel_values": x} for x in torch.from_numpy(pixels(16))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args = self.hf.TrainingArguments(
                str(self.folder), max_steps=steps, per_device_train_batch_size=4, use_cpu=True, report_to=[],
                disable_tqdm=True, dataloader_pin_memory=False, learning_rate=1e-3, seed=5,
                lr_scheduler_type="constant", **{"save_strategy": "no", "logging_steps": 2, **more},
            )  # fmt: skip
            trainer = self.hf.Trainer(model, args, train_dataset=data, callbacks=list(callbacks))
            trainer.remove_callback(self.hf.PrinterCallback)
            if ready is not None:
                ready(trainer)
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return trainer, model


@pytest.fixture
def train(hf: Any, tmp_path: Path) -> Run:
    return Run(hf, tmp_path)


def test_hugging_face_trains_as_without_the_callback(train):
    _, plain = train()
    random_state = torch.get_rng_state()
    watch = huggingface_callback(make_probe(), Scripted(), 3, module="net")
    trainer, watched = train(watch)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same_weights(plain, watched)
    assert watch.watch.monitor.steps == [3, 6]
    [first, _] = [row for row in trainer.state.log_history if "icrkit/icr" in row]
    assert first["step"] == 3 and first["icrkit/information"] == 1.0 and 0 < first["epoch"] < 2
    assert [row["step"] for row in trainer.state.log_history if "loss" in row] == [2, 4, 6]


def test_hugging_face_tells_the_reporters_if_given_the_trainers_log(train):
    class Reporter(train.hf.TrainerCallback):
        rows: list[tuple[int, dict[str, float]]] = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.rows.append((state.global_step, dict(logs)))

    watch, reporter = huggingface_callback(make_probe(), Scripted(), 2, module="net"), Reporter()
    train(watch, reporter, steps=4, ready=lambda trainer: setattr(watch, "log", trainer.log))
    assert [step for step, row in reporter.rows if "icrkit/icr" in row] == [2, 4]
    assert [step for step, row in reporter.rows if "loss" in row] == [2, 4]


def test_hugging_face_stops_when_it_is_asked_to(train):
    going_on = huggingface_callback(make_probe(), Scripted(stop_at=2), 2, module="net")
    assert train(going_on)[0].state.global_step == 6
    stopping = huggingface_callback(make_probe(), Scripted(stop_at=2), 2, module="net", stop=True)
    assert train(stopping)[0].state.global_step == 4


def test_hugging_face_resumes_the_monitor_with_the_training(train, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole, half, resumed = (huggingface_callback(make_probe(), Scripted(), 2, module="net") for _ in range(3))
    train(whole, steps=8)
    train(half, steps=4, **saving)
    moved = tmp_path / "elsewhere"
    (train.folder / "checkpoint-4").rename(moved)
    train(resumed, steps=8, resume=moved, restore_callback_states_from_checkpoint=True)
    assert resumed.watch.monitor.steps == [2, 4, 6, 8]
    assert resumed.watch.monitor.sums == whole.watch.monitor.sums


@pytest.mark.filterwarnings("ignore:icrkit. a training begins at step 0")
def test_hugging_face_serves_two_trainings_with_one_callback(train):
    watch = huggingface_callback(make_probe(), Scripted(), 2, module="net")
    train(watch, steps=4)
    sums = watch.watch.monitor.sums
    trainer, _ = train(watch, steps=4)
    assert watch.watch.monitor.steps == [2, 4] and watch.watch.monitor.sums == sums
    # And the same trainer again, whose network has learned by now.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    assert watch.watch.monitor.steps == [2, 4] and watch.watch.monitor.sums != sums


def test_hugging_face_keeps_the_real_monitor(train):
    probe, whole, half, resumed = make_probe(100, n_views=4), ICRMonitor(), ICRMonitor(), ICRMonitor()
    train(huggingface_callback(probe, whole, 2, module="net"))
    train(huggingface_callback(probe, half, 2, module="net"), steps=4, save_strategy="steps", save_steps=4)
    path = train.folder / "checkpoint-4"
    trainer, _ = train(huggingface_callback(probe, resumed, 2, module="net"), resume=path)
    assert resumed.history_ == whole.history_ and resumed.steps_ == [2, 4, 6]
    logged = [row["icrkit/0.1/information"] for row in trainer.state.log_history if "icrkit/icr" in row]
    assert logged == [row["information"] for row in resumed.history_ if row["sigma"] == 0.1]


# ---- two processes --------------------------------------------------------------------------------------------------


def in_each_process(framework: str, folder: str) -> None:
    """Train in one of two processes; the monitor of the first says to stop at its second look."""
    warnings.simplefilter("ignore")
    watched = {"module": "net", "stop": True}
    if framework == "lightning":
        fit = Fit(importlib.import_module("lightning.pytorch"), Path(folder))
        best = fit.pl.callbacks.ModelCheckpoint(folder, monitor="icrkit/icr", every_n_train_steps=2, filename="{step}")
        watch = lightning_callback(make_probe(), Scripted(stop_at=2), 2, **watched)
        step = fit(watch, best, steps=10, strategy="ddp", devices=2)[0].global_step
        assert Path(best.best_model_path).name == "step=4.ckpt"
    else:
        watch = huggingface_callback(make_probe(), Scripted(stop_at=2), 2, **watched)
        run = Run(importlib.import_module("transformers"), Path(folder))
        step = run(watch, steps=10, ddp_backend="gloo")[0].state.global_step
    Path(folder, f"rank-{os.environ['RANK']}").write_text(f"{step} {watch.watch.monitor.steps}")


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["lightning", "transformers"])
def test_the_first_of_two_processes_looks_and_both_stop(framework, tmp_path):
    pytest.importorskip("lightning" if framework == "lightning" else "accelerate")
    script = tmp_path / "train.py"
    script.write_text(
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('training', {__file__!r})\n"
        "module = u.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        f"module.in_each_process({framework!r}, {str(tmp_path)!r})\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["4 [2, 4]", "4 []"]
