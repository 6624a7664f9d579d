"""A source of features: a frozen network in an ONNX file, run by onnxruntime.

The layers are the outputs of the graph, so the export decides which there are (``icrkit_extractors`` reads no
hidden ones). The file is taken as hostile: it is read once, whole, and whatever points out of it is refused.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from icrkit.exceptions import MissingDependencyError, NonFiniteError, UnsafeModelError

__all__ = ["OnnxSource"]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


def _import_runtime() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError('OnnxSource needs onnx and onnxruntime: pip install "icrkit[onnx]"') from error
    return onnx, onnxruntime


def _read_model(path: Path) -> bytes:
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise UnsafeModelError(f"{path} is not a file")
    data = path.read_bytes()
    if not data:
        raise UnsafeModelError(f"{path} is empty: not an ONNX model")
    return data


def _tensors(message: Any, tensor_type: type[Any]) -> Iterator[Any]:
    """Every tensor of a model, in whatever subgraph, function or attribute it sits."""
    if isinstance(message, tensor_type):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if isinstance(value, Sequence) else (value,):
                yield from _tensors(child, tensor_type)


def _check_model(onnx: Any, data: bytes, path: Path) -> None:
    """Refuse what is not ONNX, and tensors whose values are not in the file."""
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's own error class has moved between its versions
        raise UnsafeModelError(f"{path} is truncated or not an ONNX model: {error}") from error
    if not model.graph.output:
        raise UnsafeModelError(f"{path} is truncated or not an ONNX model: it holds no graph with outputs")
    for tensor in _tensors(model, onnx.TensorProto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise UnsafeModelError(
                f"{path}: tensor {tensor.name!r} points to another file; only models in one file are read "
                "(onnx.save_model(..., save_as_external_data=False) writes one)"
            )
        # Four bits is the smallest element there is.
        if math.prod(tensor.dims) > 2 * tensor.ByteSize() or any(size < 0 for size in tensor.dims):
            raise UnsafeModelError(
                f"{path}: tensor {tensor.name!r} declares the shape {tuple(tensor.dims)} "
                f"and holds {tensor.ByteSize()} bytes"
            )


def _pooled(name: str, output: np.ndarray, pool: str, n: int) -> np.ndarray:
    """Features (n, d) of one layer's output."""
    if output.ndim == 0 or len(output) != n:
        raise ValueError(f"layer {name!r} gives shape {output.shape} for {n} images: its first axis must be the image")
    if output.ndim <= 2 or pool == "none":
        return np.ascontiguousarray(output.reshape(n, -1), dtype=np.float32)
    if output.ndim == 4:
        return np.asarray(output.reshape(*output.shape[:2], -1).mean(axis=2, dtype=np.float32))
    if output.ndim == 3:
        return np.asarray(output.mean(axis=1, dtype=np.float32))
    raise ValueError(
        f"layer {name!r} gives shape {output.shape}: pool='mean' takes (n, c, h, w) or (n, t, c); use 'none'"
    )


