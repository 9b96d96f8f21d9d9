"""Models in transformers' layout, from a folder or from the hub: config.json, safetensors, processor, tokenizer.

No code of the folder runs and nothing is unpickled: a model is a class of transformers, filled from safetensors.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitwright.checkpoint.folder import CONFIG, read_config
from bitwright.sources.network import Network, Prepare

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What is fetched from the hub."""

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")


def load_folder(folder: Path, source: str | None = None) -> Network:
    """A folder with config.json and *.safetensors, its processor and its tokenizer, without any network."""
    require_files(folder)
    with as_one_sentence(folder):
        transformers = imported()
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = model_of(transformers, folder, config)
    name = type(model).__name__
    return Network(
        model,
        name=folder.resolve().name,
        source=source or f"{name} of {folder}",
        prepare=processor(transformers, folder),
        tokenizer=tokenizer(transformers, folder),
        is_causal=name.endswith(("ForCausalLM", "LMHeadModel")),
        longest=longest_of(config),
        outputs=outputs_of(name, config),
        classes={str(label): index for label, index in (getattr(config, "label2id", None) or {}).items()},
    )


def load_hub(name: str) -> Network:
    """`org/name` or `org/name@revision`, fetched once into the hub's cache. ValueError where there is no such model."""
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ImportError("names of the hub need huggingface_hub; pip install 'bitwright[hf]'") from None
    try:
        folder = snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"hf:{name} cannot be fetched ({reason}); correct the name, or give a folder that was fetched before"
        ) from None
    found = load_folder(Path(folder), source=f"hf:{name}")
    return Network(**(vars(found) | {"name": repository.rpartition("/")[2]}))


def require_files(folder: Path) -> None:
    """ValueError where the folder is of another layout."""
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        instead = f"{pickles[0]}, which is pickled and could run code" if pickles else "no weights"
        raise ValueError(
            f"{folder} holds {instead}; where it is trusted, save it with save_pretrained, which writes safetensors"
        )
    if not isinstance(read_config(folder / CONFIG).get("model_type"), str):
        raise ValueError(f"{folder / CONFIG} names no model_type; it must be transformers' description of a model")


def model_of(transformers: Any, folder: Path, config: Any) -> torch.nn.Module:
    """By the first of its `architectures`, in float32."""
    names = getattr(config, "architectures", None) or []
    known = getattr(transformers, names[0], None) if names and isinstance(names[0], str) else None
    if known is None or not hasattr(known, "from_pretrained"):
        found = names[0] if names else "none"
        raise ValueError(
            f"{folder}: the architecture {found!r} is none of transformers {transformers.__version__}; code of a "
            "folder is not run, so give module:function that builds it"
        )
    attention = {"attn_implementation": "sdpa"} if getattr(known, "_supports_sdpa", False) else {}
    with quiet(transformers):
        model, loaded = known.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True, **attention,
        )  # fmt: skip
    missing = sorted(map(str, loaded["missing_keys"])) + sorted(str(key[0]) for key in loaded["mismatched_keys"])
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} tensors of {names[0]} are missing or have another shape, such as {missing[0]}; "
            "fetch the folder again"
        )
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False  # keys and values of earlier tokens would only take memory
    return model.eval().requires_grad_(False)


def tokenizer(transformers: Any, folder: Path) -> Any:
    """The folder's own, if it has one."""
    if not any((folder / name).exists() for name in TOKENIZERS):
        return None
    with as_one_sentence(folder):
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def processor(transformers: Any, folder: Path) -> Prepare | None:
    """The folder's image processor, if it has one."""
    if not (folder / "preprocessor_config.json").exists():
        return None
    with as_one_sentence(folder):
        made = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    def prepare(image: Any) -> np.ndarray:
        return np.asarray(made(images=[image], return_tensors="np")["pixel_values"][0], np.float32)

    return prepare


def longest_of(config: Any) -> int | None:
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(found := getattr(config, name, None), int):
            return found - 2 if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert") else found
    return None


def outputs_of(architecture: str, config: Any) -> int | None:
    """Classes of a classifier, the vocabulary of a language model."""
    if architecture.endswith("Classification"):
        return int(config.num_labels)
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return int(config.vocab_size)
    return None


def imported() -> Any:
    try:
        import transformers
    except ImportError:
        raise ImportError("folders of Hugging Face need transformers; pip install 'bitwright[hf]'") from None
    return transformers


@contextlib.contextmanager
def as_one_sentence(folder: Path) -> Iterator[None]:
    """What transformers, tokenizers and safetensors say of a damaged folder."""
    try:
        yield
    except ValueError as error:
        if str(folder) in str(error) and "\n" not in str(error):
            raise
        raise ValueError(f"{folder} cannot be read ({_first(error)}); fetch it again") from None
    except ImportError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be read ({_first(error)}); fetch it again") from None
    except Exception as error:  # tokenizers and safetensors raise classes of their own, and bare Exception
        if type(error) is not Exception and not type(error).__module__.startswith(("safetensors", "huggingface_hub")):
            raise
        raise ValueError(f"{folder} cannot be read ({_first(error)}); fetch it again") from None


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without progress bars and advice; what matters is looked at by the caller."""
    logging = transformers.utils.logging
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
