"""Masks in few bytes: bits, or gaps between the selected entries."""

import numpy as np
import torch
from torch import Tensor


def encode_mask(mask: Tensor) -> tuple[str, Tensor]:
    """A boolean mask in its smallest form.

    ``bits`` holds one bit per entry. ``gaps8`` and ``gaps16`` hold the number of entries left out before each selected
    one, in one or two bytes; the largest value of that type stands for as many entries left out, and the gap goes on.

    Returns:
        The name of the form, and its content.

    Example:
        >>> encode_mask(torch.arange(1000) % 500 == 40)  # gaps of 40 and of 255 + 244 entries
        ('gaps8', tensor([ 40, 255, 244], dtype=torch.uint8))
    """
    flat = mask.flatten().cpu()
    places = flat.nonzero().flatten()
    if len(places) * 8 >= flat.numel():  # each gap takes a byte at least
        return "bits", pack(flat)
    first = torch.full((1,), -1, dtype=torch.int64)
    gaps = torch.diff(places, prepend=first) - 1
    sizes = {kind: (len(gaps) + int((gaps // top).sum())) * width for kind, (top, width) in _GAPS.items()}
    kind = min(sizes, key=lambda name: sizes[name])
    if sizes[kind] >= (flat.numel() + 7) // 8:
        return "bits", pack(flat)
    top, _ = _GAPS[kind]
    more = gaps // top
    ends = torch.arange(len(gaps)) + more.cumsum(0)
    code = torch.full((len(gaps) + int(more.sum()),), top, dtype=torch.int32)
    code[ends] = (gaps % top).int()
    return kind, code.to(torch.uint8) if top == 255 else code.to(torch.uint16)


_GAPS = {"gaps8": (255, 1), "gaps16": (65535, 2)}


def decode_mask(kind: str, content: Tensor, shape: torch.Size) -> Tensor:
    """The mask that ``encode_mask`` has encoded.

    Example:
        >>> kind, content = encode_mask(torch.tensor([True, False, True]))
        >>> decode_mask(kind, content, torch.Size([3]))
        tensor([ True, False,  True])
    """
    if kind == "bits":
        return unpack(content, shape.numel()).view(shape)
    top, _ = _GAPS[kind]
    code = content.to(torch.int64)
    ends = code < top
    places = code.cumsum(0)[ends] + torch.arange(int(ends.sum()))
    mask = torch.zeros(shape.numel(), dtype=torch.bool)
    mask[places] = True
    return mask.view(shape)


def pack(flat: Tensor) -> Tensor:
    """Eight boolean entries a byte, the first one in the lowest bit.

    Example:
        >>> pack(torch.tensor([True, False, True]))
        tensor([5], dtype=torch.uint8)
    """
    return torch.from_numpy(np.packbits(flat.cpu().numpy(), bitorder="little"))


def unpack(packed: Tensor, number: int) -> Tensor:
    """The first ``number`` boolean entries of packed bytes.

    Example:
        >>> unpack(torch.tensor([5], dtype=torch.uint8), number=3)
        tensor([ True, False,  True])
    """
    return torch.from_numpy(np.unpackbits(packed.cpu().numpy(), bitorder="little")).view(torch.bool)[:number]
