"""A classifier on the concatenated features of several networks."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.lifecycle import from_its_start
from lit_ft.core.network import Network
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.weights import weights_of
from lit_ft.vision.image_classifier import ImageClassifier
from lit_ft.vision.independent_members import Members


class Concatenation(Members):
    """Networks side by side with one head on their concatenated features.

    Args:
        members: Networks with a method ``features`` and a linear ``head``.

    See also: :class:`~lit_ft.vision.independent_members.Members`.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> members, images = [MLP((4,), 3), MLP((4,), 3)], torch.ones(5, 4)
        >>> network = Concatenation(members)
        >>> torch.allclose(network(images), (members[0](images) + members[1](images)) / 2, atol=1e-6)
        True
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__(members)
        heads: list[Any] = [member.head for member in members]
        self.head = nn.Linear(sum(head.in_features for head in heads), heads[0].out_features)
        self.average()

    @torch.no_grad()
    def average(self) -> None:
        """Set the head so that its logits are the mean logits of the members."""
        heads: list[Any] = [member.head for member in self.members]
        self.head.weight.copy_(torch.cat([head.weight for head in heads], 1) / len(heads))
        self.head.bias.copy_(torch.stack([head.bias for head in heads]).mean(0))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (rows, classes)."""
        return self.head(self.features(images))


class ConcatRepresentations(ImageClassifier):
    r"""A linear head on the concatenated features of n networks: :math:`W [\phi_1(x); \dots; \phi_n(x)] + b`.

    ``train: head`` is linear probing (Cat-n): the members are frozen, in evaluation mode. ``train: all`` fine-tunes the
    concatenation as one network ([init]cat). Two-stage fine-tuning ([2ft]cat) is two runs: ``IndependentMembers`` on
    the new task, then this with ``train: head`` from it. The head starts as the average of the members' heads, so that
    the logits are the mean of theirs.

    The members are ``members``, or the first n of a run of ``IndependentMembers`` (``lit-ft fit --from RUN``). Members
    with another number of classes must be read from files; their heads are not used.

    Reads :class:`~lit_ft.vision.batch.ImagesBatch`. Logs ``loss``, and in validation and test ``accuracy``. Cost: that
    of n networks; with ``train: head`` no backward pass through them.

    Source: "Learning useful representations for shifting tasks and distributions" (code TjuJianyu/RRL). Deviations: no
    normalisation of features (the authors use batch norm before the head for large n). Distillation is
    ``DistilledRepresentations``.

    Args:
        network: ``{config: {model_type: mlp | cnn, ...}}``; the structure of each member.
        members: Run folders, checkpoints or ``.safetensors``, one per member; None starts from random members.
        num_members: n, at least 1; None takes the number of ``members``.
        train: ``head`` or ``all``.
        **kwargs: As in :class:`ImageClassifier`.

    See also: :class:`~lit_ft.methods.IndependentMembers`, :class:`~lit_ft.methods.DistilledRepresentations`.

    Example:
        >>> config = {"model_type": "mlp", "width": 8, "depth": 1}
        >>> model = ConcatRepresentations({"config": config}, num_members=5, num_classes=2, input_shape=[4])
        >>> model.configure_model()
        >>> {name: tuple(parameter.shape) for name, parameter in model.trainable_parameters().items()}
        {'network.head.weight': (2, 40), 'network.head.bias': (2,)}
    """

    def __init__(
        self,
        network: Network,
        members: list[str] | None = None,
        num_members: PositiveInt | None = None,
        train: Literal["head", "all"] = "head",
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        number = len(members or ()) if num_members is None else num_members
        if number < 1 or (members is not None and number != len(members)):
            raise ConfigError("num_members", num_members, "1 or more, and as many as members where these are given")
        self.members, self.num_members, self.train_part = members, number, train

    def build_network(self) -> nn.Module:
        """The members with their weights, and the head."""
        members = [super(ConcatRepresentations, self).build_network() for _ in range(self.num_members)]
        for member, source in zip(members, self.members or (), strict=False):
            own: Any = member
            head, own.head = own.head, nn.Identity()  # heads belong to another task
            member.load_state_dict(weights_of("members", source, ParameterIndex(member)), strict=False)
            own.head = head
        network = Concatenation(members)
        if self.train_part == "head":
            network.members.requires_grad_(False).eval()
        else:
            for member in network.members:
                member.head.requires_grad_(False)  # type: ignore[union-attr, operator]
        return network

    def on_fit_start(self) -> None:
        """Average the heads of members from another run; a resumed run keeps its head."""
        if from_its_start(self.trainer) and isinstance(self.network, Concatenation):
            self.network.average()

    @override
    def frozen_parts(self) -> list[nn.Module]:
        if self.train_part == "head" and isinstance(self.network, Concatenation):
            return [self.network.members]
        return []
