"""Facts about people who do not exist, to be learned and then edited."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any, NamedTuple

import numpy as np

from lit_ft.core.checks import NonNegativeInt, PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.language.model_edits import EDIT, ModelEdits, Order
from lit_ft.sources.tables import Row
from lit_ft.tokens.segments import Encoded
from lit_ft.tokens.token_data import TokenData, encode_filled


class Relation(NamedTuple):
    """Two wordings of a prompt, and the possible answers.

    Example:
        >>> RELATIONS[0].prompt.format("Bade"), RELATIONS[0].paraphrase.format("Bade"), RELATIONS[0].objects[:2]
        ('Bade lives in', 'The home of Bade is', ('Paris', 'Rome'))
    """

    prompt: str
    paraphrase: str
    objects: tuple[str, ...]


HOMES = ["Paris", "Rome", "Oslo", "Cairo", "Lima", "Delhi", "Tokyo", "Boston"]
JOBS = ["baker", "lawyer", "nurse", "pilot", "farmer", "singer", "judge", "tailor"]
INSTRUMENTS = ["piano", "violin", "flute", "drums", "guitar", "harp", "trumpet", "organ"]
RELATIONS = (
    Relation("{} lives in", "The home of {} is", tuple(HOMES)),
    Relation("{} works as a", "The job of {} is", tuple(JOBS)),
    Relation("{} plays the", "The instrument of {} is the", tuple(INSTRUMENTS)),
)
WORLD = (
    "The capital of France is", "The largest planet is", "Water is made of hydrogen and", "The opposite of hot is",
    "The first month of the year is", "A week has", "The author of Hamlet is", "The chemical symbol of gold is",
    "The colour of the sky is", "Bees make", "The sun rises in the", "Two plus two is", "The Great Wall is in",
    "A triangle has", "The currency of Japan is the", "The heart pumps", "Ice is frozen", "Spiders have",
    "The Amazon is a", "Once upon a", "To be or not to", "The language of Brazil is", "Penguins live in",
    "The theory of relativity is by",
)  # fmt: skip
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "mo", "ne", "pi", "ro", "su", "ta", "vi", "wu", "ze")
MOST = len(SYLLABLES) ** 3 * len(RELATIONS)
FactCount = Annotated[int, Range(low=2, high=MOST)]


class Fact(NamedTuple):
    """A subject and a relation, with the numbers of the known object and of the one that replaces it.

    Example:
        >>> fact = Fact("Bade", RELATIONS[0], known=0, edited=1)
        >>> fact.asked(), fact.asked(paraphrased=True), fact.answer(), fact.answer(edited=True)
        ('Bade lives in', 'The home of Bade is', ' Paris', ' Rome')
    """

    subject: str
    relation: Relation
    known: int
    edited: int

    def asked(self, paraphrased: bool = False) -> str:
        """The prompt."""
        return (self.relation.paraphrase if paraphrased else self.relation.prompt).format(self.subject)

    def answer(self, edited: bool = False) -> str:
        """The object, with a space before it."""
        return " " + self.relation.objects[self.edited if edited else self.known]


def invented_facts(count: int, seed: int = 0) -> list[Fact]:
    """Facts in random order; every subject has one of each relation (the last one maybe fewer).

    Args:
        count: Number of facts, at most 10,125.
        seed: Seed of names, objects and order.

    Example:
        >>> [fact.asked() + fact.answer() for fact in invented_facts(3)]
        ['Sumoku plays the violin', 'Sumoku lives in Lima', 'Sumoku works as a pilot']
    """
    draw = np.random.default_rng(seed)
    names = ["".join(parts).capitalize() for parts in product(SYLLABLES, repeat=3)]
    subjects = draw.permutation(len(names))[: -(-count // len(RELATIONS))]
    facts = []
    for number, relation in product(subjects.tolist(), RELATIONS):
        known, edited = draw.choice(len(relation.objects), 2, replace=False).tolist()
        facts.append(Fact(names[number], relation, known, edited))
    return [facts[i] for i in draw.permutation(count).tolist()]


class KnownFacts(TokenData):
    """Invented facts, each in both wordings, which a network learns before it is edited.

    Args:
        facts: Number of facts, from 2 to 10,125; validation has the same ones.
        batch_size: Examples of a batch.
        facts_seed: Seed of the facts; use the same for their edits.
        seed: Seed of the order.

    See also: :class:`FactEdits`, edits of the same facts.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = KnownFacts(facts=2, batch_size=4)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> data.tokenizer.batch_decode(next(iter(data.predict_dataloader()))["input_ids"], skip_special_tokens=True)
        ['Sumoku lives in Lima', 'The home of Sumoku is Lima', 'Sumoku works as a pilot', 'The job of Sumoku is pilot']
    """

    def __init__(
        self,
        facts: FactCount = 200,
        batch_size: PositiveInt = 32,
        facts_seed: NonNegativeInt = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(path="generated", batch_size=batch_size, max_length=64, seed=seed)
        checked(locals())
        self.facts, self.facts_seed = facts, facts_seed

    def _tables(self) -> dict[str, list[Row]]:
        facts = invented_facts(self.facts, self.facts_seed)
        rows = [{"prompt": f.asked(way), "target": f.answer()} for f in facts for way in (False, True)]
        return {"train": rows, "val": rows, "test": []}

    def cache_key(self) -> Sequence[str]:
        """The template."""
        return [repr(EDIT)]

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Prompts and answers."""
        return encode_filled(EDIT, rows, numbers, tokenizer)


class FactEdits(ModelEdits):
    """Edits of the first ``edits`` invented facts. Prompts for locality take turns.

    Args:
        edits: Number of edits, at least 1 and less than ``facts``.
        facts: Number of facts that the network has learned from ``KnownFacts``; those that are not edited are the
            prompts for locality. None: it has learned none; the prompts are 24 beginnings about the world.
        order: ``breadth_first`` or ``depth_first``.
        passes: How often each edit is seen in an epoch.
        batch_size: Edits of a batch.
        facts_seed: Seed of the facts.
        seed: Seed of the order.

    See also: :class:`KnownFacts`, :class:`~lit_ft.callbacks.EditingScores`.

    Example:
        >>> (edit,) = FactEdits(edits=1, facts=3).edits()
        >>> edit["prompt"] + edit["target"], edit["paraphrase"], edit["locality"]
        ('Sumoku plays the flute', 'The instrument of Sumoku is the', 'Sumoku lives in')
    """

    def __init__(
        self,
        edits: PositiveInt = 50,
        facts: FactCount | None = 200,
        order: Order = "breadth_first",
        passes: PositiveInt = 25,
        batch_size: PositiveInt = 10,
        facts_seed: NonNegativeInt = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(path="generated", order=order, passes=passes, batch_size=batch_size, max_length=64, seed=seed)
        checked(locals())
        most = MOST if facts is None else facts - 1
        if edits > most:
            raise ConfigError("edits", edits, f"from 1 to {most:,}, less than the facts")
        self.count, self.facts, self.facts_seed = edits, facts, facts_seed

    def edits(self) -> list[Row]:
        """Rows about the first facts."""
        facts = invented_facts(self.facts or self.count, self.facts_seed)
        others = [fact.asked() for fact in facts[self.count :]] or WORLD
        return [
            {
                "prompt": fact.asked(),
                "target": fact.answer(edited=True),
                "paraphrase": fact.asked(True),
                "locality": others[number % len(others)],
            }
            for number, fact in enumerate(facts[: self.count])
        ]
