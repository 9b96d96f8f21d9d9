"""What runs an ONNX file: each takes it with its feeds and gives every output of the graph by name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

Values = dict[str, np.ndarray]

STANDARD = "ONNX"
"""What the metadata of files for any engine says that they are written for."""


@dataclass(frozen=True)
class Engine:
    """A name for messages, and what runs a model."""

    name: str
    run: Callable[[onnx.ModelProto, Values], Values]


def _onnx_runtime(model: onnx.ModelProto, feeds: Values) -> Values:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, NotImplemented

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )  # fmt: skip
    except (Fail, InvalidGraph, NotImplemented) as error:
        reason = str(error).strip().splitlines()[0]
        is_of_another_target = any(p.key == "bitwright.target" and p.value != STANDARD for p in model.metadata_props)
        another = ", or write it with bitwright.export.onnx.EVERYWHERE" if is_of_another_target else ""
        raise ValueError(
            f"ONNX Runtime does not run this file ({reason}); run it with bitwright.export.engines.REFERENCE{another}"
        ) from None
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _reference(model: onnx.ModelProto, feeds: Values) -> Values:
    from onnx.reference import ReferenceEvaluator

    names = [o.name for o in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model).run(names, feeds), strict=True))


ONNX_RUNTIME = Engine("ONNX Runtime", _onnx_runtime)
REFERENCE = Engine("onnx.reference", _reference)
