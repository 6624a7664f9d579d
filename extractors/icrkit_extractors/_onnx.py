"""A source of features: a frozen network in an ONNX file, run by onnxruntime.

The graph is cut at the tensors asked for, so that nothing deeper is computed. The file is taken as hostile: it is read
once, whole, and nothing outside its own folder is opened on its behalf. Values that it keeps in files beside it stay
there, mapped into memory.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit.exceptions import MissingDependencyError, NonFiniteError, UnsafeModelError
from icrkit_extractors._onnx_functions import check_functions
from icrkit_extractors._onnx_graph import Graph, Shape, cut, without_weights
from icrkit_extractors._pool import Pool

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

__all__ = ["OnnxSource"]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


# The most that protobuf puts into one message.
_LARGEST = 2**31 - 1


def _import_runtime() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError('OnnxSource needs onnx and onnxruntime: pip install "icrkit[onnx]"') from error
    return onnx, onnxruntime


# ---- the file -------------------------------------------------------------------------------------------------------


def _read_model(path: Path) -> bytes:
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise UnsafeModelError(f"{path} is not a file")
    data = path.read_bytes()
    if not data:
        raise UnsafeModelError(f"{path} is empty: not an ONNX model")
    return data


def _messages(model: ModelProto) -> Iterator[Any]:
    """Every message of a model, in whatever subgraph, function or attribute it sits."""
    waiting: list[Any] = [model]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend(value if isinstance(value, Sequence) else (value,))
            elif field.type == field.TYPE_STRING and any(
                isinstance(text, bytes) for text in ((value,) if isinstance(value, str | bytes) else value)
            ):
                raise ValueError(f"a {field.name} is no text")


def _parsed(onnx: Any, data: bytes, path: Path) -> ModelProto:
    try:
        model: ModelProto = onnx.ModelProto.FromString(data)
        for _ in _messages(model):
            pass
    except Exception as error:  # protobuf's own error class has moved between its versions
        raise UnsafeModelError(f"{path} is truncated or not an ONNX model: {error}") from error
    if not model.graph.output:
        raise UnsafeModelError(f"{path} is truncated or not an ONNX model: it holds no graph with outputs")
    return model


# Stored several to a byte, though numpy's stand-ins for them take a whole one.
_PACKED = {"FLOAT4E2M1": 4, "INT2": 2, "INT4": 4, "UINT2": 2, "UINT4": 4}


def _size(onnx: Any, tensor: TensorProto, what: str) -> int:
    """Bytes that a tensor's shape and type ask for."""
    try:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        raise UnsafeModelError(f"{what} has elements of the unknown type {tensor.data_type}") from None
    if dtype.kind == "O":
        raise UnsafeModelError(f"{what} holds text, which is never kept in another file")
    return int(-(-math.prod(tensor.dims) * _PACKED.get(name, 8 * dtype.itemsize) // 8))


class _Beside:
    """Files in the folder of a model, each mapped into memory once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = folder.resolve()
        self.maps: dict[str, np.ndarray] = {}

    def _real(self, location: str, what: str) -> Path:
        """Path of a file without links; refuses what leads out of the folder."""
        outside = f"{what} points to {location!r}, which is not a file in the model's own folder"
        # The letters are ways out on Windows, and a star, with which onnxruntime marks an address in memory.
        if not location or location[0] == "/" or ".." in location.split("/") or re.search(r"[\\:*\0]", location):
            raise UnsafeModelError(outside)
        try:
            real = (self._folder / location).resolve(strict=True)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{what} is kept in {location!r}, which is not there: it belongs into the folder {self._folder}"
            ) from None
        except (OSError, RuntimeError):
            raise UnsafeModelError(outside) from None
        if not real.is_relative_to(self._root):
            raise UnsafeModelError(f"{outside}: a link leads out of it (copy the file itself there)")
        return real

    def _mapped(self, real: Path, what: str) -> np.ndarray:
        # A pipe would wait for its other end; a link put there since would be followed.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            with open(real, "rb", opener=lambda path, _: os.open(path, flags)) as file:
                status = os.fstat(file.fileno())
                if stat.S_ISREG(status.st_mode):
                    return np.memmap(file, dtype=np.uint8, mode="r") if status.st_size else np.empty(0, dtype=np.uint8)
        except OSError as error:
            raise UnsafeModelError(f"{what} is in {real}, which cannot be read: {error}") from None
        raise UnsafeModelError(f"{what} is in {real}, which is no regular file")

    def place(self, onnx: Any, tensor: TensorProto, what: str) -> tuple[str, int, int]:
        """File (its name in the folder), offset and length of a tensor's values, checked against shape and file."""
        entry = {item.key: item.value for item in tensor.external_data}
        size = _size(onnx, tensor, what)
        try:
            offset, length = int(entry.get("offset") or 0), int(entry.get("length") or size)
        except ValueError:
            raise UnsafeModelError(f"{what} has an offset or a length that is no number") from None
        real = self._real(entry.get("location", ""), what)
        name = real.relative_to(self._root).as_posix()
        if name not in self.maps:
            self.maps[name] = self._mapped(real, what)
        if offset < 0 or length != size or offset + size > len(self.maps[name]):
            raise UnsafeModelError(
                f"{what} of shape {tuple(tensor.dims)} needs {size} bytes and is said to be the {length} from {offset} "
                f"of {name!r}, which has {len(self.maps[name])}"
            )
        return name, offset, size


def _check_tensors(onnx: Any, model: ModelProto, path: Path) -> dict[str, np.ndarray]:
    """Refuse tensors that are not as they say; returns the other files that hold values, by name.

    What the model says of other files is written anew, from what was checked: onnxruntime opens these files itself.
    """
    beside = _Beside(path.parent)
    # Kept, so that the walk below meets the same objects.
    outer = {id(tensor): tensor for tensor in model.graph.initializer}
    inlined = 0
    for tensor in [message for message in _messages(model) if isinstance(message, onnx.TensorProto)]:
        what = f"{path}: tensor {tensor.name!r}"
        if any(size < 0 for size in tensor.dims):
            raise UnsafeModelError(f"{what} declares the shape {tuple(tensor.dims)}")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            name, offset, length = beside.place(onnx, tensor, what)
            del tensor.external_data[:]
            if id(tensor) in outer:
                for key, value in (("location", name), ("offset", offset), ("length", length)):
                    tensor.external_data.add(key=key, value=str(value))
            else:
                # Not everywhere in branches and attributes does onnxruntime look into other files.
                inlined += length
                if inlined > _LARGEST:
                    raise UnsafeModelError(
                        f"{path}: tensors in branches and attributes have more than {_LARGEST} bytes"
                    )
                tensor.ClearField("data_location")
                tensor.raw_data = beside.maps[name][offset : offset + length].tobytes()
        elif tensor.external_data:
            raise UnsafeModelError(f"{what} points to another file and does not say that its values are there")
        # Two bits is the smallest element there is.
        elif math.prod(tensor.dims) > 4 * tensor.ByteSize():
            raise UnsafeModelError(
                f"{what} declares the shape {tuple(tensor.dims)} and holds {tensor.ByteSize()} bytes"
            )
    return beside.maps


def _stored(name: str) -> str:
    """A layer's name as a cube can store it: TorchScript's exporter names tensors by paths."""
    return name.strip("/").replace("/", ".")


# ---- the source -----------------------------------------------------------------------------------------------------


class OnnxSource:
    """Features from layers of an ONNX model.

    Parameters
    ----------
    path : path
        The model. Values that it keeps in other files must be in its own folder.
    layers : str or sequence of str, optional
        Names of outputs, of other tensors, of nodes, or of modules of the torch network that was exported, as its
        ``named_modules()`` gives them; or globs (``*`` matches dots as well) over modules and outputs. A module stands
        for the tensor that leaves it. All outputs by default.
    pool : str or Pool
        What becomes of an output (n, channel, height, width) or (n, token, channel): "mean" over space or tokens,
        "none" flattens, "class" the first token, "patches" the mean of the others, "grid:K" a K x K grid of means.
    providers : sequence of str, optional
        Execution providers of onnxruntime, best first. Default: CUDA where the build has it, and the CPU.
    threads : int, optional
        Threads of one operator on the CPU; all cores by default.
    feature_axis, n_prefix : int
        Given to `Pool`, for a ``pool`` that is a string: the axis of the features (default 1 of four, the last of
        three), and how many class and register tokens come before the patches.

    Attributes
    ----------
    layers : tuple of str
        Names of the layers, globs resolved; a slash in a name is a dot here, because a cube stores no slashes.
    sha256 : str
        Digest of the file, hexadecimal; of the file and, after it, those that hold its values, sorted by name, where
        there are any.
    n_nodes : tuple of int
        Nodes that are run, and nodes of the whole model.

    Raises
    ------
    MissingDependencyError
        If onnx or onnxruntime is not installed.
    FileNotFoundError
        If there is no file at ``path``, or a file with the model's values is missing beside it.
    UnsafeModelError
        If the file is empty, truncated or not ONNX, points out of its folder or to what is no regular file, declares
        shapes that its values do not have, has functions that call each other without end, or holds operators that
        onnxruntime does not know.
    ValueError
        If a layer, pool or provider is not one of those there are (the message has the nearest), or if a module does
        not stand for one tensor: several leave it, or the file does not show where it ended. The message lists the
        tensors with their shapes.

    Notes
    -----
    Both of torch's exporters record modules: the one built on ``torch.export`` (``dynamo=True``) in the metadata of
    nodes, the older one in their names. Tools that rewrite the graph afterwards may drop these; tensors then still
    have names. A module that does nothing (Identity, Dropout) or that was merged into another (a batch norm with the
    convolution before it) leaves no trace. The older exporter drops a permutation at a module's end against its inverse
    right behind; a module whose tensor is a LayerNorm's map or reshaped tokens is refused for that, and in other such
    places the shape in `available_layers` shows it.

    A model whose batch is fixed is run in pieces of that size, the last one filled up with copies of its last row.
    Inputs that the layers do not need may be given and are ignored.

    Examples
    --------
    >>> from icrkit.datasets import data_path
    >>> source = OnnxSource(data_path("fashion_denoiser.onnx"), layers=["mid"])
    >>> features = source(np.zeros((2, 1, 16, 16), np.float32), {"c_noise": np.zeros(2, np.float32)})
    >>> features["mid"].shape
    (2, 64)
    """

    def __init__(
        self,
        path: str | Path,
        layers: str | Sequence[str] | None = None,
        pool: str | Pool = "mean",
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        *,
        feature_axis: int | None = None,
        n_prefix: int = 1,
    ) -> None:
        self.pool = pool if isinstance(pool, Pool) else Pool(pool, feature_axis, n_prefix)
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be 1 or more, not {threads}")
        onnx, runtime = _import_runtime()
        self.path = Path(path)
        self._version = str(runtime.__version__)
        data = _read_model(self.path)
        model = _parsed(onnx, data, self.path)
        check_functions(model, self.path)
        files = _check_tensors(onnx, model, self.path)
        digest = hashlib.sha256(data)
        for name in sorted(files):
            digest.update(files[name].data)
        self.sha256 = digest.hexdigest()

        self._graph = Graph(without_weights(model), str(self.path))
        self._tensors: dict[str, str] = {}
        for name, tensor in self._graph.resolve(layers).items():
            if self._tensors.setdefault(_stored(name), tensor) != tensor:
                raise ValueError(f"layer {name!r} would be stored as {_stored(name)!r}, the name of another layer")
        self.layers = tuple(self._tensors)
        wanted = list(dict.fromkeys(self._tensors.values()))
        whole = len(model.graph.node)
        changed = bool(files)
        if set(wanted) != set(self._graph.outputs):
            cut(model, wanted)
            changed = True
        self.n_nodes = (len(model.graph.node), whole)
        if changed:
            data = self._serialised(model)
        del model, files
        self._session = self._open(runtime, data, providers, threads)
        self._inputs = {node.name: node for node in self._session.get_inputs()}
        if not self._inputs:
            raise ValueError(f"the layers {list(self.layers)} of {self.path} depend on no input")

    def _serialised(self, model: ModelProto) -> bytes:
        try:
            data: bytes = model.SerializeToString()
        except Exception as error:  # protobuf's own error class has moved between its versions
            raise UnsafeModelError(f"{self.path} is too large for one message: {error}") from error
        return data

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
        # Where the names of other files that are left in the model start; it maps these files and copies nothing.
        folder = str(self.path.parent.resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            # From the bytes that were checked and hashed, not from the path once more.
            return runtime.InferenceSession(data, options, providers=list(providers))
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise UnsafeModelError(f"{self.path}: onnxruntime does not load this model: {error}") from error

    def available_layers(self, modules: bool = True, tensors: bool | None = None) -> dict[str, Shape | None]:
        """Names that can be asked for, and the shapes of their tensors before pooling.

        Parameters
        ----------
        modules : bool
            Whether modules are listed, first and in the order in which they run: those that one tensor leaves.
        tensors : bool, optional
            Whether, after the outputs, all other tensors that depend on the images are listed. By default only where
            the file names no modules.

        Returns
        -------
        dict
            Name to shape; a free axis is a name or None. None instead of a shape where shape inference finds none.
        """
        return {name: self._graph.shape(tensor) for name, tensor in self._graph.names(modules, tensors).items()}

    def config(self) -> dict[str, Any]:
        """What identifies the features, for the attributes of a cube."""
        return {
            "source": "OnnxSource",
            "model_sha256": self.sha256,
            "layers": list(self.layers),
            "tensors": dict(self._tensors),
            **self.pool.config(),
            "providers": list(self._session.get_providers()),
            "onnxruntime_version": self._version,
        }

    # ---- a batch ----------------------------------------------------------------------------------------------------

    def _cast(self, name: str, value: Any) -> np.ndarray:
        """A value for one input, in the input's type."""
        kind = self._inputs[name].type
        if kind not in _DTYPES:
            raise ValueError(f"input {name!r} of {self.path} is of type {kind}; known are {list(_DTYPES)}")
        array = np.asarray(value)
        if np.issubdtype(_DTYPES[kind], np.integer) and array.dtype.kind == "f":
            broken = ~(np.isfinite(array) & (array == np.rint(array)))
            if broken.any():
                raise ValueError(
                    f"input {name!r} of {self.path} takes whole numbers ({kind}) and is given {array[broken][0]}: take "
                    "levels whose times are whole, or export the network with a floating-point example for this input"
                )
        return np.asarray(array, dtype=_DTYPES[kind], order="C")

    def _feeds(self, x: np.ndarray | Mapping[str, np.ndarray], conditioning: Mapping[str, Any]) -> dict[str, Any]:
        """Values by input of the cut graph."""
        needed = list(self._inputs)
        if isinstance(x, Mapping):
            given: dict[str, Any] = {**x, **conditioning}
        else:
            rest = [name for name in needed if name not in conditioning]
            if len(rest) != 1:
                raise ValueError(
                    f"{self.path} takes the inputs {needed} and is given images and {list(conditioning)}: exactly one "
                    "input must be left for the images (the noise law gives the conditioning)"
                )
            given = {rest[0]: x, **conditioning}
        # What only the part behind the cut takes is dropped; a name that the model never had is a mistake.
        if set(needed) - set(given) or set(given) - set(self._graph.inputs) - set(needed):
            raise ValueError(f"{self.path} takes the inputs {needed} and is given {list(given)}")
        return {name: self._cast(name, given[name]) for name in needed}

    def _batch(self, feeds: Mapping[str, np.ndarray]) -> tuple[int, int | None]:
        """Images given, and the size of the batch that the model is fixed to, if any."""
        images = next((name for name in self._graph.images if name in feeds), next(iter(feeds)))
        sizes = self._inputs[images].shape
        fixed = sizes[0] if sizes and isinstance(sizes[0], int) else None
        return (len(feeds[images]) if feeds[images].ndim else 0), fixed

    def _fitted(self, name: str, value: np.ndarray, n: int, fixed: int | None) -> tuple[np.ndarray, bool]:
        """A value in the input's shape, and whether its first axis is the image."""
        sizes = self._inputs[name].shape
        shared = not sizes or (sizes[0] == 1 != fixed and n != 1)
        if shared and value.shape == (n,) and n and len(sizes) <= 1:
            # Exported with one time for the whole batch: fits if all images have the same.
            if (value != value[0]).any():
                raise ValueError(f"input {name!r} of {self.path} is one number for a batch and is given several")
            return value[:1].reshape(sizes), False
        free = [not isinstance(size, int) or (k == 0 and size == fixed) for k, size in enumerate(sizes)]
        if value.ndim != len(sizes) or any(
            not is_free and size != got for is_free, size, got in zip(free, sizes, value.shape, strict=True)
        ):
            raise ValueError(f"input {name!r} of {self.path} has the shape {sizes} and is given {value.shape}")
        if not shared and len(value) != n:
            raise ValueError(f"input {name!r} of {self.path} is given {len(value)} rows for {n} images")
        return value, not shared

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
            If names or shapes of the inputs are not the model's, an input of whole numbers is given others, or a
            layer's output does not fit the pooling.
        NonFiniteError
            If a layer holds NaN or infinity; names the layer and the first row.
        """
        feeds = self._feeds(x, conditioning or {})
        n, fixed = self._batch(feeds)
        fitted = {name: self._fitted(name, value, n, fixed) for name, value in feeds.items()}
        size = n if fixed is None else fixed
        pieces: dict[str, list[np.ndarray]] = {name: [] for name in self.layers}
        wanted = list(dict.fromkeys(self._tensors.values()))
        for start in range(0, max(n, 1), max(size, 1)):
            piece = {name: _rows(value, start, size) if each else value for name, (value, each) in fitted.items()}
            outputs = dict(zip(wanted, self._session.run(wanted, piece), strict=True))
            for name, tensor in self._tensors.items():
                pieces[name].append(self.pool(name, outputs[tensor], size)[: n - start])
        return {name: self._checked(name, np.concatenate(rows)) for name, rows in pieces.items()}

    def _checked(self, name: str, features: np.ndarray) -> np.ndarray:
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise NonFiniteError(
                f"layer {name!r} of {self.path} holds NaN or infinity in {bad.sum()} of {len(bad)} rows, "
                f"first in row {int(bad.argmax())}"
            )
        return features


def _rows(value: np.ndarray, start: int, size: int) -> np.ndarray:
    """That many rows from ``start`` on, the last one repeated where there are not enough."""
    if start + size <= len(value):
        return value[start : start + size]
    return value[np.minimum(np.arange(start, start + size), len(value) - 1)]
