"""What Term Revealing's experiments start from: operating points and their costs, recipes, published figures,
and two networks trained here.

    BITWRIGHT_DATA=<folder> python experiments/term_revealing_setup.py

trains the MLP on MNIST and the word LSTM on WikiText-2. Weights go to runs/term_revealing/, with the time and the
figures of the training; a finished training is not repeated.
"""

import csv
import gzip
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from bitwright.comparison import ModelTask
from bitwright.model.data import data_folder
from bitwright.model.task import Batch, Metric, Task, Top1
from bitwright.quantization import Quantizer
from bitwright.recipe import Recipe, Rule
from bitwright.scheme import Scheme
from bitwright.schemes.term_revealing import Recoding, TermBudget, stored_bits, term_pairs_bound, term_revealing

RESULTS, RUNS = Path(__file__).parent / "results", Path("runs") / "term_revealing"

MNIST_MEAN, MNIST_DEVIATION = 0.1307, 0.3081  # of pixels in [0, 1]; the artifact's train_mlp.py


@dataclass(frozen=True)
class Point:
    """An operating point: plain quantization (QT) where there is no budget."""

    weight_bits: int
    data_bits: int
    group: int = 8
    budget: int | None = None
    data_terms: int | None = None
    recoding: Recoding = Recoding.HESE

    def scheme(self) -> Scheme:
        return term_revealing(
            self.weight_bits, self.data_bits, group=self.group, budget=self.budget, data_terms=self.data_terms,
            recoding=self.recoding,
        )  # fmt: skip

    def pairs(self, macs: float) -> float:
        """The paper's bound on term pairs."""
        return macs * term_pairs_bound(
            1, group=self.group, budget=self.budget, data_terms=self.data_terms, weight_bits=self.weight_bits,
            data_bits=self.data_bits,
        )  # fmt: skip

    def __str__(self) -> str:
        if self.budget is None:
            return f"QT {self.weight_bits} bit"
        return f"TR k={self.budget}" + ("" if self.data_terms is None else f" s={self.data_terms}")


class Published(NamedTuple):
    """A row of the artifact's results."""

    metric: float  # ImageNet or MNIST top-1 in %, WikiText-2 test perplexity
    pairs: float
    parameter_bits: str


def published(network: str) -> dict[Point, Published]:
    """From a file beside our own results; pairs by the artifact's formula for each network."""
    found = {}
    with (RESULTS / "term_revealing_published.csv").open() as file:
        for row in csv.DictReader(file):
            names = ("weight_bits", "data_bits", "group", "budget", "data_terms")
            point = Point(*(int(row[name]) if row[name] else None for name in names))
            if row["network"] == network:
                found[point] = Published(float(row["metric"]), float(row["pairs"]), row["parameter_bits"])
    return found


TOLERANCE = 0.1
"""Points of accuracy, or of the published LSTM's perplexity, within which two results count as equal."""


def by_metric(kind: Metric, reference: float) -> Callable[[float], bool]:
    """Whether a metric is as good as QT's. Of a perplexity the tolerance is the same share as of the published one."""
    if kind.higher_is_better:
        return lambda metric: metric >= reference - TOLERANCE - 1e-9
    return lambda metric: metric <= reference * (1 + TOLERANCE / published("LSTM")[Point(8, 8)].metric) + 1e-9


class Cheapest(NamedTuple):
    """The point of fewest term pairs among those that are good enough, and how many times fewer than QT's."""

    point: Point
    times: float

    @property
    def times_of_7_bits(self) -> float:
        """The same where 8 bits are 7 and a sign, as the paper counts them."""
        return self.times * (7 / 8 if self.point.data_terms is None else 49 / 64)

    def __str__(self) -> str:
        return f"k={self.point.budget}" + (f" s={s}" if (s := self.point.data_terms) else "") + f": {self.times:.1f}×"


def cheapest(pairs: dict[Point, float], enough: Iterable[Point], bits: int) -> Cheapest | None:
    fit = [point for point in enough if point.budget is not None]
    if not fit:
        return None
    best = min(fit, key=lambda point: (pairs[point], str(point)))
    return Cheapest(best, plain(pairs, bits) / pairs[best])


