"""The networks of a model behind one face: a frame's coefficients chosen, coded, and turned into pixels again.

The last of four modules to be read in this order: quantiser.py, tokenizer.py, prior.py, network.py.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from . import latent_search, tiling
from .config import ModelConfig, decoder_tensors
from .cuda_graphs import Graphs
from .export import restore
from .layers import bf16_is_fast
from .objective import Objective
from .patches import TOKEN
from .prior import Prior
from .quantiser import Coder, Quantiser, log2_step
from .tokenizer import MID_GRAY, Condition, Context, Decoder
from .unrounded import Batch, Unrounded

PRIOR_HALO = 8  # rows of tokens that a search needs beside the decoder's: windows of the prior have 8


class Network:
    """The networks of a model with frozen weights on a device: all that other packages need of them.

    An encoder and a decoder both go, frame by frame, through `context`, `code` and `decode`; before `code` an encoder
    chooses the coefficients with `encode`. What `context`, `code` and `decode` give is the same on every machine, bit
    for bit. Nothing is kept from one frame to the next, but for CUDA graphs.

    Args:
        config: sizes of the networks.
        tensors: the integers of a model file (`export.integers`).
        objective: what the model was trained for, and what a search for better coefficients minimises.
        device: where to work.
        dtype: in which type of number decoder and prior hold their integers: float32, or int64 for the oracle of tests.

    Raises AssertionError if sums of the networks could pass what is exact.
    """

    def __init__(
        self, config: ModelConfig, tensors: dict[str, Tensor], objective: Objective, device: torch.device,
        dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        self.config, self.objective, self.device = config, objective, device
        self._tensors = tensors
        here = {name: t.to(device) for name, t in decoder_tensors(tensors).items()}
        self.graphs = Graphs()
        self.quantiser = Quantiser(here, device)
        self.decoder = Decoder(here, self.quantiser, dtype)
        self.prior = Prior(here, self.quantiser, self.graphs, dtype)
        self._unrounded: Unrounded | None = None

    def oracle(self) -> "Network":
        """The same networks in int64 on the CPU."""
        return Network(self.config, self._tensors, self.objective, torch.device("cpu"), torch.int64)

    @property
    def unrounded(self) -> Unrounded:
        """The networks in real numbers, made when they are needed first: a decoder never does."""
        if self._unrounded is None:
            with torch.inference_mode(False):
                network = Unrounded(self.config)
                restore(network, self._tensors)
                self._unrounded = network.to(self.device).eval().requires_grad_(False)
        return self._unrounded

    def n_coded(self, quality: int) -> int:
        """Coefficients of a token that are coded at a quality 1..100; the others are 0."""
        return self.quantiser.n_coded[quality - 1]

    def quantiser_step(self, quality: int) -> float:
        """Quantiser step of a token of class 0 in pixel values, at a quality 1..100."""
        return 2.0 ** float(log2_step(quality))

    def classes(self, picture: Tensor) -> Tensor:
        """Class of contrast of each token, -3..3, int64 (B, H/16, W/16), of integers 0..255, (B, 3, H, W)."""
        return self.quantiser.classes(picture)

    def context(self, condition: Condition, prediction: Tensor | None, classes: Tensor | None) -> Context:
        """The context of a frame: what is known of it before its coefficients.

        prediction: integers 0..255, (1, 3, H, W), sides multiples of 16; None for an I frame. classes: of an I frame,
        int64 (1, H/16, W/16).
        """
        return self.decoder.context(condition, prediction, classes)

    def encode(
        self, picture: Tensor, context: Context, condition: Condition, effort: int = 0, double: bool = False
    ) -> Tensor:
        """Choose the coefficients of a frame: real numbers, float32 (1, H/16, W/16, n_coded), which `code` rounds.

        picture: integers 0..255, float32 (1, 3, H, W). effort: search steps for better ones than the encoder's, or 0.
        double: without a search, compute in float64, in which machines differ by too little to change what is rounded,
        but by accident; else in what is fastest.
        """
        network, grid, halo = self.unrounded, context.classes.shape[1:], self.decoder.halo  # the encoder's is the same
        if not effort:
            if double:
                network, picture = copy.deepcopy(network).double(), picture.double()

            def choose(run: slice) -> list[Tensor]:
                return [network.coefficients(self._batch(picture, context, condition, run, encode_only=True)).float()]

            return _in_bands(choose, grid, halo, tiling.MAX_TOKENS_PER_BAND)[0]

        def search(run: slice) -> list[Tensor]:
            batch = self._batch(picture, context, condition, run)
            return [latent_search.search(network, batch, picture[:, :, tiling.pixel_rows(run)], self.objective, effort)]

        with torch.inference_mode(False), torch.enable_grad():  # of tensors that were made without it there are copies
            picture, context = picture.clone(), context.clone()
            return _in_bands(search, grid, halo + PRIOR_HALO, latent_search.MAX_TOKENS_PER_BAND)[0]

    def _batch(
        self, picture: Tensor, context: Context, condition: Condition, run: slice, encode_only: bool = False
    ) -> Batch:
        """Rows `run` of the tokens of a frame, as the networks in real numbers take them."""

        def each(value: float) -> Tensor:
            return torch.full((1,), float(value), device=self.device)

        rows = tiling.pixel_rows(run)
        prediction = None if context.prediction is None else context.prediction[:, :, rows].to(picture) + MID_GRAY
        fastest = torch.bfloat16 if bf16_is_fast(self.device) else torch.float32
        return self.unrounded.prepare(
            picture[:, :, rows], each(float(log2_step(condition.quality))), each(condition.tune), prediction,
            each(condition.frame_type == 2), self.n_coded(condition.quality),
            torch.float64 if picture.dtype == torch.float64 else fastest, context.classes[:, run], encode_only,
        )  # fmt: skip

    def code(
        self, context: Context, condition: Condition, coder: Coder, coefficients: Tensor | None = None,
        error_cost: float = 0.0, only: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Encode (`coefficients` given) or decode the coefficients of a frame. Returns those that were coded, int32
        (1, H/16, W/16, n_coded).

        coder: gets the probabilities of bits and writes or reads these. coefficients: integers, or with `error_cost`
        real numbers, which are rounded. error_cost: bits that a squared error of one quantiser step is worth.
        only: of the integers `coefficients`, the tokens that are coded, bool (1, H/16, W/16); the others stay as given.
        """
        return self.prior.run(context, condition, coder, coefficients, error_cost, only)

    def decode(self, coefficients: Tensor, context: Context, condition: Condition, depth: int = 8) -> list[Tensor]:
        """Pixels of a frame, uint8 (1, 3, H, W), from which others are predicted; after them, if `depth` is 9..16,
        those that are shown, int32, 0..2**depth - 1.

        coefficients: integers (1, H/16, W/16, n_coded). A large picture is decoded in bands of rows: memory then
        depends on the size of a band and not of the picture.
        """
        classes, mean, views, prediction = context

        def decode_band(y: Tensor, classes: Tensor, mean: Tensor, *predicted: Tensor) -> list[Tensor]:
            known = Context(classes, mean, *(predicted or (None, None)))
            pictures = self.decoder(y, known, condition, depth)
            return [p.to(torch.int32 if i else torch.uint8) for i, p in enumerate(pictures)]

        def decode_rows(run: slice) -> list[Tensor]:
            inputs = [coefficients[:, run], classes[:, run], mean[:, run]]
            if views is not None and prediction is not None:
                inputs += [views[:, run], prediction[:, :, tiling.pixel_rows(run)]]
            pictures = self.graphs.run(("decoder", condition, depth), decode_band, *inputs)
            return [p.unflatten(2, (-1, TOKEN)).transpose(1, 2) for p in pictures]  # (1, rows, 3, TOKEN, W)

        out = _in_bands(decode_rows, classes.shape[1:], self.decoder.halo, tiling.MAX_TOKENS_PER_BAND)
        return [p.transpose(1, 2).flatten(2, 3) for p in out]


def _in_bands(work: Callable[[slice], list[Tensor]], grid: torch.Size, halo: int, max_tokens: int) -> list[Tensor]:
    """The results of `work` on all rows of a grid of tokens, (1, rows, ...), done band by band."""
    rows, columns = grid
    bands = [[t[:, keep] for t in work(run)] for run, keep in tiling.bands(rows, columns, halo, max_tokens)]
    return [torch.cat(parts, 1) if len(parts) > 1 else parts[0] for parts in zip(*bands, strict=True)]
