"""The authors' test-time search as a loop in PyTorch, for comparison; nothing else needs PyTorch.

As their code does it (Sun et al., 2021, https://arxiv.org/abs/2011.02203), and a little faster:
every start is decoded and the best one of each image kept, without their loop over images; from it
Adam takes its steps on the binary cross-entropy of the pixels, with a decay of the latents. Means
are taken over pixels and over the batch, so that the decay weighs more the larger the batch, as it
does there.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lacim_jax import ConvDecoder


class TorchSearch(NamedTuple):
    """How latents are searched; the numbers are those of the authors' command."""

    steps: int = 50
    learning_rate: float = 5e-4
    decay: float = 5e-3
    batch_size: int = 256


def of_decoder(decoder: ConvDecoder, params: Mapping[str, Any]) -> Callable[[Any], Any]:
    """`ConvDecoder` in PyTorch: latents [n, dim] to logits [n, channels, height, width].

    Args:
        decoder: its sizes.
        params: its parameters.
    """
    torch: Any = importlib.import_module("torch")
    functional = torch.nn.functional
    height, width, _ = decoder.shape
    scale, first = 2 ** len(decoder.channels), decoder.channels[0]
    small = (height // scale, width // scale, first)

    def tensor(array: Any) -> Any:
        return torch.tensor(np.ascontiguousarray(array))

    def layer(name: str, *fields: str) -> Sequence[np.ndarray]:
        return [np.asarray(params[name][field]) for field in fields]

    kernel, bias = layer("Dense_0", "kernel", "bias")
    # Channels come first in PyTorch, and last in Flax.
    kernel = tensor(kernel.reshape(-1, *small).transpose(3, 1, 2, 0).reshape(-1, len(kernel)))
    bias = tensor(bias.reshape(small).transpose(2, 0, 1).reshape(-1))
    layers = []
    for index in range(len(decoder.channels)):
        norm = [tensor(each) for each in layer(f"GroupNorm_{index}", "scale", "bias")]
        taps, shift = layer(f"ConvTranspose_{index}", "kernel", "bias")
        # Flax does not turn the kernel round, PyTorch does.
        taps = tensor(taps[::-1, ::-1].transpose(2, 3, 0, 1))
        layers.append((norm, taps, tensor(shift)))

    def decode(latents: Any) -> Any:
        hidden = functional.linear(latents, kernel, bias)
        hidden = hidden.reshape(-1, first, *small[:2])
        for norm, taps, shift in layers:
            groups = hidden.shape[1] // decoder.group_size
            hidden = torch.relu(functional.group_norm(hidden, groups, *norm, eps=1e-6))
            hidden = functional.conv_transpose2d(hidden, taps, shift, stride=2, padding=1)
        return hidden

    return decode


def search(
    decode: Callable[[Any], Any], images: np.ndarray, starts: np.ndarray,
    settings: TorchSearch = TorchSearch(),  # noqa: B008 (immutable)
) -> Callable[[], np.ndarray]:  # fmt: skip
    """A search of all images.

    Args:
        decode: as `of_decoder` returns it.
        images: float32, [n, height, width, channels], 0 to 1.
        starts: float32, [n, starts, dim]; the encoder's work is not counted.
        settings: the search's.

    Returns:
        What searches, and returns the latents found, [n, dim].
    """
    torch: Any = importlib.import_module("torch")
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    pixels = torch.tensor(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))
    points = torch.tensor(np.array(starts))

    def one_batch(rows: slice) -> Any:
        batch, every = pixels[rows], points[rows]
        with torch.no_grad():
            losses = [
                entropy(decode(start), batch, reduction="none").mean((1, 2, 3))
                for start in every.unbind(1)
            ]
            chosen = torch.stack(losses, 1).argmin(1)
        latents = every[torch.arange(len(every)), chosen].clone().requires_grad_()
        optimiser = torch.optim.Adam(
            [latents], lr=settings.learning_rate, weight_decay=settings.decay
        )
        for _ in range(settings.steps):
            optimiser.zero_grad()
            entropy(decode(latents), batch).backward()
            optimiser.step()
        return latents.detach()

    def work() -> np.ndarray:
        size = settings.batch_size
        parts = [one_batch(slice(row, row + size)) for row in range(0, len(points), size)]
        return torch.cat(parts).numpy()

    return work