def plain(values: dict, bits: int):
    """The value of plain quantization at these bits."""
    return next(value for point, value in values.items() if point.budget is None and point.weight_bits == bits)


def as_good(kind: Metric, rows: dict, pairs: dict[Point, float], bits: int) -> Cheapest | None:
    """The cheapest point whose row has a metric as good as QT's."""
    is_good = by_metric(kind, plain(rows, bits).metric)
    return cheapest(pairs, [point for point, row in rows.items() if is_good(row.metric)], bits)


def published_iso(kind: Metric, *networks: str) -> list[list[object]]:
    lines: list[list[object]] = []
    for network in networks:
        rows = published(network)
        pairs = {point: row.pairs for point, row in rows.items()}
        for bits in (8, 7):
            best, name = as_good(kind, rows, pairs, bits), f"*{network}, published*"
            lines.append([name, "", f"{bits} bit", plain(rows, bits).metric, "", best, "", "", ""])
    return lines


def markdown(head: str, rows: Iterable[Iterable[object]]) -> str:
    columns = head.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines) + "\n"


def write(part: str, *parts: str) -> None:
    """A part's table, after how to repeat it."""
    command = f"BITWRIGHT_DATA=<folder> python experiments/term_revealing.py {part}"
    head = f"# Term Revealing: {part}\n\nMade by `{command}`. Post-training, no tuning; the first N test samples.\n"
    (RESULTS / f"term_revealing_{part}.md").write_text("\n".join([head, *parts]).rstrip() + "\n")


def ends_in_float(scheme: Scheme) -> Recipe:
    """As the artifact treats CNNs: the first convolution and the classifier stay in float."""
    return Recipe((Rule("first", None), Rule("last", None), Rule("*", scheme)))


def weights_alone(scheme: Scheme) -> Recipe:
    """As the artifact really treats linear layers: their data stay in float (quirk 1)."""
    return Recipe.uniform(replace(scheme, input=None))


def tables_in_float(scheme: Scheme) -> Recipe:
    """All products; embeddings are looked up, not multiplied."""
    return Recipe((Rule("Embedding", None), Rule("*", scheme)))


def artifact_lstm(scheme: Scheme) -> Recipe:
    """The artifact's LSTM: weights of layer 0 and of the decoder, data in float (quirks 1 and 2)."""
    weights = replace(scheme, input=None)
    return Recipe((Rule("Embedding", None), Rule("*_l0", weights), Rule("*_l1", None), Rule("*decoder", weights)))


class Mlp(nn.Sequential):
    """784-512-512-10 with ReLU and dropout 0.2, on normalized pixels: train_mlp.py of the artifact."""

    def __init__(self) -> None:
        sizes = (784, 512, 512)
        hidden = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU(), nn.Dropout(0.2))]
        super().__init__(*hidden, nn.Linear(sizes[-1], 10))


@dataclass(frozen=True)
class WordRecipe:
    """PyTorch's word_language_model, scaled down; its own settings where no other is named."""

    units: int = 200  # the artifact: 650
    layers: int = 2
    dropout: float = 0.5
    epochs: int = 14  # the artifact: 40
    batch: int = 20
    steps: int = 35
    rate: float = 20.0  # divided by 4 after an epoch that does not improve on the held-out text
    clip: float = 0.25
    seen: int = 2  # times that a word of the vocabulary occurs in the training text
    held_out: float = 0.1  # of the training text, its end
    seed: int = 1


class WordLstm(nn.Module):
    """Words [samples, time] to next-word logits; the decoder's matrix is the embedding's."""

    def __init__(self, words: int, recipe: WordRecipe):
        super().__init__()
        self.drop = nn.Dropout(recipe.dropout)
        self.embedding = nn.Embedding(words, recipe.units)
        self.lstm = nn.LSTM(recipe.units, recipe.units, recipe.layers, batch_first=True, dropout=recipe.dropout)
        self.decoder = nn.Linear(recipe.units, words)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        self.decoder.weight = self.embedding.weight

    def forward(self, words: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple]:
        states, state = self.lstm(self.drop(self.embedding(words)), state)
        return self.decoder(self.drop(states)), state


