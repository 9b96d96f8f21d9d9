"""Float and frozen language models for lm-eval, so that its zero-shot tasks judge them.

network = load_network("folder")
frozen = bw.quantize(network.model, "integer(8, 8)", calibration)
lm_eval.simple_evaluate(model=language_model(frozen, network.tokenizer), tasks=["hellaswag"])
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.sources.windows import LONGEST, logits_of


def language_model(model: nn.Module, tokenizer: Any, *, longest: int | None = None, batch_size: int = 8) -> Any:
    """An `lm_eval` LM that scores texts with this model and tokenizer of transformers' kind.

    `longest` is how many tokens the model takes at once; the model's own configuration says so otherwise. Generation is
    by greedy steps over the whole text, as frozen models keep no state. ImportError where lm-eval is not installed.
    """
    if tokenizer is None:
        raise ValueError("lm-eval gives texts, so the model needs a tokenizer; load it from a folder that has one")
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise ValueError(
            "lm-eval begins texts with the tokenizer's bos or eos token, and it has neither; set one of them"
        )
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ImportError(f"{error.name or 'lm_eval'} is not installed; pip install 'bitwright[lm-eval]'") from None
    config = getattr(model, "config", None)
    found = longest or getattr(config, "max_position_embeddings", None) or LONGEST
    return HFLM(
        pretrained=Causal(model, config, found), tokenizer=tokenizer, backend="causal", max_length=found,
        batch_size=batch_size, device="cpu",
    )  # fmt: skip


class Causal(nn.Module):
    """What lm-eval asks of a model: logits by attribute, a configuration, a device, and greedy generation."""

    def __init__(self, model: nn.Module, config: Any, longest: int) -> None:
        super().__init__()
        self.model = model
        self.config = config if config is not None else SimpleNamespace(max_position_embeddings=longest)
        self.longest = longest

    device = torch.device("cpu")

    def tie_weights(self) -> None:
        """Done when the model was loaded."""

    @torch.no_grad()
    def forward(self, input_ids: Tensor, **ignored: Any) -> SimpleNamespace:
        """lm-eval pads at the right, where no scored token sees it, so masks are not needed."""
        return SimpleNamespace(logits=logits_of(self.model(input_ids)))

    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_length: int, **options: Any) -> Tensor:
        """Greedy continuation to `max_length` tokens. ValueError where sampling is asked for."""
        if options.get("do_sample"):
            raise ValueError("sampling is asked for; frozen models are judged by their most likely tokens")
        mask = options.get("attention_mask")
        padding = [0] * len(input_ids) if mask is None else (mask == 0).sum(1).tolist()  # at the left
        stops = options.get("stopping_criteria")
        whole = input_ids
        while whole.shape[1] < max_length:
            texts = [row[count:][-self.longest :] for row, count in zip(whole, padding, strict=True)]
            following = [logits_of(self.model(text[None]))[0, -1].argmax() for text in texts]
            whole = torch.cat([whole, torch.stack(following)[:, None]], 1)
            if stops and bool(torch.as_tensor(stops(whole, None)).all()):
                break
        return whole
