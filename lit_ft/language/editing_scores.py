"""Whether edits of a language model take effect, and whether they change anything else."""

from typing import Any

from typing_extensions import override

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.measurement import MeasuredRun, Measurement
from lit_ft.language.greedy import would_write, written

Examples = list[tuple[list[int], list[int]]]
KINDS = ("reliability", "generality", "locality")


class EditingScores(Measurement):
    r"""Shares of edits that succeed in greedy decoding, at the start of the fit, every n steps, and at its end.

    ``reliability``: after the prompt of an edit the network writes its target, to the end-of-text token.
    ``generality``: it does so after the paraphrase. ``locality``: after a prompt unrelated to the edit, it writes the
    same text as before the first step (``locality_tokens`` tokens, or fewer to the end of text).

    Logs ``editing/<kind>`` at the end, with ``every_n_steps`` the latest values in every row. The report has all
    evaluations, the first one included. Training does not change. Cost of an evaluation: a forward pass over prompts,
    paraphrases and prompts for locality; at the start ``locality_tokens`` passes over the prompts for locality.

    Needs a causal language model of ``transformers`` as ``network`` of the module, and a data module with
    ``editing_examples``, such as ``ModelEdits``. Every process evaluates all edits.

    Source: the measures of "Fine-tuning Done Right in Model Editing"; deviation: a text counts as a whole.

    Args:
        every_n_steps: Optimizer steps between two evaluations; None evaluates at the start and the end only.
        locality_tokens: Longest text that is compared for locality, at least 1.
        batch_size: Prompts in a forward pass, at least 1.

    See also: :class:`~lit_ft.data.ModelEdits`.

    Example:
        >>> from lit_ft.data import FactEdits
        >>> from lit_ft.methods import SupervisedFineTuning
        >>> from lit_ft.testing import fit_foreign
        >>> gpt2 = {"model_type": "gpt2", "tokenizer": "bytes", "n_embd": 8, "n_head": 1, "n_layer": 1}
        >>> method, data = SupervisedFineTuning({"config": gpt2}), FactEdits(edits=2, facts=3)
        >>> scores = EditingScores()
        >>> _ = fit_foreign([scores], module=method, data=data, max_steps=1)
        >>> scores.report()["start"]  # nothing is edited, and nothing else has changed
        {'reliability': 0.0, 'generality': 0.0, 'locality': 1.0}
    """

    when = ("start", "end")
    prefix = "editing/"
    remembers = (*Measurement.remembers, "_before")

    def __init__(
        self, every_n_steps: PositiveInt | None = None, locality_tokens: PositiveInt = 8, batch_size: PositiveInt = 32
    ) -> None:
        super().__init__()
        checked(locals())
        self.every_n_steps, self.locality_tokens, self.batch_size = every_n_steps, locality_tokens, batch_size
        self._examples: dict[str, Examples] = {}
        self._before: Examples = []

    @override
    def settled(self) -> tuple[str, ...]:
        return ("locality_tokens",)

    def prepare(self, run: MeasuredRun) -> None:
        """Keep the texts that are written before the first step, unless the run was resumed."""
        examples = getattr(getattr(run.trainer, "datamodule", None), "editing_examples", None)
        if examples is None or getattr(run.module, "network", None) is None:
            allowed = "a module with a `network`, and a data module with editing_examples such as ModelEdits"
            raise ConfigError("callbacks", type(self).__name__, allowed)
        self._examples = examples()
        if not self.steps:
            with run.precision():
                self._before = self._written(run.module)

    def _written(self, module: Any) -> Examples:
        prompts = [prompt for prompt, _ in self._examples["locality"]]
        end = getattr(getattr(module, "tokenizer", None), "eos_token_id", None)
        found: Examples = []
        for start in range(0, len(prompts), self.batch_size):
            part = prompts[start : start + self.batch_size]
            found += zip(part, written(module.network, part, self.locality_tokens, end), strict=True)
        return found

    def measure(self, run: MeasuredRun) -> dict[str, float]:
        """The share of successes of each kind."""
        examples = {**self._examples, "locality": self._before}
        with run.precision():
            return {kind: self._share(run.module, examples[kind]) for kind in KINDS}

    def _share(self, module: Any, examples: Examples) -> float:
        right = 0
        for start in range(0, len(examples), self.batch_size):
            prompts, texts = zip(*examples[start : start + self.batch_size], strict=True)
            right += sum(would_write(module.network, prompts, texts))
        return right / len(examples)