def mlp() -> tuple[Task, dict]:
    """The MLP with MNIST's test images, calibrated on training images; and its training, which is the artifact's."""
    path = RUNS / "mlp_seed1.safetensors"
    if not path.exists():
        _train_mlp(1, path)
    model = Mlp()
    model.load_state_dict(load_file(path))
    (x, y), (seen_x, seen_y) = mnist("test"), mnist("train")
    test = tuple(Batch((a,), b) for a, b in zip(x.split(2000), y.split(2000)))
    task = ModelTask(model.eval(), (Batch((seen_x[:1024],), seen_y[:1024]),), test, Top1(), "mlp")
    return task, json.loads(path.with_suffix(".json").read_text())


def word_lstm(streams: int = 80, steps: int = 500, batch: int = 20) -> tuple[Task, dict]:
    """The word LSTM on the first words of WikiText-2's test text, in streams from a zero state; and its training."""
    path, recipe = RUNS / "word_lstm.safetensors", WordRecipe()
    if not path.exists():
        _train_words(recipe, path)
    model = WordLstm(len(vocabulary()), recipe)
    model.load_state_dict({**(state := load_file(path)), "decoder.weight": state["embedding.weight"]})
    test, calibration = (_word_batches(part, count, steps, batch) for part, count in (("test", streams), ("valid", 20)))
    task = ModelTask(Scored(model.eval()), calibration, test, WordPerplexity(), "wordlstm")
    return task, json.loads(path.with_suffix(".json").read_text())


def parameter_bits(model: nn.Module, point: Point) -> int:
    """The artifact's storage: of kept terms where there is a budget, else of all weights."""
    weights = [m.weight.detach().numpy() for m in model.modules() if isinstance(m, nn.Linear)]
    quantizer, bits = point.scheme().weight, point.weight_bits
    assert isinstance(quantizer, Quantizer)
    assert isinstance(quantizer.format, TermBudget)
    if point.budget is None:
        return bits * sum(weight.size for weight in weights)
    return sum(stored_bits(quantizer.quantize(weight).codes, quantizer.format, bits) for weight in weights)


class Scored(nn.Module):
    """A language model as the loss of each word [samples, time] beside the word that it finds likeliest."""

    def __init__(self, model: WordLstm):
        super().__init__()
        self.model = model

    def forward(self, words: Tensor, following: Tensor) -> Tensor:
        logits, _ = self.model(words)
        loss = functional.cross_entropy(logits.transpose(1, 2), following, reduction="none")
        return torch.stack([loss, logits.argmax(-1).to(loss.dtype)], -1)


