"""Small models in transformers' layout, made in memory with a tokenizer of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SENTENCES = [
    "the cat sat on the mat", "a dog ran in the park", "the bird sang at dawn", "rain fell on the roof",
    "she read the book by the sea", "he ate a red apple", "the sun set in the west", "a fish swam in the sea",
]  # fmt: skip
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def save_tokenizer(folder: Path, *, has_pairs: bool) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if has_pairs:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )  # fmt: skip
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]")
    fast.save_pretrained(folder)


def llama(folder: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, has_pairs=False)


def bert_config(**changes):
    import transformers

    return transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32, **changes,
    )  # fmt: skip


def classifier(folder: Path) -> None:
    import transformers

    config = bert_config(num_labels=2, id2label={0: "animal", 1: "other"}, label2id={"animal": 0, "other": 1})
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(folder, has_pairs=True)


def encoder(folder: Path) -> None:
    import transformers

    transformers.BertModel(bert_config()).save_pretrained(folder)
    save_tokenizer(folder, has_pairs=True)


def scorer(folder: Path) -> None:
    import transformers

    transformers.BertForSequenceClassification(bert_config(num_labels=1)).save_pretrained(folder)
    save_tokenizer(folder, has_pairs=True)


def vit(folder: Path) -> None:
    import json

    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_labels=2, id2label={0: "red", 1: "blue"}, label2id={"red": 0, "blue": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 8, "width": 8},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.25, 0.2], "resample": 2,
    }))  # fmt: skip


MADE = {"llama": llama, "classifier": classifier, "encoder": encoder, "scorer": scorer, "vit": vit}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a small model; tests do not change it."""
    pytest.importorskip("transformers")
    made: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("models") / kind
            torch.manual_seed(0)
            MADE[kind](made[kind])
        return made[kind]

    return build


def picture(color: tuple[int, int, int], size: tuple[int, int] = (12, 10)) -> bytes:
    """A PNG of one colour."""
    from io import BytesIO

    from PIL import Image

    content = BytesIO()
    Image.new("RGB", size, color).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(name="picture")
def picture_fixture():
    return picture


@pytest.fixture
def sentences() -> list[str]:
    return SENTENCES
