"""Text networks in ordinary layers: a BERT encoder with two heads, a Llama decoder and a character LSTM."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADDING = 0  # BERT's [PAD]


class SentenceSimilarity(nn.Module):
    """Cosine [samples] between the mean-pooled states of two sentences. Reimers and Gurevych, arXiv:1908.10084."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = BertEncoder()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return F.cosine_similarity(self.embed(first), self.embed(second))

    def embed(self, tokens: Tensor) -> Tensor:
        return mean_over_tokens(self.encoder(tokens), tokens)


class SentenceClassifier(nn.Module):
    """Logits [samples, classes] from the mean-pooled state."""

    def __init__(self, classes: int = 2):
        super().__init__()
        self.encoder = BertEncoder()
        self.classifier = nn.Linear(384, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.classifier(mean_over_tokens(self.encoder(tokens), tokens))


def mean_over_tokens(states: Tensor, tokens: Tensor) -> Tensor:
    """States [samples, time, width] averaged over the tokens that are not padding."""
    present = (tokens != PADDING).unsqueeze(-1).to(states.dtype)
    return (states * present).sum(1) / present.sum(1)


class BertEncoder(nn.Module):
    """Tokens [samples, time] to states [samples, time, 384]: 6 layers of 12 heads. Wang et al., arXiv:2002.10957."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, 384)
        self.positions = nn.Embedding(512, 384)
        self.segments = nn.Embedding(2, 384)
        self.norm = nn.LayerNorm(384, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(384, heads=12, hidden=1536) for _ in range(6))

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.positions(positions) + self.segments(torch.zeros_like(tokens)))
        is_token = (tokens != PADDING)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, is_token)
        return x


class BertLayer(nn.Module):
    """Attention and feed-forward, each followed by its residual sum and LayerNorm. Devlin et al., arXiv:1810.04805."""

    def __init__(self, width: int, *, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.expand = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.contract = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, is_token: Tensor) -> Tensor:
        query, key, value = (split_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value))
        context = join_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=is_token))
        x = self.attention_norm(x + self.attention_output(context))
        return self.norm(x + self.contract(self.gelu(self.expand(x))))


class Llama(nn.Module):
    """Tokens [samples, time] to next-token logits [samples, time, 512]. Touvron et al., arXiv:2307.09288.

    The trained output matrix is the embedding's; here it is a second copy, so that quantizing one leaves the other.
    """

    def __init__(self, *, width: int = 64, layers: int = 5, vocabulary: int = 512):
        super().__init__()
        self.tok_embeddings = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(LlamaLayer(width, hidden=172) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.output = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x))


class LlamaLayer(nn.Module):
    """Attention and feed-forward, each on a normalized input and added to the residual stream."""

    def __init__(self, width: int, *, hidden: int):
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.attention = GroupedQueryAttention(width, heads=8, shared_heads=4)
        self.ffn_norm = nn.RMSNorm(width, eps=1e-5)
        self.feed_forward = SwiGlu(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class GroupedQueryAttention(nn.Module):
    """Causal attention in which `shared_heads` keys and values serve all heads. Ainslie et al., arXiv:2305.13245."""

    def __init__(self, width: int, *, heads: int, shared_heads: int):
        super().__init__()
        self.heads, self.shared_heads = heads, shared_heads
        shared_width = width // heads * shared_heads
        self.wq = nn.Linear(width, width, bias=False)
        self.wk = nn.Linear(width, shared_width, bias=False)
        self.wv = nn.Linear(width, shared_width, bias=False)
        self.rotary = Rotary(width // heads)
        self.wo = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query = self.rotary(split_heads(self.wq(x), self.heads))
        key = self.rotary(split_heads(self.wk(x), self.shared_heads))
        value = split_heads(self.wv(x), self.shared_heads)
        served = self.heads // self.shared_heads
        key, value = key.repeat_interleave(served, dim=1), value.repeat_interleave(served, dim=1)
        return self.wo(join_heads(F.scaled_dot_product_attention(query, key, value, is_causal=True)))


class Rotary(nn.Module):
    """Turns interleaved pairs of [..., time, width] by position · 10000**(-2i / width). Su et al., arXiv:2104.09864."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, width: int, *, longest: int = 512):
        super().__init__()
        frequency = 10000.0 ** (-torch.arange(0, width, 2) / width)
        angle = torch.outer(torch.arange(longest), frequency)
        self.register_buffer("cosine", angle.cos(), persistent=False)
        self.register_buffer("sine", angle.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[-2]
        cosine, sine = self.cosine[:time], self.sine[:time]
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2)


class SwiGlu(nn.Module):
    """w2(silu(w1 x) · w3 x). Shazeer, arXiv:2002.05202."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)
        self.silu = nn.SiLU()
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.silu(self.w1(x)) * self.w3(x))


class CharacterLstm(nn.Module):
    """Characters [samples, time] to next-character logits [samples, time, 108], from a zero state."""

    def __init__(self, *, width: int = 128, characters: int = 108):
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.output = nn.Linear(width, characters)

    def forward(self, characters: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(characters))
        return self.output(states)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[samples, time, heads · width] to [samples, heads, time, width]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[samples, heads, time, width] to [samples, time, heads · width]."""
    return x.transpose(1, 2).flatten(2)
