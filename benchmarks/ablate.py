"""Train and compare what the papers compare: quantisers, backbones, masks and priors; see papers.md.

python benchmarks/ablate.py quantisers --photos photos-0.tar --clips clips-0.tar
python benchmarks/ablate.py --help
"""

from ablations.command import main

if __name__ == "__main__":
    main()