class OnnxSource:
    """Features from the outputs of an ONNX model.

    Parameters
    ----------
    path : path
        The model, in one file (no external tensors).
    layers : sequence of str, optional
        Names of outputs to keep; all by default.
    pool : {"mean", "none"}
        "mean" averages over space for an output (n, channel, height, width) and over tokens for
        (n, token, channel); "none" flattens. Outputs (n, d) pass through.
    providers : sequence of str, optional
        Execution providers of onnxruntime, best first. Default: CUDA where the build has it, and the CPU.
    threads : int, optional
        Threads of one operator on the CPU; all cores by default.

    Attributes
    ----------
    layers : tuple of str
        Names of the layers kept.
    sha256 : str
        Digest of the file, hexadecimal.

    Raises
    ------
    MissingDependencyError
        If onnx or onnxruntime is not installed.
    FileNotFoundError
        If there is no file at ``path``.
    UnsafeModelError
        If the file is empty, truncated or not ONNX, points to other files, or holds operators that
        onnxruntime does not know.
    ValueError
        If a layer, pool or provider is not one of those there are; the message lists them.
    """

    def __init__(
        self,
        path: str | Path,
        layers: Sequence[str] | None = None,
        pool: Literal["mean", "none"] = "mean",
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        if pool not in ("mean", "none"):
            raise ValueError(f"pool must be 'mean' or 'none', not {pool!r}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be 1 or more, not {threads}")
        onnx, runtime = _import_runtime()
        self.path = Path(path)
        self.pool = pool
        data = _read_model(self.path)
        _check_model(onnx, data, self.path)
        self.sha256 = hashlib.sha256(data).hexdigest()
        self._session = self._open(runtime, data, providers, threads)
        self._inputs = {node.name: node for node in self._session.get_inputs()}
        self.layers = self._chosen(layers)
        self._version = str(runtime.__version__)

    def _open(self, runtime: Any, data: bytes, providers: Sequence[str] | None, threads: int | None) -> Any:
        available = runtime.get_available_providers()
        if providers is None:
            providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        for name in providers:
            if name not in available:
                raise ValueError(f"onnxruntime has no provider {name!r} here; there are {available}")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        # Threads that spin while they wait take the cores from whatever else runs: 1.4 times slower beside a training.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            # From the bytes that were checked and hashed, not from the path once more.
            return runtime.InferenceSession(data, options, providers=list(providers))
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise UnsafeModelError(f"{self.path}: onnxruntime does not load this model: {error}") from error

    def _chosen(self, layers: Sequence[str] | None) -> tuple[str, ...]:
        names = list(self.available_layers())
        if layers is None:
            return tuple(names)
        chosen = (layers,) if isinstance(layers, str) else tuple(layers)
        if not chosen:
            raise ValueError(f"layers is empty; the model has {names}")
        for name in chosen:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
                hint = f" (nearest: {', '.join(map(repr, near))})" if near else ""
                raise ValueError(f"{self.path} has no output {name!r}{hint}; it has {names}")
            if chosen.count(name) > 1:
                raise ValueError(f"layer {name!r} is named twice")
        return chosen

    def available_layers(self) -> dict[str, tuple[int | str | None, ...]]:
        """Outputs of the model and their shapes, before pooling.

        Returns
        -------
        dict
            Name to shape; a free axis is a name or None.
        """
        return {node.name: tuple(node.shape) for node in self._session.get_outputs()}

    def config(self) -> dict[str, Any]:
        """What identifies the features, for the attributes of a cube."""
        return {
            "source": "OnnxSource",
            "model_sha256": self.sha256,
            "layers": list(self.layers),
            "pool": self.pool,
            "providers": list(self._session.get_providers()),
            "onnxruntime_version": self._version,
        }

    def _feeds(
        self, x: np.ndarray | Mapping[str, np.ndarray], conditioning: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        names = list(self._inputs)
        if isinstance(x, Mapping):
            given: dict[str, Any] = {**x, **conditioning}
        else:
            rest = [name for name in names if name not in conditioning]
            if len(rest) != 1:
                raise ValueError(
                    f"{self.path} takes the inputs {names} and is given images and {list(conditioning)}: exactly one "
                    "input must be left for the images (the noise law gives the conditioning)"
                )
            given = {rest[0]: x, **conditioning}
        if set(given) != set(names):
            raise ValueError(f"{self.path} takes the inputs {names} and is given {list(given)}")
        feeds = {}
        for name, node in self._inputs.items():
            if node.type not in _DTYPES:
                raise ValueError(f"input {name!r} of {self.path} is of type {node.type}; known are {list(_DTYPES)}")
            value = np.ascontiguousarray(given[name], dtype=_DTYPES[node.type])
            fixed = [isinstance(size, int) for size in node.shape]
            if value.ndim != len(fixed) or any(
                known and size != got for known, size, got in zip(fixed, node.shape, value.shape, strict=True)
            ):
                raise ValueError(f"input {name!r} of {self.path} has the shape {node.shape} and is given {value.shape}")
            feeds[name] = value
        return feeds

    def __call__(
        self, x: np.ndarray | Mapping[str, np.ndarray], conditioning: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Features of a batch.

        Parameters
        ----------
        x : ndarray (n, channel, height, width), or mapping of input names to arrays of n rows
            The network's input; an array goes to the one input that conditioning leaves.
        conditioning : mapping, optional
            Further inputs by name, such as ``c_noise`` (n,).

        Returns
        -------
        dict
            Layer to features, ndarray (n, d), float32.

        Raises
        ------
        ValueError
            If names or shapes of the inputs are not the model's.
        NonFiniteError
            If a layer holds NaN or infinity; names the layer and the first row.
        """
        feeds = self._feeds(x, conditioning or {})
        n = len(next(iter(feeds.values())))
        features = {}
        for name, output in zip(self.layers, self._session.run(list(self.layers), feeds), strict=True):
            features[name] = _pooled(name, output, self.pool, n)
            bad = ~np.isfinite(features[name]).all(axis=1)
            if bad.any():
                raise NonFiniteError(
                    f"layer {name!r} of {self.path} holds NaN or infinity in {bad.sum()} of {n} rows, "
                    f"first in row {int(bad.argmax())}"
                )
        return features
