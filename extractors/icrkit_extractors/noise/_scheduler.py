"""Noise laws as schedulers of diffusers write them down."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from icrkit_extractors.noise._additive import EDM
from icrkit_extractors.noise._flow import Flow
from icrkit_extractors.noise._table import BETAS, DDPM

__all__ = ["from_scheduler"]

# Betas a class falls back to where its configuration names none.
_DISCRETE = {
    **dict.fromkeys(
        (
            "DDIMInverseScheduler",
            "DDIMParallelScheduler",
            "DDIMScheduler",
            "DDPMParallelScheduler",
            "DDPMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepInverseScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "SASolverScheduler",
            "UniPCMultistepScheduler",
        ),
        ("linear", 0.0001, 0.02),
    ),
    **dict.fromkeys(
        ("HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler"),
        ("linear", 0.00085, 0.012),
    ),
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), ("scaled_linear", 0.00085, 0.012)),
}
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
_EDM = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")


def _from_betas(kind: str, config: Mapping[str, Any]) -> DDPM:
    schedule, start, end = _DISCRETE[kind]
    rescaled = bool(config.get("rescale_betas_zero_snr"))
    if config.get("trained_betas") is not None:
        return DDPM(betas=config["trained_betas"], zero_terminal_snr=rescaled)
    n = config.get("num_train_timesteps", 1000)
    schedule = config.get("beta_schedule", schedule)
    if schedule == "squaredcos_cap_v2":
        return DDPM("cosine", n, zero_terminal_snr=rescaled)
    if schedule not in BETAS:
        raise ValueError(
            f"beta_schedule {schedule!r} of {kind} is none of {(*BETAS, 'squaredcos_cap_v2')}: "
            "noise.DDPM(betas=scheduler.betas) takes any table"
        )
    start, end = config.get("beta_start", start), config.get("beta_end", end)
    return DDPM(schedule, n, start, end, zero_terminal_snr=rescaled)


def from_scheduler(scheduler: Any) -> DDPM | EDM | Flow:
    """The noise law of a diffusers scheduler.

    Parameters
    ----------
    scheduler : scheduler, or mapping
        A diffusers scheduler, or its configuration (``scheduler_config.json``) with its ``_class_name``.

    Returns
    -------
    DDPM, EDM or Flow
        Conditioning ``timestep``, as diffusers' networks call it.

    Raises
    ------
    ValueError
        If the class of the scheduler, or what its configuration asks for, is not known.
    TypeError
        If it is neither a scheduler nor a mapping.

    Notes
    -----
    Only what the network was trained with is taken; spacing, shift and order of the sampler do not matter here. The
    solvers (Euler, DPM, UniPC ...) have the law their network was trained with: that of their betas, or a flow with
    ``use_flow_sigmas``. Flow transformers take t * num_train_timesteps, but Flux's multiplies itself:
    ``dataclasses.replace(law, scale=1.0)``. Of EDM's and flow schedulers the trained range is not known.

    References
    ----------
    von Platen et al., diffusers, ``diffusers.schedulers``.

    Examples
    --------
    >>> law = from_scheduler({"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear",
    ...                       "beta_start": 0.00085, "beta_end": 0.012})
    >>> law == DDPM("scaled_linear")
    True
    """
    if isinstance(scheduler, Mapping):
        config, kind = scheduler, str(scheduler.get("_class_name", "without _class_name"))
    elif isinstance(getattr(scheduler, "config", None), Mapping):
        config, kind = scheduler.config, type(scheduler).__name__
    else:
        raise TypeError(f"wanted a diffusers scheduler or its configuration, not {type(scheduler).__name__}")
    if config.get("invert_sigmas"):
        raise ValueError(f"{kind} with invert_sigmas=True is not known: say how t runs with noise.Flow(data_at=...)")
    if kind in _FLOW or (kind in _DISCRETE and config.get("use_flow_sigmas")):
        return Flow(scale=config.get("num_train_timesteps", 1000), name="timestep")
    if kind in _EDM:
        return EDM(config.get("sigma_data", 0.5), trained_range=None, name="timestep")
    continuous = config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"
    if kind == "EulerDiscreteScheduler" and continuous:
        # As for Stable Video Diffusion: the network's time is log(sigma)/4, and its data have unit variance.
        return EDM(1.0, trained_range=None, name="timestep")
    if kind in _DISCRETE:
        return _from_betas(kind, config)
    known = sorted((*_DISCRETE, *_FLOW, *_EDM))
    near = difflib.get_close_matches(kind, known, n=1)
    hint = f" (nearest: {near[0]})" if near else ""
    raise ValueError(f"scheduler {kind} is not known{hint}; known are {', '.join(known)}")
