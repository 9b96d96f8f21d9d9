"""Every scheme of the default list on the real networks: the tables under results/.

    BITWRIGHT_DATA=<folder> python experiments/real_models.py [TASK ...]

Runs are resumed: finished rows are read from runs/. Each table says how many samples it stands on.
"""

import sys
from pathlib import Path

import torch

from bitwright.comparison import BOTH, EXACT, compare
from bitwright.model.zoo import TASKS
from bitwright.report import summary_columns, summary_rows, write_csv

HERE = Path(__file__).parent

RUNS: dict[str, tuple[int | None, str]] = {
    "resnet20": (None, BOTH),
    "resnet8": (None, BOTH),
    "mobilenetv1_vww": (None, BOTH),
    "dscnn_kws": (None, BOTH),
    "espcn": (None, BOTH),
    "lenet": (2000, BOTH),
    "fashion_cnn": (2000, BOTH),
    "stories260k": (40, BOTH),
    "resnet32": (None, BOTH),
    "charrnn": (40, BOTH),
    "minilm_sst2": (100, EXACT),
    "minilm_stsb": (40, EXACT),
    "resnet20_jpeg": (400, EXACT),
    "tiny_darknet": (100, EXACT),
    "mobilenetv2": (100, EXACT),
    "efficientnet_lite0": (40, EXACT),
}
"""Task -> test samples (None: all) and evaluation; fewer samples where a network is large."""


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or RUNS:
        limit, evaluation = RUNS[name]
        command = f"python experiments/real_models.py {name}"
        comparison = compare(
            TASKS[name],
            limit=limit,
            folder=Path("runs") / name,
            evaluation=evaluation,
            command=command,
            row_done=lambda row, saved: print(f"  {row.scheme}: {row.metric} {row.error or ''}", flush=True),
        )
        write_csv(comparison, HERE / "results" / f"{name}.csv")
        (HERE / "results" / f"{name}.md").write_text(table(comparison, command))
        (HERE / "results" / "README.md").write_text(overview())
        print(name, "done", flush=True)


def overview() -> str:
    """All tables under results/ as one: the metric of each task under each scheme."""
    metrics: dict[str, dict[str, str]] = {}
    for path in sorted(HERE / "results" / f"{name}.md" for name in RUNS):
        if not path.exists():
            continue
        cells = [line.split("|")[1:3] for line in path.read_text().splitlines() if line.startswith("| ")]
        metrics[path.stem] = {scheme.strip(): metric.strip() for scheme, metric in cells[1:]}
        about = next(line for line in path.read_text().splitlines() if line.startswith("Float "))
        metrics[path.stem] = {"float, samples": about.removeprefix("Float ").split(";")[0]} | metrics[path.stem]
    schemes = list(dict.fromkeys(s for column in metrics.values() for s in column))
    lines = [
        "# Real networks under every scheme",
        "",
        "Post-training, no tuning, all layers alike. Each cell is the task's metric, of the exact evaluation; samples",
        "are few, so read differences beside the standard error. Made by `python experiments/real_models.py`.",
        "",
        "| task | " + " | ".join(f"`{s}`" if "(" in s else s for s in schemes) + " |",
        "|" + "---|" * (len(schemes) + 1),
    ]
    lines += [
        f"| [{task}]({task}.md) | " + " | ".join(column.get(s, "–") for s in schemes) + " |"
        for task, column in metrics.items()
    ]
    return "\n".join(lines) + "\n"


def table(comparison, command: str) -> str:
    """The summary as Markdown, with what it stands on."""
    info = comparison.info
    columns = [c.heading for c in summary_columns(comparison)]
    lines = [
        f"# {info.task}",
        "",
        f"Float {info.metric}: {info.float_metric:.4f} {info.metric_unit} on {info.samples} samples; "
        f"{info.calibration_samples} calibration samples; {info.evaluation} evaluation; "
        f"torch {info.versions['torch']}, NumPy {info.versions['numpy']}, Python {info.versions['python']}.",
        f"Made by `{command}`.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for row in summary_rows(comparison):
        lines.append(
            "| "
            + (" | ".join(c.text for c in row.cells) if row.error is None else f"{row.cells[0].text} | {row.error}")
            + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
