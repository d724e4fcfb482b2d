"""Comparisons that the papers behind this codec ask for, each trained from nothing under equal conditions.

The papers are BSQ-ViT (arXiv 2406.07548) and MAGVIT-v2 (arXiv 2310.05737). Nothing of the product imports this.

    command                     runs experiments, and writes their tables and curves (plots)
    data                        what is trained on, and what is held out
    measures                    quality of decoded frames, and BD-rates

    An autoencoder that is trained from nothing:
    comparison_of_quantisers    with eight quantisers: quantisers (integers), binary_quantisers, code_quantisers
    comparison_of_backbones     with five backbones and three masks: backbones
    network, training           what both share

    A prior that is trained from nothing on the tokens of the packaged model:
    orders                      in which order tokens are coded
    groups                      into how many groups the coefficients of a token are factorised
    temporal                    what is seen of the frame before
    prior_network, prior_tokens, prior_training     what the three share

    The packaged model as it is:
    prior_cost                  what its prior costs, and the bits that it saves
    shapes                      pictures of any aspect ratio
    recognition                 what a linear probe finds in its tokens

An experiment has

    VARIANTS: dict[str, str]     # the name of a variant, and what it is
    run(variant, seed, data, settings) -> dict     # the figures of one run, which JSON holds
    table(rows) -> str           # Markdown of the figures of all runs
"""
