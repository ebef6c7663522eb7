"""Everything that is written when a sweep ends, in the sweep's folder."""

import json
from pathlib import Path

from oner_jax.evals import ladder, ladder_figures
from oner_jax.evals.figures import LIGHT, render, view_maps
from oner_jax.evals.spread import csv_table, markdown_table, origin_table, read_rows, run_folder
from oner_jax.evals.suite import write_whole
from oner_jax.sweeps import Sweep

COLUMNS = {
    "retrieval/val/text_R@10": "val text R@10",
    "retrieval/val/image_R@10": "val image R@10",
    "retrieval/new_vendor/text_R@10": "new_vendor text R@10",
    "retrieval/new_vendor/image_R@10": "new_vendor image R@10",
    "geometry/val/centroid_distance": "distance of means",
    "geometry/val/modality_variance": "modality's share of variance",
    "geometry/val/modality_classifier": "modality classifier",
    "geometry/val/pooled_text_R@1": "pooled R@1",
    "geometry/val/unpooled_text_R@1": "R@1",
    "geometry/val/cos_joint_image": "cos(IT, I)",
    "geometry/val/cos_joint_text": "cos(IT, T)",
    "geometry/val/change_other_caption": "IT moved by another caption",
}


def write(sweep: Sweep, folder: Path) -> list[Path]:
    """Write tables and figures of what is measured so far; returns their paths."""
    labels = {trial.name: trial.label or trial.name for trial in sweep.trials}
    rows = read_rows(folder, labels, sweep.seeds)
    if not rows:
        return []
    measured = {metric for row in rows for _, metric in row.metrics}
    columns = {metric: name for metric, name in COLUMNS.items() if metric in measured}
    commands = {
        trial.name: " ".join(["python -m oner_jax.train", *trial.arguments("N")])
        for trial in sweep.trials
    }
    files: dict[str, bytes] = {
        "table.csv": csv_table(rows).encode(),
        "table.md": markdown_table(rows, columns or {m: m for m in sorted(measured)}).encode(),
        "origin.md": origin_table(rows, commands).encode(),
    }
    if sweep.report == "ladder":
        files["verdicts.md"] = ladder.verdict_table(ladder.judge(rows)).encode()
        files["retrieval.png"] = render(
            ladder_figures.arm_bars(rows, ladder_figures.RETRIEVAL_PANELS)
        )
        files["instruments.png"] = render(ladder_figures.arm_bars(rows, ladder_figures.GAP_PANELS))
        panels = _maps(sweep, folder)
        if panels:
            files["maps.png"] = render(view_maps(LIGHT, panels))
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def _maps(sweep: Sweep, folder: Path) -> list[tuple[str, dict[str, list[list[float]]]]]:
    """Titles with the points of the sweep's looks at `map`, those that are made."""
    labels = {trial.name: trial.label or trial.name for trial in sweep.trials}
    panels = []
    for look in sweep.looks:
        workdir = run_folder(folder, look.trial, sweep.seeds[0])
        path = workdir / f"eval/step-{look.step}/{look.dataset}/map.json"
        if "map" in look.tasks and path.exists():
            title = f"{labels[look.trial]}, step {look.step}"
            panels.append((title, json.loads(path.read_text())["points"]))
    return panels
