"""Comparisons that the papers behind this codec ask for, each trained from nothing under equal conditions.

The papers are BSQ-ViT (arXiv 2406.07548) and MAGVIT-v2 (arXiv 2310.05737). Nothing of the product imports this. A
module is one experiment, or several of one kind; it has

    VARIANTS: dict[str, str]     # the name of a variant, and what it is
    run(variant, seed, data, settings) -> dict     # the figures of one run, which JSON holds
    table(rows) -> str           # Markdown of the figures of all runs

command.py runs them; network.py, training.py and measures.py are what those that train an autoencoder share.
"""