class WordPerplexity(Metric):
    """exp of the mean loss that `Scored` gives."""

    name, unit, higher_is_better = "perplexity", "", False

    def measure(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        return outputs[..., 0].double().mean(1, keepdim=True).numpy()

    def reduce(self, statistics: np.ndarray) -> float:
        return float(np.exp(statistics.mean()))

    def agreement(self, outputs: Tensor, reference: Tensor, targets: Tensor) -> np.ndarray:
        return (outputs[..., 1] == reference[..., 1]).double().numpy().ravel()


def _word_batches(part: str, streams: int, steps: int, batch: int) -> tuple[Batch, ...]:
    cut = word_ids(part)[: streams * (steps + 1)].view(streams, steps + 1).split(batch)
    return tuple(Batch((ids[:, :-1], ids[:, 1:]), ids[:, 1:]) for ids in cut)


def mnist(part: str) -> tuple[Tensor, Tensor]:
    """Normalized pixels [images, 784] and digits of "train" or "test"."""
    with np.load(data_folder() / "data/mnist.npz") as stored:
        pixels, digits = stored[f"x_{part}"], stored[f"y_{part}"]
    x = torch.from_numpy(pixels.reshape(len(pixels), -1)).float() / 255
    return (x - MNIST_MEAN) / MNIST_DEVIATION, torch.from_numpy(digits.astype(np.int64))


def words(part: str) -> list[str]:
    """The text "valid" or "test", each line ended by <eos>."""
    text = gzip.decompress((data_folder() / f"data/wikitext2_{part}.txt.gz").read_bytes()).decode()
    return [word for line in text.split("\n")[:-1] for word in (*line.split(), "<eos>")]


def vocabulary() -> dict[str, int]:
    """The words that the training text has often enough, by falling number; the text's own <unk> is among them."""
    counts = Counter(words("valid"))
    return {word: i for i, (word, n) in enumerate(counts.most_common()) if n >= WordRecipe.seen}


def word_ids(part: str) -> Tensor:
    known = vocabulary()
    return torch.tensor([known.get(word, known["<unk>"]) for word in words(part)])


def _train_mlp(seed: int, path: Path) -> None:
    """Adadelta of rate 1, times 0.7 after each of 14 epochs, batches of 64."""
    torch.manual_seed(seed)
    started, epochs = time.perf_counter(), 14
    model, (x, y), (test_x, test_y) = Mlp(), mnist("train"), mnist("test")
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    for epoch in range(epochs):
        model.train()
        for chosen in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            accuracy = 100 * (model.eval()(test_x).argmax(1) == test_y).double().mean().item()
        print(f"mlp seed {seed}, epoch {epoch + 1}: {accuracy:.2f} % of the test images", flush=True)
    _save(model, path, {"seed": seed, "epochs": epochs, "accuracy": accuracy, "seconds": time.perf_counter() - started})


def _train_words(recipe: WordRecipe, path: Path) -> None:
    torch.manual_seed(recipe.seed)
    started, text = time.perf_counter(), word_ids("valid")
    cut = round(len(text) * (1 - recipe.held_out))
    train, held_out = _streams(text[:cut], recipe.batch), _streams(text[cut:], 10)
    model, rate, best, kept = WordLstm(len(vocabulary()), recipe), recipe.rate, float("inf"), {}
    for epoch in range(recipe.epochs):
        _train_epoch(model, train, rate, recipe)
        perplexity = _perplexity(model, held_out, recipe.steps)
        seconds = time.perf_counter() - started
        print(f"wordlstm epoch {epoch + 1}: {perplexity:.1f} held out, rate {rate:g}, {seconds:.0f} s", flush=True)
        if perplexity < best:
            best, kept = perplexity, {name: t.clone() for name, t in model.state_dict().items()}
        else:
            rate /= 4
    model.load_state_dict(kept)
    log = {"epochs": recipe.epochs, "held_out_perplexity": best, "seconds": time.perf_counter() - started}
    _save(model, path, {**log, "words": len(vocabulary()), "training_words": cut, "text_words": len(text)})


def _train_epoch(model: WordLstm, text: Tensor, rate: float, recipe: WordRecipe) -> None:
    model.train()
    state = None
    for first in range(0, text.shape[1] - 1, recipe.steps):
        x, y = text[:, first : first + recipe.steps], text[:, first + 1 : first + 1 + recipe.steps]
        model.zero_grad()
        logits, state = model(x[:, : y.shape[1]], state)
        state = tuple(s.detach() for s in state)
        functional.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(parameter.grad, alpha=-rate)


@torch.no_grad()
def _perplexity(model: WordLstm, text: Tensor, steps: int) -> float:
    model.eval()
    nats, count, state = 0.0, 0, None
    for first in range(0, text.shape[1] - 1, steps):
        y = text[:, first + 1 : first + 1 + steps]
        logits, state = model(text[:, first : first + y.shape[1]], state)
        nats += functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item()
        count += y.numel()
    return float(np.exp(nats / count))


def _streams(text: Tensor, count: int) -> Tensor:
    length = len(text) // count
    return text[: count * length].view(count, length)


def _save(model: nn.Module, path: Path, log: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(log))
    state = {name: t.contiguous() for name, t in model.state_dict().items() if name != "decoder.weight"}
    save_file(state, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    mlp()
    word_lstm()
