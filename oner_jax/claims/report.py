"""Everything that is written when a sweep ends, in the sweep's folder."""

import json
from collections.abc import Sequence
from pathlib import Path

from oner_jax.claims import figures as ladder_figures
from oner_jax.claims import verdicts as ladder
from oner_jax.claims.spread import (
    Row,
    csv_table,
    markdown_table,
    origin_table,
    read_rows,
    run_folder,
)
from oner_jax.claims.sweep import Sweep
from oner_jax.evals.report.figures import LIGHT, render, view_maps
from oner_jax.files import write_whole

# Tables of table.md by title: metric -> heading.
TABLES = {
    "Retrieval": {
        "retrieval/val/text_R@10": "val text R@10",
        "retrieval/val/image_R@10": "val image R@10",
        "retrieval/new_vendor/text_R@10": "new_vendor text R@10",
        "retrieval/new_vendor/image_R@10": "new_vendor image R@10",
    },
    "D1: are the modalities apart?": {
        "geometry/val/centroid_distance": "distance of means",
        "geometry/val/modality_variance": "share of variance",
        "geometry/val/modality_classifier": "classifier",
        "geometry/val/unpooled_text_R@1": "R@1 among captions",
        "geometry/val/pooled_text_R@1": "R@1, pictures in the way",
        "geometry/val/alignment": "alignment",
    },
    "D2: does the joint input read its text?": {
        "geometry/val/cos_joint_image": "cos(IT, I)",
        "geometry/val/cos_joint_text": "cos(IT, T)",
        "geometry/val/change_other_picture": "IT moved by another picture",
        "geometry/val/change_other_caption": "IT moved by another caption",
    },
    "Localisation: is the hottest point on the thing that the phrase names?": {
        "localisation/val/pointing": "pointing game",
        "localisation/val/pointing_centre": "the middle",
        "localisation/val/pointing_other_phrase": "pointing for a phrase not shown",
        "localisation/val/which_object": "which object",
        "localisation/val/photo_pointing": "pointing, photographs behind",
        "localisation/val/photo_which_object": "which object, photographs behind",
        "localisation/val/box": "MaxBoxAcc",
        "localisation/val/box_other_phrase": "its box for a phrase not shown",
    },
    "Text-guided reasoning: does a prompt bring its thing to the top?": {
        "reasoning/val/name_flip": "name: rank flips",
        "reasoning/val/name_flip_elsewhere": "at a picture without it",
        "reasoning/val/category_place": "category: place",
        "reasoning/val/category_place_no_prompt": "without prompt",
    },
    "Multi-modal retrieval: same vendor, another thing, R@10": {
        "multimodal/val/same_vendor_joint_R@10": "picture and phrase as one",
        "multimodal/val/same_vendor_image_R@10": "picture alone",
        "multimodal/val/same_vendor_text_R@10": "phrase alone",
        "multimodal/val/same_vendor_sum_R@10": "sum of both",
    },
}


def write(sweep: Sweep, folder: Path) -> list[Path]:
    """Write tables and figures of what is measured so far; returns their paths."""
    labels = {trial.name: trial.label or trial.name for trial in sweep.trials}
    rows = read_rows(folder, labels, sweep.seeds)
    if not rows:
        return []
    commands = {
        trial.name: " ".join(["python -m oner_jax.train", *trial.arguments("N")])
        for trial in sweep.trials
    }
    files: dict[str, bytes] = {
        "table.csv": csv_table(rows).encode(),
        "table.md": _tables(rows).encode(),
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


def _tables(rows: Sequence[Row]) -> str:
    """The tables and rows of which something was measured, by title; else all in one."""
    measured = {metric for row in rows for _, metric in row.metrics}
    parts = []
    for title, columns in TABLES.items():
        filled = [row for row in rows if any(row.primary(metric) for metric in columns)]
        if filled:
            parts.append(f"## {title}\n\n{markdown_table(filled, columns)}")
    return "\n".join(parts) or markdown_table(rows, {name: name for name in sorted(measured)})


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
