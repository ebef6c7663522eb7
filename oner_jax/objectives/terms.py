"""The terms of the objective, as data (docs/method.md, Objectives).

A contrastive term is a list of pairs: the views whose mixed predictions are the queries, and the
views whose mixed momentum projections are the keys. A reconstruction term is a view and what is
rebuilt from it. Adding an objective of these forms is adding a row.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ContrastivePair:
    """NCE(mix(q_a, q_b, ...), mix(k_c, k_d, ...)) over views a, b and c, d."""

    queries: tuple[str, ...]
    keys: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Hidden pixels and/or words of `view` are rebuilt from that view's own states."""

    view: str
    pixels: bool
    words: bool


CONTRASTIVE_TERMS: dict[str, tuple[ContrastivePair, ...]] = {
    "itc": (ContrastivePair(("I",), ("T",)), ContrastivePair(("T",), ("I",))),
    # Cross-modal mixup contrast, in both readings of the paper: each modality against the mix of
    # both, or mix against mix.
    "xmc": (ContrastivePair(("I",), ("I", "T")), ContrastivePair(("T",), ("I", "T"))),
    "xmc_mixed": (ContrastivePair(("I", "T"), ("I", "T")),),
    # Contextual invariance: streams that read each other, against streams that read themselves.
    "cic": (
        ContrastivePair(("I|T", "T|I"), ("I", "T")),
        ContrastivePair(("I", "T"), ("I|T", "T|I")),
    ),
    "cmc": (ContrastivePair(("IT",), ("I", "T")), ContrastivePair(("I", "T"), ("IT",))),
}

RECONSTRUCTION_TERMS: dict[str, Reconstruction] = {
    "mim": Reconstruction("I", pixels=True, words=False),
    "mlm": Reconstruction("T", pixels=False, words=True),
    "mmm": Reconstruction("IT", pixels=True, words=True),
}

TERMS = (*CONTRASTIVE_TERMS, *RECONSTRUCTION_TERMS)


def required_views(term: str) -> frozenset[str]:
    """Names of the views that `term` needs, those included whose keys and values they read."""
    if term in RECONSTRUCTION_TERMS:
        return frozenset({RECONSTRUCTION_TERMS[term].view})
    return frozenset(
        name for pair in CONTRASTIVE_TERMS[term] for name in (*pair.queries, *pair.keys)
    )
