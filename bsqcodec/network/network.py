"""The networks of a model behind one face: a frame's coefficients chosen, coded, and turned into pixels again."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import latent_search as refine
from .config import ModelConfig
from .export import decoding, restore
from .layers import bf16_is_fast
from .objective import Objective
from .patches import TOKEN
from .prior import Prior
from .quantiser import STEP_BITS, Coder, Quantiser, log2_step
from .tiling import bands, pixels
from .tokenizer import Condition, Context, Decoder
from .unrounded import Frame, Unrounded


class Network:
    """Frozen weights on a device.

    Args:
        config: sizes of the networks.
        tensors: the integers of a model file (`export.integers`).
        objective: what the model was trained for, and what a search for better coefficients minimises.
        device: where to work.
        dtype: in which type of number decoder and prior hold their integers: float32, or int64 for the oracle of tests.
    """

    def __init__(
        self, config: ModelConfig, tensors: dict[str, Tensor], objective: Objective, device: torch.device,
        dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        self.config, self.objective, self.device = config, objective, device
        self._tensors = tensors
        here = {name: t.to(device) for name, t in decoding(tensors).items()}
        self.quantiser = Quantiser(here, device)
        self.decoder = Decoder(here, self.quantiser, dtype)
        self.prior = Prior(here, self.decoder, dtype)
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
        """Coefficients that a token has at a quality 1..100."""
        return self.quantiser.n_coded[quality - 1]

    def step(self, quality: int) -> float:
        """Quantiser step of a token of class 0 in pixel values, at a quality 1..100."""
        return 2.0 ** float(log2_step(quality))

    def classes(self, picture: Tensor) -> Tensor:
        """Class of contrast of each token, -3..3, int64 (B, H/16, W/16), of integers 0..255, (B, 3, H, W)."""
        return self.quantiser.classes(picture)

    def context(self, condition: Condition, prediction: Tensor | None, classes: Tensor | None) -> Context:
        """What is known of a frame before its coefficients.

        prediction: integers 0..255, (1, 3, H, W), sides multiples of 16; None for an I frame. classes: of an I frame,
        int64 (1, H/16, W/16).
        """
        return self.decoder.context(condition, prediction, classes)

    def encode(self, picture: Tensor, context: Context, condition: Condition, effort: int = 0) -> Tensor:
        """Choose the coefficients of a frame: real numbers, float32 (1, H/16, W/16, n_coded), which `code` rounds.

        picture: integers 0..255, float32 (1, 3, H, W). effort: steps of a search for better ones than the encoder's.
        """
        dtype = torch.bfloat16 if bf16_is_fast(self.device) else torch.float32
        network = self.unrounded
        level = torch.full((1,), float(log2_step(condition.quality)), device=self.device)
        tune = torch.full((1,), float(condition.tune), device=self.device)
        b_frame = torch.full((1,), float(condition.frame_type == 2), device=self.device)

        def frame(run: slice) -> Frame:
            rows = pixels(run)
            prediction = None if context.prediction is None else context.prediction[:, :, rows].float() + 128
            return network.condition(
                picture[:, :, rows], level, tune, prediction, b_frame, self.n_coded(condition.quality), dtype,
                context.classes[:, run], not effort,
            )  # fmt: skip

        def choose(run: slice) -> Tensor:
            one = frame(run)
            if effort:
                return refine.search(network, one, picture[:, :, pixels(run)], self.objective, effort)
            return network.coefficients(one)

        most = refine.MOST if effort else None
        grid = context.classes.shape[1:]
        if not effort:
            return self._in_bands(choose, grid, self._reach(effort), most)
        with torch.inference_mode(False), torch.enable_grad():  # of tensors that were made without it there are copies
            picture, level, tune, b_frame = picture.clone(), level.clone(), tune.clone(), b_frame.clone()
            context = context.copy()
            return self._in_bands(choose, grid, self._reach(effort), most)

    def _reach(self, effort: int) -> int:
        # of the encoder as of the decoder, whose blocks are as many; a search sees the prior, too
        return self.decoder.halo + (8 if effort else 0)

    @staticmethod
    def _in_bands(work: Callable[[slice], Tensor], grid: torch.Size, reach: int, most: int | None) -> Tensor:
        rows, columns = grid
        parts = [work(run)[:, keep] for run, keep in bands(rows, columns, reach, most)]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def code(
        self, context: Context, condition: Condition, coder: Coder, coefficients: Tensor | None = None,
        worth: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Encode (`coefficients` given) or decode the coefficients of a frame: `Prior.run`."""
        return self.prior.run(context, condition, coder, coefficients, worth)

    def decode(self, coefficients: Tensor, context: Context, condition: Condition) -> Tensor:
        """Pixels of a frame, uint8 (1, 3, H, W).

        coefficients: integers (1, H/16, W/16, n_coded). A large picture is decoded in bands of rows: memory then depends
        on the size of a band and not of the picture.
        """
        classes, mean, views, prediction = context

        def band(y: Tensor, classes: Tensor, mean: Tensor, *predicted: Tensor) -> list[Tensor]:
            known = Context(classes, mean, *(predicted or (None, None)))
            return [self.decoder(y, known, condition).to(torch.uint8)]

        def work(run: slice) -> Tensor:
            inputs = [coefficients[:, run], classes[:, run], mean[:, run]]
            if views is not None and prediction is not None:
                inputs += [views[:, run], prediction[:, :, pixels(run)]]
            picture = self.prior.graphs.run(("decoder", condition), band, *inputs)[0]
            return picture.unflatten(2, (-1, TOKEN)).transpose(1, 2)  # (1, rows, 3, TOKEN, W)

        out = self._in_bands(work, classes.shape[1:], self.decoder.halo, None)
        return out.transpose(1, 2).flatten(2, 3)


__all__ = ["TOKEN", "Coder", "Condition", "Context", "Network", "STEP_BITS", "Unrounded"]
