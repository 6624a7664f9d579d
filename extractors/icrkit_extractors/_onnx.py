"""A source of features: a frozen network in an ONNX file, run by onnxruntime.

The graph is cut at the tensors asked for, so that nothing deeper is computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit.exceptions import MissingDependencyError, NonFiniteError, UnsafeModelError
from icrkit_extractors._onnx_file import read_model
from icrkit_extractors._onnx_graph import Graph, Shape, cut, without_weights
from icrkit_extractors._onnx_inputs import Constant, Layout, cast, fitted, layouts_of, named, rows_of
from icrkit_extractors._onnx_random import drawing_node, runs_differ
from icrkit_extractors._pool import Pool
from icrkit_extractors._shapes import shape_words

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["OnnxSource"]


def _import_runtime() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError('OnnxSource needs onnx and onnxruntime: pip install "icrkit[onnx]"') from error
    return onnx, onnxruntime


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
    given : mapping of str to array-like, optional
        Inputs that are the same for every image, such as a class or the embedding of a prompt: in the input's shape, or
        without the axis of the images, for each of which it is then repeated; a number fills what has a known shape. A
        string that ends in .npy is read.
    image_layout : {"nchw", "nhwc"}, optional
        Order of the axes that the network takes images in. Default: the one that fits their shape, or where both do
        the one that the operators behind the input tell.
    feature_axis, n_prefix : int
        Given to `Pool`, for a ``pool`` that is a string: the axis of the features, and how many class and register
        tokens come before the patches. By default the graph tells the axis of every layer: convolutions and poolings
        have their channels on axis 1, products with weights, LayerNorms and biases of one axis their features last, and
        transpositions carry the axis along.

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
        If a layer, pool, provider or input is not one of those there are (the message has the nearest), if a value in
        ``given`` does not fit its input, or if a module does not stand for one tensor: several leave it, or the file
        does not show where it ended. The message lists the tensors with their shapes. If an operator on the way to
        a layer draws at random.

    Notes
    -----
    Both of torch's exporters record modules: the one built on ``torch.export`` (``dynamo=True``) in the metadata of
    nodes, the older one in their names. Tools that rewrite the graph afterwards may drop these; tensors then still
    have names. A module that does nothing (Identity, Dropout) or that was merged into another (a batch norm with the
    convolution before it) leaves no trace. The older exporter drops a permutation at a module's end against its inverse
    right behind; a module whose tensor is a LayerNorm's map or reshaped tokens is refused for that, and in other such
    places the shape in `available_layers` shows it.

    A model whose batch is fixed is run in pieces of that size, the last one filled up with copies of its last row.
    Inputs that the layers do not need may be given and are ignored. An input of bytes takes images from -1 to 1 as 0 to
    255, rounded; noise does not fit into bytes and is refused.

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
        given: Mapping[str, Any] | None = None,
        image_layout: Layout | None = None,
        feature_axis: int | None = None,
        n_prefix: int = 1,
    ) -> None:
        self.pool = pool if isinstance(pool, Pool) else Pool(pool, feature_axis, n_prefix)
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads must be a whole number, 1 or more, not {threads!r}")
        if image_layout not in (None, "nchw", "nhwc"):
            raise ValueError(f"image_layout must be 'nchw' or 'nhwc', not {image_layout!r}")
        if not isinstance(given, Mapping | None):
            raise ValueError(f"given must map names of inputs to values, such as given={{'y': 3}}, not {given!r}")
        self._options = {"layers": layers, "pool": self.pool, "providers": providers, "threads": threads}
        self._options |= {"given": dict(given or {}), "image_layout": image_layout}
        onnx, runtime = _import_runtime()
        self.path = Path(path)
        self._version = str(runtime.__version__)
        model, data, self.sha256, changed = read_model(onnx, self.path)
        self._graph = Graph(without_weights(model), str(self.path))
        self._tensors: dict[str, str] = {}
        for name, tensor in self._graph.resolve(layers).items():
            if self._tensors.setdefault(_stored(name), tensor) != tensor:
                raise ValueError(f"layer {name!r} would be stored as {_stored(name)!r}, the name of another layer")
        self.layers = tuple(self._tensors)
        wanted = list(dict.fromkeys(self._tensors.values()))
        whole = len(model.graph.node)
        if set(wanted) != set(self._graph.outputs):
            cut(model, wanted)
            changed = True
        self.n_nodes = (len(model.graph.node), whole)
        if (draws := drawing_node(model, wanted)) is not None:
            raise ValueError(self._random(draws))
        if changed:
            data = self._serialised(model)
        del model
        self._session = self._open(runtime, data, providers, threads)
        self._inputs = {node.name: node for node in self._session.get_inputs()}
        if not self._inputs:
            raise ValueError(f"the layers {list(self.layers)} of {self.path} depend on no input")
        self._given = self._constants(given or {})
        self._layout = image_layout
        self._axes: dict[str, int] | None = None
        self._repeated = False

    def _random(self, why: str) -> str:
        return (
            f"the layers {list(self.layers)} of {self.path} are random: {why}, so that an image has other features at "
            "each call. Export the network in evaluation mode, without what it draws, or choose layers before that"
        )

    def __reduce__(self) -> Any:
        # A session cannot be sent to another process; there the file is read and checked again.
        return _reopened, (self.path.absolute(), self._options, self.sha256)

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
                raise ValueError(
                    f"onnxruntime has no provider {name!r} here; there are {', '.join(available)}. Those "
                    "of a GPU come with a package of their own: pip install onnxruntime-gpu"
                )
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # it prints what it raises too, in colours
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
            **({"given": {name: constant.config() for name, constant in self._given.items()}} if self._given else {}),
            **({} if self._layout is None else {"image_layout": self._layout}),
            "providers": list(self._session.get_providers()),
            "onnxruntime_version": self._version,
        }

    # ---- a batch ----------------------------------------------------------------------------------------------------

    def _where(self, name: str) -> str:
        return f"input {name!r} of {self.path}"

    def _constants(self, given: Mapping[str, Any]) -> dict[str, Constant]:
        for name in given:
            if name not in self._graph.inputs:
                raise ValueError(f"{self.path} has no input {name!r}; it takes {', '.join(self._graph.inputs)}")
        images = self._images_input([name for name in self._inputs if name not in given])
        counted = None if images is None or not self._inputs[images].shape else self._inputs[images].shape[0]
        constants = {}
        for name, value in given.items():
            if isinstance(value, str):
                if not value.endswith(".npy"):
                    raise ValueError(f"{self._where(name)} takes numbers, or a file .npy of them, not {value!r}")
                value = np.load(value, allow_pickle=False)
            if name in self._inputs:  # else only the part behind the cut takes it
                node = self._inputs[name]
                constants[name] = Constant(self._where(name), node.shape, node.type, value, counted)
        return constants

    def _images_input(self, names: Sequence[str]) -> str | None:
        """The one input of these that images go to: the only one, or the only one of most axes."""
        if len(names) == 1:
            return names[0]
        found = [name for name in names if name in self._graph.images and len(self._inputs[name].shape) > 2]
        return found[0] if len(found) == 1 else None

    def _feeds(self, x: np.ndarray | Mapping[str, np.ndarray], conditioning: Mapping[str, Any]) -> dict[str, Any]:
        """Values by input of the cut graph, as they come."""
        twice = sorted(set(conditioning) & set(self._given))
        if twice:
            raise ValueError(f"{self._where(twice[0])} is filled by the noise law and by given={{{twice[0]!r}: ...}}")
        takes = f"{self.path} takes the inputs {named(self._inputs)}"
        open_inputs = [name for name in self._inputs if name not in conditioning and name not in self._given]
        if isinstance(x, Mapping):
            given: dict[str, Any] = {**x, **conditioning}
        else:
            images = self._images_input(open_inputs)
            if images is None:
                raise ValueError(
                    f"{takes} and is given images and {', '.join(conditioning) or 'nothing'}: exactly one input must "
                    f"be left for the images, and there are {', '.join(open_inputs) or 'none'} (the noise law gives "
                    "the conditioning, noise.Flow(name=...) by another name; given={NAME: VALUE} holds what is the "
                    "same for every image)"
                )
            given = {images: x, **conditioning}
        missing = [name for name in open_inputs if name not in given]
        if missing:
            raise ValueError(
                f"{takes}, and nothing gives {', '.join(map(repr, missing))} beside {', '.join(given)}. If the noise "
                f"level goes there, say so in the noise law, such as noise.DDPM(name={missing[0]!r}); what is the same "
                f"for every image is given={{{missing[0]!r}: VALUE}}"
            )
        # What only the part behind the cut takes is dropped; a name that the model never had is a mistake.
        unknown = set(given) - set(self._graph.inputs) - set(self._inputs)
        if unknown:
            raise ValueError(f"{takes} and is given {', '.join(given)}")
        return {name: given[name] for name in self._inputs if name in given}

    def _placed(self, name: str, value: Any) -> np.ndarray:
        """A value for one input, in its type; images in its layout."""
        node = self._inputs[name]
        images = name in self._graph.images and len(node.shape) == 4 and np.ndim(value) == 4
        array = cast(self._where(name), node.type, value, images)
        if images and self._image_layout(name, array.shape[1:]) == "nhwc":
            array = np.ascontiguousarray(np.moveaxis(array, 1, -1))
        return array

    def _image_layout(self, name: str, image: tuple[int, ...]) -> Layout:
        """Order of the axes of an input of images (channel, height, width)."""
        if self._layout is not None:
            return self._layout
        sizes = self._inputs[name].shape
        fitting = layouts_of(sizes, image)
        if not fitting:
            raise ValueError(
                f"{self._where(name)} has the shape {shape_words(sizes)}, and the images are {image} (channel, height, "
                "width)" + _way_to(sizes, image)
            )
        if len(fitting) == 1:
            return fitting[0]
        told: dict[int | None, Layout] = {1: "nchw", 3: "nhwc"}
        found = told.get(self._graph.feature_axes().get(name))
        if found is None:
            raise ValueError(
                f"{self._where(name)} has the shape {shape_words(sizes)}, and images of {image} (channel, height, "
                "width) fit it with the channels first and with the channels last: image_layout='nchw' or "
                "image_layout='nhwc' says which"
            )
        return found

    def _batch(self, feeds: Mapping[str, np.ndarray]) -> tuple[int, int | None]:
        """Images given, and the size of the batch that the model is fixed to, if any."""
        images = next((name for name in self._graph.images if name in feeds), next(iter(feeds)))
        sizes = self._inputs[images].shape
        fixed = sizes[0] if sizes and isinstance(sizes[0], int) else None
        return (len(feeds[images]) if feeds[images].ndim else 0), fixed

    def _feature_axes(self, image: tuple[int, ...]) -> dict[str, int]:
        """Axes of the features, where the graph tells; from the images' own where it tells of nothing else."""
        if self._axes is None:
            known = {}
            for name in self._graph.images:
                if name in self._inputs and len(self._inputs[name].shape) == 4 and len(image) == 3:
                    fitting = [self._layout] if self._layout else layouts_of(self._inputs[name].shape, image)
                    known.update({name: 1 if fitting == ["nchw"] else 3} if len(fitting) == 1 else {})
            self._axes = self._graph.feature_axes(known)
        return self._axes

    def _pooled(self, name: str, output: np.ndarray, n: int, axis: int | None) -> np.ndarray:
        """Features of one layer, along the axis that the graph tells."""
        pool = self.pool
        if output.ndim in (3, 4) and pool.how != "none" and pool.feature_axis is None and len(output) == n:
            # Who asks for the class or the patches says that these are tokens.
            if axis is None and pool.how not in ("class", "patches"):
                raise ValueError(
                    f"layer {name!r} gives shape {output.shape}, and {self.path} does not show which axis holds the "
                    "features: feature_axis=1 or feature_axis=-1 says it, or flatten with pool='none'"
                )
            pool = dataclasses.replace(pool, feature_axis=axis)
        return np.asarray(pool(name, output, n))

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
            If names or shapes of the inputs are not the model's, an input of whole numbers is given others, a layer's
            output does not fit the pooling, or, in the first call, a second run gives something else.
        NonFiniteError
            If a layer holds NaN or infinity; names the layer and the first row.
        """
        feeds = self._feeds(x, conditioning or {})
        images = [np.shape(feeds[name])[1:] for name in self._graph.images if np.ndim(feeds.get(name)) == 4]
        axes = self._feature_axes(images[0] if images else ())
        placed = {name: self._placed(name, value) for name, value in feeds.items()}
        n, fixed = self._batch(placed)
        values = {
            name: fitted(self._where(name), self._inputs[name].shape, value, n, fixed) for name, value in placed.items()
        } | {name: (constant(n), constant.per_image) for name, constant in self._given.items()}
        size = n if fixed is None else fixed
        pieces: dict[str, list[np.ndarray]] = {name: [] for name in self.layers}
        wanted = list(dict.fromkeys(self._tensors.values()))
        for start in range(0, max(n, 1), max(size, 1)):
            piece = {name: rows_of(value, start, size) if each else value for name, (value, each) in values.items()}
            outputs = dict(zip(wanted, self._session.run(wanted, piece), strict=True))
            self._check_repeated(piece, outputs)
            for name, tensor in self._tensors.items():
                pieces[name].append(self._pooled(name, outputs[tensor], size, axes.get(tensor))[: n - start])
        return {name: self._checked(name, np.concatenate(rows)) for name, rows in pieces.items()}

    def _check_repeated(self, piece: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Refuse, at the first call, a model that gives something else when it is run again."""
        if self._repeated:
            return
        for (tensor, one), other in zip(outputs.items(), self._session.run(list(outputs), piece), strict=True):
            if runs_differ(one, other):
                raise ValueError(self._random(f"two runs on the same images differ in {tensor!r}"))
        self._repeated = True

    def _checked(self, name: str, features: np.ndarray) -> np.ndarray:
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise NonFiniteError(
                f"layer {name!r} of {self.path} holds NaN or infinity in {bad.sum()} of {len(bad)} rows, "
                f"first in row {int(bad.argmax())}"
            )
        return features


def _way_to(sizes: Sequence[int | str | None], image: tuple[int, ...]) -> str:
    """How images come to the shape of an input, where that is known."""
    channels, *sides = sizes[1:] if sizes[1] in (1, 3) else (sizes[3], *sizes[1:3])
    wanted = [f"size={sides[0]}"] if sides[0] == sides[1] != image[1] and isinstance(sides[0], int) else []
    wanted += [f"channels={channels}"] if channels in (1, 3) and channels != image[0] else []
    return f": open_images(..., {', '.join(wanted)}) makes them so" if wanted else ""


def _reopened(path: Path, options: dict[str, Any], sha256: str) -> OnnxSource:
    source = OnnxSource(path, **options)
    if source.sha256 != sha256:
        raise UnsafeModelError(f"{path} is not the model that was sent here: its sha256 is {source.sha256}")
    return source
